"""Remedies: proposed from the cause, tried on the data, applied; what does not help says so."""

import math

import numpy as np
import pytest

import gradcore as gc
from gradcore.analysis.trials import Trial, effects

RNG = np.random.default_rng(0)
X = RNG.standard_normal((800, 20)).astype("f4")
LABELS = (X @ RNG.standard_normal((20, 5))).argmax(axis=1)


def sick_net():
    return gc.MLP([20] + [40] * 10 + [5], activation="sigmoid", init="glorot_normal")


@pytest.fixture(scope="module")
def report():
    report = gc.analyze(sick_net(), X, LABELS)
    report.remedies(steps=60, seeds=3)
    return report


def test_the_best_remedies_help_and_come_first(report):
    helps = [remedy.helps for remedy in report.tried]
    assert helps[0] and helps == sorted(helps, reverse=True)
    best = report.tried[0]
    assert best.effect > 0.3 and best.confidence[0] > 0
    assert best.confidence[0] <= best.effect <= best.confidence[1]
    assert best.before.verdict == "vanishing" and best.after.verdict == "healthy"
    assert best.after.loss < best.before.loss and best.after.accuracy > best.before.accuracy
    assert best.cost["parameters"] >= 0.05 and best.cost["time_per_step"] > 0
    lows = [remedy.confidence[0] for remedy in report.tried if remedy.helps]
    assert lows == sorted(lows, reverse=True)


def test_what_does_not_help_is_listed_as_such(report):
    assert any(remedy.helps is False for remedy in report.tried)
    for remedy in report.tried:
        if not remedy.helps:
            assert remedy.after.verdict != "healthy" or remedy.confidence[0] <= 0 or remedy.effect < 0.05


MEASURED_AGAIN = 4  # batches that the trials measure


def test_apply_builds_a_fresh_net_with_the_change(report):
    for remedy in report.tried:
        net = remedy.apply()
        for name in ("activation", "normalization", "residual", "widths", "init"):
            if name in remedy.change:
                expected = remedy.change[name]
                got = net.config[name]
                assert set(got) == {expected} if name == "activation" and isinstance(expected, str) else got == expected
        assert gc.analyze(net, X, LABELS, batches=MEASURED_AGAIN).verdict == remedy.after.verdict
        assert remedy.apply() is not net


def test_trials_are_reproducible(report):
    again = gc.analyze(sick_net(), X, LABELS).remedies(steps=60, seeds=3)
    by_name = {remedy.name: remedy for remedy in again}
    for remedy in report.tried:
        assert by_name[remedy.name].effect == remedy.effect
        assert by_name[remedy.name].after.loss == remedy.after.loss


def test_batch_norm_says_what_it_costs_backwards(report):
    note = next(remedy.note for remedy in report.tried if remedy.name == "batch norm")
    assert "backwards" in note


def test_the_depth_that_the_design_can_carry_is_proposed(report):
    shallower = next(remedy for remedy in report.tried if remedy.name.endswith(" layers"))
    assert len(shallower.change["widths"]) - 1 == 4  # 1 + ln(100^2) / 2.89


def test_unverified_remedies_come_untried():
    report = gc.analyze(sick_net(), X, LABELS)
    remedies = report.remedies(verify=False)
    assert remedies and all(remedy.helps is None and remedy.after is None for remedy in remedies)
    assert math.isnan(remedies[0].effect)
    assert remedies[0].apply().widths[0] == 20


def test_a_healthy_net_needs_none():
    report = gc.analyze(gc.MLP([20, 30, 30, 5]), X, LABELS)
    assert report.remedies() == []


def test_an_interrupt_keeps_what_was_tried():
    def stop(done, total, name):
        if done == 3:
            raise KeyboardInterrupt

    remedies = gc.analyze(sick_net(), X, LABELS).remedies(steps=2, seeds=2, progress=stop)
    assert sum(remedy.helps is not None for remedy in remedies) == 2
    assert sum(remedy.helps is None for remedy in remedies) >= 3


def test_a_time_limit_leaves_the_rest_untried():
    remedies = gc.analyze(sick_net(), X, LABELS).remedies(steps=2, seeds=2, seconds=0.0)
    assert all(remedy.helps is None for remedy in remedies)


def test_clipping_never_changes_the_slope():
    net = gc.MLP([20] + [40] * 20 + [5], init="he_normal")
    for layer in range(1, 20):
        net.parameters[f"dense{layer}.weight"][...] *= math.sqrt(2)
    report = gc.analyze(net, X, LABELS)
    assert report.verdict == "exploding"
    remedies = report.remedies(steps=20, seeds=2)
    clipping = next(remedy for remedy in remedies if remedy.name.startswith("clipping"))
    assert clipping.after.slope == pytest.approx(clipping.before.slope, rel=0.05)
    assert not clipping.helps and "slope" in clipping.note
    assert clipping.change["training"]["clip_norm"] > 0
    assert next(remedy for remedy in remedies if remedy.helps).change != clipping.change


def test_batch_norm_explosion_is_cured_by_skip_connections():
    net = gc.MLP([20] + [40] * 40 + [5], normalization="batch")
    report = gc.analyze(net, X, LABELS)
    assert report.findings[0].cause == "batch_norm"
    helped = [remedy.name for remedy in report.remedies(steps=40, limit=1) if remedy.helps]
    assert any("residual" in name for name in helped)


def test_too_high_a_learning_rate_is_lowered():
    net = gc.MLP([20, 40, 40, 1])
    y = X[:, :1]
    report = gc.analyze(net, X, y, loss="mse", optimizer=gc.optim.SGD(net, lr=30.0))
    assert report.findings[0].cause == "learning_rate"
    remedies = report.remedies(steps=30)
    lower = next(remedy for remedy in remedies if remedy.name.startswith("learning rate"))
    assert lower.helps and lower.change["training"]["lr"] < 30.0
    np.testing.assert_array_equal(lower.apply().parameters.flat, net.parameters.flat)


def test_prepare_standardizes_and_restore_undoes_it():
    x, y = 300 * X + 1000, (1e4 * X[:, :1] - 500).astype("f4")
    net = gc.MLP([20, 40, 40, 1])
    report = gc.analyze(net, x, y, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01))
    remedy = next(r for r in report.remedies(steps=30) if r.change.get("standardize") == ["inputs", "targets"])
    assert remedy.helps
    prepared, targets = remedy.prepare(x, y)
    np.testing.assert_allclose(prepared.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(prepared.std(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(remedy.restore(targets), y, rtol=1e-3, atol=1)


def test_effects_compare_seed_by_seed():
    def trials(*losses):
        return [Trial(1.0, loss, math.nan, 0.0) for loss in losses]

    found = effects(trials(2.0, 2.0, math.inf, 1.0, math.inf), trials(1.0, 2.5, 1.0, math.inf, math.inf))
    np.testing.assert_allclose(found, [0.5, -0.25, 1.0, -1.0, 0.0])
