"""Verdicts that depend on trial steps of the optimizer: vanishing under Adam, losses that jump, wrong scales."""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gc
import reference
from gradcore.analysis import Thresholds, harm, outlook, steps
from gradcore.analysis.analyze import examine, make_case, measure_and_rehearse
from gradcore.analysis.measure import Outlook, Rehearsal
from gradcore.analysis.propagation import difference
from gradcore.analysis.slope import beyond_band
from zoo_data import net_on

load_digits = pytest.importorskip("sklearn.datasets").load_digits
load_diabetes = pytest.importorskip("sklearn.datasets").load_diabetes


def first(report):
    return next(finding for finding in report.findings if finding.kind in ("vanishing", "exploding"))


def test_adam_cannot_tell_inputs_apart_that_a_deep_net_has_made_one():
    """Beside biases of 0.3 Glorot's weights are too small for tanh: what is left of the inputs is below batch noise."""
    net, x, target, how = net_on("digits", 60, 24, activation="tanh", init="glorot_normal")
    rng = np.random.default_rng(5)
    for layer in range(net.depth - 1):
        net.parameters[f"dense{layer}.bias"][...] = 0.3 * rng.standard_normal(24)
    optimizer = gc.optim.AdamW(net, lr=2e-3)
    report = gc.analyze(net, x, target, optimizer=optimizer, batch_size=32, **how)
    assert report.verdict == "vanishing" and first(report).severity == "critical"
    assert first(report).evidence["steps_to_tell_inputs_apart"] > Thresholds().learning_steps
    assert "tell inputs apart" in first(report).explanation
    losses = [net.train_step(x[rows], target[rows], optimizer).loss for rows in rng.integers(0, len(x), (600, 32))]
    assert np.mean(losses[-100:]) > 0.98 * np.log(10)  # the loss of a constant guess, after 600 steps


def test_entries_below_eps_still_make_a_step_of_adam():
    """lr g / (g + eps) for eight sigmoid layers, whose smallest entries are 3e-9 beside an eps of 1e-8."""
    net, x, target, how = net_on("digits", 8, 64, activation="sigmoid", init="lecun_uniform")
    net.parameters.flat[:] *= 3**-0.5  # the variance of 1 / (3 fan_in) that PyTorch draws
    case = make_case(net, x, target, how["loss"], gc.optim.Adam(net, lr=1e-3), 128, 8, 0)
    subject = examine(case, measure_and_rehearse(case, Thresholds(), None), Thresholds())
    assert subject.gradient_elements[0] < subject.eps and harm.rescaled(subject)
    entries = subject.updates[0] * subject.records[0].weight_norm / np.sqrt(64 * 64)
    assert entries / 1e-3 == pytest.approx(subject.smallest_adaptive_step, rel=0.3)
    plain = gc.analyze(net, x, target, **how)
    share = float(first(plain).explanation.split("the weakest by ")[1].split()[0])
    assert share == pytest.approx(subject.smallest_adaptive_step, rel=0.01)
    net.parameters["dense8.weight"][...] *= 1e-3  # and now a thousandth of that
    starved = gc.analyze(net, x, target, optimizer=gc.optim.Adam(net, lr=1e-3), **how)
    assert "moves the weights of the weakest layer by only" in first(starved).explanation


def test_adam_repairs_a_steep_profile_of_a_few_layers():
    net, x, target, how = net_on("digits", 7, 28, activation="sigmoid", init="he_uniform")
    optimizer = gc.optim.Adam(net, lr=2e-3)
    report = gc.analyze(net, x, target, optimizer=optimizer, **how)
    assert report.verdict == "healthy" and first(report).kind == "vanishing" and first(report).severity == "info"
    rng = np.random.default_rng(0)
    losses = [net.train_step(x[rows], target[rows], optimizer).loss for rows in rng.integers(0, len(x), (500, 64))]
    assert np.mean(losses[-100:]) < 0.8 * np.log(10)


def _sigmoid_net(layers, optimizer, lr, **settings):
    """A narrow sigmoid net, its optimizer, and standard normal inputs with the classes of a linear teacher."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 16)).astype("f4")
    net = gc.MLP([16] + [32] * layers + [4], activation="sigmoid")
    return net, getattr(gc.optim, optimizer)(net, lr=lr, **settings), x, (x @ rng.standard_normal((16, 4))).argmax(1)


@pytest.mark.parametrize(
    ("layers", "optimizer", "lr", "settings", "verdict"),
    [
        (8, "Adam", 1e-3, {"weight_decay": 1e-4}, "vanishing"),
        (8, "Adam", 1e-2, {"weight_decay": 1e-4}, "vanishing"),
        (8, "RMSprop", 1e-3, {"weight_decay": 1e-4}, "vanishing"),
        (8, "Adam", 1e-3, {"weight_decay": 1e-5}, "healthy"),
        (8, "AdamW", 1e-3, {"weight_decay": 0.1}, "healthy"),
        (6, "Adam", 1e-3, {"weight_decay": 1e-4}, "healthy"),
    ],
)
def test_weight_decay_may_outweigh_the_gradient_that_adam_would_follow(layers, optimizer, lr, settings, verdict):
    """At the start, the gradient has a tenth of the step; the decay shrinks the weights, and they the gradient."""
    net, optimizer, x, labels = _sigmoid_net(layers, optimizer, lr, **settings)
    report = gc.analyze(net, x, labels, optimizer=optimizer)
    finding = first(report)
    assert (report.verdict, finding.kind) == (verdict, "vanishing")
    rng, guess = np.random.default_rng(7), np.log(4.0)
    batches = rng.integers(0, len(x), (1500 if lr < 1e-2 else 400, 128))
    losses = [net.train_step(x[rows], labels[rows], optimizer).loss for rows in batches]
    if verdict == "healthy":
        assert np.mean(losses[-100:]) < 0.8 * guess
        return
    assert np.mean(losses[-100:]) > 0.97 * guess
    assert finding.severity == "critical" and finding.evidence["share_of_step"] < 0.01
    assert "adds weight decay to the gradient before it scales the sum" in finding.explanation


def test_chance_may_decide_between_gradient_and_decay(monkeypatch):
    """A race is lost if it is lost on other batches, too; what learned meanwhile has not lost it."""
    net, optimizer, x, labels = _sigmoid_net(8, "Adam", 1e-2, weight_decay=1e-4)
    case = make_case(net, x, labels, "cross_entropy", optimizer, 128, 8, 0)
    measurement = measure_and_rehearse(case, Thresholds(), None)
    subject, lost = examine(case, measurement, Thresholds()), measurement.outlook
    assert harm.decay_has_won(subject, lost) and beyond_band(lost.slope) < 0
    assert not harm.decay_has_won(subject, replace(lost, losses=np.full(64, 0.1)))
    assert not harm.decay_has_won(subject, replace(lost, adaptive_step=0.02))
    results = iter([True, False])
    monkeypatch.setattr(outlook, "decay_has_won", lambda *_: next(results))
    again = outlook.look_ahead(subject)
    assert again.losses[0] != lost.losses[0] and next(results, None) is None


def test_difference_is_the_share_that_differs_between_rows(rng):
    net = gc.MLP([3, 40, 40, 2], activation="identity", dtype="float64", bias=False)
    x = rng.standard_normal((60, 3))
    assert difference(net, np.repeat(x[:1], 5, axis=0)) == pytest.approx(0.0, abs=1e-15)
    assert difference(net, x - x.mean(axis=0)) == pytest.approx(1.0)
    common = x[0] / np.linalg.norm(x[0])
    small = 1e3 * common + (x - x.mean(axis=0)) @ (np.eye(3) - np.outer(common, common))
    assert 1e-4 < difference(net, small) < 1e-2


@pytest.mark.parametrize(
    ("peak", "later", "severity"),
    [
        (40.0, np.full(64, 0.1), "info"),  # flatter ground, and learning
        (40.0, np.full(64, 30.0), "critical"),  # thrown up for good
        (40.0, np.full(64, 1.775), "critical"),  # where it dies: at the loss of a constant guess, 1.78
        (40.0, np.array([0.1, np.nan]), "critical"),
        (200.0, np.full(64, 0.1), "info"),  # a hundredfold too, if it comes down
    ],
)
def test_a_loss_that_is_thrown_up_may_come_down_again(peak, later, severity):
    net, x, target, how = net_on("waves", 4, 64, activation="tanh")
    case = make_case(net, x, target, how["loss"], gc.optim.Adam(net, lr=1e-3), 128, 8, 0)
    measurement = measure_and_rehearse(case, Thresholds(), None)
    rehearsal = Rehearsal(1e-3, np.array([1.4, peak, 30, 20, 20, 10, 10, 5]), np.full(5, 0.1))
    slope = examine(case, measurement, Thresholds()).slope if np.isfinite(later).all() else None
    measurement = replace(measurement, rehearsal=rehearsal, outlook=Outlook(later, slope, 1.0))
    (finding,) = steps.large_steps(examine(case, measurement, Thresholds()), vanishing=False)
    assert finding.severity == severity
    assert ("below that of a constant guess" in finding.explanation) == (severity == "info")


@pytest.mark.parametrize(("later", "slower", "severity"), [
    (1.9, 0.5, "critical"),  # no better than a constant guess, 1.78
    (1.9, 1.9, None),  # slow at any rate
    (1.9, 1.72, None),  # next to nothing at a lower one
    (1.2, 0.5, "info"),  # it learns, but later than at a tenth of the rate
    (1.6, 0.5, "critical"),  # next to nothing, beside that
    (0.5, 1.2, None),
    (100.0, 1.9, "critical"),  # thrown up for good
])  # fmt: skip
def test_a_loss_that_rises_a_little_is_judged_by_what_a_lower_rate_makes_of_it(later, slower, severity):
    net, x, target, how = net_on("waves", 4, 64, activation="tanh")
    case = make_case(net, x, target, how["loss"], gc.optim.Adam(net, lr=1e-3), 128, 8, 0)
    measurement = measure_and_rehearse(case, Thresholds(), None)
    rehearsal = Rehearsal(1e-3, np.array([1.4, 4.0, 2.0, 1.5, 1.5, 1.5, 1.5, 1.5]), np.full(5, 0.1))
    slope = examine(case, measurement, Thresholds()).slope
    losses = [np.full(64, level) for level in (later, slower)]
    measurement = replace(measurement, rehearsal=rehearsal, outlook=Outlook(losses[0], slope, 1.0, slower=losses[1]))
    subject = examine(case, measurement, Thresholds())
    assert [found.severity for found in steps.large_steps(subject, vanishing=False)] == ([severity] if severity else [])
    assert steps.large_steps(subject, vanishing=True) == []
    if severity == "info":
        assert "at a tenth of this learning rate, 0.5" in steps.large_steps(subject, vanishing=False)[0].explanation


@pytest.mark.parametrize(("optimizer", "lr"), [(gc.optim.Adam, 1e-3), (gc.optim.SGD, 0.01)])
def test_a_rate_is_too_large_for_the_depth_although_no_loss_rises(optimizer, lr):
    """60 layers at a rate that shallow nets learn with: each moves little, all together move too much."""
    x, labels = load_digits(return_X_y=True)
    x = ((x - x.mean()) / x.std()).astype("f4")
    net = gc.MLP([64] + [64] * 60 + [10], normalization="rms")
    case = make_case(net, x, labels, "cross_entropy", optimizer(net, lr), 128, 8, 0)
    subject = examine(case, measure_and_rehearse(case, Thresholds(), None), Thresholds())
    assert subject.measurement.rehearsal.shift > 0.3 and subject.measurement.rehearsal.update_ratio.max() < 0.1
    report = gc.analyze(net, x, labels, optimizer=optimizer(net, lr=lr))
    assert (report.verdict, first(report).cause) == ("exploding", "learning_rate") and report.slope.inside_band
    assert "the first step changes the pre-activations of the last hidden layer by" in first(report).explanation
    lower = gc.analyze(net, x, labels, optimizer=gc.optim.Adam(net, lr=1e-4))
    assert lower.verdict == "healthy" and "exploding" not in {finding.kind for finding in lower.findings}
    shallow = gc.MLP([64, 64, 64, 64, 10], normalization="rms")
    report = gc.analyze(shallow, x, labels, optimizer=optimizer(shallow, lr=lr))
    assert report.verdict == "healthy" and "exploding" not in {finding.kind for finding in report.findings}
    losses, rng = {}, np.random.default_rng(0)
    for name, rate in (("given", optimizer(net.copy(), lr)), ("lower", gc.optim.Adam(net.copy(), 1e-4))):
        batches = rng.integers(0, len(x), (300, 128))
        losses[name] = np.mean([rate.net.train_step(x[k], labels[k], rate).loss for k in batches][-20:])
    assert losses["given"] > 0.9 * np.log(10) and losses["lower"] < 0.7 * np.log(10)


@pytest.mark.parametrize(("hidden", "share"), [(30, "hundredth"), (60, "thousandth")])
def test_a_rate_of_which_a_tenth_is_too_large_as_well(hidden, share):
    """What the first steps make of such a net no later one mends: all rows arrive as one."""
    x, labels = load_digits(return_X_y=True)
    x = x / 8 - 1
    net = gc.MLP([64] + [37] * hidden + [10], activation="gelu", normalization="layer", init="lecun_normal")

    def steps(rate, count=100):
        copy, rng = net.copy(), np.random.default_rng(0)
        optimizer = gc.optim.SGD(copy, rate, momentum=0.9)
        batches = rng.integers(0, len(x), (count, 128))
        losses = [copy.train_step(x[rows], labels[rows], optimizer).loss for rows in batches]
        return np.mean(losses[-20:]), difference(copy, x[:200])

    assert steps(0.05)[0] > 0.98 * np.log(10) and steps(0.05)[1] < 0.1 < difference(net, x[:200])
    assert steps(0.0005)[0] < 0.95 * np.log(10) and steps(0.0005)[1] > difference(net, x[:200])
    report = gc.analyze(net, x, labels, optimizer=gc.optim.SGD(net, lr=0.05, momentum=0.9))
    assert (report.verdict, first(report).cause) == ("exploding", "learning_rate") and report.slope.inside_band
    assert f"at a {share} of this learning rate" in first(report).explanation


def test_the_shift_of_a_step_is_what_the_last_hidden_layer_shows():
    net, x, target, how = net_on("digits", 3, 32, activation="tanh", normalization="batch")
    case = make_case(net, x, target, how["loss"], gc.optim.SGD(net, lr=0.05), 128, 8, 0)
    measured = measure_and_rehearse(case, Thresholds(), None).rehearsal.shift
    rows, labels = case.batch(0)
    outputs = []
    for _ in range(2):
        outputs.append(last_hidden(net, rows))
        net.train_step(rows, labels, gc.optim.SGD(net, lr=0.05))
    expected = np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0])
    assert measured == pytest.approx(expected, rel=1e-3)
    single = gc.MLP([x.shape[1], net.out_features])
    case = make_case(single, x, target, how["loss"], gc.optim.SGD(single, lr=0.05), 128, 8, 0)
    assert np.isnan(measure_and_rehearse(case, Thresholds(), None).rehearsal.shift)


def last_hidden(net, rows):
    """Its pre-activations, normalized, by the float64 reference, with the batch's own statistics."""
    twin = reference.Net(tuple(net.widths), tuple(net.activations), net.normalization, net.residual, net.bias)
    parameters = {name: np.asarray(values, dtype=np.float64) for name, values in net.parameters.items()}
    return reference.forward(twin, parameters, rows.astype(np.float64))[1][-2].y


@pytest.mark.parametrize(("hidden", "activation", "optimizer", "lr"), [
    (4, "relu", gc.optim.SGD, 1.0),  # where the units die after some hundred steps
    (16, "tanh", gc.optim.Adam, 0.05),  # weights of 0.2 that each step moves by 0.05
])  # fmt: skip
def test_a_rate_is_called_too_large_although_the_loss_falls_for_a_while(hidden, activation, optimizer, lr):
    x, labels = load_digits(return_X_y=True)
    net = gc.MLP([64, *[64] * hidden, 10], activation=activation)
    report = gc.analyze(net, x / 8 - 1, labels, optimizer=optimizer(net, lr=lr))
    assert (first(report).kind, first(report).cause) == ("exploding", "learning_rate")
    assert "at a tenth of this learning rate" in first(report).explanation
    assert gc.analyze(net, x / 8 - 1, labels, optimizer=optimizer(net, lr=lr / 50)).findings == ()


def test_small_changes_of_many_layers_are_tried_at_a_lower_rate_too():
    """26 layers, each changed by 6 % of its weights and all of them by 150 %: 600 steps learn nothing to speak of."""
    x, labels = load_digits(return_X_y=True)
    net = gc.MLP([64] + [32] * 25 + [10], activation="tanh")
    fast, slow = (gc.analyze(net, x / 8 - 1, labels, optimizer=gc.optim.Adam(net, lr=lr)) for lr in (1e-2, 1e-3))
    assert (first(fast).kind, first(fast).cause) == ("exploding", "learning_rate")
    assert "at a tenth of this learning rate" in first(fast).explanation
    assert slow.findings == ()


@pytest.mark.parametrize(
    ("source", "hidden", "width", "verdict"),
    [("digits", 4, 48, "healthy"), ("waves", 6, 32, "healthy"), ("diabetes", 6, 32, "exploding")],
)
def test_weights_twice_too_large_are_named_even_where_adam_lives_with_them(source, hidden, width, verdict):
    net, x, target, how = net_on(source, hidden, width, init="he_normal")
    net.parameters.flat[:] *= 2.0
    report = gc.analyze(net, x, target, optimizer=gc.optim.Adam(net, lr=1e-3), **how)
    assert report.verdict == verdict and first(report).kind == "exploding" and first(report).cause == "weight_scale"
    assert (first(report).severity == "info") == (verdict == "healthy")
    assert report.slope.inside_band  # of the gradient: it is the forward pass that explodes


def test_targets_that_adam_does_not_reach():
    """The disease scores of the diabetes data as they come: 171 in root mean square, at 0.001 a step."""
    x, y = (values.astype("f4") for values in load_diabetes(return_X_y=True))
    net = gc.MLP([10, *[32] * 20, 1], activation="tanh")
    report = gc.analyze(net, x, y, loss="mse", optimizer=gc.optim.Adam(net, lr=1e-3))
    assert report.verdict == "exploding" and first(report).cause == "target_scale"
    assert first(report).evidence["later_loss"] > first(report).evidence["constant_guess"]


def test_an_outlook_leaves_the_net_and_its_optimizer_as_they_were():
    net, x, target, how = net_on("digits", 7, 28, activation="sigmoid", init="he_uniform")
    optimizer = gc.optim.Adam(net, lr=2e-3)
    before = net.parameters.flat.copy()
    steps = []
    gc.analyze(net, x, target, optimizer=optimizer, progress=lambda done, total, what: steps.append(what), **how)
    assert "trying steps" in steps and np.array_equal(net.parameters.flat, before)
    assert optimizer.state_dict()["step_count"] == 0


def test_a_rate_too_small_to_write_the_weights_anew_is_not_judged_by_it():
    net, x, target, how = net_on("digits", 7, 28, activation="sigmoid", init="he_uniform")
    case = make_case(net, x, target, how["loss"], gc.optim.Adam(net, lr=1e-6), 128, 8, 0)
    measurement = measure_and_rehearse(case, Thresholds(), None)
    assert measurement.outlook is None and harm.steps_to_tell_apart(examine(case, measurement, Thresholds())) == 0.0


@pytest.mark.parametrize(("loss", "target", "guess"), [
    ("cross_entropy", np.array([0, 0, 0, 1]), 0.5623351446188083),  # entropy of (3/4, 1/4)
    ("cross_entropy", np.tile([0.5, 0.5, 0.0], (4, 1)), np.log(2)),
    ("binary_cross_entropy", np.array([[0.0], [0.0], [0.0], [1.0]]), 0.5623351446188083),
    ("mse", np.array([[1.0], [1.0], [3.0], [3.0]]), 1.0),
    ("mae", np.array([[1.0], [1.0], [1.0], [5.0]]), 1.0),
    ("huber", np.array([[0.0], [0.0], [4.0], [4.0]]), 1.5),
    ("huber", np.array([[0.0], [0.0], [0.0], [100.0]]), 24.833333),  # at 1/3, not at the mean
])  # fmt: skip
def test_the_loss_of_a_constant_guess(loss, target, guess, rng):
    outputs = 1 if target.ndim == 2 and target.shape[1] == 1 else 3
    net = gc.MLP([4, 8, 8, outputs])
    x = rng.standard_normal((4, 4)).astype("f4")
    case = make_case(net, x, target if target.dtype.kind == "i" else target.astype("f4"), loss, None, 4, 1, 0)
    assert case.constant_loss == pytest.approx(guess)


def test_a_loss_that_comes_down_slowly_is_given_time():
    """Adam at 0.17 throws the loss up 38-fold; it has learned after more than the first 64 steps."""
    from zoo_held_out import HeldOut, design_of

    net, x, target, how = HeldOut("", "healthy", (), design_of(5173)).make()
    case = make_case(net, x, target, how["loss"], how["optimizer"], how["batch_size"], 8, how["seed"])
    measurement = measure_and_rehearse(case, Thresholds(), None)
    assert len(measurement.outlook.losses) > 64
    assert gc.analyze(net, x, target, **how).verdict == "healthy"


@pytest.mark.parametrize(("rate", "cause"), [(0.02, "input_scale"), (30.0, "learning_rate")])
def test_data_is_to_blame_where_steps_on_scaled_data_are_fine(rate, cause):
    net, x, target, how = net_on("digits", 4, 48, activation="relu")
    report = gc.analyze(net, 100.0 * x, target, optimizer=gc.optim.SGD(net, lr=rate), **how)
    assert report.verdict == "exploding" and first(report).cause == cause


@pytest.mark.parametrize(("activation", "rate", "verdict"), [
    ("tanh", {"lr": 1.0}, "exploding"),  # 17 after seven steps, 50 after twenty
    ("relu", {"lr": 0.5, "momentum": 0.99}, "exploding"),
    ("tanh", {"lr": 0.3}, "healthy"),
    ("relu", {"lr": 0.3}, "healthy"),
])  # fmt: skip
def test_a_rate_that_diverges_later_than_it_was_rehearsed_is_found(activation, rate, verdict):
    pixels, labels = load_digits(return_X_y=True)
    net = gc.MLP([64, 128, 128, 128, 128, 10], activation=activation)
    report = gc.analyze(net, pixels / 8.0 - 1.0, labels, optimizer=gc.optim.SGD(net, **rate))
    assert report.verdict == verdict
    assert verdict == "healthy" or first(report).cause == "learning_rate"


def test_steps_that_replace_weights_are_judged_by_what_more_of_them_learn():
    """A layer that starts small is replaced by a good step; at a rate of 0.5 nothing is learned afterwards."""
    for rate, verdict in ((3e-3, "healthy"), (0.5, "exploding")):
        net, x, target, how = net_on("digits", 3, 48)
        net.parameters["dense3.weight"][...] *= 1e-2
        report = gc.analyze(net, x, target, optimizer=gc.optim.Adam(net, lr=rate), **how)
        assert report.verdict == verdict


def test_targets_that_every_step_replaces_the_weights_for_are_found_without_an_optimizer(rng):
    x = rng.standard_normal((1000, 20)).astype("f4")
    report = gc.analyze(gc.MLP([20, 64, 64, 64, 1], activation="tanh"), x, 1e5 * x[:, :1], loss="mse")
    assert report.verdict == "exploding" and first(report).cause == "target_scale"


def test_a_constant_target_has_nothing_that_could_be_missed(rng):
    """The constant guess has no loss then, and nothing is a multiple of it."""
    x, target = rng.standard_normal((500, 20)).astype("f4"), np.full((500, 1), 3.0, "f4")
    net = gc.MLP([20, 32, 32, 32, 1])
    optimizer = gc.optim.Adam(net, lr=1e-3)
    net.fit(x, target, epochs=30, batch_size=64, optimizer=optimizer, loss="mse", progress=False)
    assert gc.analyze(net, x, target, loss="mse", optimizer=optimizer).verdict == "healthy"


def with_outliers(where):
    """A regression of which a few rows lie far out."""
    from sklearn.datasets import make_regression

    if where == "target":
        x, y = make_regression(500, 10, random_state=0)
        y[:5] *= 1000.0
    else:
        x = np.random.default_rng(0).standard_normal((3000, 20))
        y = x[:, 0].copy()
        x[:3] *= 1e4
    return x.astype("f4"), y.astype("f4")


@pytest.mark.parametrize(("where", "loss"), [("target", "huber"), ("target", "mae"), ("x", "mse")])
def test_batches_with_outliers_are_no_steps_that_undo_what_was_learned(where, loss):
    """The loss of a batch goes up and down with the outliers in it, whatever the steps do."""
    x, y = with_outliers(where)
    net = gc.MLP([x.shape[1], 64, 64, 64, 64, 1])
    report = gc.analyze(net, x, y, loss=loss, optimizer=gc.optim.Adam(net, lr=1e-3))
    assert not any("too large" in finding.explanation for finding in report.findings), report.findings


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_steps_are_compared_with_their_own_batches(normalization):
    """Ten steps at momentum 0.9: eight on the measured batches, two on others."""
    x, y = with_outliers("target")
    net = gc.MLP([10, 16, 1], normalization=normalization)
    case = make_case(net, x, y, "huber", gc.optim.SGD(net, lr=1e-9, momentum=0.9), 64, 5, 0)
    rehearsal = measure_and_rehearse(case, Thresholds(), None).rehearsal
    assert rehearsal.before.shape == rehearsal.losses.shape == (10,)
    assert rehearsal.before.max() > 10 * rehearsal.before.min()
    np.testing.assert_allclose(rehearsal.before, rehearsal.losses, rtol=1e-4)
    assert rehearsal.before[0] == rehearsal.losses[0]


def test_a_loss_below_that_of_a_guess_is_not_called_no_better():
    """Losses of 0.4 and 1.4 times that of a guess: 0.9 in the mean, and too few to be sure of it."""
    x, y = (values.astype("f4") for values in load_diabetes(return_X_y=True))
    net = gc.MLP([10, 32, 1])
    case = make_case(net, x, y, "mse", gc.optim.Adam(net, lr=1e-3), 128, 8, 0)
    measurement = measure_and_rehearse(case, Thresholds(), None)
    later = case.constant_loss * np.tile([0.4, 1.4], 8)
    subject = examine(case, replace(measurement, outlook=Outlook(later, None, 1.0)), Thresholds())
    (finding,) = steps.scale_to_unlearn(subject, explained=False)
    assert finding.severity == "warning"
    assert "not clearly below that: little about the data is learned" in finding.explanation


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_what_is_learned_shows_beside_outliers(loss):
    """Log-normal targets, of which a few rows make up most of the loss: it falls to 0.5 of a constant guess and less."""
    x = np.random.default_rng(0).standard_normal((3000, 20)).astype("f4")
    y = np.exp(3.0 * x[:, 0])
    net = gc.MLP([20, 64, 64, 64, 64, 1])
    optimizer = gc.optim.Adam(net, lr=1e-3)
    report = gc.analyze(net, x, y, loss=loss, optimizer=optimizer)
    assert report.verdict == "healthy", report.findings
    later = next(found for found in report.findings if found.kind == "exploding").evidence
    for _ in range(later["steps"] * 3 // 4):  # the mean of the second half is about the loss then
        rows = np.random.default_rng(optimizer.step_count).choice(3000, 128, replace=False)
        net.train_step(x[rows], y[rows], optimizer, loss=loss)
    assert later["later_loss"] == pytest.approx(net.loss(x, y, loss), rel=0.1)


def test_losses_are_levelled_by_what_they_share_with_a_guess():
    x, y = with_outliers("target")
    net = gc.MLP([10, 8, 1])
    case = make_case(net, x, y, "mae", gc.optim.Adam(net), 64, 8, 0)
    rows = np.random.default_rng(1).permutation(500).reshape(10, 50)
    guesses = case.constant_losses[rows].mean(axis=1)
    assert guesses.mean() == pytest.approx(case.constant_loss) and guesses.std() > guesses.mean()
    untrained = outlook._levelled(case, np.array([0.9 * guesses, guesses]))
    np.testing.assert_allclose(untrained, 0.9 * case.constant_loss)
    level = np.full(10, 0.1 * case.constant_loss)  # all rows learned alike
    np.testing.assert_allclose(outlook._levelled(case, np.array([level, guesses])), level)


def test_steps_that_close_a_layer_are_too_large():
    """All of four trainings of this net end at the loss of a constant guess: after eight steps, both units are dead."""
    x, labels = load_digits(return_X_y=True)
    net = gc.MLP([64, 2, 2, 10], seed=34)
    report = gc.analyze(net, x / 8.0 - 1.0, labels, optimizer=gc.optim.SGD(net, lr=0.1))
    (finding,) = report.findings
    assert (report.verdict, finding.kind, finding.cause) == ("exploding", "exploding", "learning_rate")
    assert "after 8 steps, all 2 units of layer 1 output zero for every row, so nothing" in finding.explanation
    assert gc.analyze(net, x / 8.0 - 1.0, labels, optimizer=gc.optim.SGD(net, lr=0.01)).verdict == "healthy"


@pytest.mark.parametrize("dead", [1, 0])
def test_a_layer_that_is_closed_from_the_start_is_no_matter_of_steps(dead):
    x, labels = load_digits(return_X_y=True)
    net = gc.MLP([64, 1, 1, 10])
    net.parameters[f"dense{dead}.bias"][:] = -1e3
    report = gc.analyze(net, x / 8.0 - 1.0, labels, optimizer=gc.optim.SGD(net, lr=0.1))
    (finding,) = (f for f in report.findings if f.severity == "critical")
    assert finding.kind == "zero_gradient"
    assert f"The only unit of layer {dead} outputs zero for every row, so nothing passes" in finding.explanation
    assert "a layer of 1 ReLU unit with probability 2^-1" in finding.explanation
