"""A Monitor's actions, the replay of the steps that broke a training, the user's own loops, and its texts."""

import json
import math
import warnings

import numpy as np
import pytest

import gradcore as gc
import gradcore.monitor
from monitored import BATCH, LABELS, At, X, deep, fit, runaway
from nets import assert_same_bits, copies

# ---- numbers that break, and their replay ----------------------------------------------------------------------------


def first_broken_layer(parameters, x, depth):
    """(layer, whether any) of a ReLU net's forward pass in float32, straight from the definition."""
    h = x
    with np.errstate(all="ignore"):
        for layer in range(depth):
            z = h @ parameters[f"dense{layer}.weight"].T + parameters[f"dense{layer}.bias"]
            h = np.maximum(z, 0) if layer < depth - 1 else z
            if not np.isfinite(h).all():
                return layer
    return None


@pytest.mark.parametrize("every", [None, 9])
def test_nan_is_traced_to_its_step_and_layer(every):
    net, watched, monitor = deep(), At(), gc.Monitor(every)
    with pytest.warns(gc.TrainingWarning, match="non finite.*learning rate"):
        fit(net, gc.optim.SGD(net, lr=runaway), monitor, watched, shuffle=False)
    finding = monitor.findings[-1]
    # the same training by hand, looked at with NumPy
    twin = deep()
    optimizer = gc.optim.SGD(twin, lr=runaway)
    for step in range(100):
        rows = slice(step * BATCH % len(X), step * BATCH % len(X) + BATCH)
        layer = first_broken_layer(twin.parameters, X[rows], 13)
        if layer is not None:
            break
        twin.train_step(X[rows], LABELS[rows], optimizer)
    assert finding.since == finding.evidence["step"] == step > 30
    assert finding.layers == (layer,) and finding.evidence["pass"] == "forward"
    assert finding.cause == "learning_rate" and finding.healthy_until == step - 1
    assert not math.isfinite(watched.losses[step]) and np.isfinite(watched.losses[:step]).all()
    assert f"In step {step}" in finding.explanation and "training has multiplied" in finding.explanation
    assert len([f for f in monitor.findings if f.kind == "non_finite"]) == 1


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1e3}, {"clip_value": 0.5}], ids=["plain", "norm", "value"])
@pytest.mark.parametrize("optimizer", [gc.optim.SGD, gc.optim.Adam])
def test_a_replay_gives_the_same_bits(optimizer, options):
    """Momentum, second moments, batch norm and clipping included."""
    net, watched, monitor = deep(normalization="batch"), At(), gc.Monitor(20, action=())

    def spoil(net):  # what no learning rate could do to batch norm
        net.parameters["norm4.weight"][...] = 1e30

    watched.actions[29] = spoil
    try:
        fit(net, optimizer(net, lr=0.01), watched, monitor, **options)
    except FloatingPointError:
        assert "clip_norm" in options
    finding = next(f for f in monitor.findings if f.kind == "non_finite")
    steps = list(finding.replay())
    assert steps[0].step == 26  # after the check of steps 22 to 25
    # what a callback changed in between is not on the tape: up to there the bits agree, and then it says so
    assert [step.same_bits for step in steps[:3]] == [True] * 3
    assert [step.loss for step in steps[:3]] == watched.losses[26:29]
    assert not steps[3].same_bits


def test_a_replay_ends_with_the_step_that_showed_the_break():
    """Although the training went on."""
    net, watched, monitor = deep(), At(), gc.Monitor(20, action=())
    fit(net, gc.optim.SGD(net, lr=runaway, momentum=0.9), watched, monitor)
    finding = monitor.findings[-1]
    steps = list(finding.replay())
    assert steps[-1].step == finding.raised < monitor.step - 1
    assert all(step.same_bits for step in steps) and finding.evidence["same_bits"] is True
    np.testing.assert_array_equal([step.loss for step in steps], watched.losses[steps[0].step : steps[-1].step + 1])
    broken = next(step for step in steps if step.step == finding.since)
    assert broken.flow.activation_nonfinite_share[finding.layers[0]] > 0
    assert not np.isfinite(broken.loss) or broken.flow.activation_nonfinite_share.any()
    with pytest.raises(ValueError, match="non_finite finding"):
        gc.analysis.TrainingFinding("vanishing", "critical", (), None, "").replay()


def test_a_second_break_is_not_the_first_one():
    net, monitor = deep(), gc.Monitor(1000, action=())
    sound = net.parameters.flat.copy()

    def mend(net):
        net.parameters.flat[:] = sound

    optimizer = gc.optim.SGD(net, lr=lambda step: 1e30 if step in (20, 40) else 0.01)
    fit(net, optimizer, At(step25=mend, step45=mend), monitor)
    assert [finding.since for finding in monitor.findings] == [21, 41]
    assert [list(finding.replay())[-1].step for finding in monitor.findings] == [21, 41]


def test_numbers_that_break_in_the_first_step():
    net, monitor = deep(), gc.Monitor()
    for layer in range(13):
        net.parameters[f"dense{layer}.weight"][...] *= 1e4
    with pytest.warns(gc.TrainingWarning, match="from the start"):
        fit(net, gc.optim.SGD(net, lr=0.01), monitor, epochs=1)
    finding = monitor.findings[0]
    assert finding.since == 0 and finding.healthy_until is None
    assert finding.cause == "weight_scale"  # no step was taken yet
    assert finding.layers == (first_broken_layer(deep_times(1e4), X[:BATCH], 13),)


def deep_times(factor):
    net = deep()
    return {name: factor * values if name.endswith("weight") else values for name, values in net.parameters.items()}


def test_rows_out_of_scale_are_named():
    net, monitor, x = deep(), gc.Monitor(8, action="stop"), X.copy()
    x[40 * BATCH % len(X) + 3] *= 1e9
    with pytest.warns(gc.TrainingWarning, match="input scale"):
        net.fit(x, LABELS, epochs=3, batch_size=BATCH, optimizer=gc.optim.SGD(net, lr=0.05), callbacks=[monitor],
                shuffle=False, progress=False)  # fmt: skip
    finding = monitor.findings[-1]
    assert finding.cause == "input_scale" and "The inputs of step 0 have" in finding.explanation
    assert finding.evidence["input_rms"] == pytest.approx(np.sqrt(np.mean(x[:BATCH].astype("f8") ** 2)), rel=1e-6)


def test_what_the_training_did_not_do_is_not_blamed_on_it():
    def spoil(net):
        net.parameters["dense6.weight"][0, 0] = np.nan

    net, monitor = deep(activation="tanh"), gc.Monitor(8, action="stop")
    with pytest.warns(gc.TrainingWarning, match="such as a callback"):
        fit(net, gc.optim.SGD(net, lr=0.01), At(step30=spoil), monitor)
    finding = monitor.findings[-1]
    assert (finding.kind, finding.cause, finding.since) == ("non_finite", None, 30)
    assert finding.evidence["same_bits"] is False


def test_the_tape_starts_anew_before_it_grows_too_large(monkeypatch):
    monkeypatch.setattr(gradcore.monitor, "_TAPE_BYTES", 10_000)
    net, monitor = deep(), gc.Monitor(1000, action=())
    fit(net, gc.optim.SGD(net, lr=runaway), monitor)
    finding = monitor.findings[-1]
    steps = list(finding.replay())
    assert 1 <= len(steps) <= 20 and steps[-1].step >= finding.since and all(step.same_bits for step in steps)


# ---- what it does ---------------------------------------------------------------------------------------------------------


def test_restore_and_a_lower_rate_save_the_training():
    net = deep()
    monitor = gc.Monitor(10, action=("lower_lr", "restore"), lr_factor=1e-3)
    optimizer = gc.optim.SGD(net, lr=runaway)
    with pytest.warns(gc.TrainingWarning, match="restored the net as it was before step"):
        history = fit(net, optimizer, monitor, epochs=8)
    finding = monitor.findings[0]
    assert finding.actions[0].startswith("restored the net") and finding.actions[1].startswith("learning rate")
    assert optimizer.lr == pytest.approx(0.03)
    assert math.isfinite(history["loss"][-1]) and history["loss"][-1] < 1.5
    assert np.isfinite(net.parameters.flat).all()
    assert monitor.findings[-1].ended is not None and history.stopped_by == "epochs"


def test_restore_puts_back_the_bits_of_the_last_healthy_check():
    """Parameters, running statistics and optimizer state: the training goes on as it would have from there."""
    nets = [deep(normalization="batch") for _ in range(2)]
    optimizers = [gc.optim.Adam(net, lr=1e-3) for net in nets]
    monitor = gc.Monitor(10, action="restore").watch(nets[0], optimizers[0])
    batches = [(X[i : i + BATCH], LABELS[i : i + BATCH]) for i in range(0, len(X), BATCH)]
    for batch in batches[:18]:
        monitor.train_step(*batch)
    nets[0].parameters["norm4.weight"][...] = np.inf
    with pytest.warns(gc.TrainingWarning, match="before step 16"):
        monitor.train_step(*batches[18])
    for batch in batches[:16]:
        nets[1].train_step(*batch, optimizers[1])
    for net, optimizer in zip(nets, optimizers, strict=True):
        net.train_step(*batches[19], optimizer)
    assert_same_bits(nets[0].parameters, copies(nets[1].parameters))
    assert_same_bits(nets[0].buffers, copies(nets[1].buffers))
    assert optimizers[0].step_count == 17


def test_clip_takes_the_norms_of_the_last_healthy_check():
    net, watched = deep(), At()
    monitor = gc.Monitor(10, action=("restore", "clip"))
    with pytest.warns(gc.TrainingWarning, match="clipping at norm"):
        fit(net, gc.optim.SGD(net, lr=lambda step: 0.05 if step < 30 else 1.0), monitor, watched, epochs=5)
    history = monitor.report.history
    healthy = history["total_norm"][history["step"] < 30]
    assert 0.5 * healthy.min() < monitor.report.conditions["clip_norm"] < 4 * healthy.max()
    assert np.isfinite(watched.losses[-1])


def test_restore_goes_back_to_before_the_onset():
    """Units that die leave the verdict healthy: a check that shows them is no state to go back to."""

    def kill(net):
        net.parameters["dense3.bias"][:46] = -100.0

    net, monitor = deep(), gc.Monitor(8, action="restore")
    with pytest.warns(gc.TrainingWarning, match="dead units"):
        fit(net, gc.optim.SGD(net, lr=0.01), At(step40=kill), monitor, epochs=5)
    finding = next(f for f in monitor.findings if f.kind == "dead_units")
    step = int(finding.actions[0].rsplit(maxsplit=1)[1])
    assert finding.actions[0].startswith("restored the net") and step <= 40 <= finding.since < finding.raised
    assert net.parameters["dense3.bias"].min() > -100


def test_what_is_not_finite_is_not_trained_on():
    net, monitor = deep(), gc.Monitor(10, action=("clip", "lower_lr"))
    with pytest.warns(gc.TrainingWarning, match="only the action 'restore'"):
        history = fit(net, gc.optim.SGD(net, lr=runaway), monitor)
    assert history.stopped_by == "Monitor" and len(monitor.findings) == 1
    assert monitor.report.conditions["clip_norm"] is None


def test_gradients_that_clipping_refuses():
    """Raised with the explanation; skipped where an action deals with it."""
    net, monitor = deep(), gc.Monitor(10)
    with pytest.warns(gc.TrainingWarning), pytest.raises(FloatingPointError) as caught:
        fit(net, gc.optim.SGD(net, lr=lambda step: 0.05 if step < 30 else 1e30), monitor, clip_norm=1e3)
    assert any("non finite" in note for note in caught.value.__notes__)
    net, monitor = deep(), gc.Monitor(10, action=("restore", "stop"))
    with pytest.warns(gc.TrainingWarning, match="ended the training"):
        history = fit(net, gc.optim.SGD(net, lr=lambda step: 0.05 if step < 30 else 1e30), monitor, clip_norm=1e3)
    assert history.stopped_by == "Monitor" and np.isfinite(net.parameters.flat).all()
    net, monitor = deep(), gc.Monitor(10, action=("restore", "lower_lr"), lr_factor=1e-31)
    with pytest.warns(gc.TrainingWarning, match="learning rate"):
        history = fit(net, gc.optim.SGD(net, lr=lambda step: 0.05 if step < 30 else 1e30), monitor, clip_norm=1e3)
    assert history.stopped_by == "epochs" and np.isfinite(net.parameters.flat).all()


def test_a_training_that_breaks_again_and_again_is_ended():
    net, monitor = deep(), gc.Monitor(10, action="restore", max_actions=2)
    with pytest.warns(gc.TrainingWarning):
        history = fit(net, gc.optim.SGD(net, lr=50.0), monitor)
    assert history.stopped_by == "Monitor" and monitor.stopped
    assert [f.actions[0][:8] for f in monitor.findings] == ["restored", "restored", "ended th"]


def test_what_steps_do_not_bring_about_is_left_to_the_user():
    net = gc.MLP([20] + [40] * 30 + [5], activation="sigmoid")
    monitor = gc.Monitor(10, action=("restore", "clip", "lower_lr"))
    optimizer = gc.optim.SGD(net, lr=0.01)
    with pytest.warns(gc.TrainingWarning, match="vanishing"):
        fit(net, optimizer, monitor, epochs=3)
    assert monitor.findings[0].actions == ("warned",)
    assert optimizer.lr == 0.01 and monitor.report.conditions["clip_norm"] is None


def test_a_function_decides():
    seen = []

    def decide(finding):
        seen.append(finding)
        return "stop" if finding.kind == "non_finite" else None

    net, monitor = deep(), gc.Monitor(10, action=decide)
    with pytest.warns(gc.TrainingWarning, match="ended the training"):
        assert fit(net, gc.optim.SGD(net, lr=runaway), monitor).stopped_by == "Monitor"
    assert [finding.kind for finding in seen] == [finding.kind for finding in monitor.findings]
    monitor = gc.Monitor(10, action=())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = deep()
        fit(net, gc.optim.SGD(net, lr=runaway), monitor)
    assert monitor.findings and monitor.findings[-1].actions == ()


# ---- loops of one's own ---------------------------------------------------------------------------------------------------


def test_a_loop_of_ones_own_is_watched_alike():
    """The same findings and history as in fit, with buffers that are used again."""
    results = []
    for by_hand in (False, True):
        net, monitor = deep(), gc.Monitor(10, action=())
        optimizer = gc.optim.SGD(net, lr=runaway)
        if by_hand:
            monitor.watch(net, optimizer)
            x, labels = np.empty_like(X[:BATCH]), np.empty_like(LABELS[:BATCH])
            for start in [*range(0, len(X), BATCH)] * 5:
                x[:], labels[:] = X[start : start + BATCH], LABELS[start : start + BATCH]
                monitor.train_step(x, labels)
        else:
            fit(net, optimizer, monitor, shuffle=False)
        assert all(step.same_bits for step in monitor.findings[-1].replay())
        results.append((monitor.report.history, [f.since for f in monitor.findings], monitor.findings[-1].layers))
    for name, values in results[0][0].items():
        np.testing.assert_array_equal(values, results[1][0][name])
    assert results[0][1:] == results[1][1:]


def test_a_loop_that_takes_its_steps_itself():
    net, monitor = gc.MLP([20] + [40] * 30 + [5], activation="sigmoid"), gc.Monitor(10, action="stop")
    optimizer = gc.optim.SGD(net, lr=0.01)
    monitor.watch(net, optimizer)

    def loop():
        for start in [*range(0, len(X), BATCH)] * 3:
            batch = X[start : start + BATCH], LABELS[start : start + BATCH]
            record = monitor.before_step(batch)
            loss = net.loss_and_gradients(*batch, record=record)
            norm = optimizer.step(record=record)
            if monitor.after_step(loss, norm):
                break

    with pytest.warns(gc.TrainingWarning, match="vanishing"):
        loop()
    assert monitor.stopped and monitor.step < 40


def test_a_second_training_begins_anew():
    monitor = gc.Monitor(10, action=())
    net = deep()
    fit(net, gc.optim.SGD(net, lr=runaway), monitor)
    assert monitor.findings
    net = deep()
    fit(net, gc.optim.SGD(net, lr=0.05), monitor, epochs=2)
    assert monitor.findings == [] and monitor.step == 40 and monitor.report.history["step"][0] == 5


# ---- what it says -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken():
    net, monitor = deep(), gc.Monitor(5, action=())
    fit(net, gc.optim.SGD(net, lr=runaway), monitor)
    return monitor


def test_for_people(broken, tmp_path):
    report = broken.report
    text = str(report)
    assert text.startswith("NON-FINITE NUMBERS WHILE TRAINING")
    assert f"It began in step {report.findings[-1].since}." in text and "|delta| by layer and step" in text
    assert "non_finite since step" in repr(broken)
    report.save_html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4 and "It began in step" in page and "<script" not in page
    assert report._repr_html_() in page
    assert (
        str(report.findings[-1]) == f"{str(report.findings[-1]).split(' In step')[0]} {report.findings[-1].explanation}"
    )


def test_the_map_is_a_picture_of_the_history(broken):
    """The PNG of the page, decoded by matplotlib: red where a value broke, more opaque where larger."""
    matplotlib = pytest.importorskip("matplotlib.image")
    import base64
    import io
    import re

    page = broken.report._repr_html_()
    first = base64.b64decode(re.findall(r"base64,([^\"]+)\"", page)[0])
    pixels = matplotlib.imread(io.BytesIO(first))
    deltas = broken.report.history["delta_norm"].T[::-1]  # row 0 of the picture is its top
    assert pixels.shape == (*deltas.shape, 4)
    bad = ~np.isfinite(deltas) | (deltas == 0)
    assert bad.any() and ((pixels[..., 0] > 0.7) == bad).all()
    order = np.argsort(deltas[~bad])
    assert (np.diff(pixels[~bad][order, 3]) >= -1e-6).all()


def test_for_programs(broken):
    report = broken.report
    record = json.loads(report.to_json())
    assert record["verdict"] == "non_finite" and record["steps"] == 100
    assert np.shape(record["history"]["delta_norm"]) == (len(record["history"]["step"]), 13)
    finding = record["findings"][-1]
    assert finding["since"] == report.findings[-1].since and "report" not in finding
    pandas = pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 13 * len(report.history["step"])
    assert frame.query("step == 5 and layer == 3").delta_norm.item() == report.history["delta_norm"][0, 3]


def test_figure(broken):
    pytest.importorskip("matplotlib")
    figure = broken.report.plot()
    assert [ax.get_title() for ax in figure.axes[:5]][-1] == "loss"


def test_nothing_watched_yet(tmp_path):
    monitor = gc.Monitor()
    assert "nothing watched" in repr(monitor)
    with pytest.raises(ValueError, match=r"expected watch\(net, optimizer\) or a fit"):
        monitor.report  # noqa: B018
    net = deep()
    monitor.watch(net, gc.optim.SGD(net, lr=0.1))
    report = monitor.report
    assert report.verdict == "healthy" and report.history["delta_norm"].shape == (0, 13)
    assert "0 steps watched" in str(report) and "No check" in report._repr_html_()
    json.loads(report.to_json())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 3}, ValueError, "every: expected a whole number >= 4, got 3"),
        ({"budget": 1.5}, ValueError, r"budget: expected a number in \(0, 1\), got 1.5"),
        ({"action": "panic"}, ValueError, "action: expected one of 'restore'"),
        ({"action": 3}, TypeError, "action: expected a function, or one or several of restore"),
        ({"batches": 0}, ValueError, "batches: expected a whole number >= 1"),
        ({"confirm": 0}, ValueError, "confirm: expected a whole number >= 1"),
        ({"thresholds": {}}, TypeError, "thresholds: expected"),
        ({"lr_factor": 1.0}, ValueError, "lr_factor: expected a number in"),
        ({"max_actions": -1}, ValueError, "max_actions: expected a whole number >= 0"),
    ],
)
def test_arguments_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        gc.Monitor(**options)


def test_what_is_watched_is_checked():
    net, other = deep(), deep()
    with pytest.raises(ValueError, match="optimizer: expected one that was made for this net"):
        gc.Monitor().watch(net, gc.optim.SGD(other, lr=0.1))
    with pytest.raises(TypeError, match=r"net: expected a gradcore\.MLP"):
        gc.Monitor().watch("net", gc.optim.SGD(other, lr=0.1))
    monitor = gc.Monitor().watch(net, gc.optim.SGD(net, lr=0.1))
    with pytest.raises(ValueError, match="x: expected 20 columns"):
        monitor.train_step(X[:, :3], LABELS)


def test_a_warning_points_at_the_line_of_the_loop():
    net = deep()
    for layer in range(13):
        net.parameters[f"dense{layer}.weight"][...] *= 1e4
    monitor = gc.Monitor().watch(net, gc.optim.SGD(net, lr=0.01))
    with pytest.warns(gc.TrainingWarning) as caught:
        monitor.train_step(X[:BATCH], LABELS[:BATCH])
    assert [warning.filename for warning in caught] == [__file__]
