"""Rules for causes and for failed learning that were derived after designs drawn at random had shown errors."""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gc
from gradcore.analysis import Thresholds, causes, steps
from gradcore.analysis import mean_field as theory
from gradcore.analysis.analyze import examine, make_case, measure_and_rehearse
from gradcore.analysis.measure import Rehearsal
from zoo_data import data, net_on, scale_hidden

pytest.importorskip("sklearn")


def first(report):
    return report.findings[0]


def test_biases_move_the_critical_weights_of_tanh():
    """sigma_b^2 = 0.05 goes with sigma_w^2 = 1.761 (Schoenholz et al. 2017); ReLU's 2 does not move."""
    assert causes.critical_variance("tanh", 0.05) == pytest.approx(1.760955, rel=1e-5)
    assert causes.critical_variance("tanh") == 1.0
    assert causes.critical_variance("relu", 0.05) == 2.0
    assert causes.critical_variance("hard_tanh", 0.09) == pytest.approx(theory.critical_point("hard_tanh", 0.09)[1])


def test_weights_too_small_beside_their_biases():
    """tanh at its bias-free critical weights loses its slope to biases of 0.5: larger weights would balance that."""
    net, x, target, how = net_on("digits", 30, 100, activation="tanh")
    for layer in range(30):
        net.parameters[f"dense{layer}.bias"][...] = 0.5 * np.random.default_rng(layer).standard_normal(100)
    report = gc.analyze(net, x, target, **how)
    assert report.verdict == "vanishing" and first(report).cause == "weight_scale"
    assert "with these biases" in first(report).explanation
    scale_hidden(net, causes.critical_variance("tanh", 0.25))
    assert gc.analyze(net, x, target, **how).verdict == "healthy"


def test_a_slope_beside_a_blocked_layer_is_one_of_few_layers():
    """A dead layer leaves two layers to measure: a factor of 4 between them is no explosion."""
    net, x, target, how = net_on("digits", 20, 64)
    net.parameters["dense16.bias"][...] = -1e3
    for layer in (17, 18, 19):
        net.parameters[f"dense{layer}.bias"][...] = 0.1
    net.parameters["dense19.weight"][...] *= 2.0
    report = gc.analyze(net, x, target, **how)
    assert report.verdict == "vanishing" and (first(report).kind, first(report).cause) == (
        "zero_gradient",
        "dead_units",
    )
    assert not any(finding.kind == "exploding" for finding in report.findings)
    assert report.slope.steps == 3 and report.slope.band_high == pytest.approx(2 * np.log(100) / 3)


def test_an_explosion_that_buries_the_data_counts_under_adam_too():
    """The sum over skip connections reaches the output: its loss is all of the net's own making."""
    net, x, target, how = net_on("digits", 40, 64, activation="identity", residual=True)
    report = gc.analyze(net, x, target, optimizer=gc.optim.Adam(net, lr=1e-3), **how)
    assert report.verdict == "exploding"
    assert first(report).evidence["loss_over_constant_guess"] > 10


def test_a_step_that_the_depth_amplifies_counts_under_adam_too():
    """Batch norm in 60 layers: Adam's equal steps in the first layers change the output by many times its size."""
    net, x, target, how = net_on("digits", 60, 64, normalization="batch")
    report = gc.analyze(net, x, target, optimizer=gc.optim.Adam(net, lr=1e-3), **how)
    assert report.verdict == "exploding" and first(report).cause == "batch_norm"
    assert first(report).evidence["overshoot"] > 4


def test_overshoot_is_that_of_the_step():
    net, x, target, how = net_on("digits", 60, 64, normalization="batch")
    report = gc.analyze(net, x, target, **how)
    expected = 0.01 * sum(layer.weight_grad_norm**2 for layer in report.layers) / report.loss
    assert first(report).evidence["overshoot"] == pytest.approx(expected, rel=1e-6)


def test_gelu_weights_a_little_too_small_let_the_signal_die():
    net, x, target, how = net_on("digits", 87, 33, activation="gelu", init="he_normal")
    report = gc.analyze(net, x, target, **how)
    assert report.verdict == "vanishing" and first(report).cause == "weight_scale"
    assert "The signal also dies out" in first(report).explanation


@pytest.mark.parametrize(
    ("losses", "update", "words"),
    [
        ([1.4, 2, 3, 2, 3, 2, 3, 2], 1.5, "replaces them"),  # no better than before, and nothing else to show for it
        ([900, 700, 800, 600, 500, 700, 600, 500], 1.5, "replaces them"),  # falling, far above a constant guess
        ([900, 700, 800, 600, 900, 800, 900, 700], 0.5, "times that of a constant guess"),
        ([1.4, 20, 3, 2, 3, 2, 3, 2], 0.5, "goes from 1.4 to 20"),
        ([1.4, 2, 1.3, 1.2, 1.1, 1.1, 1, 0.9], 1.5, None),  # replaced to good purpose
        ([1.4, 2, 3, 2, 3, 2, 3, 2], 0.5, None),  # slow, yet nothing that speaks of steps too large
        ([900, 700, 800, 600, 500, 400, 300, 200], 0.5, None),  # on its way down
    ],
)
def test_what_rehearsed_steps_give_away(losses, update, words):
    net, x, target, how = net_on("waves", 4, 64, activation="tanh")
    case = make_case(net, x, target, how["loss"], gc.optim.Adam(net, lr=1e-3), 128, 8, 0)
    measurement = measure_and_rehearse(case, Thresholds(), None)
    rehearsal = Rehearsal(1e-3, np.array(losses, float), np.array([0.1, np.inf, update, 0.1, 0.1]))
    subject = examine(case, replace(measurement, rehearsal=rehearsal), Thresholds())
    findings = steps.large_steps(subject, vanishing=False)
    assert [finding.cause for finding in findings] == ["learning_rate"] * bool(words)
    assert not words or words in findings[0].explanation


def test_weights_small_on_purpose_may_be_replaced():
    net, x, target, how = net_on("digits", 3, 64)
    net.parameters["dense3.weight"][...] *= 1e-4
    report = gc.analyze(net, x, target, optimizer=gc.optim.Adam(net, lr=1e-3), **how)
    assert report.verdict == "healthy", report.findings


def test_a_rate_beyond_reason_is_not_blamed_on_weights():
    net, x, target, how = net_on("digits", 3, 32, activation="tanh")
    scale_hidden(net, 3.0)
    report = gc.analyze(net, x, target, optimizer=gc.optim.SGD(net, lr=300.0), **how)
    assert report.verdict == "exploding" and first(report).cause == "learning_rate"


def test_a_layer_norm_leaves_the_activation_to_blame():
    """softplus after layer norm: E[phi'^2] / E[phi^2] = 0.29, whatever the weights."""
    net, x, target, how = net_on("digits", 20, 128, activation="softplus", normalization="layer")
    report = gc.analyze(net, x, target, **how)
    assert report.verdict == "vanishing" and first(report).cause == "activation_slope"
    assert "scale of the weights has no effect" in first(report).explanation


def test_targets_whose_square_overflows_are_the_cause():
    net, x, target, how = net_on("waves", 3, 32)
    report = gc.analyze(net, x, target * np.float32(1e22), **how)
    assert report.verdict == "non_finite" and first(report).cause == "target_scale"
    assert "targets are far too large" in first(report).explanation


def test_a_slope_in_doubt_is_not_called_luck():
    """Its batches disagree: the interval of a slope well beyond the band reaches into it."""
    net, x, target, how = net_on("digits", 90, 100, activation="gelu", init="he_normal")
    report = gc.analyze(net, x, target, **how)
    assert report.slope.systematic < report.slope.band_low < report.slope.systematic_high
    assert first(report).severity == "info" and "More batches would decide" in first(report).explanation


def test_blocks_without_a_skip_connection_count_in_a_residual_net():
    """Where widths change there is no skip: what such layers lose is not outweighed by the quiet ones beside them."""
    x, target, outputs, loss = data("digits")
    widths = [width for width in range(40, 20, -1) for _ in range(3)]  # a third of the layers has no skip connection
    net = gc.MLP([x.shape[1], *widths, outputs], activation="tanh", residual=True)
    for layer in range(1, net.depth - 1):
        net.parameters[f"dense{layer}.weight"][...] *= 0.1
    report = gc.analyze(net, x, target, loss=loss)
    assert report.verdict == "vanishing"
    norms = [record.grad_output_norm for record in report.layers]
    steps = len(norms) - 2  # between the hidden layers, the same number as slope.steps counts but for the ends
    assert report.slope.value == pytest.approx(2 * np.log(norms[0] / norms[-2]) / steps, rel=0.15)


def test_batch_norm_is_measured_at_the_batch_size_it_trains_with(rng):
    """Twenty rows make one batch of twenty: quarters of it would grow by (B - 2) / (B - 3) and more, another net.

    Smaller batches are drawn from all rows, as a training draws them: four, where only two were disjoint.
    """
    x, target = rng.standard_normal((20, 6)).astype("f4"), rng.standard_normal((20, 1)).astype("f4")
    for batch_size, batches in ((200, 1), (20, 1), (8, 4)):
        net = gc.MLP([6, *[64] * 12, 1], normalization="batch")
        report = gc.analyze(net, x, target, loss="mse", batch_size=batch_size)
        assert report.conditions["batch_size"] == min(batch_size, 20) and len(report.flows) == batches
        assert np.isfinite(report.slope.systematic_low) and str(report)
    plain = gc.analyze(gc.MLP([6, *[64] * 12, 1]), x, target, loss="mse", batch_size=200)
    assert len(plain.flows) == 4


@pytest.mark.parametrize(
    ("layers", "width", "options", "verdict", "cause"),
    [
        # A tenth below the scale at which softplus stays level: mean field at that scale tells.
        (80, 32, {"activation": "softplus", "init": "he_normal"}, "vanishing", "weight_scale"),
        # GELU dies out just below its critical scale; at this depth a little more carries it.
        (64, 40, {"activation": "gelu_tanh", "init": "he_normal"}, "vanishing", "weight_scale"),
        # No scale that is not too large levels a sigmoid.
        (15, 64, {"activation": "sigmoid", "init": "auto"}, "vanishing", "activation_slope"),
        # After layer norm hard_tanh grows by E[phi'^2] / E[phi^2] = 1.32 a layer.
        (60, 48, {"activation": "hard_tanh", "normalization": "layer"}, "exploding", "activation_slope"),
        # Twelve units lose 4 / 24 by directions and ln(1 - 2 / 12) by what layer norm takes out, a layer.
        (60, 12, {"activation": "relu", "normalization": "layer"}, "vanishing", "narrow_layer"),
    ],
)
def test_the_cause_is_what_theory_expects_to_take_the_slope_away(layers, width, options, verdict, cause):
    net, x, target, how = net_on("digits", layers, width, **options)
    report = gc.analyze(net, x, target, **how)
    assert (report.verdict, first(report).cause) == (verdict, cause), report


def test_mean_field_of_the_weights_there_are_is_what_is_measured():
    """(M.1), (M.2), (P.1) and (P.2) beside wide nets, with and without normalization and skip connections."""
    for options in ({}, {"normalization": "layer"}, {"normalization": "rms", "residual": True}, {"residual": True}):
        net, x, target, how = net_on("digits", 12, 400, activation="softplus", **options)
        limits = Thresholds()
        case = make_case(net, x, target, how["loss"], None, 128, 4, 0)
        subject = examine(case, measure_and_rehearse(case, limits, None), limits)
        expected = causes.slope_of_random(subject.measurement, subject.measurement.weight_var, np.zeros(13))
        assert expected == pytest.approx(subject.slope.value, abs=0.1), options


def test_layers_of_different_activations_count_alike():
    """Half of the layers lose ln 2, the others next to nothing: the slope makes the whole change over depth."""
    x, target, outputs, loss = data("digits")
    net = gc.MLP([x.shape[1], *[64] * 40, outputs], activation=["relu", "tanh"] * 20, init="lecun_normal")
    report = gc.analyze(net, x, target, loss=loss)
    norms = [record.delta_norm for record in report.layers]
    assert report.slope.value == pytest.approx(2 * np.log(norms[0] / norms[-2]) / 39, rel=0.02)
    assert report.verdict == "vanishing"


def test_a_branch_without_a_gradient_does_not_hide_the_slope_of_the_others():
    """Dead branches change nothing, without any noise: they must not outweigh the layers that grow."""
    net, x, target, how = net_on("digits", 40, 48, residual=True)
    for layer in range(10, 14):
        net.parameters[f"dense{layer}.bias"][...] = -1e9
    report = gc.analyze(net, x, target, **how)
    assert report.verdict == "exploding" and np.isfinite(report.slope.systematic)


def test_a_net_that_has_taken_steps_has_no_luck():
    """What a fresh narrow net shows may be the draw's doing; a training goes on with the net that it has."""
    net, x, target, how = net_on("digits", 20, 12)
    fresh = gc.analyze(net, x, target, optimizer=gc.optim.SGD(net, lr=1e-6), **how).slope
    optimizer = gc.optim.SGD(net, lr=1e-6)
    net.train_step(x[:32], target[:32], optimizer, loss=how["loss"])
    trained = gc.analyze(net, x, target, optimizer=optimizer, **how).slope
    assert fresh.random and fresh.systematic != pytest.approx(fresh.value, rel=0.01)
    assert not trained.random and trained.systematic == pytest.approx(trained.value) == pytest.approx(
        fresh.value, rel=0.01
    )


def test_weights_turned_by_steps_are_the_learning_rates_doing():
    """After rms norm random weights of any size keep the gradient; one direction that all of them share does not."""
    net, x, target, how = net_on("digits", 40, 48, activation="tanh", normalization="rms")
    optimizer = gc.optim.SGD(net, lr=1e-6)
    net.train_step(x[:32], target[:32], optimizer, loss=how["loss"])
    signs = np.where(np.arange(48) % 2, 1.0, -1.0)
    for layer in range(1, 40):
        net.parameters[f"dense{layer}.weight"][...] += 0.05 * np.outer(signs, signs)
    report = gc.analyze(net, x, target, optimizer=optimizer, **how)
    assert report.verdict == "vanishing" and first(report).cause == "learning_rate", report
    assert "training steps have turned them" in first(report).explanation


def test_zero_weights_are_the_cause_before_the_units_they_silence():
    for activation in ("tanh", "relu"):
        net, x, target, how = net_on("digits", 4, 16, activation=activation)
        for layer in range(net.depth):
            net.parameters[f"dense{layer}.weight"][...] = 0.0
        report = gc.analyze(net, x, target, **how)
        assert (report.verdict, first(report).cause) == ("vanishing", "weight_scale")
        assert "All weights of layers 0-4 are zero" in first(report).explanation
