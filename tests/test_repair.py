"""gc.repair returns cured nets, with evidence that an independent analysis and training confirm."""

import json
import math
import pickle

import numpy as np
import pytest

import gradcore as gc
from nets import assert_same_bits, copies
from sick import LABELS, X, sick_net

QUICK = {"steps": 40, "seeds": 2}


@pytest.fixture(scope="module")
def cure():
    net = sick_net()
    kept = copies(net.parameters)
    found = gc.repair(net, X, LABELS, limit=3, **QUICK)
    assert_same_bits(net.parameters, kept)
    return found


def test_a_sick_net_is_cured(cure):
    assert cure.cured and cure.before.verdict == "vanishing" and cure.after.verdict == "healthy"
    assert len(cure.remedies) == 1 and cure.remedies[0].confidence[0] > 0
    assert gc.analyze(cure.net, X, LABELS).verdict == "healthy"
    assert cure.optimizer is None


def test_the_cured_net_learns_what_the_sick_one_does_not(cure):
    """With rows and an order that the trials did not use."""
    losses = []
    for net in (sick_net(), cure.net.copy()):
        optimizer = gc.optim.SGD(net, lr=0.05)
        history = net.fit(
            *cure.prepare(X, LABELS), epochs=10, batch_size=64, optimizer=optimizer, progress=False, seed=99
        )
        losses.append(history["loss"][-1])
    assert losses[1] < 0.7 * losses[0]


def test_it_tells_what_it_did_to_people_and_to_programs(cure):
    text = str(cure)
    assert "cured" in text.splitlines()[0] and cure.remedies[0].name in text and "Remedies, tried" in text
    assert text.index("before: ") < text.index("Towards the input") < text.index("after: ")  # it is of the net before
    record = json.loads(cure.to_json())
    assert record["cured"] is True and record["after"]["verdict"] == "healthy"
    assert record["remedies"][0]["effect"] == cure.remedies[0].effect
    assert record["net"]["widths"] == list(cure.net.widths)
    assert "vanishing -> healthy" in repr(cure)


def test_it_can_be_pickled_with_its_reports_and_remedies(cure):
    """So it comes back from another process, and may be applied there."""
    other = pickle.loads(pickle.dumps(cure))
    assert other.to_json() == cure.to_json() and str(other) == str(cure)
    for there, here in zip(other.before.tried, cure.before.tried, strict=True):
        assert_same_bits(there.apply().parameters, copies(here.apply().parameters))
        np.testing.assert_equal(there.prepare(X, LABELS), here.prepare(X, LABELS))


def test_a_healthy_net_stays_as_it_is():
    sound = gc.MLP([20, 30, 5])
    optimizer = gc.optim.Adam(sound, lr=1e-3)
    cure = gc.repair(sound, X, LABELS, optimizer=optimizer)
    assert cure.cured and cure.remedies == () and cure.after is cure.before
    assert cure.net is not sound
    assert_same_bits(cure.net.parameters, copies(sound.parameters))
    assert cure.optimizer.net is cure.net and cure.optimizer.lr == optimizer.lr
    assert "no gradients to repair" in str(cure) and "Findings" not in str(cure)


def test_what_a_repair_leaves_is_told():
    sound = gc.repair(gc.MLP([20, 30, 5]), 30.0 * X, LABELS)
    assert sound.cured and sound.remedies == ()
    assert str(sound).startswith("Healthy gradients, with warnings: no gradients to repair")
    assert "warning: unscaled input" in str(sound)


def test_too_high_a_learning_rate_gives_an_optimizer_with_a_lower_one():
    net = gc.MLP([20, 40, 40, 1])
    optimizer = gc.optim.SGD(net, lr=30.0, momentum=0.5)
    cure = gc.repair(net, X, X[:, :1], loss="mse", optimizer=optimizer, limit=1, **QUICK)
    assert cure.cured and 0 < cure.training["lr"] < 1.0
    assert cure.optimizer.lr == cure.training["lr"] and cure.optimizer.hyperparameters["momentum"] == 0.5
    assert_same_bits(cure.net.parameters, copies(net.parameters))
    losses = [cure.net.train_step(X, X[:, :1], cure.optimizer, loss="mse").loss for _ in range(30)]
    assert losses[-1] < losses[0]


def test_targets_in_large_units_are_standardized_and_restored():
    x, y = 300 * X + 1000, (1e4 * X[:, :1] - 500).astype("f4")
    net = gc.MLP([20, 40, 40, 1])
    cure = gc.repair(net, x, y, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01), **QUICK)
    assert cure.cured and cure.remedies[0].after.loss == min(r.after.loss for r in cure.before.tried if r.helps)
    prepared, targets = cure.prepare(x, y)
    assert math.isclose(prepared.std(), 1, rel_tol=0.1) and math.isclose(targets.std(), 1, rel_tol=0.1)
    np.testing.assert_allclose(cure.restore(targets), y, rtol=1e-3, atol=1)


def test_whole_numbers_are_standardized_too():
    """Pixels and counts: inputs came back cut to whole numbers, and targets as they were, which `restore` then scaled."""
    x, y = np.round(300 * X + 1000).astype(int), np.round(1e4 * X[:, 0]).astype(int)
    net = gc.MLP([20, 40, 40, 1])
    cure = gc.repair(net, x, y, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01), **QUICK)
    assert any(remedy.change.get("standardize") == ["inputs", "targets"] for remedy in cure.remedies)
    whole, floats = cure.prepare(x, y), cure.prepare(x.astype(float), y.astype(float))
    for got, expected in zip(whole, floats, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert abs(got.mean()) < 1e-6 and abs(got.std() - 1) < 1e-6
    np.testing.assert_allclose(cure.restore(whole[1]), y, rtol=1e-6, atol=1e-6)
    assert cure.prepare(x.astype("i2"), y)[0].dtype == np.float32
    for columns, name, data in ((20, "x", (x[:, :3], y)), (1, "target", (x, np.stack([y, y], axis=1)))):
        with pytest.raises(ValueError, match=f"{name}: expected {columns} columns as in the data analysed, got shape"):
            cure.prepare(*data)


def test_a_net_that_nothing_helps_is_said_not_to_be_cured():
    """Labels without any relation to the inputs: every remedy trains to the same loss."""
    labels = np.random.default_rng(1).integers(0, 5, len(X))
    cure = gc.repair(sick_net(), X, labels, limit=2, **QUICK)
    assert not cure.cured and cure.remedies == () and cure.after is cure.before
    assert "not cured" in str(cure) and repr(cure) == "<Repair: vanishing, nothing changed>"
    assert [remedy.helps for remedy in cure.before.tried] == [False, False]


def test_an_interrupted_analysis_ends_the_repair():
    seen = []

    def stop(done, total, what):
        seen.append(what)
        if done == 2:
            raise KeyboardInterrupt

    cure = gc.repair(sick_net(), X, LABELS, progress=stop)
    assert seen == ["measuring gradients"] * 3
    assert not cure.cured and cure.before.conditions["interrupted"] and cure.before.tried == ()
    assert "not cured, no remedy was tried" in str(cure)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="rounds: expected a whole number >= 1"):
        gc.repair(sick_net(), X, LABELS, rounds=0)
    with pytest.raises(TypeError, match=r"net: expected a gradcore\.MLP"):
        gc.repair("net", X, LABELS)
    with pytest.raises(TypeError, match="stepz"):
        gc.repair(sick_net(), X, LABELS, stepz=3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": 0}, ValueError),
        ({"steps": 2.5}, TypeError),
        ({"seeds": 1}, ValueError),
        ({"limit": -1}, ValueError),
        ({"limit": "a"}, TypeError),
        ({"pairs": -1}, ValueError),
        ({"seconds": -1}, ValueError),
        ({"seconds": math.nan}, ValueError),
        ({"verify": "no"}, TypeError),
        ({"progress": 1}, TypeError),
    ],
    ids=str,
)
def test_options_of_trials_are_checked_before_anything_is_measured(options, error):
    """Also where the net turns out healthy, and no trial is needed."""
    message = f"^{next(iter(options))}: expected "
    with pytest.raises(error, match=message):
        gc.analyze(sick_net(), X, LABELS).remedies(**options)
    with pytest.raises(error, match=message):
        gc.repair(gc.MLP([X.shape[1], 8, int(LABELS.max()) + 1]), X, LABELS, **options)
