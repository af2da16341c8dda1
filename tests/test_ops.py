"""The single ops against the reference, on every target, dtype and size, with guards around all arrays."""

import ctypes
import math
from functools import partial

import numpy as np
import pytest

import c_api
import gradcore as gc
import reference
import reference_flow
import tolerances
from nets import random_target
from reference import ACTIVATIONS, LOSSES

SCALES = [2.0**-40, 1.0, 2.0**40]
each_scale = pytest.mark.parametrize("scale", SCALES, ids=["2^-40", "1", "2^40"])
ROWS = 7


def to_float64(*arrays):
    return [array.astype(np.float64) for array in arrays]


def strided(array):
    """The same numbers, every row at the start of a wider one."""
    return np.hstack([array, np.full_like(array, np.nan)])[:, : array.shape[1]]


def assert_within(actual, expected, bound):
    assert actual.shape == np.shape(expected)
    excess = np.abs(actual.astype(np.float64) - expected) - bound
    at = tuple(int(i) for i in np.unravel_index(excess.argmax(), excess.shape)) if excess.size else ()
    assert (excess <= 0).all(), (
        f"{(~(excess <= 0)).sum()} of {excess.size} are beyond their bounds, worst at {at}: {np.asarray(actual)[at]!r}, "
        f"expected {np.broadcast_to(expected, excess.shape)[at]!r} within {np.broadcast_to(bound, excess.shape)[at]:g}"
    )


# ---- dense ---------------------------------------------------------------------------------------------


@each_scale
@pytest.mark.parametrize("form", [np.asarray, strided], ids=["contiguous", "strided"])
def test_dense(form, scale, size, dtype, rng):
    """`size` is in turn the number of inputs, outputs and rows: all three remainders of a product."""
    for rows, in_features, out_features in [(ROWS, size, 5), (ROWS, 9, size), (size, 6, 3)]:
        x = (scale * rng.standard_normal((rows, in_features))).astype(dtype)
        weight = rng.standard_normal((out_features, in_features)).astype(dtype)
        bias = (scale * rng.standard_normal(out_features)).astype(dtype)
        for b in (bias, None):
            expected = reference.dense(*to_float64(x, weight), None if b is None else b.astype(float))
            assert_within(gc.ops.dense(form(x), form(weight), b), expected, tolerances.dense(x, weight, b))


@each_scale
@pytest.mark.parametrize("form", [np.asarray, strided], ids=["contiguous", "strided"])
def test_dense_backward(form, scale, size, dtype, rng):
    for rows, in_features, out_features in [(ROWS, size, 5), (ROWS, 9, size), (size, 6, 3)]:
        x = rng.standard_normal((rows, in_features)).astype(dtype)
        weight = rng.standard_normal((out_features, in_features)).astype(dtype)
        grad = (scale * rng.standard_normal((rows, out_features))).astype(dtype)
        results = gc.ops.dense_backward(form(grad), form(x), form(weight))
        expected = reference.dense_backward(*to_float64(grad, x, weight))
        bounds = tolerances.dense(grad, weight.T), tolerances.dense(grad.T, x.T), tolerances.column_sum(grad)
        for actual, value, bound in zip(results, expected, bounds, strict=True):
            assert_within(actual, value, bound)


# ---- activations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, size, dtype, rng):
    x = (3 * rng.standard_normal(size)).astype(dtype)
    value = ACTIVATIONS[name].f(x.astype(float))
    assert_within(gc.ops.activation(x, name), value, tolerances.activation(value, x))
    grad = rng.standard_normal(size).astype(dtype)
    derivative = ACTIVATIONS[name].df(x.astype(float))
    bound = np.abs(grad) * tolerances.activation_derivative(derivative, x)
    assert_within(
        gc.ops.activation_backward(grad, x, name), grad * derivative, bound + tolerances.SMALLEST_NORMAL[dtype.name]
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_any_shape(name, dtype, rng):
    x = rng.standard_normal((3, 4, 5)).astype(dtype)
    flat = gc.ops.activation(x.ravel(), name)
    np.testing.assert_array_equal(gc.ops.activation(x, name), flat.reshape(x.shape))
    np.testing.assert_array_equal(gc.ops.activation(np.asfortranarray(x), name), flat.reshape(x.shape))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_non_finite_values(name, target, dtype):
    """NaN stays NaN; infinities go to the limits of the function, or NaN where the formula has none."""
    x = np.array([np.nan, np.inf, -np.inf], dtype)
    result = gc.ops.activation(x, name)
    assert np.isnan(result[0])
    upper = {"tanh": 1, "hard_tanh": 1, "sigmoid": 1}.get(name, np.inf)
    assert result[1] == upper


# ---- normalization ---------------------------------------------------------------------------------------


def normalization_case(kind, shape, scale, dtype, rng):
    """x with a mean of one standard deviation, weight, bias, grad_output; the reference's x_hat and inv_std."""
    x = (scale * (1 + rng.standard_normal(shape))).astype(dtype)
    weight, bias = (rng.standard_normal(shape[1]).astype(dtype) for _ in range(2))
    grad = rng.standard_normal(shape).astype(dtype)
    x_hat, mean, inv_std = reference.normalize(x.astype(float), *reference.NORMALIZATION_AXES[kind])
    return x, weight, bias, grad, x_hat, mean, inv_std


def run_norm(kind, x, weight, bias, grad):
    """(output, grad_input, grad_weight, grad_bias) of gc.ops; rms norm has no bias."""
    forward, backward = (getattr(gc.ops, f"{kind}_norm{suffix}") for suffix in ("", "_backward"))
    output, *saved = forward(x, weight, *([] if kind == "rms" else [bias]))
    return output, *backward(grad, x, weight, *saved)


@each_scale
@pytest.mark.parametrize("form", [np.asarray, strided], ids=["contiguous", "strided"])
@pytest.mark.parametrize("kind", ["batch", "layer", "rms"])
def test_normalization(kind, form, scale, size, dtype, rng):
    axis, centred = reference.NORMALIZATION_AXES[kind]
    for shape in [(ROWS, size), (max(size, 2), 5)]:
        x, weight, bias, grad, x_hat, _, inv_std = normalization_case(kind, shape, scale, dtype, rng)
        bias = 0 * bias if kind == "rms" else bias
        output, grad_input, grad_weight, *grad_bias = run_norm(kind, form(x), weight, bias, form(grad))

        bound = getattr(tolerances, f"{kind}_norm")(x, x_hat, inv_std, weight, bias)
        assert_within(output, x_hat * weight + bias, bound)
        bounds = getattr(tolerances, f"{kind}_norm_backward")(x, x_hat, inv_std, weight, grad)
        expected = reference.normalize_backward(grad.astype(float) * weight, x_hat, inv_std, axis, centred)
        assert_within(grad_input, expected, bounds[0])
        assert_within(grad_weight, (grad * x_hat).sum(axis=0), bounds[1])
        assert len(grad_bias) == (kind != "rms")
        for value in grad_bias:
            assert_within(value, grad.astype(float).sum(axis=0), tolerances.column_sum(grad))


# One ULP of x is 1e-3. Batch norm keeps what the rounding of its mean leaves out, layer norm does not.
@pytest.mark.parametrize(("kind", "bound"), [("batch", tolerances.batch_norm_far_from_zero(64)), ("layer", 1e-2)])
def test_normalization_of_data_far_from_zero(kind, bound, target, rng):
    """Mean 1e4 standard deviations away: a one-pass variance would lose everything in float32."""
    x = (1e4 + rng.standard_normal((64, 64))).astype("float32")
    ones = np.ones(64, "float32")
    output = run_norm(kind, x, ones, 0 * ones, x)[0]
    expected = reference.normalize(x.astype(float), *reference.NORMALIZATION_AXES[kind])[0]
    np.testing.assert_allclose(output, expected, rtol=0, atol=bound)


def test_constant_columns_normalize_to_zero(target, dtype):
    x = np.full((9, 6), 3.25, dtype)
    output, grad_input, *_ = run_norm("batch", x, np.ones(6, dtype), np.zeros(6, dtype), x)
    largest_inv_std = 1 / np.sqrt(reference.EPS)
    assert np.abs(output).max() <= 4 * tolerances.UNIT_ROUNDOFF[dtype.name] * 3.25 * largest_inv_std
    assert np.isfinite(grad_input).all()


# ---- losses ------------------------------------------------------------------------------------------------


def run_loss(loss, y, target):
    return gc.ops.loss(y, target, loss), gc.ops.loss_backward(y, target, loss)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss(loss, size, dtype, rng):
    for shape in [(ROWS, size), (size, 3)]:
        y = (2 * rng.standard_normal(shape)).astype(dtype)
        target = random_target(loss, rng, *shape)
        if loss != "cross_entropy":
            target = target.astype(dtype)
        value, grad = run_loss(loss, y, target)
        expected, expected_grad = LOSSES[loss](
            y.astype(float), target if loss == "cross_entropy" else target.astype(float)
        )
        if loss == "cross_entropy":
            value_bound, grad_bound = tolerances.cross_entropy(y)
        else:
            value_bound = tolerances.loss_value(dtype, (np.abs(y) + np.abs(target) + 1) ** 2)
            grad_bound = tolerances.elementwise_loss_gradient(y, target)
        assert abs(value - expected) <= value_bound
        assert_within(grad, expected_grad, grad_bound)


def test_cross_entropy_with_probabilities(size, dtype, rng):
    y = (2 * rng.standard_normal((ROWS, size))).astype(dtype)
    target = rng.dirichlet(np.ones(size), ROWS).astype(dtype)
    value, grad = run_loss("cross_entropy", y, target)
    expected, expected_grad = reference.cross_entropy(*to_float64(y, target))
    bounds = tolerances.cross_entropy(y)
    assert abs(value - expected) <= bounds[0]
    assert_within(grad, expected_grad, bounds[1])


def test_losses_of_extreme_logits(target, dtype):
    """No overflow in the exponentials: the loss is the distance, the gradient a whole step."""
    y = np.array([[1e4, -1e4, 0.0]], dtype)
    value, grad = run_loss("cross_entropy", y, np.array([1]))
    assert value == pytest.approx(2e4) and grad.tolist() == [[1, -1, 0]]
    value, grad = run_loss("binary_cross_entropy", y, np.array([[0, 1, 1]], dtype))
    assert value == pytest.approx((2e4 + math.log(2)) / 3)
    np.testing.assert_allclose(grad, [[1 / 3, -1 / 3, -1 / 6]], rtol=1e-6)


@pytest.mark.parametrize("loss", ["mae", "huber"])
def test_kinks_of_losses(loss, target, dtype):
    y, t = np.array([[0.0, 1.0, -1.0, 2.5]], dtype), np.zeros((1, 4), dtype)
    value, grad = run_loss(loss, y, t)
    expected, expected_grad = LOSSES[loss](*to_float64(y, t))
    assert value == expected and grad.tolist() == expected_grad.tolist()


# ---- statistics -----------------------------------------------------------------------------------------------


def assert_stats(array):
    stats, expected = gc.ops.array_stats(array), reference_flow.array_stats(array)
    for field, value in expected.items():
        if isinstance(value, int):
            assert getattr(stats, field) == value, field
    assert stats.max_abs == expected["max_abs"]
    tolerance = tolerances.statistics(array.dtype)
    mean_abs = reference_flow.array_stats(np.abs(array))["mean"]
    assert stats.mean == pytest.approx(expected["mean"], rel=0, abs=tolerance * mean_abs, nan_ok=True)
    assert stats.norm == pytest.approx(expected["norm"], rel=tolerance)
    # all finite, the sums are taken about the mean where that matters
    cancelling = expected["mean"] * (expected["mean"] * (tolerance if expected["nonfinite"] == 0 else 1))
    spread = tolerance * (expected["variance"] + cancelling)
    assert stats.variance == pytest.approx(expected["variance"], rel=0, abs=spread, nan_ok=True)


@each_scale
def test_array_stats(scale, size, dtype, rng):
    array = (scale * (0.5 + rng.standard_normal(size))).astype(dtype)
    array[rng.random(size) < 0.2] = 0
    assert_stats(array)


@pytest.mark.parametrize("exponent", [-1070, -1022, -140, -126, 120, 1000])
def test_array_stats_near_the_ends_of_the_range(exponent, size, dtype, rng):
    with np.errstate(over="ignore", under="ignore"):
        array = np.ldexp(rng.standard_normal(size), exponent).astype(dtype)
    if np.isfinite(array).any():
        assert_stats(array)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1, 1e30, 1e300])
def test_array_stats_of_non_finite_values(scale, size, dtype, rng):
    """The norm is that of the finite entries, whether or not their squares are within double's range."""
    with np.errstate(over="ignore", under="ignore"):
        array = (scale * rng.standard_normal(size)).astype(dtype)
    array[::3] = np.nan
    array[1::3] = -np.inf
    assert_stats(array)


@pytest.mark.parametrize("name", reference_flow.FORMATS)
def test_format_counts_are_exact(name, target, dtype, rng):
    """Random values of every exponent, and those exactly at and beside the format's rounding points."""
    values = reference_flow.format_values(name)
    middles = np.concatenate([values[:3], values[-3:]])
    middles = np.concatenate([middles, (middles[1:] + middles[:-1]) / 2])
    with np.errstate(over="ignore", under="ignore"):
        near = middles.astype(dtype)
        near = np.concatenate([near, np.nextafter(near, dtype.type(0)), np.nextafter(near, dtype.type(np.inf))])
        spread = np.ldexp(rng.uniform(1, 2, 4001), rng.integers(-160, 128, 4001)).astype(dtype)
    array = np.concatenate([near, -near, spread, [0, np.inf, np.nan]]).astype(dtype)
    finite = array[np.isfinite(array) & (array != 0)]
    rounded = reference_flow.round_to_format(finite, name)
    stats = gc.ops.array_stats(array)
    assert stats.underflow[name] == (rounded == 0).sum()
    assert stats.overflow[name] == np.isinf(rounded).sum()


def test_array_stats_histogram(target, dtype, rng):
    with np.errstate(over="ignore", under="ignore"):
        array = np.ldexp(rng.standard_normal(3001), rng.integers(-1080, 1025, 3001)).astype(dtype)
    array[::50] = 0
    np.testing.assert_array_equal(gc.ops.array_stats(array).histogram, reference_flow.exponent_histogram(array))


# ---- as a C program calls them: strides, any alignment, guard bytes ---------------------------------------------


class RawCall:
    """One call through the C interface: inputs copied into NaNs, outputs between guard bytes."""

    def __init__(self, dtype, rng):
        self.dtype, self.rng = dtype, rng
        self.kept, self.outputs = [], []

    def random(self, *shape):
        return self.rng.standard_normal(shape).astype(self.dtype)

    def matrix(self, array):
        self.kept.append(c_api.guarded_input(array, stride=array.shape[1] + 3))
        return c_api.matrix(self.kept[-1])

    def vector(self, array):
        self.kept.append(c_api.guarded_input(array))
        return c_api.pointer(self.kept[-1])

    def output(self, *shape):
        self.outputs.append(c_api.Guarded(shape, self.dtype))
        return c_api.pointer(self.outputs[-1].array)

    def __call__(self, function, *arguments):
        c_api.call(function, c_api.dtype_code(self.dtype), *arguments)


def raw_dense(call, rows, cols):
    x, weight = call.random(rows, cols), call.random(5, cols)
    call("op_dense", call.matrix(x), call.matrix(weight), None, call.output(rows, 5))
    return [gc.ops.dense(x, weight)]


def raw_dense_backward(call, rows, cols):
    grad, x, weight = call.random(rows, 5), call.random(rows, cols), call.random(5, cols)
    outputs = call.output(rows, cols), call.output(5, cols), call.output(5)
    call("op_dense_backward", *map(call.matrix, (grad, x, weight)), *outputs)
    return gc.ops.dense_backward(grad, x, weight)


def raw_activations(call, rows, cols):
    x, grad, count = call.random(rows * cols), call.random(rows * cols), ctypes.c_int64(rows * cols)
    expected = []
    for code, name in enumerate(gc._core.ACTIVATIONS):
        call("op_activation", code, call.vector(x), count, call.output(rows * cols))
        call("op_activation_backward", code, call.vector(grad), call.vector(x), count, call.output(rows * cols))
        expected += [gc.ops.activation(x, name), gc.ops.activation_backward(grad, x, name)]
    return expected


def raw_norm(call, rows, cols, kind, options=()):
    """The C interface has one function for layer and rms norm, told apart by a flag before eps."""
    x, gamma, beta, eps = call.random(rows, cols), call.random(cols), call.random(cols), ctypes.c_double(1e-5)
    saved = cols if kind == "batch" else rows
    outputs = call.output(rows, cols), call.output(saved), call.output(saved)
    call(f"op_{kind}_norm", call.matrix(x), call.vector(gamma), call.vector(beta), *options, eps, *outputs)
    return getattr(gc.ops, f"{kind}_norm")(x, gamma, beta)


def raw_norm_backward(call, rows, cols, kind, options=()):
    grad, x, gamma = call.random(rows, cols), call.random(rows, cols), call.random(cols)
    _, mean, inv_std = getattr(gc.ops, f"{kind}_norm")(x, gamma, gamma)
    outputs = call.output(rows, cols), call.output(cols), call.output(cols)
    vectors = map(call.vector, (gamma, mean, inv_std))
    call(f"op_{kind}_norm_backward", call.matrix(grad), call.matrix(x), *vectors, *options, *outputs)
    return getattr(gc.ops, f"{kind}_norm_backward")(grad, x, gamma, mean, inv_std)


def raw_losses(call, rows, cols):
    expected = []
    for code, loss in enumerate(gc._core.LOSSES):
        y, target = call.random(rows, cols), random_target(loss, call.rng, rows, cols)
        target = target if loss == "cross_entropy" else target.astype(call.dtype)
        value = ctypes.c_double()
        call("op_loss", code, call.matrix(y), c_api.target_data(target), ctypes.byref(value), call.output(rows, cols))
        expected_value, grad = run_loss(loss, y, target)
        assert value.value == expected_value
        expected.append(grad)
    return expected


RAW_CALLS = {
    "dense": raw_dense,
    "dense_backward": raw_dense_backward,
    "activations": raw_activations,
    "batch_norm": partial(raw_norm, kind="batch"),
    "batch_norm_backward": partial(raw_norm_backward, kind="batch"),
    "layer_norm": partial(raw_norm, kind="layer", options=[0]),
    "layer_norm_backward": partial(raw_norm_backward, kind="layer", options=[0]),
    "losses": raw_losses,
}


@pytest.mark.parametrize("op", RAW_CALLS)
def test_strides_alignment_and_guards(op, size, dtype, rng):
    """Strided unaligned inputs in a sea of NaN give the same bits, and nothing outside an output is written."""
    for rows, cols in [(ROWS, size), (max(size, 2), 6)]:
        call = RawCall(dtype, rng)
        expected = RAW_CALLS[op](call, rows, cols)
        for output, value in zip(call.outputs, expected, strict=True):
            output.assert_guards_intact()
            np.testing.assert_array_equal(output.array, value)


# ---- many rows, one unit -----------------------------------------------------------------------------------------


def test_sums_over_a_million_rows_keep_their_digits(rng):
    """In one float32 the deviation of 2^20 normal numbers is off by 2e-4, and the sum of 2^25 ones by a half."""
    rows = 1 << 20
    x = rng.standard_normal((rows, 1)).astype("float32") + np.float32(3)
    one, zero = np.ones(1, "float32"), np.zeros(1, "float32")
    _, mean, inv_std = gc.ops.batch_norm(x, one, zero)
    exact = x.astype("float64")
    np.testing.assert_allclose(mean, exact.mean(0), rtol=2e-7)
    np.testing.assert_allclose(inv_std, 1 / np.sqrt(exact.var(0) + 1e-5), rtol=2e-7)
    grad = rng.random((rows, 1)).astype("float32")
    x_hat = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    _, grad_weight, grad_bias = gc.ops.batch_norm_backward(grad, x, one, mean, inv_std)
    np.testing.assert_allclose(grad_bias, grad.astype("float64").sum(0), rtol=2e-7)
    np.testing.assert_allclose(grad_weight, (grad * x_hat).sum(0), atol=1e-6 * rows)
    _, _, grad_bias = gc.ops.dense_backward(grad, x, one[None])
    np.testing.assert_allclose(grad_bias, grad.astype("float64").sum(0), rtol=2e-7)


def test_layer_norm_of_one_unit_has_no_gradient(target, dtype, rng):
    """Exactly none: its output does not depend on its input. A fused product would leave its rounding."""
    x, grad = (rng.standard_normal((50, 1)).astype(dtype) for _ in range(2))
    weight, bias = np.full(1, 1.3, dtype), np.zeros(1, dtype)
    _, mean, inv_std = gc.ops.layer_norm(x, weight, bias)
    grad_input, _, _ = gc.ops.layer_norm_backward(grad, x, weight, mean, inv_std)
    assert (grad_input == 0).all()


@pytest.mark.parametrize("norm", [gc.ops.batch_norm, gc.ops.layer_norm], ids=["batch", "layer"])
def test_an_eps_that_rounds_to_zero_is_refused(norm):
    """Of constant rows and columns it would make 0 / 0."""
    x, one = np.ones((4, 3), "float32"), np.ones(3, "float32")
    with pytest.raises(ValueError, match=r"eps: expected a finite number >= 1.17549e-38"):
        norm(x, one, one, eps=1e-50)
    assert np.isfinite(norm(x.astype(float), one.astype(float), one.astype(float), eps=1e-50)[0]).all()
