"""Clipping: PyTorch's results and semantics, norms beyond float32's squares, and non-finite values."""

import math

import numpy as np
import pytest

import gradcore as gc
import reference
import tolerances
from nets import Case
from reference import Net


def random_arrays(rng, dtype, scale=1.0):
    return [(scale * rng.standard_normal(shape)).astype(dtype) for shape in [(17, 5), (33,), (1, 1), (4, 3, 2)]]


def assert_scaled(actual, original, coefficient, dtype):
    for array, before in zip(actual, original, strict=True):
        np.testing.assert_allclose(array, before * coefficient, rtol=2 * tolerances.norm(dtype))


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clip_grad_norm(norm_type, max_norm, target, dtype, rng):
    arrays = random_arrays(rng, dtype)
    original = [array.astype(np.float64) for array in arrays]
    norm = gc.clip_grad_norm_(arrays, max_norm, norm_type=norm_type)
    expected = reference.total_norm(original, norm_type)
    assert norm == pytest.approx(expected, rel=tolerances.norm(dtype))
    assert_scaled(arrays, original, reference.clip_coefficient(expected, max_norm), dtype)


@pytest.mark.torch
@pytest.mark.parametrize("norm_type", [2.0, 1.0, math.inf])
@pytest.mark.parametrize("spoil", [None, math.nan, math.inf, -math.inf])
def test_clip_grad_norm_is_pytorchs(norm_type, spoil, dtype, rng, torch):
    arrays = random_arrays(rng, dtype)
    if spoil is not None:
        arrays[0][3, 2] = spoil
    leaves = [torch.tensor(array) for array in arrays]
    for leaf in leaves:
        leaf.grad = leaf.clone()
    expected = torch.nn.utils.clip_grad_norm_(leaves, 0.7, norm_type=norm_type).item()
    norm = gc.clip_grad_norm_(arrays, 0.7, norm_type=norm_type)
    assert norm == pytest.approx(expected, rel=1e-5, nan_ok=True)
    for array, leaf in zip(arrays, leaves, strict=True):
        np.testing.assert_allclose(array, leaf.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("float32", s) for s in (1e-30, 1e-20, 1e20, 1e30, 1e37)]
    + [("float64", s) for s in (1e-300, 1e-170, 1e170, 1e300)],
)
def test_norms_whose_squares_leave_the_range(dtype, scale, target, rng):
    dtype = np.dtype(dtype)
    arrays = random_arrays(rng, dtype, scale)
    scaled = [array.astype(np.float64) / scale for array in arrays]
    expected = reference.total_norm(scaled)
    max_norm = math.inf if scale < 1 else 1e-3 * scale
    assert gc.clip_grad_norm_(arrays, max_norm) == pytest.approx(scale * expected, rel=tolerances.norm(dtype))
    coefficient = 1 if scale < 1 else 1e-3 / expected
    assert_scaled([array.astype(np.float64) / scale for array in arrays], scaled, coefficient, dtype)


def test_a_norm_of_1e30_is_exact_in_a_step():
    case = Case(Net((6, 9, 4), ("tanh",)), "float32", batch_size=12)
    case.mlp.gradients.flat[...] = 0
    case.mlp.gradients["dense0.weight"][0, :2] = 6e29, 8e29
    before = case.mlp.parameters["dense0.weight"].copy()
    assert gc.optim.SGD(case.mlp, lr=1.0).step(clip_norm=1.0) == pytest.approx(1e30, rel=1e-7)
    np.testing.assert_allclose((before - case.mlp.parameters["dense0.weight"])[0, :2], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_error_if_nonfinite_touches_nothing(bad, dtype, rng):
    arrays = random_arrays(rng, dtype)
    arrays[2][0, 0] = bad
    original = [array.copy() for array in arrays]
    with pytest.raises(FloatingPointError, match="norm"):
        gc.clip_grad_norm_(arrays, 1.0, error_if_nonfinite=True)
    for array, before in zip(arrays, original, strict=True):
        np.testing.assert_array_equal(array, before)


def test_non_finite_norms_are_returned_and_scale_as_pytorch(dtype):
    arrays = [np.array([1.0, math.inf, -2.0], dtype)]
    assert gc.clip_grad_norm_(arrays, 1.0) == math.inf
    np.testing.assert_array_equal(arrays[0], [0, math.nan, 0])
    arrays = [np.array([1.0, math.nan, -2.0], dtype)]
    assert math.isnan(gc.clip_grad_norm_(arrays, 1.0))
    assert np.isnan(arrays[0]).all()


def test_a_norm_that_is_nan_does_not_outlive_its_gradients(dtype):
    """It makes the padding of the flat gradients NaN, too; every pass writes that anew."""
    case = Case(Net((6, 9, 4), ("tanh",)), dtype, batch_size=12)
    for backward in (
        lambda: case.mlp.loss_and_gradients(case.x, case.target, loss="mse"),
        lambda: case.mlp.backward(case.mlp.forward(case.x, training=True)),
    ):
        case.mlp.gradients.flat[0] = math.nan
        assert math.isnan(gc.clip_grad_norm_(case.mlp.gradients.flat, 1.0))
        assert np.isnan(case.mlp.gradients.flat).all()
        backward()
        assert math.isfinite(gc.clip_grad_norm_(case.mlp.gradients.flat, 1.0))


def test_clip_grad_norm_takes_nets_mappings_and_sequences(dtype):
    case = Case(Net((6, 9, 4), ("tanh",)), dtype, batch_size=12)
    norms, results = [], []
    for grads in (
        lambda mlp: mlp,
        lambda mlp: mlp.gradients,
        lambda mlp: dict(mlp.gradients),
        lambda mlp: list(mlp.gradients.values()),
        lambda mlp: tuple(mlp.gradients.values()),
    ):
        case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
        norms.append(gc.clip_grad_norm_(grads(case.mlp), 0.1))
        results.append(case.mlp.gradients.flat.copy())
    expected = reference.total_norm(case.reference()[1].values())
    assert norms == pytest.approx([expected] * 5, rel=tolerances.NETWORK[dtype.name])
    for result in results:
        np.testing.assert_allclose(result, results[0], rtol=1e-6)
        assert np.linalg.norm(result.astype(float)) == pytest.approx(0.1, rel=1e-4)


def test_gradients_that_are_none_are_left_out(rng):
    one, two = random_arrays(rng, np.dtype("float32"))[:2]
    norm = math.hypot(np.linalg.norm(one), np.linalg.norm(two))
    assert gc.clip_grad_norm_([None, one, None, two], 0.5 * norm) == pytest.approx(norm, rel=1e-6)
    assert math.hypot(np.linalg.norm(one), np.linalg.norm(two)) == pytest.approx(0.5 * norm, rel=1e-5)
    gc.clip_grad_value_({"unused": None, "used": one}, 1e-3)
    assert np.abs(one).max() == np.float32(1e-3)


def test_parameters_are_not_told_to_detach():
    """What a PyTorch parameter answers: its memory is not given away under a graph."""

    class Parameter:
        requires_grad = True

        def __dlpack__(self, **options):
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    for grads, name in (([Parameter()], "grads[0]"), (Parameter(), "grads")):
        with pytest.raises(TypeError) as error:
            gc.clip_grad_norm_(grads, 1.0)
        assert str(error.value) == f"{name}: expected a gradient, such as p.grad, got a Parameter that requires grad"


@pytest.mark.torch
def test_a_pytorch_model_with_an_unused_layer(torch):
    """Its gradients are clipped as PyTorch clips them; its parameters are refused, not clipped."""
    grads = []
    for clip in (gc.clip_grad_norm_, torch.nn.utils.clip_grad_norm_):
        torch.manual_seed(0)
        layers = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
        parameters = [*layers[0].parameters(), *layers[1].parameters()]
        layers[1](torch.ones(4, 5)).square().sum().backward()
        if clip is gc.clip_grad_norm_:
            with pytest.raises(
                TypeError, match=r"grads\[0\]: expected a gradient, such as p.grad, got a Parameter that"
            ):
                clip(iter(parameters), 1.0)
            clip((p.grad for p in parameters), 1.0)
        else:
            clip(parameters, 1.0)
        grads.append([p.grad.numpy() for p in parameters if p.grad is not None])
    for ours, theirs in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_subclasses_of_arrays_are_clipped_where_they_lie(dtype, tmp_path):
    grads = np.memmap(tmp_path / "grads", dtype, "w+", shape=5)
    grads[:] = 3.0
    assert gc.clip_grad_norm_([grads], 1.0) == pytest.approx(math.sqrt(45.0))
    assert np.linalg.norm(grads) == pytest.approx(1.0, rel=1e-5)
    gc.clip_grad_value_(grads, 0.1)
    np.testing.assert_array_equal(grads, np.full(5, 0.1, dtype))


def test_gradients_in_shared_memory_are_clipped_where_they_lie(dtype):
    """An array over a ctypes one names its byte order, the native one."""
    memory = np.ctypeslib.as_ctypes(np.full(5, 3.0, dtype))
    assert gc.clip_grad_norm_(np.ctypeslib.as_array(memory), 1.0) == pytest.approx(math.sqrt(45.0))
    assert np.linalg.norm(memory) == pytest.approx(1.0, rel=1e-5)


def test_clip_grad_value(target, dtype, rng):
    arrays = random_arrays(rng, dtype)
    arrays[0][0, :3] = math.nan, math.inf, -math.inf
    expected = [np.clip(array, dtype.type(-0.3), dtype.type(0.3)) for array in arrays]
    assert gc.clip_grad_value_(arrays, 0.3) is None
    for array, clipped in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, clipped)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1e2])
def test_clip_grad_adaptive(scale, target, dtype, rng):
    """Per output unit; a unit of tiny weights is clipped by eps, and a zero gradient stays zero."""
    case = Case(Net((6, 19, 4), ("tanh",)), dtype, batch_size=12)
    case.mlp.parameters["dense0.weight"][2] *= 1e-6
    for value in case.mlp.gradients.values():
        value[...] = scale * rng.standard_normal(value.shape)
    case.mlp.gradients["dense0.weight"][5] = 0
    before = {name: value.astype(np.float64) for name, value in case.mlp.gradients.items()}
    gc.clip_grad_adaptive_(case.mlp, clipping=0.01, eps=1e-3)
    for name, grad in before.items():
        if name.endswith("weight"):
            grad = reference.clip_adaptive(grad, case.mlp.parameters[name].astype(np.float64), 0.01, 1e-3)
        np.testing.assert_allclose(case.mlp.gradients[name], grad, rtol=20 * tolerances.UNIT_ROUNDOFF[dtype.name])


@pytest.mark.torch
def test_coefficient_keeps_pytorchs_epsilon(rng, torch):
    """max_norm / (norm + 1e-6), not max_norm / norm: visible for tiny norms."""
    arrays = [np.full(4, 1e-6)]
    leaf = torch.tensor(arrays[0])
    leaf.grad = leaf.clone()
    torch.nn.utils.clip_grad_norm_([leaf], 1e-6)
    gc.clip_grad_norm_(arrays, 1e-6)
    np.testing.assert_allclose(arrays[0], leaf.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
def test_subnormal_gradients_of_float64_are_left(p):
    gradient = np.full(3, 1e-310)
    norm = gc.clip_grad_norm_(gradient, 1.0, norm_type=p)
    np.testing.assert_allclose(norm, 1e-310 * 3 ** (1 / p), rtol=1e-12)
    assert (gradient == 1e-310).all()
