"""gc.Monitor: what it raises and when, that healthy trainings are left alone, and what it costs."""

from functools import partial

import numpy as np
import pytest

import gradcore as gc
from monitored import BATCH, LABELS, At, X, count_instead_of_time, deep, fit
from nets import assert_same_bits, copies

# ---- it only watches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
@pytest.mark.parametrize("every", [None, 5])
def test_watching_changes_no_bit(normalization, every):
    results = []
    for callbacks in ((), (gc.Monitor(every),)):
        net = gc.MLP([20, 24, 24, 5], normalization=normalization)
        history = fit(net, gc.optim.Adam(net), *callbacks, clip_norm=1.0, epochs=3)
        results.append((copies(net.parameters), copies(net.buffers), history["loss"], history["total_norm"]))
    assert_same_bits(results[1][0], results[0][0])
    assert_same_bits(results[1][1], results[0][1])
    assert results[1][2:] == results[0][2:]


def test_a_check_is_what_the_steps_recorded():
    """The history against the flows of the same steps taken by hand."""
    nets = [gc.MLP([20, 24, 24, 5]) for _ in range(2)]
    monitor = gc.Monitor(10)
    fit(nets[0], gc.optim.SGD(nets[0], lr=0.1), monitor, epochs=1, shuffle=False)
    optimizer, flows = gc.optim.SGD(nets[1], lr=0.1), []
    for start in range(0, len(X), BATCH):
        step = nets[1].train_step(X[start : start + BATCH], LABELS[start : start + BATCH], optimizer, record=True)
        flows.append((nets[1].flow, *step))
    history = monitor.report.history
    assert history["step"].tolist() == [5, 15]
    for row, first in enumerate((2, 12)):
        group = flows[first : first + 4]
        for name in ("delta_norm", "weight_grad_norm", "activation_norm"):
            squares = np.mean([getattr(flow, name) ** 2 for flow, *_ in group], axis=0)
            np.testing.assert_allclose(history[name][row], np.sqrt(squares), rtol=1e-12)
        updates = np.mean([flow.update_ratio for flow, *_ in group], axis=0)
        np.testing.assert_allclose(history["update_ratio"][row], updates, rtol=1e-12)
        assert history["loss"][row] == pytest.approx(np.mean([loss for _, loss, _ in group]))
        assert history["total_norm"][row] == group[-1][2]


# ---- nothing is raised where nothing is wrong ------------------------------------------------------------------

HEALTHY = {
    "relu by SGD": (lambda s: gc.MLP([20] + [48] * 6 + [5], seed=s), lambda n: gc.optim.SGD(n, lr=0.1)),
    "narrow and deep": (lambda s: gc.MLP([20] + [24] * 20 + [5], seed=s), lambda n: gc.optim.SGD(n, lr=0.01)),
    "tanh by Adam": (lambda s: deep(activation="tanh", seed=s), gc.optim.Adam),
    "selu, momentum": (lambda s: deep(activation="selu", seed=s), lambda n: gc.optim.SGD(n, lr=0.01, momentum=0.9)),
    "batch norm": (lambda s: gc.MLP([20] + [48] * 8 + [5], normalization="batch", seed=s), gc.optim.AdamW),
    "residual, layer norm": (lambda s: deep(normalization="layer", residual=True, seed=s), gc.optim.Adam),
    "a schedule that ends": (
        lambda s: gc.MLP([20, 48, 48, 5], seed=s),
        lambda n: gc.optim.SGD(n, lr=gc.optim.one_cycle(0.2, total_steps=100)),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_trainings_raise_nothing(name, seed):
    """Warnings are errors in these tests; the labels are learned, so late training is among what is watched."""
    make, optimizer = HEALTHY[name]
    net, monitor = make(seed), gc.Monitor(7)
    history = fit(net, optimizer(net), monitor, epochs=8, seed=seed)
    assert history["loss"][-1] < history["loss"][0]
    assert monitor.findings == [] and monitor.report.verdict == "healthy"
    assert monitor.report.cost["checks"] > 10 or name == "a schedule that ends"


def test_regression_to_the_last_digit_is_healthy():
    net, monitor = gc.MLP([20, 32, 32, 1], activation="tanh"), gc.Monitor(20)
    target = X[:, :1]
    optimizer = gc.optim.Adam(net, lr=gc.optim.cosine(3e-3, 600))
    net.fit(
        X, target, epochs=30, batch_size=BATCH, optimizer=optimizer, loss="mse", callbacks=[monitor], progress=False
    )
    assert monitor.findings == []


def test_a_zero_output_layer_has_woken_up_before_the_first_check():
    net, monitor = deep(), gc.Monitor(10)
    net.parameters["dense12.weight"][...] = 0.0
    fit(net, gc.optim.SGD(net, lr=0.1), monitor, epochs=3)
    assert monitor.findings == []


def test_what_one_check_shows_and_the_next_does_not_is_not_raised():
    def scale(factor, net):
        for layer in range(1, 12):
            net.parameters[f"dense{layer}.weight"][...] *= factor

    for confirm, raised in ((1, ["exploding"]), (2, [])):
        peak = At(step30=partial(scale, 6.0), step38=partial(scale, 1 / 6))
        net, monitor = deep(), gc.Monitor(10, confirm=confirm, action=())
        fit(net, gc.optim.Adam(net, lr=1e-6), peak, monitor, epochs=4)
        assert [finding.kind for finding in monitor.findings] == raised


def test_what_is_said_of_the_data_is_said_once():
    """Cauchy targets: batches with and without outliers, of which the first ones raised the scale time after time.

    The steps are too small to change the loss; targets do not count as long as it falls.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 20)).astype("f4")
    y = x[:, 0] + rng.standard_t(1, 3000)
    net, monitor = gc.MLP([20, 64, 64, 64, 1]), gc.Monitor(5, action=())
    optimizer = gc.optim.SGD(net, lr=1e-12)
    net.fit(x, y, epochs=5, batch_size=32, optimizer=optimizer, loss="mse", progress=False, callbacks=[monitor])
    assert [(finding.kind, finding.cause) for finding in monitor.findings] == [("unscaled_input", "target_scale")]
    assert monitor.findings[0].ended is None and monitor.report.verdict == "healthy"


# ---- what goes wrong is raised, with its onset --------------------------------------------------------------------


def test_thirty_sigmoid_layers_vanish_from_the_start():
    net, monitor = gc.MLP([20] + [40] * 30 + [5], activation="sigmoid"), gc.Monitor()
    with pytest.warns(gc.TrainingWarning, match=r"vanishing.*activation slope.*Present from the start"):
        fit(net, gc.optim.SGD(net, lr=0.01), monitor)
    (finding,) = monitor.findings
    assert (finding.kind, finding.severity, finding.cause) == ("vanishing", "critical", "activation_slope")
    assert finding.since == 2 and finding.healthy_until is None and finding.ended is None
    assert finding.raised < 40 and 0 in finding.layers and 0 in finding.onset_layers
    assert finding.report.verdict == "vanishing"
    assert finding.explanation == next(f.explanation for f in finding.report.findings if f.kind == "vanishing")
    assert any("activation" in remedy.name for remedy in finding.report.remedies(verify=False))


def test_the_onset_and_the_end_of_an_explosion():
    def scale(factor, net):
        for layer in range(1, 12):
            net.parameters[f"dense{layer}.weight"][...] *= factor

    incident = At(step50=partial(scale, 6.0), step100=partial(scale, 1 / 6))
    net, monitor = deep(), gc.Monitor(8)
    with pytest.warns(gc.TrainingWarning, match="exploding"):
        fit(net, gc.optim.Adam(net, lr=1e-6), incident, monitor, epochs=8)
    finding = next(f for f in monitor.findings if f.kind == "exploding")
    assert finding.cause == "weight_scale"
    assert 50 - 8 <= finding.healthy_until < 50 <= finding.since < 50 + 8
    assert finding.raised < 50 + 4 * 8
    assert 100 - 4 < finding.ended < 100 + 8  # a check of four steps may stand across it
    assert monitor.report.verdict == "exploding"


def test_an_explosion_that_the_steps_brought_about():
    """Its weights are too large because the learning rate was; in the test above something else scaled them."""
    net, monitor = deep(activation="tanh"), gc.Monitor(4, action=())
    fit(net, gc.optim.SGD(net, lr=lambda step: 0.01 * 1.2 ** max(step - 20, 0)), monitor, epochs=4)
    finding = next(f for f in monitor.findings if f.kind == "exploding" and "training has multiplied" in f.explanation)
    assert finding.cause == "learning_rate" and finding.healthy_until >= 20
    assert finding.evidence["weight_growth"] > 2


def test_units_that_die_at_a_step():
    def kill(net):
        net.parameters["dense3.bias"][:46] = -100.0

    net, monitor = deep(), gc.Monitor(8)
    with pytest.warns(gc.TrainingWarning, match="dead units"):
        fit(net, gc.optim.SGD(net, lr=0.01), At(step40=kill), monitor, epochs=5)
    finding = next(f for f in monitor.findings if f.kind == "dead_units")
    assert finding.onset_layers == (3,) and 3 in finding.layers
    assert 40 - 8 <= finding.healthy_until < 40 <= finding.since < 40 + 8
    shares = monitor.report.history["dead_share"][:, 3]
    before = monitor.report.history["step"] < 40
    assert shares[before].max() < 0.5 and shares[~before].min() > 0.9


def test_a_loss_that_runs_away_is_looked_at_at_once():
    """The rate jumps just after a check, and the next one is far off."""
    net, monitor = gc.MLP([20, 48, 48, 1]), gc.Monitor(400, action="stop")
    optimizer = gc.optim.SGD(net, lr=lambda step: 0.01 if step < 20 else 0.5)
    target = 30 * X[:, :1]
    with pytest.warns(gc.TrainingWarning, match="exploding|non finite"):
        history = net.fit(
            X, target, epochs=20, batch_size=BATCH, optimizer=optimizer, loss="mse", callbacks=[monitor], progress=False
        )
    assert history.stopped_by == "Monitor" and monitor.step < 60
    assert monitor.findings[-1].cause in ("learning_rate", "target_scale")


def test_squares_beyond_float64_are_nothing_to_warn_of():
    net, monitor = gc.MLP([20, 16, 5], normalization="layer", dtype="float64"), gc.Monitor(4, action=())
    net.fit(
        1e200 * X.astype(float),
        LABELS,
        epochs=1,
        batch_size=BATCH,
        optimizer=gc.optim.SGD(net, lr=0),
        callbacks=[monitor],
    )
    assert monitor.report.cost["checks"] > 0


# ---- what it costs ------------------------------------------------------------------------------------------------------


def test_every_k_steps_is_every_k_steps():
    runs = []
    for _ in range(2):
        net, monitor = gc.MLP([20, 24, 24, 5]), gc.Monitor(13, batches=3)
        fit(net, gc.optim.SGD(net, lr=0.1), monitor, epochs=10)
        report = monitor.report
        assert report.history["step"].tolist() == list(range(4, 200, 13))
        assert report.cost == {"checks": 16, "recorded_passes": 46, "analyses": 0} or report.cost["checks"] == 16
        runs.append(report.history)
    for name, values in runs[0].items():
        np.testing.assert_array_equal(values, runs[1][name])


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_recorded_passes_stay_within_the_budget(share, monkeypatch):
    """By counting: a step costs 1, recording it 0.5 more, judging a check 4, so a check costs 6."""
    net = gc.MLP([20, 8, 5])
    optimizer = gc.optim.SGD(net, lr=0.01)
    monitor = gc.Monitor(budget=share)

    def clock():
        return optimizer.step_count + 0.5 * monitor._counts["recorded_passes"] + 4.0 * monitor._counts["checks"]

    count_instead_of_time(monkeypatch, clock)
    fit(net, optimizer, monitor, epochs=150)
    cost = monitor.report.cost
    assert monitor.step == 3000
    assert cost["recorded_passes"] == 4 * cost["checks"]
    spent = 6 * cost["checks"]
    assert cost["seconds"] == pytest.approx(spent)
    assert share * 3000 - 6 <= spent <= share * 3000 + 1e-9
    gaps = np.diff(monitor.report.history["step"])
    assert (gaps[1:] >= 6 / share - 1).all() and (gaps[1:] <= 6 / share + 6).all()


def test_a_suspicion_is_confirmed_on_credit_and_paid_back(monkeypatch):
    net = gc.MLP([20] + [16] * 20 + [5], activation="sigmoid")
    optimizer = gc.optim.SGD(net, lr=0.01)
    monitor = gc.Monitor(budget=0.05, action=())

    def clock():
        return optimizer.step_count + 10.0 * monitor._counts["checks"] + 50.0 * monitor._counts["analyses"]

    count_instead_of_time(monkeypatch, clock)
    fit(net, optimizer, monitor, epochs=100)
    steps = monitor.report.history["step"]
    assert monitor.findings[0].kind == "vanishing" and monitor.findings[0].raised == steps[2] < 50
    assert monitor.report.cost["analyses"] == 1
    assert steps[3] >= (3 * 10 + 50) / 0.05  # the next one waits until all of it is paid
    assert 10 * len(steps) + 50 <= 0.05 * 2000 + 1e-9


def test_a_training_too_short_for_its_budget_says_what_it_owes(monkeypatch):
    """By counting again: the one check of 100 steps costs 7, of which 1 % of them pays 1; 600 steps more would pay 6."""
    net = gc.MLP([20, 8, 5])
    optimizer = gc.optim.SGD(net, lr=0.01)
    monitor = gc.Monitor()

    def clock():
        counts = monitor._counts
        return optimizer.step_count + 0.5 * counts["recorded_passes"] + 4.0 * counts["checks"] + 0.25 * monitor.step

    count_instead_of_time(monkeypatch, clock)
    fit(net, optimizer, monitor, epochs=5)
    cost = monitor.report.cost
    assert monitor.step == 100 and cost["checks"] == 1
    noted = 0.25 * 96  # noting the four recorded steps counts as part of their check
    assert cost["seconds"] == pytest.approx(6 + 0.25 * 4)
    assert cost["share"] == pytest.approx(0.07) and cost["noting_share"] == pytest.approx(noted / 100)
    assert cost["owed_steps"] == pytest.approx(600)
    text = " ".join(str(monitor.report).split())
    assert "7% of the training time and 24% for logging steps" in text
    assert "exceeds the budget of 1%" in text and "about 600 more steps would pay for them" in text
    fit(net, optimizer, monitor, epochs=40)
    assert monitor.report.cost["owed_steps"] == 0.0 and "exceeds the budget" not in str(monitor.report)


# ---- data that teaches nothing ---------------------------------------------------------------------------------

PLAIN = {"batch_size": BATCH, "progress": False}


def test_a_training_on_a_single_class_is_told_so_once():
    """Its loss falls to zero and all looks well; `analyze` says that nothing can be learned from such data."""
    net, monitor = deep(), gc.Monitor(5, action="stop")
    with pytest.warns(gc.TrainingWarning, match="All 640 rows have the same target, class 2: ") as warned:
        net.fit(X, np.full(640, 2), epochs=3, optimizer=gc.optim.SGD(net, lr=0.01), callbacks=[monitor], **PLAIN)
    (finding,) = monitor.findings
    assert len(warned) == 1 and finding.actions == ("warned",) and monitor.step == 60  # it does not end the training
    assert (finding.severity, finding.since, finding.raised, finding.ended) == ("info", 2, 5, None)
    assert monitor.report.verdict == "healthy" and "the same target" in str(monitor.report)
    assert "the same target" in monitor.report._repr_html_() and "the same target" in monitor.report.to_json()


def test_it_does_not_hide_data_of_a_wrong_scale():
    net, monitor = deep(), gc.Monitor(4, action=(), confirm=1)
    optimizer = gc.optim.SGD(net, lr=1e-12)
    net.fit(1e3 * X, np.full(640, 2), epochs=5, optimizer=optimizer, callbacks=[monitor], **PLAIN)
    assert [finding.severity for finding in monitor.findings if finding.kind == "unscaled_input"] == ["info", "warning"]


@pytest.mark.parametrize("own_loop", [False, True])
def test_batches_of_one_class_are_not_taken_for_the_data(own_loop):
    """Sorted rows, or a rare class: the rows of a few steps do not tell what the others are."""
    labels = np.repeat([0, 1], 320)
    net, monitor = deep(), gc.Monitor(4)
    if own_loop:
        monitor.watch(net, gc.optim.SGD(net, lr=1e-3))
        for start in range(0, len(X), BATCH):
            monitor.train_step(X[start : start + BATCH], labels[start : start + BATCH])
    else:
        optimizer = gc.optim.SGD(net, lr=1e-3)
        net.fit(X, labels, epochs=1, optimizer=optimizer, callbacks=[monitor], shuffle=False, **PLAIN)
    assert monitor.step == 20 and monitor.findings == []
