"""gc.Monitor where one batch has many times the loss of another: what the data does is not blamed on the steps."""

import numpy as np
import pytest

import gradcore as gc
from gradcore import ops
from monitored import count_instead_of_time


def data(rows=2000, outliers=4, seed=0):
    """Targets that a linear net learns, except for a few outliers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 20)).astype("f4")
    y = x @ rng.standard_normal(20) / np.sqrt(20.0)
    chosen = rng.permutation(rows)[:outliers]
    y[chosen] = 30.0 * np.sign(y[chosen])
    return x, y.astype("f4")


def fit(net, optimizer, monitor, x, y, epochs=4):
    net.fit(x, y, epochs=epochs, batch_size=32, optimizer=optimizer, loss="mse", callbacks=[monitor], progress=False)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_batches_with_outliers_are_not_steps_that_are_too_large(name, seed):
    """Checks of many steps said so: the loss of the one with an outlier is far above that of the first."""
    x, y = data(seed=seed)
    net, monitor = gc.MLP([20, 32, 32, 1], seed=seed), gc.Monitor(16, batches=16, action=())
    optimizer = gc.optim.SGD(net, lr=0.01) if name == "SGD" else gc.optim.Adam(net)
    before = ops.loss(net(x), y, "mse")
    fit(net, optimizer, monitor, x, y)
    assert monitor.findings == [] and monitor.report.cost["checks"] > 10
    assert ops.loss(net(x), y, "mse") < before


def test_a_divergence_among_outliers_began_with_its_steps():
    """It was dated to the check before, which an outlier had made suspicious."""
    x, y = data()
    net, monitor = gc.MLP([20, 32, 32, 1]), gc.Monitor(16, batches=16, action=())
    fit(net, gc.optim.Adam(net, lr=lambda step: 1e-3 if step < 100 else 10.0), monitor, x, y)
    finding = monitor.findings[0]
    assert finding.kind == "exploding" and finding.since <= 100 < finding.since + 16
    assert finding.healthy_until == finding.since - 1


def test_outliers_do_not_exceed_the_budget(monkeypatch):
    """Every batch with one called for a check at any cost: up to 19 % of the training time at a budget of 1 %."""
    x, y = data(20_000, 100)
    net = gc.MLP([20, 16, 1])
    optimizer, monitor = gc.optim.Adam(net), gc.Monitor(action=())
    count_instead_of_time(monkeypatch, lambda: optimizer.step_count + 6.0 * monitor._counts["checks"])
    fit(net, optimizer, monitor, x, y)
    assert monitor.report.cost["share"] < 0.012 and monitor.report.cost["checks"] > 1


def test_saturated_units_do_not_count_while_the_loss_falls():
    """The loss of one check was compared with that of another, whose batches are easier or harder."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 20)).astype("f4")
    y = np.exp(2.0 * x @ rng.standard_normal(20) / np.sqrt(20.0))
    net, monitor = gc.MLP([20] + [48] * 4 + [1], activation="tanh"), gc.Monitor(5, action=())
    fit(net, gc.optim.Adam(net, lr=0.01), monitor, x, y)
    assert all(finding.kind == "unscaled_input" for finding in monitor.findings)


def test_data_that_changes_for_good_is_checked_at_once(monkeypatch):
    """No step has made its loss worse, so batch by batch it looks like outliers; and the budget has no check to spare."""
    x, y = data(20_000)
    net = gc.MLP([20, 16, 1])
    optimizer, monitor = gc.optim.Adam(net), gc.Monitor(action=())
    count_instead_of_time(monkeypatch, lambda: optimizer.step_count + 50.0 * monitor._counts["checks"])
    monitor.watch(net, optimizer, loss="mse")
    for step in range(400):
        rows = slice(32 * step, 32 * step + 32)
        monitor.train_step(x[rows] * (100.0 if step >= 300 else 1.0), y[rows])
    assert [f.cause for f in monitor.findings] == ["input_scale"] and 300 <= monitor.findings[0].since < 310


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_inputs_that_come_in_other_units_are_named(loss):
    """They have a higher loss in any net, the last healthy one included."""
    x, y = data()
    net = gc.MLP([20, 32, 1])
    monitor = gc.Monitor(4, action=()).watch(net, gc.optim.Adam(net), loss=loss)
    for step in range(60):
        rows = slice(32 * step, 32 * step + 32)
        monitor.train_step(x[rows] * (100.0 if step >= 30 else 1.0), y[rows])
    finding = next(f for f in monitor.findings if f.kind == "unscaled_input")
    assert finding.cause == "input_scale" and 26 <= finding.since <= 30 < finding.raised < 50
