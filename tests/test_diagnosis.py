"""The verdict of the C interface agrees with gc.analyze: on the zoo, on the numbers, and on what it cannot know."""

import re

import numpy as np
import pytest

import gradcore as gc
import native
import zoo
from native_diagnosis import diagnose
from zoo_data import net_on

pytest.importorskip("sklearn")

# Judged by steps that are tried on a copy of the net, which recorded passes alone cannot tell.
BY_STEPS = re.compile(r"(SGD|Adam) at lr .*|targets of .*|raw inputs, .*")


def kept(findings):
    return [(finding.kind, finding.severity, finding.layers, finding.cause) for finding in findings]


def woken(report):
    """gc.analyze has measured once more, after two steps that woke layers with a gradient of zero."""
    return any(f.kind == "zero_gradient" and f.severity == "info" and f.layers for f in report.findings)


@pytest.mark.parametrize("model", zoo.models(quick=True), ids=lambda model: model.name)
def test_verdict_slope_and_findings_are_those_of_analyze(model):
    report = model.report()
    verdict, judgement, findings = diagnose(report._case)
    if BY_STEPS.fullmatch(model.name):
        assert (report.verdict, verdict) == ("exploding", "healthy")
        return
    assert verdict == report.verdict
    assert judgement.num_passes == len(report.flows) and judgement.num_steps == report.slope.steps
    if woken(report):
        return
    names = ("value", "low", "high", "systematic", "systematic_low", "systematic_high", "batch_error", "width_error")
    got = [judgement.slope, judgement.slope_low, judgement.slope_high, judgement.systematic, judgement.systematic_low]
    got += [judgement.systematic_high, judgement.batch_error, judgement.width_error]
    # atol: an interval is the root of a difference, which rounding alone makes where all noise is alignment
    np.testing.assert_allclose(got, [getattr(report.slope, name) for name in names], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(judgement.band, report.slope.band_high, rtol=1e-15)
    assert kept(findings) == kept(report.findings)


@pytest.mark.parametrize(("options", "optimizer", "rows"), [
    ({"init": "glorot_normal"}, lambda net: gc.optim.SGD(net, lr=1e-10, momentum=0.99), 64),
    ({"activation": "sigmoid", "init": "glorot_normal"}, lambda net: gc.optim.SGD(net, lr=1e-3), 64),
    ({"normalization": "batch"}, lambda net: gc.optim.SGD(net, lr=0.01), 3),
])  # fmt: skip
def test_momentum_and_few_rows_are_judged_alike(options, optimizer, rows):
    net, x, target, how = net_on("digits", 4, 128, **options)
    report = gc.analyze(net, x, target, optimizer=optimizer(net), batch_size=rows, **how)
    verdict, _, findings = diagnose(report._case)
    assert verdict == report.verdict and kept(findings) == kept(report.findings)
    assert report.findings


@pytest.mark.parametrize(("scale", "options", "optimizer", "found"), [
    (0.3, {}, gc.optim.SGD, False), (0.05, {}, gc.optim.SGD, True), (0.05, {}, gc.optim.Adam, False),
    (0.005, {}, gc.optim.Adam, True), (0.005, {"normalization": "batch"}, gc.optim.SGD, False),
    (1e-4, {"normalization": "batch"}, gc.optim.SGD, True), (0.03, {"normalization": "layer"}, gc.optim.SGD, True),
    (0.03, {"normalization": "layer"}, gc.optim.Adam, False), (0.005, {"normalization": "rms"}, gc.optim.Adam, True),
    (0.03, {"normalization": "layer", "bias": False}, gc.optim.SGD, False),
    (1e-4, {"normalization": "rms", "bias": False, "residual": True}, gc.optim.SGD, True),
])  # fmt: skip
def test_inputs_in_units_that_make_them_small(rng, scale, options, optimizer, found):
    x, labels = scale * rng.standard_normal((512, 8)), rng.integers(0, 3, 512)
    net = gc.MLP([8, 32, 32, 32, 3], **options)
    report = gc.analyze(net, x, labels, optimizer=optimizer(net, lr=1e-3))
    _, _, findings = diagnose(report._case)
    assert ("unscaled_input" in [finding.kind for finding in report.findings]) == found
    weigh = options.get("normalization") in ("layer", "rms") and options.get("bias", True)  # batch norm takes them out
    assert ("biases soon outweigh them" in str(report.findings)) == bool(found and weigh)
    assert kept(findings) == kept(report.findings)


@pytest.mark.parametrize("optimizer", [
    lambda net: gc.optim.SGD(net, lr=0.01, weight_decay=0.01),
    lambda net: gc.optim.SGD(net, lr=0.01, weight_decay=0.01, momentum=0.9),
    lambda net: gc.optim.Adam(net, eps=1e-12, weight_decay=0.1),
])  # fmt: skip
def test_weight_decay_is_no_learning(rng, optimizer):
    """Recorded steps of SGD move all layers by the decay; Adam divides a gradient that the decay outweighs."""
    net = gc.MLP([20] + [40] * 24 + [5], activation="sigmoid")
    x, labels = rng.standard_normal((512, 20)), np.arange(512) % 5
    report = gc.analyze(net, x, labels, optimizer=optimizer(net))
    assert report.verdict == "vanishing"
    for steps in (False, True):
        assert diagnose(report._case, steps=steps)[0] == "vanishing", steps


@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("normalization", [None, "layer"])
def test_inputs_whose_squares_leave_float64_have_a_scale(rng, scale, normalization):
    x, labels = rng.standard_normal((512, 8)), rng.integers(0, 3, 512)
    net = gc.MLP([8, 32, 32, 32, 3], dtype="float64", normalization=normalization)
    report = gc.analyze(net, scale * x, labels)
    for findings in report.findings, diagnose(report._case)[2]:
        text = next(finding.explanation for finding in findings if finding.kind == "unscaled_input")
        assert float(re.search(r"square of (?:only )?([\d.e+-]+)", text)[1]) == pytest.approx(scale, rel=0.1)
    evidence = next(finding.evidence for finding in report.findings if finding.kind == "unscaled_input")
    assert evidence["column_ratio"] == pytest.approx(1.0, rel=0.2)
    assert evidence["input_rms"] == pytest.approx(scale, rel=0.1)


def test_inputs_too_small_for_a_gradient_are_not_called_zero(rng):
    net = gc.MLP([8, 32, 3], dtype="float64", bias=False)
    net.parameters["dense1.weight"] *= 1e-150
    report = gc.analyze(net, 1e-200 * rng.standard_normal((512, 8)), rng.integers(0, 3, 512))
    for findings in report.findings, diagnose(report._case)[2]:
        assert "All inputs are zero" not in str(findings)


@pytest.mark.parametrize(("norm", "scale", "kind"), [
    ("batch", 300.0, "vanishing"), ("batch", 0.01, "exploding"), ("layer", 300.0, "vanishing"),
    ("layer", 1e-3, "exploding"), ("rms", 1e4, "vanishing"),
])  # fmt: skip
def test_a_profile_that_the_inputs_bend_is_put_down_to_them(rng, norm, scale, kind):
    """A normalization takes their scale into the gradient of layer 0."""
    x, labels = rng.standard_normal((1024, 20)), rng.integers(0, 5, 1024)
    net = gc.MLP([20] + [64] * 10 + [5], normalization=norm)
    report = gc.analyze(net, scale * x, labels, optimizer=gc.optim.SGD(net, lr=0.01))
    found = next(finding for finding in report.findings if finding.kind == kind)
    assert (found.severity, found.cause) == ("info", "input_scale") and f"{norm} norm" in found.explanation
    assert report.verdict == "healthy"
    _, _, findings = diagnose(report._case)
    assert kept(findings) == kept(report.findings)
    unit = gc.analyze(net, x, labels, optimizer=gc.optim.SGD(net, lr=0.01))
    assert not {"vanishing", "exploding"} & {finding.kind for finding in unit.findings}


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_a_profile_bent_by_a_first_layer_that_the_inputs_saturate_is_put_down_to_them(rng, scale):
    """Not to an activation that carries unit inputs through this depth."""
    x, labels = rng.standard_normal((1024, 20)), rng.integers(0, 5, 1024)
    net = gc.MLP([20] + [64] * 6 + [5], activation="tanh")
    report = gc.analyze(net, scale * x, labels)
    found = next(finding for finding in report.findings if finding.kind == "vanishing")
    assert found.cause == "input_scale" and "saturate layer 0" in found.explanation
    _, _, findings = diagnose(report._case)
    assert kept(findings) == kept(report.findings)
    assert "saturate layer 0" in next(finding.explanation for finding in findings if finding.kind == "vanishing")
    assert gc.analyze(net, x, labels).verdict == "healthy"
    deep = gc.MLP([20] + [64] * 12 + [5], activation="sigmoid")  # vanishes for unit inputs as well
    assert {f.cause for f in gc.analyze(deep, 1e4 * x, labels).findings if f.kind == "vanishing"} == {
        "activation_slope"
    }


def test_biases_outweigh_small_inputs_behind_a_layer_norm(rng):
    """What the finding says: without biases the scale of the inputs has no effect, with them nothing is learned."""
    x = rng.standard_normal((1024, 20)).astype("f4")
    labels = (x @ rng.standard_normal((20, 5))).argmax(axis=1)
    losses = {}
    for bias in (True, False):
        for scale in (1.0, 0.01):
            net = gc.MLP([20] + [64] * 4 + [5], normalization="layer", bias=bias)
            how = {"epochs": 20, "batch_size": 64, "optimizer": gc.optim.SGD(net, lr=0.05), "progress": False}
            losses[bias, scale] = net.fit(np.float32(scale) * x, labels, **how)["loss"][-1]
    assert losses[True, 0.01] > 4.0 * losses[True, 1.0]
    assert losses[False, 0.01] < 1.3 * losses[False, 1.0]


def test_what_takes_more_than_passes_is_left_out(rng):
    """The scales of targets and of single columns."""
    x = rng.standard_normal((400, 6)).astype("f4") * np.array([1e-2, 1, 1, 1, 1, 1e3], dtype="f4") / 500
    report = gc.analyze(gc.MLP([6, 32, 32, 1]), x, 1e3 * x[:, :1], loss="mse")
    assert {finding.kind for finding in report.findings} >= {"unscaled_input"}
    assert "unscaled_input" not in {finding.kind for finding in diagnose(report._case)[2]}


def test_c_program_prints_the_verdict(compile_program):
    program = compile_program(native.EXAMPLES / "c" / "diagnose.c")
    assert native.run(program, "tanh", 10).startswith("healthy: slope")
    assert native.run(program, "relu", 1) == "healthy: too few layers for a slope\n"
    with pytest.raises(
        AssertionError, match=r"(?s)vanishing: slope -.*\[critical\] vanishing.*cause: activation_slope"
    ):
        native.run(program, "sigmoid", 12)
    with pytest.raises(AssertionError, match="usage"):
        native.run(program, "tangent", 10)


def test_steps_with_and_without_skip_connections_weigh_the_same():
    net, x, target, how = zoo.models()[0].make()
    widths = [x.shape[1], 30, 30, 30, 24, 24, 18, 18, 18, 18, net.out_features]
    report = gc.analyze(gc.MLP(widths, activation="tanh", residual=True), x, target, **how)
    verdict, judgement, findings = diagnose(report._case)
    assert verdict == report.verdict and kept(findings) == kept(report.findings)
    got = [judgement.slope, judgement.slope_low, judgement.systematic_high, judgement.width_error]
    wanted = [getattr(report.slope, name) for name in ("value", "low", "systematic_high", "width_error")]
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("layers", "width", "steps", "options"),
    [
        (80, 32, 0, {"activation": "softplus", "init": "he_normal"}),
        (60, 48, 0, {"activation": "hard_tanh", "normalization": "layer"}),
        (60, 12, 0, {"activation": "relu", "normalization": "layer"}),
        (40, 24, 1, {"activation": "softplus", "normalization": "rms"}),
        (30, 24, 1, {"activation": "gelu", "residual": True}),
        (20, 12, 1, {"activation": "relu"}),
    ],
)
def test_causes_and_slopes_by_theory_are_those_of_analyze(layers, width, steps, options):
    net, x, target, how = net_on("digits", layers, width, **options)
    optimizer = gc.optim.SGD(net, lr=1e-5)
    for _ in range(steps):
        net.train_step(x[:64], target[:64], optimizer, loss=how["loss"])
    report = gc.analyze(net, x, target, optimizer=optimizer, **how)
    verdict, judgement, findings = diagnose(report._case)
    assert verdict == report.verdict and kept(findings) == kept(report.findings)
    got, wanted = [judgement.slope, judgement.systematic], [report.slope.value, report.slope.systematic]
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
