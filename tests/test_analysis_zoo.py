"""Rates over a quarter of the zoo (`python tests/zoo.py` judges all of it), and the trackers' real cases."""

import numpy as np
import pytest

import gradcore as gc
import zoo

pytest.importorskip("sklearn")


def test_verdicts_false_alarms_and_causes():
    judged = zoo.judge_all(zoo.models(quick=True))
    rates = zoo.rates(judged)
    assert rates["problems"] >= 30 and rates["healthy"] >= 30
    assert rates["detected"] >= 0.99, zoo.table(judged)
    assert rates["false_alarms"] <= 0.01, zoo.table(judged)
    assert rates["causes"] >= 0.95, zoo.table(judged)


def test_the_zoo_is_large_enough_for_its_rates():
    verdicts = [model.verdict for model in zoo.models()]
    assert verdicts.count("healthy") >= 150
    assert len(verdicts) - verdicts.count("healthy") >= 150


# ---- cases from issue trackers and tutorials ---------------------------------------------------


def causes_of(report, severity=("warning", "critical")):
    return {(finding.kind, finding.cause) for finding in report.findings if finding.severity in severity}


def test_sigmoid_regression_on_binary_inputs_with_unscaled_targets(rng):
    """ai.stackexchange 16557: 4 hidden layers of 500 sigmoids do not learn; each passes at most 1/4."""
    x = rng.integers(0, 2, (600, 30)).astype("f4")
    y = (50 + 20 * x[:, :3].sum(axis=1)).astype("f4")
    net = gc.MLP([30] + [500] * 4 + [1], activation="sigmoid", init="glorot_uniform")
    report = gc.analyze(net, x, y, loss="mse")
    assert ("vanishing", "activation_slope") in causes_of(report)
    assert ("unscaled_input", "target_scale") in causes_of(report)


def test_two_circles_with_a_deep_tanh_net(rng):
    """A tutorial's deep tanh MLP with uniform(0, 1) weights: every unit saturates."""
    angle, radius = rng.uniform(0, 2 * np.pi, 1000), rng.choice([0.5, 1.0], 1000)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype("f4")
    net = gc.MLP([2] + [20] * 5 + [1], activation="tanh", init=lambda shape, rng: rng.uniform(0, 1, shape))
    report = gc.analyze(net, x, (radius > 0.7).astype("f4"), loss="binary_cross_entropy")
    assert ("saturation", "weight_scale") in causes_of(report)


def test_regression_with_unscaled_targets_ends_in_nan(rng):
    """A tutorial on clipping: SGD at 0.01 with momentum on targets in the hundreds; clipping or scaling cures it."""
    x = rng.standard_normal((1000, 20)).astype("f4")
    y = (300 * x @ rng.standard_normal(20)).astype("f4")
    net = gc.MLP([20, 25, 25, 1], init="he_uniform")
    report = gc.analyze(net, x, y, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01, momentum=0.9))
    assert ("exploding", "target_scale") in causes_of(report)
    assert report.verdict == "exploding"
    helped = [remedy.name for remedy in report.remedies(steps=30) if remedy.helps]
    assert "standardized targets" in helped
    assert any(name.startswith(("clipping", "learning rate")) for name in helped)


def test_a_physics_informed_tanh_net_without_input_scaling(rng):
    """pierremtb/PINNs-TF2.0 issue 1: coordinates in the hundreds saturate the first layer."""
    x = (200 * rng.uniform(-1, 1, (500, 2))).astype("f4")
    net = gc.MLP([2] + [20] * 8 + [1], activation="tanh", init="glorot_normal")
    report = gc.analyze(net, x, np.sin(x[:, 0] / 100), loss="mse")
    assert ("saturation", "input_scale") in causes_of(report)


def test_weights_that_became_nan_although_gradients_are_clipped(rng):
    """hill-a/stable-baselines issue 36: the report points at the weights, not at the batch."""
    x = rng.standard_normal((300, 8)).astype("f4")
    net = gc.MLP([8, 64, 64, 2], activation="tanh")
    net.parameters["dense1.weight"][...] = np.nan
    report = gc.analyze(net, x, rng.integers(0, 2, 300))
    assert report.verdict == "non_finite"
    assert report.findings[0].layers == (1,) and report.findings[0].evidence["pass"] == "parameters"


def test_adding_layers_turns_the_loss_into_nan(rng):
    """stackoverflow 36565430: N(0, 1) weights work shallow and overflow deep."""
    x = rng.standard_normal((300, 100)).astype("f4")
    labels = rng.integers(0, 10, 300)

    def normal(shape, rng):
        return rng.standard_normal(shape)

    deep = gc.analyze(gc.MLP([100] + [100] * 50 + [10], init=normal), x, labels)
    assert deep.verdict == "non_finite" and deep.findings[0].cause == "weight_scale"
    assert gc.analyze(gc.MLP([100] + [100] * 10 + [10], init=normal), x, labels).verdict == "exploding"


def test_unscaled_features(rng):
    """stackoverflow 39714374: columns of very different size."""
    x = rng.standard_normal((400, 6)).astype("f4") * np.array([1e-2, 1, 1, 1, 1, 1e4], dtype="f4")
    net = gc.MLP([6, 32, 32, 3])
    report = gc.analyze(net, x, rng.integers(0, 3, 400))
    assert ("unscaled_input", "input_scale") in causes_of(report)


def test_relu_nets_two_units_wide(rng):
    """Each layer of two units is dead with probability 1/4: a deep one always is."""
    x = rng.standard_normal((300, 2)).astype("f4")
    report = gc.analyze(gc.MLP([2] * 30 + [1], seed=3), x, x[:, :1], loss="mse")
    assert report.verdict == "vanishing"
    assert report.findings[0].cause == "narrow_layer"


def test_gradients_scaled_for_mixed_precision_are_no_explosion(rng):
    """Lightning issues 4151 and 9330: a loss scale multiplies every norm; the slope does not see it."""
    x = rng.standard_normal((600, 20)).astype("f4")
    y = (x @ rng.standard_normal((20, 1))).astype("f4")
    slopes = []
    for scale in (1.0, 2.0**12):
        net = gc.MLP([20] + [40] * 8 + [1], dtype="float64")
        net.parameters["dense8.weight"][...] *= scale
        report = gc.analyze(net, x, scale * y, loss="mse")
        slopes.append(report.slope.systematic)
    assert slopes[0] == pytest.approx(slopes[1], abs=1e-6)
