"""The oracle itself: every derivative by the complex step, and everything against PyTorch."""

import numpy as np
import pytest

import reference
import reference_flow
import tolerances
from nets import random_target
from reference import ACTIVATIONS, LOSSES, Net

STEP = 1e-30  # complex step: no cancellation, so it may be as small as the exponent allows


def complex_gradient(f, point):
    """Gradient of a real function of an array, one complex evaluation an entry."""
    gradient = np.empty_like(point)
    for i in np.ndindex(point.shape):
        shifted = point.astype(complex)
        shifted[i] += 1j * STEP
        gradient[i] = f(shifted).imag / STEP
    return gradient


def assert_same_derivative(actual, expected):
    scale = max(np.abs(expected).max(), np.finfo(float).tiny)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerances.COMPLEX_STEP * scale)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivatives(name):
    x = np.linspace(-30, 30, 4001) + 1e-4  # off the kinks at 0 and +-1
    assert_same_derivative(ACTIVATIONS[name].df(x), ACTIVATIONS[name].f(x + 1j * STEP).imag / STEP)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_largest_derivative(name):
    derivative = np.abs(ACTIVATIONS[name].df(np.linspace(-5, 60, 650001)))
    assert derivative.max() == pytest.approx(ACTIVATIONS[name].max_df, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "at_kink"),
    [("relu", 0), ("leaky_relu", 0.01), ("elu", 1), ("selu", reference.SELU_LAMBDA * reference.SELU_ALPHA)],
)
def test_derivative_at_zero_is_the_left_one(name, at_kink):
    assert ACTIVATIONS[name].df(np.array([0.0])) == pytest.approx(at_kink)


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_gradients(loss, rng):
    y, target = 3 * rng.standard_normal((5, 4)), random_target(loss, rng, 5, 4)
    assert_same_derivative(LOSSES[loss](y, target)[1], complex_gradient(lambda v: LOSSES[loss](v, target)[0], y))


def test_cross_entropy_takes_probabilities(rng):
    y, p = rng.standard_normal((5, 4)), rng.dirichlet(np.ones(4), 5)
    assert_same_derivative(
        LOSSES["cross_entropy"](y, p)[1], complex_gradient(lambda v: LOSSES["cross_entropy"](v, p)[0], y)
    )
    labels = np.array([0, 3, 1, 1, 2])
    hot = reference.one_hot(labels, 4)
    assert LOSSES["cross_entropy"](y, labels)[0] == LOSSES["cross_entropy"](y, hot)[0]


NETS = [
    Net((3, 4, 4, 2), ("tanh", "gelu")),
    Net((3, 4, 4, 2), ("sigmoid", "mish"), "batch"),
    Net((3, 4, 4, 2), ("gelu_tanh", "silu"), "layer", residual=True),
    Net((3, 3, 3, 2), ("elu", "softplus"), "rms", residual=True, bias=False),
    Net((2, 5, 1), ("leaky_relu",), "batch", bias=False),
]


@pytest.mark.parametrize("net", NETS, ids=str)
def test_network_gradients(net, rng):
    params = reference.random_parameters(net, rng)
    x, target = rng.standard_normal((6, net.widths[0])), rng.standard_normal((6, net.widths[-1]))
    _, grads, trace = reference.loss_and_gradients(net, params, x, target, "mse")

    def loss_of(name):
        return lambda value: LOSSES["mse"](reference.forward(net, params | {name: value}, x)[0], target)[0]

    for name, value in params.items():
        expected = complex_gradient(loss_of(name), value)
        np.testing.assert_allclose(grads[name], expected, rtol=0, atol=1e-14, err_msg=name)

    output, _ = reference.forward(net, params, x)
    _, grad_input = reference.backward(net, params, trace, LOSSES["mse"](output, target)[1])
    by_input = complex_gradient(lambda v: LOSSES["mse"](reference.forward(net, params, v)[0], target)[0], x)
    assert_same_derivative(grad_input, by_input)


# ---- small formats ---------------------------------------------------------------------------


def test_rounding_to_fp16_is_numpys(rng):
    values = np.concatenate(
        [np.ldexp(rng.uniform(1, 2, 20000), rng.integers(-30, 17, 20000)), [65519.9, 65520, 2.0**-25, 2.0**-24 * 1.5]]
    )
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float64)
    np.testing.assert_array_equal(reference_flow.round_to_format(values, "fp16"), expected)


# Flush-to-zero and overflow points of each format (OCP 8-bit floating point specification 1.0, IEEE 754).
@pytest.mark.parametrize(
    ("name", "largest_flushed", "first_overflowed"),
    [
        ("fp16", 2.0**-25, 65520.0),
        ("bf16", 2.0**-134, 2.0**128 - 2.0**119),
        ("e4m3", 2.0**-10, None),
        ("e5m2", 2.0**-17, 61440.0),
    ],
)
def test_ends_of_the_formats(name, largest_flushed, first_overflowed):
    up = np.nextafter(largest_flushed, 1)
    assert reference_flow.round_to_format([largest_flushed, up], name).tolist() == [0, 2 * largest_flushed]
    if first_overflowed is None:  # e4m3: 448 has an even mantissa, so the tie at 464 goes down to it
        assert reference_flow.round_to_format([464.0, np.nextafter(464.0, 500)], name).tolist() == [448, np.inf]
    else:
        below = np.nextafter(first_overflowed, 0)
        assert reference_flow.round_to_format([below, first_overflowed], name).tolist() == [
            reference_flow.FORMATS[name][2],
            np.inf,
        ]


def test_exponent_histogram():
    values = np.array([1.0, -1.5, 2.0, 0.0, np.inf, np.nan, 2.0**-149, 3.4e38], dtype=np.float32)
    histogram = dict(
        zip(reference_flow.histogram_exponents(np.float32), reference_flow.exponent_histogram(values), strict=True)
    )
    assert {exponent: count for exponent, count in histogram.items() if count} == {-149: 1, 0: 2, 1: 1, 127: 1}
    assert len(reference_flow.histogram_exponents(np.float64)) == 2098


# ---- against PyTorch -------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name, torch):
    from torch_twin import ACTIVATIONS as TORCH_ACTIVATIONS

    x = np.linspace(-8, 8, 641)  # includes the kinks
    leaf = torch.tensor(x, requires_grad=True)
    value = TORCH_ACTIVATIONS[name](leaf)
    value.sum().backward()
    np.testing.assert_allclose(ACTIVATIONS[name].f(x), value.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ACTIVATIONS[name].df(x), leaf.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.torch
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("net", NETS, ids=str)
def test_networks_are_torchs(net, loss, torch, rng):
    from torch_twin import Twin

    params = reference.random_parameters(net, rng)
    x, target = rng.standard_normal((6, net.widths[0])), random_target(loss, rng, 6, net.widths[-1])
    value, grads, trace = reference.loss_and_gradients(net, params, x, target, loss)
    buffers = {}
    if net.normalization == "batch":
        for layer in range(net.depth - 1):
            width = net.widths[layer + 1]
            buffers |= {f"norm{layer}.running_mean": np.zeros(width), f"norm{layer}.running_var": np.ones(width)}
    twin = Twin(net, params, buffers)
    expected_value, expected = twin.loss_and_gradients(x, target, loss)
    assert value == pytest.approx(expected_value, rel=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], rtol=0, atol=1e-13, err_msg=name)
    if buffers:
        for name, value in reference.updated_buffers(net, buffers, trace).items():
            np.testing.assert_allclose(value, twin.buffers[name].numpy(), rtol=1e-12, err_msg=name)
