"""Jacobian, neighbouring inputs and the depth a design can carry, against the net itself and the theory."""

import math

import numpy as np
import pytest

import gradcore as gc
from gradcore.analysis import mean_field, propagation
from gradcore.analysis.propagation import neighbours, propagate

RNG = np.random.default_rng(3)


def dense_jacobian(net, x):
    """[out, in] at one row, by a backward pass for every output of the net itself."""
    net.forward(np.repeat(x[None, :], net.out_features, axis=0), training=True)
    return np.array(net.backward(np.eye(net.out_features)))


NETS = [
    {"activation": "tanh"},
    {"activation": "relu", "bias": False},
    {"activation": "gelu", "normalization": "layer"},
    {"activation": ["selu", "elu", "silu"], "normalization": "rms", "residual": True},
    {"activation": "softplus", "residual": True},
]


@pytest.mark.parametrize("options", NETS, ids=str)
@pytest.mark.parametrize("widths", [[9, 9, 9, 7, 5], [4, 8, 8, 8, 6]], ids=str)
def test_singular_values_are_those_of_the_net(options, widths):
    net = gc.MLP(widths, dtype="float64", seed=2, **options)
    for name, values in net.parameters.items():
        if name.startswith("norm") or name.endswith("bias"):
            values[...] += 0.3 * RNG.standard_normal(values.shape)
    x = RNG.standard_normal((6, widths[0]))
    found = propagate(net, x).jacobian
    values = np.array(
        [np.linalg.svd(dense_jacobian(net, row), compute_uv=False) for row in x[: propagation.JACOBIAN_ROWS]]
    )
    assert found.exact and found.count == min(widths[0], widths[-1])
    np.testing.assert_allclose(found.largest, values.mean(axis=0)[:5], rtol=1e-9)
    np.testing.assert_allclose(found.smallest, values.mean(axis=0)[-5:], rtol=1e-7, atol=1e-12)
    assert found.mean_square == pytest.approx(np.mean(values**2), rel=1e-9)
    spreads = [np.log(row[row > 1e-12 * row[0]]).std() for row in values]
    assert found.log_spread == pytest.approx(np.mean(spreads), rel=1e-6)


def test_batch_norm_holds_the_statistics_of_the_batch():
    """In inference mode with running statistics equal to the batch's, the net is the same map."""
    net = gc.MLP([6, 8, 8, 5], activation="tanh", normalization="batch", dtype="float64")  # no dead units, no kinks
    x = RNG.standard_normal((40, 6))
    for _ in range(400):
        net.forward(x, training=True)
    for layer in range(2):
        net.buffers[f"norm{layer}.running_var"][...] *= 39 / 40  # running variances are unbiased
    step = 1e-6
    columns = [(net(x + step * e) - net(x - step * e)) / (2 * step) for e in np.eye(6)]
    jacobians = np.stack(columns, axis=2)[: propagation.JACOBIAN_ROWS]
    values = np.linalg.svd(jacobians, compute_uv=False).mean(axis=0)
    np.testing.assert_allclose(propagate(net, x).jacobian.largest, values[:5], rtol=1e-5)


def test_wide_nets_are_measured_by_products_alone():
    """Bidiagonalization: the largest values and the moments, against all of them."""
    net = gc.MLP([90, 100, 100, 80], activation="tanh", dtype="float64", seed=1)
    x = RNG.standard_normal((4, 90))
    found = propagate(net, x).jacobian
    values = np.array([np.linalg.svd(dense_jacobian(net, row), compute_uv=False) for row in x])
    assert not found.exact and found.count == 80
    assert found.largest[0] == pytest.approx(values[:, 0].mean(), rel=1e-6)
    assert found.largest[2] == pytest.approx(values[:, 2].mean(), rel=1e-2)
    assert found.smallest[-1] >= values[:, -1].mean()  # an upper bound
    assert found.mean_square == pytest.approx(np.mean(values**2), rel=0.25)  # four random directions
    orthogonal = gc.MLP([80] * 5, activation="identity", init="orthogonal", bias=False, dtype="float64")
    found = propagate(orthogonal, x[:, :80]).jacobian
    np.testing.assert_allclose([found.largest[0], found.smallest[-1], found.mean_square], 1, rtol=1e-9)
    assert found.log_spread < 1e-6


def test_neighbours_keep_length_and_cosine():
    x = RNG.standard_normal((20, 7)) * np.arange(20)[:, None]  # a row of zeros among them
    near = neighbours(x, RNG)
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), np.linalg.norm(x, axis=1), rtol=1e-12)
    np.testing.assert_allclose(np.sum(near * x, axis=1), 0.9 * np.sum(x * x, axis=1), rtol=1e-12)


@pytest.mark.parametrize("options", [{"activation": "relu"}, {"activation": "tanh"}, {"normalization": "layer"},
                                     {"normalization": "rms", "residual": True}], ids=str)  # fmt: skip
def test_correlation_through_depth_is_that_of_theory(options):
    """Wide random nets: (M.3) layer by layer."""
    x = RNG.standard_normal((256, 300)).astype("f4")
    report = gc.analyze(gc.MLP([300] + [400] * 6 + [5], **options), x, np.zeros(256, dtype=int), batch_size=64)
    measured = [layer.correlation for layer in report.layers[:-1]]
    np.testing.assert_allclose(measured, report.prediction.correlation[:-1], atol=0.02)
    assert measured[0] == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "sigmoid", "hard_tanh"])
def test_the_fast_pair_mean_is_the_double_integral(activation):
    for c in (0.3, 0.9, 0.99):
        for q in (0.5, 2.0):
            exact = q * mean_field.c_map(activation, c, q, 1.0)
            assert mean_field.activation_product(activation, c, q) == pytest.approx(exact, rel=3e-3)


# ---- how many layers -----------------------------------------------------------------------------


def report_on(hidden, **options):
    x = RNG.standard_normal((600, 20)).astype("f4")
    return gc.analyze(gc.MLP([20] + [64] * hidden + [5], **options), x, RNG.integers(0, 5, 600))


def test_the_depth_that_a_design_can_carry():
    """LeCun's weights under ReLU: 1/2 a layer, so 100^2 in 1 + log2(10^4) = 14.3 layers; asked of nets of any depth."""
    for hidden in (6, 30):
        limit = report_on(hidden, init="lecun_normal").depth_limit
        assert limit.measured == pytest.approx(1 + math.log2(1e4), rel=0.15)
        assert limit.predicted == pytest.approx(1 + math.log2(1e4), rel=0.05)
        assert limit.measured_low < limit.measured < limit.measured_high
        # (M.6): 5 / 64 a layer in variance, half of it in the typical fall
        assert limit.chance == pytest.approx(1 + 2 * math.log(100) / (2.5 / 64), rel=0.05)
        assert limit.carried == limit.measured and limit.depth == hidden + 1


def test_a_critical_net_is_limited_by_chance_alone():
    report = report_on(20)
    assert report.depth_limit.measured_high == math.inf
    assert report.depth_limit.carried <= report.depth_limit.chance
    assert "This design can carry" in str(report)


def test_a_net_without_a_slope_has_no_limit():
    assert math.isnan(report_on(1).depth_limit.carried)
    assert report_on(0).depth_limit.depth == 1


def test_an_interrupt_after_the_batches_leaves_out_the_rest(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(gc.analysis.analyze.__globals__, "rehearse", stop)
    report = report_on(3)
    assert report.conditions["interrupted"] and report.verdict == "healthy"
    assert report.jacobian is None and math.isnan(report.layers[0].correlation)
