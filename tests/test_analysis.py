"""gc.analyze: what it returns, that it changes nothing, that its numbers are those of the reference."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradcore as gc
import reference
from gradcore.analysis import Thresholds, measure, slope
from gradcore.analysis.case import batch_rows
from nets import Case as Built
from nets import copies


def make_data(rows=600, features=20, outputs=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features)).astype("f4")
    return x, (x @ rng.standard_normal((features, outputs))).argmax(axis=1)


X, LABELS = make_data()


def sick(**options):
    return gc.MLP([20] + [40] * 12 + [5], **{"activation": "sigmoid", "init": "glorot_normal", **options})


@pytest.fixture(scope="module")
def report():
    return gc.analyze(sick(), X, LABELS)


# ---- what it returns -------------------------------------------------------------------------


def test_the_report_has_what_the_contract_names(report):
    assert report.verdict == "vanishing"
    worst = report.findings[0]
    assert (worst.kind, worst.severity, worst.cause) == ("vanishing", "critical", "activation_slope")
    assert 0 in worst.layers and 12 not in worst.layers
    assert "sigmoid" in worst.explanation and "slope" in worst.evidence
    assert [layer.index for layer in report.layers] == list(range(13))
    assert report.slope.low < report.slope.value < report.slope.high < report.slope.band_low < 0
    assert report.slope.value == pytest.approx(report.prediction.slope, abs=0.2)
    assert report.conditions["batches"] == 4 and report.conditions["batch_size"] == 128  # 600 rows hold no more
    assert len(report.flows) == 4


def test_severities_are_ordered(report):
    order = [gc.analysis.report.SEVERITIES.index(finding.severity) for finding in report.findings]
    assert order == sorted(order, reverse=True)


def test_json_holds_everything_but_the_flows(report):
    record = json.loads(report.to_json())
    assert record["verdict"] == "vanishing"
    assert record["layers"][3]["factors"]["active_slope"] == pytest.approx(0.055, abs=0.005)
    assert record["layers"][12]["delta_gain"] is None  # NaN: nothing is above the output
    assert "flows" not in record
    assert set(record) == {
        "verdict",
        "findings",
        "layers",
        "slope",
        "prediction",
        "config",
        "conditions",
        "loss",
        "jacobian",
        "depth_limit",
        "tried",
        "trials_stopped_by",
    }


def test_initializers_of_ones_own_and_random_seeds_are_taken():
    def tiny(shape, rng):
        return 0.01 * rng.standard_normal(shape)

    report = gc.analyze(gc.MLP([20] + [40] * 12 + [5], init=tiny, seed=None), X, LABELS)
    assert report.verdict == "vanishing"
    report.remedies(steps=2, seeds=2, limit=1)
    record = json.loads(report.to_json())
    assert record["config"]["init"] == "tiny"
    remedy = report.tried[0]
    np.testing.assert_array_equal(remedy.apply().parameters.flat, remedy.apply().parameters.flat)


def test_dataframe_has_a_row_a_layer(report):
    pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert len(frame) == 13
    assert frame["gain_weight_scale"][:-1].notna().all()
    assert frame.loc[0, "delta_norm"] == report.layers[0].delta_norm


def test_a_report_read_from_a_record_cannot_try_remedies(report):
    bare = gc.analysis.Report(**{name: getattr(report, name) for name in ("verdict", "findings", "layers", "slope",
                              "prediction", "config", "conditions", "loss")})  # fmt: skip
    with pytest.raises(ValueError, match=r"gc\.analyze"):
        bare.remedies()


@pytest.mark.parametrize("options", [{}, {"normalization": "batch", "activation": "relu"}])
def test_nothing_changes(options):
    net = sick(**options)
    net.loss_and_gradients(X[:64], LABELS[:64])
    optimizer = gc.optim.Adam(net, lr=1e-3)
    net.train_step(X[:64], LABELS[:64], optimizer)
    before = [copies(part) for part in (net.parameters, net.gradients, net.buffers)]
    state, config = optimizer.state_dict(), net.config
    report = gc.analyze(net, X, LABELS, optimizer=optimizer)
    report.remedies(steps=2, seeds=2, limit=2)
    for part, expected in zip((net.parameters, net.gradients, net.buffers), before, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(part[name], values)
    after = optimizer.state_dict()
    assert (after["step_count"], after["lr"], net.config) == (1, state["lr"], config)
    for now, then in zip(after["states"], state["states"], strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_same_seed_gives_the_same_report():
    first, second = (gc.analyze(sick(), X, LABELS, seed=3).to_dict() for _ in range(2))
    for record in (first, second):
        del record["conditions"]["seconds"]
    assert first == second


# ---- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[:, :5]}, ValueError, "x: expected 20 columns"),
        ({"target": LABELS[:10]}, ValueError, "target"),
        ({"loss": "hinge"}, ValueError, "loss"),
        ({"optimizer": "adam"}, TypeError, "optimizer"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batches": 2.5}, TypeError, "batches"),
        ({"seed": -1}, ValueError, "seed"),
        ({"thresholds": {"norm_ratio": 3}}, TypeError, "thresholds"),
        ({"x": np.where(X > 3, np.nan, X)}, ValueError, "x"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"x": X, "target": LABELS, **change}
    with pytest.raises(error, match=message):
        gc.analyze(sick(), arguments.pop("x"), arguments.pop("target"), **arguments)


def test_targets_that_are_no_probabilities_are_refused():
    """Labels of several classes under a loss of two: it has no bottom, and no number of it means anything."""
    first = int(np.argmax(LABELS > 1))
    message = rf"target: expected probabilities in \[0, 1\] .* got {LABELS[first]} at row {first}, column 0; .* mse"
    for call in (gc.analyze, gc.repair):
        with pytest.raises(ValueError, match=message):
            call(gc.MLP([20, 8, 1]), X, LABELS, loss="binary_cross_entropy")


@pytest.mark.parametrize("call", [gc.analyze, gc.repair])
def test_a_bad_row_is_named_by_its_place_in_the_data_and_found_outside_the_batches(call):
    x, labels, values = np.zeros((3000, 20), "f4"), np.zeros(3000, int), np.zeros((3000, 5), "f4")
    x[2345, 7], labels[2345], values[2345, 3] = np.nan, 9, 2.5
    net, options = gc.MLP([20, 8, 5]), {"batch_size": 10, "batches": 2}
    with pytest.raises(ValueError, match="x: expected finite values, got nan at row 2345, column 7"):
        call(net, x, np.zeros(3000, int), **options)
    with pytest.raises(ValueError, match=r"target\[2345\]: expected a label in \[0, 5\), got 9"):
        call(net, np.zeros_like(x), labels, **options)
    with pytest.raises(ValueError, match=r"got 2.5 at row 2345, column 3; other values: mse, mae or huber"):
        call(net, np.zeros_like(x), values, **options)


def test_an_optimizer_of_another_net_is_refused():
    with pytest.raises(ValueError, match="optimizer: expected one made for this net"):
        gc.analyze(sick(), X, LABELS, optimizer=gc.optim.SGD(sick(), lr=0.1))
    with pytest.raises(TypeError, match="net"):
        gc.analyze("net", X, LABELS)


def test_batch_norm_needs_two_rows():
    net = gc.MLP([20, 10, 5], normalization="batch")
    with pytest.raises(ValueError, match="two rows"):
        gc.analyze(net, X[:1], LABELS[:1])


@pytest.mark.parametrize(
    ("rows", "batch_size", "batches", "expected"),
    [(2000, 128, 8, (8, 128)), (600, 128, 8, (4, 128)), (150, 128, 8, (4, 37)), (3, 128, 8, (1, 2)), (1, 1, 8, (1, 1)),
     (100, 10, 3, (3, 10))],
)  # fmt: skip
def test_batches_are_disjoint_and_as_many_as_fit(rows, batch_size, batches, expected):
    found = batch_rows(rows, batch_size, batches, seed=0)
    assert (len(found), len(found[0])) == expected
    every = np.concatenate(found)
    assert len(set(every)) == len(every)


def test_few_rows_and_shallow_nets_are_judged_too():
    for widths in ([20, 5], [20, 30, 5], [20, 30, 30, 5]):
        report = gc.analyze(gc.MLP(widths), X[:3], LABELS[:3])
        assert report.verdict == "healthy"
        json.loads(report.to_json())


# ---- progress and interrupts -----------------------------------------------------------------


def test_progress_is_called():
    seen = []
    gc.analyze(sick(), X, LABELS, batches=4, progress=lambda *call: seen.append(call))
    assert [done for done, _, _ in seen] == [0, 1, 2, 3]
    assert all(total == 4 for _, total, _ in seen)


def test_an_interrupt_keeps_the_batches_measured():
    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    report = gc.analyze(sick(), X, LABELS, batches=4, progress=stop)
    assert report.verdict == "vanishing"
    assert report.conditions["interrupted"]
    assert len(report.flows) == 2


# ---- numbers ---------------------------------------------------------------------------------

ARCHITECTURES = [
    reference.Net((6, 9, 9, 9, 4), ("relu",) * 3),
    reference.Net((6, 9, 7, 8, 4), ("tanh", "sigmoid", "gelu")),
    reference.Net((6, 9, 9, 9, 4), ("relu",) * 3, normalization="batch"),
    reference.Net((6, 9, 9, 9, 4), ("selu", "tanh", "elu"), normalization="layer", residual=True),
    reference.Net((9, 9, 9, 9, 4), ("hard_tanh",) * 3, residual=True, bias=False),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_factors_multiply_to_the_gain_of_the_reference(architecture):
    built = Built(architecture, "float64", batch_size=24)
    report = gc.analyze(built.mlp, built.x, built.target, loss="mse", batch_size=24, batches=1)
    _, grads, trace = built.reference()
    for layer in range(architecture.depth - 1):
        record = report.layers[layer]
        expected = np.sum(trace[layer].delta ** 2) / np.sum(trace[layer + 1].delta ** 2)
        assert record.delta_gain == pytest.approx(expected, rel=1e-9)
        assert record.factors.product() == pytest.approx(expected, rel=1e-9)
        weight = built.params[f"dense{layer + 1}.weight"]
        scale = np.sum(weight**2) / len(weight)
        if architecture.has_skip(layer + 1):
            scale += np.sum(trace[layer + 1].grad_h ** 2) / np.sum(trace[layer + 1].delta ** 2)
        assert record.factors.weight_scale == pytest.approx(scale, rel=1e-9)
        share = np.mean(architecture.activation(layer).df(trace[layer].y) != 0)
        derivative = np.mean(architecture.activation(layer).df(trace[layer].y) ** 2)
        assert record.factors.mask == pytest.approx(share, rel=1e-12)
        assert record.factors.mask * record.factors.active_slope == pytest.approx(derivative, rel=1e-9)
        assert record.weight_grad_norm == pytest.approx(np.linalg.norm(grads[f"dense{layer}.weight"]), rel=1e-9)


def test_signal_and_noise_are_those_of_the_two_batch_sizes():
    """E|g_B|^2 = |G|^2 + trace / B: with the mean gradient known, on average over many draws."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6400, 8)).astype("f4")
    y = (x[:, :1] + rng.standard_normal((6400, 1))).astype("f4")
    net = gc.MLP([8, 1], bias=False, dtype="float64")
    net.loss_and_gradients(x, y, loss="mse")
    exact = float(np.sum(net.gradients["dense0.weight"] ** 2))
    estimates = [gc.analyze(net, x, y, loss="mse", batch_size=32, batches=8, seed=seed).layers[0] for seed in range(40)]
    signal = np.array([layer.gradient_signal for layer in estimates])
    assert signal.mean() == pytest.approx(exact, abs=4 * signal.std() / math.sqrt(40))
    singles = []
    for start in range(0, 6400, 32):
        net.loss_and_gradients(x[start : start + 32], y[start : start + 32], loss="mse")
        singles.append(net.gradients["dense0.weight"].copy())
    trace = float(np.var(singles, axis=0).sum())
    assert np.mean([layer.gradient_noise for layer in estimates]) == pytest.approx(trace, rel=0.15)


def test_update_ratios_are_those_of_the_step():
    net = gc.MLP([20, 30, 30, 5])
    optimizer = gc.optim.Adam(net, lr=1e-3)
    report = gc.analyze(net, X, LABELS, optimizer=optimizer)
    rows = batch_rows(len(X), 128, 8, 0)[0]
    twin = net.copy()
    twin.train_step(X[rows], LABELS[rows], gc.optim.Adam(twin, lr=1e-3), record=True)
    np.testing.assert_allclose([layer.update_ratio for layer in report.layers], twin.flow.update_ratio, rtol=1e-6)


# ---- the slope -------------------------------------------------------------------------------


def measured(net, x, target, **options):
    from gradcore.analysis.analyze import make_case

    case = make_case(net, x, target, "mse", None, 128, 4, 0)
    return measure.measure(case, case.net.copy())


@pytest.mark.parametrize(("init", "expected"), [("he_normal", 0.0), ("lecun_normal", math.log(0.5))])
def test_intervals_cover_the_true_slope(init, expected):
    """95 % intervals over 120 nets: the slope of the design lies in at least 90 % of the systematic ones."""
    rng = np.random.default_rng(1)
    covered, widths = 0, []
    for seed in range(120):
        x = rng.standard_normal((512, 24))
        net = gc.MLP([24] + [24] * 15 + [24], init=init, seed=seed, dtype="float64", bias=False)
        found = slope.estimate(measured(net, x, 1e3 * rng.standard_normal((512, 24))), 100.0)
        covered += found.systematic_low <= expected <= found.systematic_high
        widths.append(found.high - found.low)
        assert found.systematic_high - found.systematic_low < widths[-1]
    assert covered >= 108


def test_width_error_is_that_of_the_theory():
    rng = np.random.default_rng(2)
    values = []
    for seed in range(200):
        x = rng.standard_normal((1, 24)).repeat(256, axis=0)  # one direction: all of the noise is finite width
        net = gc.MLP([24] + [24] * 15 + [24], seed=seed, dtype="float64", bias=False)
        found = slope.estimate(measured(net, x, 1e3 * rng.standard_normal((1, 24)).repeat(256, axis=0)), 100.0)
        values.append(found.value)
    # exact: trigamma-like sums make the variance 0.24 at n = 24, where 5 / n is 0.21
    assert np.std(values) == pytest.approx(found.width_error, rel=0.2)


def test_the_band_follows_from_the_ratio():
    net = gc.MLP([20] + [40] * 12 + [5])
    wide = gc.analyze(net, X, LABELS)
    narrow = gc.analyze(net, X, LABELS, thresholds=Thresholds(norm_ratio=10.0))
    assert wide.slope.band_high == pytest.approx(2 * math.log(100) / 12)
    assert narrow.slope.band_high == pytest.approx(wide.slope.band_high / 2)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("norm_ratio", 1.0, "a finite number > 1, got 1.0"),
        ("diverged", math.nan, "a finite number > 1, got nan"),
        ("learning_steps", math.inf, "a finite number > 0, got inf"),
        ("saturated", -0.5, r"a number in \(0, 1\], got -0.5"),
        ("overshoot", "4", "a finite number > 0, got '4'"),
    ],
)
def test_limits_out_of_range_are_refused(name, value, expected):
    with pytest.raises((ValueError, TypeError), match=f"thresholds.{name}: expected {expected}"):
        Thresholds(**{name: value})


# ---- judgements that the design asks for -----------------------------------------------------


def test_flat_weight_gradients_do_not_hide_a_vanishing_delta():
    """Bias-free ReLU: <W, dL/dW> is equal in all layers, so a ratio of weight gradients sees nothing."""
    net = gc.MLP([20] + [64] * 20 + [5], bias=False)
    for layer in range(net.depth):
        net.parameters[f"dense{layer}.weight"][...] *= 0.5
    report = gc.analyze(net, X, LABELS)
    gradients = [layer.weight_grad_norm for layer in report.layers]
    assert gradients[1] / gradients[-2] > 0.2
    assert report.layers[0].delta_norm / report.layers[-2].delta_norm < 1e-4
    assert report.verdict == "vanishing"
    assert report.findings[0].cause == "weight_scale"


def test_adam_is_judged_differently_from_sgd():
    net = sick()
    shallow = gc.MLP([20] + [40] * 5 + [5], activation="sigmoid", init="glorot_normal")
    assert gc.analyze(shallow, X, LABELS).verdict == "vanishing"
    under_adam = gc.analyze(shallow, X, LABELS, optimizer=gc.optim.Adam(shallow, lr=1e-3))
    assert under_adam.verdict == "healthy"
    assert under_adam.findings[0].kind == "vanishing" and under_adam.findings[0].severity == "info"
    deep = gc.MLP([20] + [40] * 30 + [5], activation="sigmoid", init="glorot_normal")
    assert gc.analyze(deep, X, LABELS, optimizer=gc.optim.Adam(deep, lr=1e-3)).verdict == "vanishing"
    assert "Adam" in gc.analyze(net, X, LABELS).findings[0].explanation


def test_overflow_names_the_first_layer_and_pass():
    net = gc.MLP([20] + [40] * 6 + [5])
    for layer in (3, 4):
        net.parameters[f"dense{layer}.weight"][...] *= 1e20
    finding = gc.analyze(net, X, LABELS).findings[0]
    assert (finding.kind, finding.layers, finding.evidence["pass"]) == ("non_finite", (4,), "forward")
    net.parameters["dense2.weight"][0, 0] = np.inf
    finding = gc.analyze(net, X, LABELS).findings[0]
    assert (finding.layers, finding.evidence["pass"]) == ((2,), "parameters")


def test_softmax_over_one_output_is_explained():
    report = gc.analyze(gc.MLP([20, 30, 1]), X, np.zeros(len(X), dtype=int))
    assert report.findings[0].kind == "loss_output_mismatch"
    assert report.findings[0].cause == "loss_output"
    assert "real-valued targets, loss='mse'" in report.findings[0].explanation
    names = ["two outputs", "binary cross entropy"]
    assert [remedy.name for remedy in report.remedies(verify=False)] == names


def test_a_dead_layer_is_named():
    net = gc.MLP([20] + [40] * 6 + [5])
    net.parameters["dense3.bias"][...] = -100
    report = gc.analyze(net, X, LABELS)
    assert report.verdict == "vanishing"
    finding = report.findings[0]
    assert (finding.kind, finding.cause, finding.evidence["dead_layer"]) == ("zero_gradient", "dead_units", 3)
    dead = [f for f in report.findings if f.kind == "dead_units"]
    assert dead and 3 in dead[0].layers


def test_half_zeros_after_relu_are_no_finding():
    report = gc.analyze(gc.MLP([20] + [64] * 10 + [5]), X, LABELS)
    assert np.mean([layer.activation_zero_share for layer in report.layers[:-1]]) == pytest.approx(0.5, abs=0.1)
    assert not [finding for finding in report.findings if finding.severity != "info"]


def test_unscaled_inputs_saturate_a_tanh():
    report = gc.analyze(gc.MLP([20, 40, 40, 5], activation="tanh"), 100 * X, LABELS)
    causes = {(finding.kind, finding.cause) for finding in report.findings}
    assert ("saturation", "input_scale") in causes
    assert ("unscaled_input", "input_scale") in causes


def test_unscaled_targets_are_named():
    x, y = X, (1e3 * X[:, :1]).astype("f4")
    report = gc.analyze(gc.MLP([20, 40, 1]), x, y, loss="mse")
    assert ("unscaled_input", "target_scale") in {(finding.kind, finding.cause) for finding in report.findings}


def test_a_converged_net_is_healthy():
    net = gc.MLP([20, 64, 64, 5])
    net.fit(X, LABELS, epochs=80, batch_size=32, optimizer=gc.optim.Adam(net, lr=3e-3), progress=False)
    report = gc.analyze(net, X, LABELS)
    assert report.loss < 1e-2
    assert report.verdict == "healthy"


def test_underflow_shares_come_with_the_layers(report):
    finding = next(finding for finding in report.findings if finding.kind == "underflow")
    assert finding.severity == "info" and "fp16" in finding.explanation
    shares = [layer.underflow["fp16"] for layer in report.layers]
    assert shares[0] == 1.0 and shares[-1] < 0.1


def test_numpy_warns_afterwards_as_before():
    """The analysis computes with zeros and infinities in silence, and leaves the settings of each thread alone."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(256, 8)), rng.integers(0, 3, 256)

    def is_left_alone(over):
        net = gc.MLP([8] + [16] * 10 + [3], activation="tanh")
        with np.errstate(divide="raise", over=over, under="ignore", invalid="warn"):
            before = np.geterr()
            gc.analyze(net, x, labels)
            return np.geterr() == before

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(is_left_alone, ["raise", "warn", "print"] * 3))


def test_what_is_not_finite_is_not_shown_as_zero():
    """One NaN among the weights: a gradient of zero would be another disease."""
    net = gc.MLP([20] + [30] * 8 + [5])
    net.parameters["dense3.weight"][0, 0] = np.nan
    report = gc.analyze(net, X, LABELS)
    flow = report.flows[0]
    assert not flow.delta_norm.any() and (flow.delta_nonfinite_share == 1).all()  # of finite entries, as documented
    lost = (
        "delta_norm",
        "grad_output_norm",
        "delta_gain",
        "factors",
        "weight_grad_norm",
        "bias_grad_norm",
        "update_ratio",
    )
    for layer in report.to_dict()["layers"]:
        assert all(layer[name] is None for name in lost)
        assert (layer["activation_norm"] is None) == (layer["index"] >= 3)
    rows = re.findall(r"^ +\d+ +\d+ .*$", str(report), re.MULTILINE)
    assert len(rows) == 9 and all(len(re.findall(r"\bn/a\b", row)) >= 3 and " 0 " not in row[7:] for row in rows)
    assert "No mean-field prediction: the weights are not finite." in str(report)
    assert "n/a" in report._repr_html_() and "<td>0</td>" not in report._repr_html_()
    panels = {ax.get_title(): ax for ax in report.plot().axes}
    assert not np.isfinite(panels["deltas, norm"].lines[-2].get_ydata()).any()
