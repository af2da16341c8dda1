"""Facts of theory that a deep network must show exactly or, over many draws, within known sampling error.

Each statistical test compares a mean of independent draws with its exact expectation and allows five
standard errors: with fixed seeds it either always passes or the code is wrong.
"""

import math

import numpy as np
import pytest

import gradcore as gc
import reference
import tolerances
from nets import Case, build
from reference import Net

SIGMAS = 5


def assert_mean(samples, expected, tolerance=0.0):
    samples = np.asarray(samples)
    standard_error = samples.std(ddof=1) / math.sqrt(samples.size)
    assert abs(samples.mean() - expected) <= SIGMAS * standard_error + tolerance


def gaussian_net(net, gain2, rng, dtype="float32"):
    """Weights N(0, gain2 / fan_in), no biases."""
    return build(net, reference.random_parameters(net, rng, gain=math.sqrt(gain2)), dtype)


def recorded(mlp, x, target, loss="mse"):
    mlp.loss_and_gradients(x, target, loss=loss, record=True)
    return mlp.flow


# ---- homogeneity: <W_l, dL/dW_l> is the same in every layer of a bias-free (leaky) ReLU net ----------


@pytest.mark.parametrize("gain", [0.7, 1.4, 2.8])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
def test_weight_gradient_inner_products_are_equal(activation, gain, dtype):
    """Scaling any W_l scales the output alike, so all <W_l, dL/dW_l> equal <dL/df, f>."""
    net = Net((20, 31, 64, 17, 40, 5), (activation,) * 4, bias=False)
    case = Case(net, dtype, batch_size=50, loss="mse", gain=gain)
    case.mlp.loss_and_gradients(case.x, case.target, loss="mse")
    products = [
        np.vdot(case.mlp.parameters[name].astype(float), case.mlp.gradients[name]) for name in case.mlp.parameters
    ]
    np.testing.assert_allclose(products, products[-1], rtol=100 * tolerances.UNIT_ROUNDOFF[dtype.name] * 50)


def test_weight_gradients_are_flat_where_deltas_are_not():
    """The trap of that identity (gain^2 1/2, 20 layers): deltas fall by 10^3, weight gradients do not."""
    rng = np.random.default_rng(5)
    net = Net((64,) * 20 + (64,), ("relu",) * 19, bias=False)
    flow = recorded(gaussian_net(net, 0.5, rng), *rng.standard_normal((2, 32, 64)).astype("float32"))
    assert flow.delta_norm[0] < 1e-3 * flow.delta_norm[-1]
    assert 0.1 < flow.weight_grad_norm[0] / flow.weight_grad_norm[-1] < 10


# ---- finite width: ln |x_l|^2 / |x_(l-1)|^2 for He-ReLU is ln((2/n) chi^2_K), K ~ Binomial(n, 1/2) ------

# mean and variance of the logarithm per layer, conditional on K > 0 (computed from the exact law)
LOG_RATIO = {16: (-0.17640, 0.41959), 64: (-0.04011, 0.08300)}


@pytest.mark.parametrize("width", LOG_RATIO)
def test_activation_norm_ratios_of_he_relu(width):
    mean, variance = LOG_RATIO[width]
    rng = np.random.default_rng(width)
    net = Net((width,) * 26, ("relu",) * 24, bias=False)
    logs = []
    for _ in range(60):
        x = rng.standard_normal((1, width)).astype("float32")
        flow = recorded(gaussian_net(net, 2.0, rng), x, x)
        logs.extend(np.diff(2 * np.log(flow.activation_norm[:-1])))
    logs = np.array(logs)[np.isfinite(logs)]
    assert len(logs) > 1000
    assert_mean(logs, mean)
    assert_mean((logs - mean) ** 2, variance)


def test_activation_norm_ratios_of_a_linear_net():
    """chi^2_n / n: mean of ln psi(n/2) + ln(2/n) = -1/n - 1/(3 n^2), variance psi'(n/2) = 2/n + 2/n^2 + ..."""
    n, rng, logs = 32, np.random.default_rng(2), []
    net = Net((n,) * 31, ("identity",) * 29, bias=False)
    for _ in range(60):
        x = rng.standard_normal((1, n)).astype("float32")
        logs.extend(np.diff(2 * np.log(recorded(gaussian_net(net, 1.0, rng), x, x).activation_norm)))
    logs = np.array(logs)
    assert_mean(logs, -1 / n - 1 / (3 * n**2))
    assert_mean((logs - logs.mean()) ** 2, 2 / n + 2 / n**2 + 4 / (3 * n**3))


# ---- mean field: |delta_l|^2 grows by chi1 per layer towards the input ---------------------------------


def mean_field_profile(activation, gain2, depth, q):
    """chi1 of every hidden layer, following q through the layers (sigma_b = 0)."""
    factors = []
    for _ in range(depth):
        factors.append(reference.chi1(activation, gain2, q))
        q = reference.next_q(activation, gain2, q)
    return factors


@pytest.mark.parametrize(
    ("activation", "gain2"),
    [("relu", 1.0), ("relu", 2.0), ("tanh", 1.0), ("tanh", 2.0), ("sigmoid", 1.0), ("sigmoid", 2.0), ("selu", 1.0)],
)
def test_chi1_by_simulation(activation, gain2):
    """Deltas of wide nets against the mean-field product; finite width costs O(depth / width)."""
    width, depth, rng = 320, 8, np.random.default_rng(11)
    net = Net((width,) * (depth + 1), (activation,) * (depth - 1), bias=False)
    growth = []
    for _ in range(6):
        mlp = gaussian_net(net, gain2, rng)
        x = rng.standard_normal((64, width)).astype("float32")
        mlp.forward(x, training=True)
        # a cotangent independent of the net, as the theory takes it
        output = mlp(x).astype(float)
        target = output - rng.standard_normal(output.shape)
        flow = recorded(mlp, x, target.astype("float32"))
        growth.append(2 * np.log(flow.delta_norm[0] / flow.delta_norm[-1]))
    expected = sum(np.log(mean_field_profile(activation, gain2, depth - 1, gain2)))
    assert_mean(growth, expected, tolerance=5 * depth / width)


def test_chi1_of_the_reference_are_the_known_constants():
    """Fixed points of the variance map and chi1 there; see the mean-field papers' tables.

    selu in closed form: lambda^2 / 2 + (lambda alpha)^2 e^2 Phi(-2).
    """
    selu = reference.SELU_LAMBDA**2 * (0.5 + reference.SELU_ALPHA**2 * math.exp(2) * math.erfc(math.sqrt(2)) / 2)
    for activation, gain2, q, expected in [
        ("relu", 2, 1.0, 1.0),
        ("tanh", 2, 0.617965, 1.105529),
        ("sigmoid", 1, 0.264687, 0.055721),
        ("sigmoid", 2, 0.555290, 0.100977),
        ("selu", 1, 1.0, selu),
    ]:
        assert reference.next_q(activation, gain2, q) == pytest.approx(q, rel=1e-5), activation
        assert reference.chi1(activation, gain2, q) == pytest.approx(expected, rel=1e-5)


# ---- batch norm makes gradients grow with depth (Yang et al. 2019, arXiv:1902.08129) -------------------


@pytest.mark.parametrize(
    ("activation", "batch_size", "growth", "width"),
    [
        ("identity", 8, 6 / 5, 256),  # (B - 2) / (B - 3) per layer in squared norm
        ("identity", 16, 14 / 13, 256),
        ("relu", 256, math.pi / (math.pi - 1), 256),  # the limit of large batches
    ],
)
def test_batch_norm_growth_per_layer(activation, batch_size, growth, width):
    depth, rng = 16, np.random.default_rng(3)
    net = Net((width,) * (depth + 1), (activation,) * (depth - 1), "batch", bias=False)
    rates = []
    for _ in range(8):
        mlp = gc.MLP(
            list(net.widths), activation=activation, normalization="batch", bias=False, seed=int(rng.integers(1 << 30))
        )
        x, target = rng.standard_normal((2, batch_size, width)).astype("float32")
        flow = recorded(mlp, x, target)
        squares = 2 * np.log(flow.delta_norm[2:-2])
        rates.append(-np.polyfit(np.arange(squares.size), squares, 1)[0])
    assert_mean(rates, math.log(growth), tolerance=0.02)
