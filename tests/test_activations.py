"""Activations and their derivatives against mpmath, over the whole range, on every target.

Errors are counted in units in the last place (ULP) of the exact result; where that is subnormal, in
units of the smallest subnormal number. The derivatives of gelu, gelu_tanh, silu and mish cross zero
between two floating-point numbers: within 1 of the crossing the unit is that of 1/4, a quarter of
what the derivative grows to, because near the crossing the result itself is arbitrarily small.
"""

from functools import lru_cache

import mpmath as mp
import numpy as np
import pytest

import gradcore as gc
import tolerances

WIDE = {"gelu", "gelu_tanh", "mish"}
ZERO_OF_DERIVATIVE = {"gelu": -0.7518, "gelu_tanh": -0.7525, "silu": -1.2785, "mish": -1.1924}
FLOOR_NEAR_ZERO = 0.25

SELU_SCALE = mp.mpf("1.0507009873554804934193349852946")
SELU_ALPHA = mp.mpf("1.6732632423543772848170429916717")
SLOPE = mp.mpf("0.01")


# ---- the exact functions: name -> x -> (act(x), act'(x)) ------------------------------------------------


def gated(sigmoid, slope):
    """x s(x), from s and s'."""
    return lambda x: (x * sigmoid(x), sigmoid(x) + x * slope(x))


def logistic(x):
    return 1 / (1 + mp.exp(-x)) if x > 0 else mp.exp(x) / (1 + mp.exp(x))


def logistic_slope(x):
    return logistic(x) * logistic(-x)


def log1p_exp(x):
    return max(x, mp.mpf(0)) + mp.log1p(mp.exp(-abs(x)))


def normal_cdf(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2 if abs(x) < 1000 else mp.mpf(x > 0)  # mpmath's overflows beyond 1e154


def gelu_tanh_argument(x):
    return 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def gelu_tanh_argument_slope(x):
    return 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x**2)


EXACT = {
    "identity": lambda x: (x, mp.mpf(1)),
    "relu": lambda x: (max(x, mp.mpf(0)), mp.mpf(x > 0)),
    "leaky_relu": lambda x: (x, mp.mpf(1)) if x > 0 else (SLOPE * x, SLOPE),
    "elu": lambda x: (x, mp.mpf(1)) if x > 0 else (mp.expm1(x), mp.exp(x)),
    "selu": lambda x: (
        (SELU_SCALE * x, SELU_SCALE)
        if x > 0
        else (SELU_SCALE * SELU_ALPHA * mp.expm1(x), SELU_SCALE * SELU_ALPHA * mp.exp(x))
    ),
    "gelu": gated(normal_cdf, mp.npdf),
    "gelu_tanh": gated(
        lambda x: logistic(gelu_tanh_argument(x)),
        lambda x: logistic_slope(gelu_tanh_argument(x)) * gelu_tanh_argument_slope(x),
    ),
    "silu": gated(logistic, logistic_slope),
    "mish": gated(lambda x: mp.tanh(log1p_exp(x)), lambda x: mp.sech(log1p_exp(x)) ** 2 * logistic(x)),
    "softplus": lambda x: (log1p_exp(x), logistic(x)),
    "tanh": lambda x: (mp.tanh(x), 4 * logistic_slope(2 * x)),
    "hard_tanh": lambda x: (min(max(x, mp.mpf(-1)), mp.mpf(1)), mp.mpf(abs(x) < 1)),
    "sigmoid": lambda x: (logistic(x), logistic_slope(x)),
}


# ---- where to look, and the distance --------------------------------------------------------------------


@lru_cache
def points(dtype):
    """Both signs: every power of two, subnormal ones too, and random numbers around each threshold."""
    rng, info = np.random.default_rng(7), np.finfo(dtype)
    step = 1 if dtype == "float32" else 8
    powers = np.arange(info.minexp - info.nmant, info.maxexp - 1, step)
    magnitudes = np.ldexp(1 + rng.random(powers.size), powers)
    underflow = -np.log(float(info.smallest_subnormal))  # exp(-x) is zero beyond: 103 or 744
    x = np.concatenate(
        [
            np.ldexp(1.0, powers),
            magnitudes,
            rng.uniform(0, 3, 200),
            rng.uniform(0, 16, 150),
            rng.uniform(0, 1.05 * underflow, 150),
            underflow / 2 + rng.uniform(-2, 2, 30),
            np.sqrt(2 * underflow) + rng.uniform(-1, 1, 30),
        ]
    ).astype(dtype)
    return np.concatenate([x, -x])


@lru_cache
def exact(name, dtype):
    """[(act(x), act'(x))] at each of points(dtype), to 40 digits."""
    with mp.workdps(40):
        return [EXACT[name](mp.mpf(float(x))) for x in points(dtype)]


def ulp(exact_value, dtype, floor):
    info = np.finfo(dtype)
    _, exponent = mp.frexp(max(abs(exact_value), mp.mpf(floor)))
    return mp.ldexp(1, max(int(exponent) - info.nmant - 1, info.minexp - info.nmant))


def worst(actual, expected, floors):
    """(largest error in ULP, index of where it is)."""
    with mp.workdps(40):
        errors = [
            float(abs(mp.mpf(float(a)) - e) / ulp(e, actual.dtype, floor))
            for a, e, floor in zip(actual, expected, floors, strict=True)
        ]
    return max(errors), int(np.argmax(errors))


@pytest.mark.parametrize("name", gc.activations())
def test_value_and_derivative_within_a_few_ulp(name, dtype, target):
    x = points(dtype.name)
    values, derivatives = zip(*exact(name, dtype.name), strict=True)
    no_floor = np.full(x.size, float(np.finfo(dtype).smallest_subnormal))

    error, at = worst(gc.ops.activation(x, name), values, no_floor)
    bounds = tolerances.WIDE_ACTIVATION_ULP if name in WIDE else tolerances.ACTIVATION_ULP
    assert error <= bounds[dtype.name], f"{name}({x[at]!r})"

    near_zero = np.abs(x - ZERO_OF_DERIVATIVE.get(name, np.inf)) < 1
    floors = np.where(near_zero, FLOOR_NEAR_ZERO, no_floor)
    error, at = worst(gc.ops.activation_backward(np.ones_like(x), x, name), derivatives, floors)
    assert error <= tolerances.DERIVATIVE_ULP[dtype.name], f"{name}'({x[at]!r})"


# ---- special values: the table of kernels/activation-inl.h ----------------------------------------------

LN2 = np.log(2)
LAMBDA, LAMBDA_ALPHA = float(SELU_SCALE), float(SELU_SCALE * SELU_ALPHA)
# name: (act, act') at -inf, -0, +0, +inf
SPECIAL = {
    "identity": [(-np.inf, 1), (-0.0, 1), (0, 1), (np.inf, 1)],
    "relu": [(0, 0), (0, 0), (0, 0), (np.inf, 1)],
    "leaky_relu": [(-np.inf, 0.01), (-0.0, 0.01), (0, 0.01), (np.inf, 1)],
    "elu": [(-1, 0), (-0.0, 1), (0, 1), (np.inf, 1)],
    "selu": [(-LAMBDA_ALPHA, 0), (-0.0, LAMBDA_ALPHA), (0, LAMBDA_ALPHA), (np.inf, LAMBDA)],
    "gelu": [(0, 0), (-0.0, 0.5), (0, 0.5), (np.inf, 1)],
    "gelu_tanh": [(0, 0), (-0.0, 0.5), (0, 0.5), (np.inf, 1)],
    "silu": [(0, 0), (-0.0, 0.5), (0, 0.5), (np.inf, 1)],
    "mish": [(0, 0), (-0.0, 0.6), (0, 0.6), (np.inf, 1)],
    "softplus": [(0, 0), (LN2, 0.5), (LN2, 0.5), (np.inf, 1)],
    "tanh": [(-1, 0), (-0.0, 1), (0, 1), (1, 0)],
    "hard_tanh": [(-1, 0), (-0.0, 1), (0, 1), (1, 0)],
    "sigmoid": [(0, 0), (0.5, 0.25), (0.5, 0.25), (1, 0)],
}


@pytest.mark.parametrize("name", gc.activations())
def test_special_values(name, dtype, target):
    x = np.array([-np.inf, -0.0, 0.0, np.inf], dtype)
    values, derivatives = np.array(SPECIAL[name]).T
    result = gc.ops.activation(x, name)
    np.testing.assert_allclose(result, values, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(np.signbit(result[1:]), np.signbit(values[1:]))
    derivative = gc.ops.activation_backward(np.ones_like(x), x, name)
    np.testing.assert_allclose(derivative, derivatives, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", gc.activations())
def test_nan_stays_nan(name, dtype, target):
    x = np.array([1, np.nan, -1], dtype)
    assert list(np.isnan(gc.ops.activation(x, name))) == [False, True, False]
    derivative = gc.ops.activation_backward(np.ones_like(x), x, name)
    assert list(np.isnan(derivative)) == [False, name != "identity", False]


# ---- conventions, and independence from position --------------------------------------------------------


def test_hard_tanh_has_no_slope_at_its_kinks(dtype, target):
    """The others' are at 0, among the special values."""
    x = np.array([-1, np.nextafter(1, 0, dtype=dtype), 1], dtype)
    np.testing.assert_array_equal(gc.ops.activation_backward(np.ones_like(x), x, "hard_tanh"), [0, 1, 0])


@pytest.mark.torch
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "selu", "hard_tanh"])
def test_derivative_at_kinks_is_that_of_pytorch(name, dtype, target, torch):
    x = np.array([-1, -0.0, 0, 1], dtype)
    twin = torch.from_numpy(x).requires_grad_()
    getattr(torch.nn.functional, name.replace("hard_tanh", "hardtanh"))(twin).sum().backward()
    derivative = gc.ops.activation_backward(np.ones_like(x), x, name)
    np.testing.assert_allclose(derivative, twin.grad.numpy(), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", gc.activations())
def test_bits_do_not_depend_on_the_place_in_the_array(name, dtype, target, rng):
    x = rng.normal(0, 3, 67).astype(dtype)
    whole = gc.ops.activation(x, name)
    whole_grad = gc.ops.activation_backward(x[::-1], x, name)
    for size in (1, 3, 7, 15, 33):
        part = slice(5, 5 + size)
        np.testing.assert_array_equal(gc.ops.activation(x[part], name), whole[part])
        grad = gc.ops.activation_backward(x[::-1][part], x[part], name)
        np.testing.assert_array_equal(grad, whole_grad[part])


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_vanishing_derivatives_do_not_vanish_early(name, target):
    """1 - tanh^2 in float32 is zero above 9; the derivative itself lives until 52."""
    x = np.array([9, 20, 40, 50], np.float32) * (1 if name == "tanh" else 2)
    derivative = gc.ops.activation_backward(np.ones_like(x), x, name)
    assert (derivative > 0).all() and (np.diff(derivative) < 0).all()
