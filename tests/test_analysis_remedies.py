"""Remedies: proposed from the cause, tried on the data, applied; those that do not help are listed as such."""

import dataclasses
import math

import numpy as np
import pytest

import gradcore as gc
from gradcore.analysis import Thresholds, trials
from gradcore.analysis.candidates import Candidate, Preparation, combined, lower_learning_rate, yardstick
from gradcore.analysis.trials import Trial, effects
from gradcore.analysis.verification import Verification
from sick import LABELS, X, sick_net


@pytest.fixture(scope="module")
def report():
    report = gc.analyze(sick_net(), X, LABELS)
    report.remedies(steps=40, seeds=3)
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
    again = gc.analyze(sick_net(), X, LABELS).remedies(steps=40, seeds=3, limit=2, pairs=0)
    by_name = {remedy.name: remedy for remedy in report.tried}
    for remedy in again:
        assert by_name[remedy.name].effect == remedy.effect
        assert by_name[remedy.name].after.loss == remedy.after.loss


def test_the_depth_that_the_design_can_carry_is_proposed(report):
    shallower = next(remedy for remedy in report.tried if remedy.name.endswith(" layers"))
    assert len(shallower.change["widths"]) - 1 == 4  # 1 + ln(100^2) / 2.89


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_fewer_layers_keep_their_weights(normalization):
    """What this slope lets a net carry says nothing of other weights, least of all of such as have a better one."""
    net = gc.MLP([20] + [40] * 20 + [5], activation="tanh", normalization=normalization)
    for name, values in net.parameters.items():
        values *= 0.5 if name.startswith("dense") else 1.0 + np.arange(len(values))
    change = {"widths": [20, 40, 40, 5], "activation": ["tanh", "tanh"]}
    short = Candidate("3 layers", "", change, weights="kept").build(gc.analyze(net, X, LABELS)._case)
    for tensors, own in ((short.parameters, net.parameters), (short.buffers, net.buffers)):
        for name, values in tensors.items():
            np.testing.assert_array_equal(values, own[name.replace("dense2", "dense20")])


def test_unverified_remedies_come_untried():
    report = gc.analyze(sick_net(), X, LABELS)
    remedies = report.remedies(verify=False)
    assert remedies and all(remedy.helps is None and remedy.after is None for remedy in remedies)
    assert math.isnan(remedies[0].effect)
    assert remedies[0].apply().widths[0] == 20


def test_a_healthy_net_needs_none():
    report = gc.analyze(gc.MLP([20, 30, 30, 5]), X, LABELS)
    assert report.remedies() == []


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
    remedies = report.remedies(steps=30, limit=2, pairs=0)
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
    def ending_at(*losses):
        return [Trial(1.0, loss, math.nan, 0.0) for loss in losses]

    found = effects(ending_at(2.0, 2.0, math.inf, 1.0, math.inf), ending_at(1.0, 2.5, 1.0, math.inf, math.inf))
    np.testing.assert_allclose(found, [0.5, -0.25, 1.0, -1.0, 0.0])


# ---- what a trial is fair about ------------------------------------------------------------------


def test_layers_too_narrow_for_their_depth_are_made_wider():
    net = gc.MLP([20] + [2] * 30 + [5], seed=3)
    report = gc.analyze(net, X, LABELS)
    assert report.findings[0].cause == "narrow_layer"
    wider = report.remedies(verify=False)[0]
    width = wider.change["widths"][1]
    # M.6: the typical fall, 31 * 5 / (2 width), is at most ln 100; 31 * 2^-width at most 0.1 %
    assert wider.name == f"layers of {width} units" and width - 8 < max(31 * 2.5 / math.log(100), 15) <= width
    assert gc.analyze(wider.apply(), X, LABELS).verdict == "healthy"


def test_standardizing_takes_its_moments_from_all_rows():
    x = np.concatenate([X, np.full((1, 20), 1e6, dtype="f4")])
    report = gc.analyze(gc.MLP([20, 30, 5]), 100 * x[:-1], LABELS, batch_size=16, batches=2)
    assert report.conditions["batches"] * report.conditions["batch_size"] < len(X)
    case = report._case
    prepared, _ = Preparation.of(Candidate("", "", inputs=True), case).apply(case.x, case.target)
    np.testing.assert_allclose(prepared.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(prepared.std(axis=0), 1, atol=1e-5)


def test_a_softmax_over_one_output_is_compared_under_the_loss_it_was_meant_for():
    labels = (X[:, 0] > 0).astype(int)
    report = gc.analyze(gc.MLP([20, 30, 1]), X, labels)
    assert report.findings[0].cause == "loss_output"
    tried = {remedy.name: remedy for remedy in report.remedies(steps=40)}
    assert set(tried) == {"two outputs", "binary cross entropy"}
    for remedy in tried.values():
        # an untrained logit: about ln 2, and no better than guessing
        assert remedy.helps and 0.5 < remedy.before.loss < 1.5 and remedy.before.accuracy < 0.75
        assert remedy.after.accuracy > 0.85
    assert tried["binary cross entropy"].change == {"loss": "binary_cross_entropy"}
    assert tried["two outputs"].apply().out_features == 2


@pytest.mark.parametrize("labels", [np.array([0, 1, -1]), np.array([[0], [1], [1]])])
def test_labels_of_one_output_are_taken_as_they_are(labels):
    x = X[:3]
    if labels.min() < 0:
        with pytest.raises(ValueError, match=r"target\[2\]"):
            gc.analyze(gc.MLP([20, 8, 1]), x, labels)
    else:
        assert gc.analyze(gc.MLP([20, 8, 1]), x, labels).findings[0].kind == "loss_output_mismatch"


def test_the_time_of_a_step_counts_only_steps_that_were_taken():
    """A training that breaks off at once takes one step of many: its price must not look like a fraction of one."""
    net = gc.MLP([20] + [256] * 6 + [5])
    case = gc.analyze(net, X, LABELS, optimizer=gc.optim.SGD(net, lr=1e30))._case
    split = trials.split_rows(len(X), 0)
    few, many = (trials.train(trials.Contestant(case), split, steps=steps, seed=0, lr=None) for steps in (20, 2000))
    assert few.diverged and many.diverged
    assert many.seconds_per_step > few.seconds_per_step / 10  # the share of steps taken would make it 1 / 100


def test_a_remedy_is_not_judged_by_a_rate_at_which_it_diverges():
    """A sigmoid net at lr 20, far too fast for any net: other activations get a lower rate with them."""
    net = sick_net()
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.SGD(net, lr=20.0))
    selu = Candidate("selu", "", {"activation": "selu", "init": "auto"})
    tried = Verification(report, report._case, Thresholds(), steps=20, seeds=2).verified(selu)
    assert tried.remedy.helps
    assert 0 < tried.remedy.change["training"]["lr"] < 2.0 and "learning rate" in tried.remedy.name


def test_the_best_remedy_is_trained_on(report):
    best = report.tried[0]
    assert "trained for 200 steps" in best.note
    assert not any("stays stable when trained" in remedy.note for remedy in report.tried[1:] if remedy.helps)


def test_a_remedy_that_diverges_when_trained_on_does_not_help(monkeypatch):
    """Late instability: the best candidate breaks off after 100 steps, the trials take 30."""
    train = trials.train

    def late(contestant, split, *, steps, seed, lr):
        trial = train(contestant, split, steps=min(steps, 30), seed=seed, lr=lr)
        broken = steps > 100 and contestant.candidate.name == first
        return dataclasses.replace(trial, loss=math.inf) if broken else trial

    report = gc.analyze(sick_net(), X, LABELS)
    first = report.remedies(steps=30, seeds=2, limit=3, pairs=0)[0].name
    monkeypatch.setattr(trials, "train", late)
    tried = report.remedies(steps=30, seeds=2, limit=3, pairs=0)
    broken = next(remedy for remedy in tried if remedy.name == first)
    assert broken.helps is False and "diverges when trained for" in broken.note
    assert tried[0].helps and tried[0].name != first


# ---- pairs -----------------------------------------------------------------------------------------


def test_a_pair_of_the_best_is_tried(report):
    singles = {remedy.name for remedy in gc.analyze(sick_net(), X, LABELS).remedies(verify=False)}
    pairs = [remedy for remedy in report.tried if remedy.name not in singles]
    assert len(pairs) == 1
    parts = [name for name in singles if name in pairs[0].name]
    assert len(parts) >= 2
    assert math.isfinite(pairs[0].effect) and pairs[0].cost["time_per_step"] > 0


def test_pairs_that_contradict_each_other_are_none():
    relu, selu = (Candidate(name, "", {"activation": name, "init": "auto"}) for name in ("relu", "selu"))
    layer = Candidate("layer norm", "", {"normalization": "layer", "init": "auto"})
    orthogonal = Candidate("orthogonal", "", {"init": "orthogonal"})
    rescaled = Candidate("rescaled", "", weights="rescaled")
    fewer = Candidate("3 layers", "", {"widths": [20, 30, 30, 5]}, weights="kept")
    slow, slower = (Candidate(f"lr {lr}", "", training={"lr": lr}) for lr in (0.1, 0.01))
    assert combined(relu, selu) is None
    assert combined(rescaled, layer) is None and combined(layer, rescaled) is None
    assert combined(slow, slower) is None
    wider = Candidate("two outputs", "", {"widths": [20, 30, 2]})
    logit = Candidate("binary cross entropy", "", loss="binary_cross_entropy")
    assert combined(wider, logit) is None and combined(logit, wider) is None
    assert combined(logit, layer).change() == {**layer.change(), "loss": "binary_cross_entropy"}
    assert combined(relu, layer).net == {"activation": "relu", "normalization": "layer", "init": "auto"}
    assert combined(layer, orthogonal).net["init"] == "orthogonal"
    assert combined(fewer, slow).weights == "kept" and combined(rescaled, fewer) is None
    for other in (layer, Candidate("lsuv", "", weights="lsuv")):  # makes weights of its own
        assert combined(fewer, other).weights == combined(other, fewer).weights == other.weights
    assert combined(rescaled, slow).change() == {"weights": "rescaled", "training": {"lr": 0.1}}


def drawn_small(shape, rng):
    return 0.5 / np.sqrt(shape[1]) * rng.standard_normal(shape)


@pytest.mark.parametrize(
    ("widths", "names"), [([20] + [40] * 20 + [5], {"7 layers", "LSUV initialization"}), ([20, 30, 1], {"two outputs"})]
)
def test_a_net_whose_init_function_no_file_holds_keeps_its_remedies(widths, names, tmp_path):
    labels = LABELS if widths[-1] > 1 else LABELS // 3
    net = gc.MLP(widths, activation="tanh", init=drawn_small)
    net.save(tmp_path / "net")
    own, loaded = (
        {remedy.name: remedy for remedy in gc.analyze(each, X, labels).remedies(verify=False, limit=20)}
        for each in (net, gc.load(tmp_path / "net"))
    )
    assert list(own) == list(loaded) and names <= set(own)
    for name, remedy in loaded.items():
        drawn = remedy.apply().config["init"]
        if remedy.change.get("weights") == "kept":
            assert remedy.change == own[name].change and drawn == "custom"
        elif name in names:  # the change says what it takes in place of the function
            assert "init" not in own[name].change and own[name].apply().config["init"] is drawn_small
            assert remedy.change == {**own[name].change, "init": "auto"} and "is not known" in remedy.note
            assert drawn == "auto"
        else:
            assert remedy.change == own[name].change
            assert drawn == remedy.change.get("init", "custom")


def test_a_candidate_that_cannot_be_made_says_so():
    """LSUV of relu layers of width 3: over 30 of them one is constant on this data."""
    report = gc.analyze(gc.MLP([20] + [3] * 30 + [5]), X, LABELS)
    lsuv = Candidate("lsuv", "", {}, "lsuv")
    tried = Verification(report, report._case, Thresholds(), steps=2, seeds=2).verified(lsuv).remedy
    assert tried.helps is False and "could not be built: x: expected pre-activations that vary" in tried.note


# ---- a change, and the lower rate that comes with it ---------------------------------------------------


def entropy_of_labels():
    shares = np.bincount(LABELS) / len(LABELS)
    return -np.sum(shares * np.log(shares))


def too_fast(lr):
    """A healthy relu net under a rate at which it diverges."""
    net = gc.MLP([20, 40, 40, 5])
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.SGD(net, lr=lr))
    assert report.findings[0].cause == "learning_rate"
    return report


@pytest.mark.parametrize(("lr", "helps"), [(1e-6, False), (0.1, True)])
def test_beside_a_net_that_diverges_a_remedy_has_to_learn(lr, helps):
    """At 1e-6 the loss stays finite, and comes down by less than there is above that of a constant guess."""
    report = too_fast(1000.0)
    verification = Verification(report, report._case, Thresholds(), steps=40, seeds=2)
    tried = verification.verified(lower_learning_rate(lr)).remedy
    assert tried.effect > 0.9 and tried.after.verdict == "healthy" and tried.after.loss < tried.after.start_loss
    assert tried.helps == helps == (tried.after.loss < entropy_of_labels())
    assert ("learns nothing: a constant guess has a loss of 1.52" in tried.note) is not helps


def test_a_change_is_not_credited_with_what_its_lower_rate_does():
    report = too_fast(1000.0)
    verification = Verification(report, report._case, Thresholds(), steps=40, seeds=3)
    leaky = Candidate("leaky", "", {"activation": "leaky_relu", "init": "auto"})
    tried = verification.verified(leaky).remedy
    lr = tried.change["training"]["lr"]
    assert lr < 1000.0 and tried.effect > 0.9  # the net as it is diverges, so that all of its loss is gone
    assert tried.helps is False and f"compared with learning rate {lr:g} alone" in tried.note
    (alone,) = verification.yardsticks
    assert alone.remedy.helps and alone.remedy.change == {"training": {"lr": lr}}
    assert abs(alone.remedy.after.loss / tried.after.loss - 1) < 0.25


def test_the_rate_that_a_change_needs_is_listed_by_itself():
    net = sick_net()
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.SGD(net, lr=20.0))
    tried = {remedy.name: remedy for remedy in report.remedies(steps=20, seeds=2, limit=3, pairs=0)}
    best = next(remedy for name, remedy in tried.items() if name.startswith("selu activation, learning rate"))
    alone = tried[best.name.removeprefix("selu activation, ")]
    assert best.helps and best.change["training"] == alone.change["training"]
    assert alone.helps is False and alone.change.keys() == {"training"}
    assert len(tried) == 4


def test_a_change_is_not_credited_with_what_standardizing_does():
    """A relu net on inputs of 300 and more: leaky units are no better than relu once the inputs have unit scale."""
    x = 300 * X + 1000
    net = gc.MLP([20, 40, 40, 5])
    report = gc.analyze(net, x, LABELS, optimizer=gc.optim.SGD(net, lr=0.05))
    verification = Verification(report, report._case, Thresholds(), steps=40, seeds=3)
    leaky = Candidate("leaky", "", {"activation": "leaky_relu", "init": "auto"}, inputs=True)
    tried = verification.verified(leaky).remedy
    assert tried.effect > 0.5 and tried.helps is False
    assert "compared with standardized inputs alone" in tried.note
    (alone,) = verification.yardsticks
    assert alone.remedy.helps and alone.remedy.change == {"standardize": ["inputs"]}


def test_a_lower_rate_is_a_yardstick_for_standardizing():
    rate, data = lower_learning_rate(0.1), Candidate("data", "", targets=True)
    both = combined(rate, data)
    assert yardstick(rate) is None and yardstick(data) is None
    assert yardstick(both).change() == rate.change()
    relu = Candidate("relu", "", {"activation": "relu"})
    assert yardstick(relu) is None and yardstick(combined(relu, both)).change() == both.change()


def test_beside_a_net_that_diverges_a_cure_has_to_learn(monkeypatch):
    """It ends above where it began: that the sick net ends higher still is no merit."""
    report = too_fast(1000.0)

    def train(contestant, split, *, steps, seed, lr):
        ends = 0.5 if contestant.candidate.training.get("lr") == 1e-3 else math.inf
        return Trial(1.0, 2.0 if contestant.candidate.training.get("lr") == 1e-2 else ends, math.nan, 1e-3)

    monkeypatch.setattr(trials, "train", train)
    verification = Verification(report, report._case, Thresholds(), steps=10, seeds=2)
    worse, better = (verification.verified(lower_learning_rate(lr)).remedy for lr in (1e-2, 1e-3))
    assert worse.after.verdict == better.after.verdict == "healthy" and worse.effect == better.effect == 1.0
    assert not worse.helps and better.helps
    assert "learns nothing: the loss at the start was 1" in worse.note and "learns" not in better.note


# ---- side by side --------------------------------------------------------------------------------------


def test_the_number_of_threads_changes_nothing_but_the_time():
    net = sick_net()
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.SGD(net, lr=20.0))
    before, found = gc.get_num_threads(), []
    try:
        for threads in (1, 3):
            gc.set_num_threads(threads)
            remedies = report.remedies(steps=15, seeds=2)
            found.append([dataclasses.replace(r, cost={}, _apply=None, _prepare=None).to_dict() for r in remedies])
    finally:
        gc.set_num_threads(before)
    assert len(found[0]) > 8 and found[0] == found[1]


def test_progress_counts_up_to_its_total():
    seen = []
    gc.analyze(sick_net(), X, LABELS).remedies(
        steps=2, seeds=2, limit=3, pairs=0, progress=lambda *what: seen.append(what)
    )
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[0] == (0, 4, "the original net") and {total for _, total, _ in seen} == {4}


# ---- the order ------------------------------------------------------------------------------------------


def test_what_theory_expects_to_fail_comes_last():
    """Over 200 layers SELU's 7 % a layer make a factor of 1000 with any normalization, but for a way past them."""
    report = gc.analyze(gc.MLP([20] + [32] * 200 + [5], activation="selu"), X, LABELS)
    names = [remedy.name for remedy in report.remedies(verify=False, limit=20)]
    assert names[0] == "residual connections and layer norm"
    assert names.index("tanh activation") < names.index("critical initialization")
    assert names.index("relu activation") < names.index("batch norm")


def test_small_weights_are_made_larger_before_anything_else_is_tried():
    report = gc.analyze(gc.MLP([20] + [40] * 30 + [5], init="lecun_normal"), X, LABELS)
    names = [remedy.name for remedy in report.remedies(verify=False)]
    assert names[0] == "critical initialization"
    assert {"layer norm", "selu activation"} <= set(names[1:4])
