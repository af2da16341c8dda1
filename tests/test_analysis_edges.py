"""Nets, optimizers and data at the edge of what can be analysed: one layer, a rate of 0, numbers near the format's end."""

import numpy as np
import pytest

import gradcore as gc

TRIALS = {"steps": 10, "seeds": 2, "limit": 3}


def kinds(report):
    return {(finding.kind, finding.cause) for finding in report.findings if finding.severity != "info"}


def shown(report):
    """The report, once all of its forms have been made."""
    assert all(finding.explanation for finding in report.findings)
    assert str(report) and report._repr_html_() and report.to_json()
    return report


# ---- a single layer --------------------------------------------------------------------------------


def test_a_net_without_hidden_layers_is_analysed_and_cured(rng):
    x = rng.standard_normal((200, 3))
    price = 200_000 + 50_000 * x[:, :1]
    net = gc.MLP([3, 1])
    report = shown(gc.analyze(net, x, price, loss="mse", optimizer=gc.optim.Adam(net)))
    assert report.verdict == "exploding" and kinds(report) >= {("exploding", "target_scale")}
    cure = gc.repair(gc.MLP([3, 1]), x, price, loss="mse", **TRIALS)
    assert cure.cured and [remedy.name for remedy in cure.remedies] == ["standardized targets"]


@pytest.mark.parametrize("options", [{}, {"residual": True}, {"normalization": "layer"}])
def test_weights_of_a_single_layer_that_overflows_are_drawn_anew(rng, options):
    net = gc.MLP([3, 3], **options)
    net.parameters["dense0.weight"] *= 1e38
    x = rng.standard_normal((200, 3))
    report = shown(gc.analyze(net, x, x, loss="mse"))
    assert report.verdict == "non_finite"
    assert "critical initialization" in {remedy.name for remedy in report.remedies(**TRIALS) if remedy.helps}


# ---- a learning rate of 0 --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [gc.optim.SGD, gc.optim.Adam])
@pytest.mark.parametrize("target", [np.full((200, 1), 50.0), None])
def test_a_rate_of_zero_is_told_and_nothing_else_of_steps(rng, kind, target):
    x = rng.standard_normal((200, 3))
    net = gc.MLP([3, 16, 16, 1])
    target = 50.0 + x[:, :1] if target is None else target
    report = shown(gc.analyze(net, x, target, loss="mse", optimizer=kind(net, 0.0)))
    assert report.verdict == "healthy"
    assert kinds(report) == {("update_ratio", "learning_rate"), ("unscaled_input", "target_scale")}
    assert f"learning rate of {kind.__name__} is 0" in report.findings[0].explanation


@pytest.mark.parametrize("kind", [gc.optim.SGD, gc.optim.Adam])
def test_the_profile_is_judged_at_a_rate_of_zero_too(rng, kind):
    """By the layers' gradients alone; remedies are tried at rates of their own."""
    x = rng.standard_normal((200, 3))
    target = np.sin(x[:, :1])
    net = gc.MLP([3] + [16] * 20 + [1], activation="sigmoid")
    report = shown(gc.analyze(net, x, target, loss="mse", optimizer=kind(net, 0.0)))
    assert report.verdict == "vanishing" and "lr 0 " not in str(report.findings)
    assert not any("learning rate 0" in remedy.name for remedy in report.remedies(**TRIALS))
    net = gc.MLP([3, 16, 16, 1])
    net.parameters["dense2.weight"] = 0.0  # wakes up at any other rate
    assert gc.analyze(net, x, target, loss="mse", optimizer=kind(net, 0.0)).verdict == "healthy"


# ---- numbers near the end of a format --------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("widths", "activation", "scale"),
    [
        ([16] + [32] * 10 + [4], "relu", 1e16),
        ([8] + [16] * 10 + [2], "gelu", 3e14),
        ([4] + [8] * 4 + [2], "relu", 1e100),
    ],
)
def test_sizes_whose_squares_overflow_are_reported(rng, widths, activation, scale):
    net = gc.MLP(widths, activation=activation, dtype="float64")
    for layer in range(net.depth):
        net.parameters[f"dense{layer}.weight"] *= scale
    x, labels = rng.standard_normal((128, widths[0])), rng.integers(0, widths[-1], 128)
    for optimizer in (None, gc.optim.SGD(net, 0.1)):
        report = shown(gc.analyze(net, x, labels, optimizer=optimizer))
        assert report.verdict in ("exploding", "non_finite")
        assert report.remedies(**TRIALS)
