"""gc.Monitor where batches differ in size: they are measured together and judged as equal ones are; and the cost."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import gradcore as gc
from gradcore._tape import Snapshot
from gradcore.analysis import Thresholds, in_training
from gradcore.analysis.measure import Measurement, signal_and_noise
from gradcore.analysis.slope import half_interval
from gradcore.training import Run
from monitored import BATCH, LABELS, X, count_instead_of_time, deep, fit, runaway

# Rows of step after step, 32 or so on average.
SIZES = {
    "growing": lambda: (4 + step // 2 for step in itertools.count()),
    "random": lambda: (int(rows) for rows in np.random.default_rng(1).integers(2, 64, 10_000)),
    "alternating": lambda: itertools.cycle((60, 4)),
    "a short last batch": lambda: itertools.cycle((32, 32, 32, 32, 32, 32, 2)),
}
sizes_of_steps = pytest.mark.parametrize("sizes", SIZES)


def batches(sizes, steps):
    rng = np.random.default_rng(0)
    for rows in itertools.islice(SIZES[sizes]() if isinstance(sizes, str) else itertools.cycle(sizes), steps):
        chosen = rng.integers(0, len(X), rows)
        yield X[chosen], LABELS[chosen]


def watch(net, optimizer, monitor, sizes, steps=100):
    monitor.watch(net, optimizer)
    for batch in batches(sizes, steps):
        monitor.train_step(*batch)
    return monitor.report


# ---- what they show together -----------------------------------------------------------------------------------


def group_of(net, sizes, loss="cross_entropy"):
    """The first rows of X in batches of these sizes, as a monitor takes them, and all in one pass. The net stands."""
    run = Run(net, gc.optim.SGD(net, lr=0.0), loss)
    group = in_training.Group(run, 0, norm_ratio=100.0)
    for rows in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]):
        batch = X[rows], LABELS[rows]
        group.add(run, batch, *run.step(*batch, record=True))
    value = net.loss_and_gradients(X[: sum(sizes)], LABELS[: sum(sizes)], record=True)
    return group.subject(run, Thresholds(), [], Snapshot.of(run, 0)), net.flow, value


@pytest.mark.parametrize("options", [{}, {"activation": "tanh", "normalization": "layer", "residual": True}], ids=str)
@pytest.mark.parametrize("sizes", [(25, 25, 25, 25), (50, 30, 19, 1), (4, 1, 92, 3)])
def test_a_row_counts_alike_in_whichever_batch_it_comes(sizes, options):
    """Against one pass over all rows: sums over rows, each with its share of the loss, are a fourth for a fourth."""
    subject, whole, loss = group_of(gc.MLP([20] + [24] * 5 + [5], dtype="float64", **options), sizes)
    measurement = subject.measurement
    assert subject.case.batch_size == measurement.batch_size == 25
    assert [len(rows) for rows in subject.case.rows] == list(sizes)
    assert measurement.loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(measurement.mean_gradient_norm, whole.weight_grad_norm, rtol=1e-10)
    scales = {"delta_norm": 2.0, "grad_output_norm": 2.0, "activation_norm": 0.5, "activation_mean": 1.0}
    scales |= {"activation_zero_share": 1.0, "mean_squared_derivative": 1.0, "saturated_share": 1.0}
    for name, scale in scales.items():
        values = [getattr(record, name) for record in subject.records]
        np.testing.assert_allclose(values, scale * getattr(whole, name), rtol=1e-10, atol=1e-12, err_msg=name)
    assert subject.output_error == pytest.approx(100 * whole.delta_norm[-1] ** 2, rel=1e-10)


def test_signal_and_noise_of_batches_of_several_sizes():
    """Gradients G + noise / sqrt(rows): both estimates are right on average, as for batches of the mean size."""
    rng, sizes, draws = np.random.default_rng(0), np.array([90, 40, 25, 5]), 4000
    mean = np.array([0.1, 0.0, -0.2])
    found = []
    for _ in range(draws):
        gradients = mean + rng.standard_normal((4, 3)) / np.sqrt(sizes)[:, None]
        flows = [
            SimpleNamespace(batch_size=n, weight_grad_norm=[math.hypot(*g)])
            for n, g in zip(sizes, gradients, strict=True)
        ]
        together = math.hypot(*np.average(gradients, axis=0, weights=sizes))
        nan = np.full(1, np.nan)
        measured = Measurement({}, tuple(flows), nan, np.array([together]), nan, nan, 1.0, nan, nan, nan)
        found.append([float(values[0]) for values in signal_and_noise(measured)])
    signal, noise = np.transpose(found)
    for values, expected in ((signal, float(mean @ mean)), (noise, 3 / sizes.mean())):
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(draws)


@pytest.mark.parametrize(
    "sizes", [(32, 32, 32, 32), (463, 464, 465, 466), (32, 32, 32, 1), (60, 4, 60, 4), (97, 1, 1, 1)]
)
@pytest.mark.parametrize("power", [0.0, 0.5], ids=["steps apart", "rows apart"])
def test_the_interval_holds_for_any_sizes(sizes, power):
    """At least 95 % of the time, whether the noise falls with the rows of a batch or lies between the steps."""
    rng, weights, draws = np.random.default_rng(0), np.array(sizes) / np.mean(sizes), 4000
    values = rng.standard_normal((draws, len(sizes))) / np.array(sizes) ** power
    held = np.mean([abs(np.mean(weights * drawn)) < half_interval(drawn, weights) for drawn in values])
    assert held > 0.95 - 3 * math.sqrt(0.05 * 0.95 / draws)
    if len(set(sizes)) == 1:
        assert held < 0.95 + 3 * math.sqrt(0.05 * 0.95 / draws)
        np.testing.assert_array_equal(half_interval(values[0], weights), half_interval(values[0]))


def test_a_tiny_batch_does_not_blur_the_slope():
    """One row in place of 32: the interval is that of the other three, or nearly."""
    rng, narrower = np.random.default_rng(0), []
    sizes = np.array([32, 32, 32, 1])
    for drawn in rng.standard_normal((500, 4)) / np.sqrt(sizes):
        narrower.append(half_interval(drawn, sizes / sizes.mean()) / half_interval(drawn[:3]))
    assert 0.9 < np.median(narrower) < 1.1


# ---- batch norm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "kept"), [((64, 64, 2, 64), (64, 64, 64)), ((3, 64, 48), (64, 48)), ((2, 2), (2, 2))]
)
def test_batch_norm_over_a_few_rows_is_another_net(sizes, kept):
    """The variance of two or three rows comes near to zero by chance: gradients have no limit (`extra_growth`)."""
    subject, *_ = group_of(gc.MLP([20] + [24] * 12 + [5], normalization="batch"), sizes)
    assert [len(rows) for rows in subject.case.rows] == list(kept)
    assert [flow.batch_size for flow in subject.measurement.flows] == list(kept)


def test_what_is_left_out_is_replaced_within_twice_the_steps():
    def recorded(sizes):
        net, monitor = deep(normalization="batch"), gc.Monitor(20)
        return watch(net, gc.optim.SGD(net, lr=0.01), monitor, sizes, 90).cost

    equal = recorded((32,))
    assert equal["checks"] == 5 and equal["recorded_passes"] == 20
    assert recorded((32, 32, 32, 2)) == equal | {"recorded_passes": 25}
    assert recorded((32, 2, 2, 2)) == equal | {"recorded_passes": 40}


# ---- it is judged as ever -------------------------------------------------------------------------------------------


@sizes_of_steps
def test_thirty_sigmoid_layers_vanish(sizes):
    reports = []
    for rows in (sizes, (BATCH,)):
        net = gc.MLP([20] + [40] * 30 + [5], activation="sigmoid")
        reports.append(watch(net, gc.optim.SGD(net, lr=0.01), gc.Monitor(10, action=()), rows))
    for report in reports:
        (finding,) = report.findings
        assert (report.verdict, finding.cause, finding.since) == ("vanishing", "activation_slope", 2)
    confirmed = reports[0].findings[0]
    last = list(itertools.islice(SIZES[sizes](), confirmed.raised + 1))[-8:]
    assert confirmed.report.conditions["batch_size"] == round(sum(last) / 8)
    assert reports[0].cost == reports[1].cost == {"checks": 10, "recorded_passes": 40, "analyses": 1}
    assert reports[0].history["step"].tolist() == reports[1].history["step"].tolist()


HEALTHY = {
    "relu": (lambda s: gc.MLP([20] + [48] * 6 + [5], seed=s), lambda n: gc.optim.SGD(n, lr=0.05)),
    "narrow and deep": (lambda s: gc.MLP([20] + [24] * 20 + [5], seed=s), lambda n: gc.optim.SGD(n, lr=0.01)),
    "batch norm": (lambda s: gc.MLP([20] + [48] * 8 + [5], normalization="batch", seed=s), gc.optim.AdamW),
    "residual, layer norm": (lambda s: deep(normalization="layer", residual=True, seed=s), gc.optim.Adam),
}


@sizes_of_steps
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_trainings_raise_nothing(name, sizes):
    """Warnings are errors in these tests."""
    make, optimizer = HEALTHY[name]
    net = make(0)
    report = watch(net, optimizer(net), gc.Monitor(7), sizes, 140)
    assert report.findings == () and report.cost["checks"] == 20


@sizes_of_steps
def test_the_onset_of_an_explosion(sizes):
    net, monitor = deep(), gc.Monitor(8, action=())
    monitor.watch(net, gc.optim.Adam(net, lr=1e-6))
    for step, batch in enumerate(batches(sizes, 90)):
        if step == 50:
            for layer in range(1, 12):
                net.parameters[f"dense{layer}.weight"][...] *= 6.0
        monitor.train_step(*batch)
    (finding,) = monitor.findings
    assert (finding.kind, finding.cause) == ("exploding", "weight_scale")
    assert 50 - 8 <= finding.healthy_until < 50 <= finding.since < 50 + 8


@sizes_of_steps
def test_a_replay_gives_the_same_bits(sizes):
    net, monitor = deep(), gc.Monitor(9, action=())
    watch(net, gc.optim.SGD(net, lr=runaway), monitor, sizes, 60)
    finding = monitor.findings[-1]
    steps = list(finding.replay())
    assert finding.kind == "non_finite" and finding.since in [step.step for step in steps]
    assert all(step.same_bits for step in steps)
    rows = list(itertools.islice(SIZES[sizes](), 60))
    assert [step.flow.batch_size for step in steps] == rows[steps[0].step : steps[-1].step + 1]


def test_a_short_last_batch_in_fit():
    """7 steps an epoch, the last of 40 rows: checks come and cost as without it."""
    net, monitor = gc.MLP([20, 24, 24, 5]), gc.Monitor(6)
    fit(net, gc.optim.SGD(net, lr=0.1), monitor, batch_size=100, epochs=6)
    assert monitor.report.history["step"].tolist() == [*range(5, 42, 6)]
    assert monitor.report.cost == {"checks": 7, "recorded_passes": 28, "analyses": 0} and monitor.findings == []


def test_a_training_too_short_for_a_check_says_so():
    net, monitor = deep(), gc.Monitor(10)
    report = watch(net, gc.optim.SGD(net, lr=0.01), monitor, "random", 5)
    assert str(report).startswith("NO CHECK COMPLETED YET") and "5 steps watched, 0 checks, 3 of" in str(report)
    assert "No check completed yet" in report._repr_html_()


# ---- what it costs ------------------------------------------------------------------------------------------------


@sizes_of_steps
def test_recorded_passes_stay_within_the_budget(sizes, monkeypatch):
    """By counting: a step costs 1 and 1 more for 32 rows, recording it half of that again, judging a check 4."""
    net = gc.MLP([20, 8, 5])
    optimizer = gc.optim.SGD(net, lr=0.01)
    monitor, share, trained, recorded = gc.Monitor(budget=0.05), 0.05, 0.0, 0.0
    count_instead_of_time(monkeypatch, lambda: trained + recorded + 4.0 * monitor._counts["checks"])
    monitor.watch(net, optimizer)
    for batch in batches(sizes, 1500):
        record = monitor.before_step(batch)
        loss, norm = net.loss_and_gradients(*batch, record=record), optimizer.step(record=record)
        price = 1.0 + len(batch[0]) / 32
        trained, recorded = trained + price, recorded + 0.5 * price * record
        monitor.after_step(loss, norm)
    cost, spent = monitor.report.cost, recorded + 4.0 * monitor._counts["checks"]
    assert cost["recorded_passes"] == 4 * cost["checks"]
    assert cost["seconds"] == pytest.approx(spent, rel=0.02)
    dearest = 4.0 + 4 * 0.5 * (1.0 + len(batch[0]) / 32)
    assert share * trained - 2 * dearest < spent <= share * trained + dearest
