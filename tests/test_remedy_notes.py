"""Notes of remedies: true of the change that was tried, not of another; what is reported where nothing was lost."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

import gradcore as gc
from gradcore.analysis import Thresholds, outlook, trials, verification
from gradcore.analysis.analyze import examine, make_case, measure_and_rehearse
from gradcore.analysis.candidates import Candidate, combined
from gradcore.analysis.mean_field import batch_norm_growth
from gradcore.analysis.measure import Outlook
from gradcore.analysis.verification import Effect, Verification, remedy_of
from gradcore.show import story
from monitored import LABELS, X

MEASURED_AGAIN = 4  # batches that the trials measure


def sick_net():
    return gc.MLP([20] + [40] * 10 + [5], activation="sigmoid", init="glorot_normal")


BATCH_NORM = Candidate("batch norm", "", {"normalization": "batch", "init": "auto"})
TANH = Candidate("tanh", "", {"activation": "tanh", "init": "auto"})


def test_batch_norm_says_what_it_costs_backwards():
    """As measured on the changed net, whose activation need not be the present one: a sigmoid's would cost little."""
    report = gc.analyze(sick_net(), X, LABELS)
    remedy = Verification(report, report._case, Thresholds(), steps=2, seeds=2).verified(combined(TANH, BATCH_NORM))
    remedy = remedy.remedy
    slope = re.search(r"multiplies \|delta\|\^2 by ([\d.]+) per layer", remedy.note)[1]
    assert float(slope) == pytest.approx(math.exp(remedy.after.slope), rel=0.01)
    norms = [layer.delta_norm for layer in gc.analyze(remedy.apply(), X, LABELS, batches=MEASURED_AGAIN).layers[:-1]]
    total = re.search(r"the gradient's norm by ([\d.]+) over 10 hidden layers", remedy.note)[1]
    assert float(total) == pytest.approx(norms[0] / norms[-1], rel=0.2)


def test_before_it_is_tried_batch_norm_says_what_theory_expects_of_the_changed_net():
    case = gc.analyze(sick_net(), X, LABELS)._case
    growth = batch_norm_growth("tanh", case.batch_size)
    assert f"should multiply |delta|^2 by {growth:.3g} per layer" in remedy_of(combined(TANH, BATCH_NORM), case).note
    skips = Candidate("residual", "", {"residual": True})
    assert "multiply" not in remedy_of(TANH, case).note + remedy_of(combined(skips, BATCH_NORM), case).note


def test_new_weights_are_told_where_the_old_ones_are_not_those_that_auto_draws():
    """A PyTorch user who only puts another activation into a model keeps weights that do not suit it."""
    drawn = gc.MLP([20, 40, 40, 5])
    imported = gc.MLP([20, 40, 40, 5])
    imported.parameters["dense1.weight"] = 0.5 * drawn.parameters["dense1.weight"]
    notes = {}
    for name, net in {"drawn": drawn, "imported": imported, "sick": sick_net()}.items():
        case = gc.analyze(net, X, LABELS)._case
        notes[name] = remedy_of(TANH, case).note
        orthogonal = Candidate("orthogonal", "", {"init": "orthogonal"})
        if name == "imported":
            assert "orthogonal weights times 1.41 for relu" in remedy_of(orthogonal, case).note
            assert "to variance 2 / fan_in for relu" in remedy_of(Candidate("", "", weights="rescaled"), case).note
    assert notes["drawn"] == ""
    assert notes["imported"] == notes["sick"] == "draws new weights of variance 1 / fan_in for tanh; biases are zero"


def test_fewer_layers_get_no_credit_for_other_weights():
    """PyTorch's weights of a ReLU net, too small by a factor of six: fewer layers have the slope of all."""
    net = gc.MLP([20] + [40] * 12 + [5])
    for name, values in net.parameters.items():
        values *= math.sqrt(1 / 6) if name.endswith("weight") else 1.0
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.SGD(net, lr=0.01))
    remedies = {remedy.name: remedy for remedy in report.remedies(steps=2, seeds=2, limit=20, pairs=0)}
    assert remedies["6 layers"].after.slope == pytest.approx(report.slope.value, abs=0.3)
    assert remedies["critical initialization"].after.slope == pytest.approx(0.0, abs=0.3)


def test_scaled_branches_are_told():
    case = gc.analyze(gc.MLP([20] + [40] * 5 + [5]), X, LABELS)._case
    skips = {"residual": True, "normalization": "layer", "init": "auto"}
    note = remedy_of(Candidate("residual", "", skips, "scaled_branches"), case).note
    assert note == "divides the layer norm weights in 4 branches by 2, the root of their number"
    case = gc.analyze(gc.MLP([20, 40, 40, 5]), X, LABELS)._case  # a single branch, which is divided by 1
    assert remedy_of(Candidate("residual", "", skips, "scaled_branches"), case).note == ""


def test_skip_connections_are_not_added_to_a_net_without_a_place_for_them():
    skips = Candidate("residual", "", {"residual": True, "normalization": "layer", "init": "auto"}, "scaled_branches")
    fewer = {depth: Candidate("", "", {"widths": [2, *[8] * (depth - 1), 1]}, "kept") for depth in (2, 3)}
    assert combined(skips, fewer[2]) is combined(fewer[2], skips) is None
    assert combined(skips, fewer[3]) is not None


def test_only_what_learns_nothing_about_other_rows_overfits():
    """A rate that avoids divergence takes 29 % off the held-out loss, give or take as much: that is no overfitting."""
    x, target = pytest.importorskip("sklearn.datasets").load_diabetes(return_X_y=True)
    net = gc.MLP([10, 64, 64, 1])
    remedies = gc.analyze(net, x, target, loss="mse", optimizer=gc.optim.SGD(net, lr=0.01)).remedies()
    undecided = [each for each in remedies if not each.helps and each.confidence[0] < 0.0 and each.effect > 0.05]
    assert undecided and not any("overfits" in each.note for each in undecided)


@pytest.mark.parametrize(("rows", "shown"), [(39, "the rows trained on, which are too few"), (40, "held-out rows")])
def test_what_the_loss_of_trials_is_of(rows, shown):
    """Of fewer than 40 rows, none are held out."""
    labels = np.arange(rows) % 5
    cure = gc.repair(sick_net(), X[labels], labels, steps=60, seeds=2, limit=2)
    assert cure.remedies
    report = gc.analyze(sick_net(), X[labels], labels)
    report.remedies(steps=60, seeds=2, limit=2)
    for text in (str(report), report._repr_html_()):
        text = " ".join(text.split())
        assert shown in text and ("held-out" in text) == (rows >= 40)
    assert ("held-out" in str(cure)) == (rows >= 40)


def test_a_change_that_overfits_is_told_from_one_that_learns_nothing():
    """scikit-learn's diabetes: targets of unit scale are fitted sooner, and held-out rows pay for it."""
    x, target = pytest.importorskip("sklearn.datasets").load_diabetes(return_X_y=True)
    net = gc.MLP([10] + [64] * 8 + [1])
    report = gc.analyze(net, x, target, loss="mse", optimizer=gc.optim.Adam(net, lr=1e-3))
    (remedy,) = report.remedies(steps=150, seeds=2)
    fitted, before = re.search(r"overfits: its training loss is (\S+), that of the original net (\S+)$",
                               remedy.note).groups()  # fmt: skip
    assert not remedy.helps and float(fitted) < 0.5 * float(before) < remedy.before.loss < remedy.after.loss


def test_a_pair_does_not_take_over_what_came_of_its_parts():
    """Each has the note of its own trials: the pair's would else contradict itself."""
    x = 300 * X + 1000
    net = gc.MLP([20, 40, 40, 5])
    report = gc.analyze(net, x, LABELS, optimizer=gc.optim.SGD(net, lr=0.05))
    verification = Verification(report, report._case, Thresholds(), steps=5, seeds=2)
    leaky = Candidate("leaky", "", {"activation": "leaky_relu", "init": "auto"}, inputs=True)
    clipping = Candidate("clipping", "", training={"clip_norm": 1.0}, note="all alike")
    tried = verification.verified(combined(verification.verified(leaky).candidate, clipping)).remedy
    assert tried.note.count("all alike") == tried.note.count("alone") == 1


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (Effect(0.704, 0.67, 0.74), "compared with part alone, the loss is 70 % lower (67 to 74)"),
        (Effect(-0.52, -1.0, 0.87), "compared with part alone, the loss is 52 % higher (-87 to 100)"),
        (Effect(-1.0, -1.0, -1.0), "compared with part alone, the loss is at least twice as high"),
    ],
)
def test_an_effect_beside_a_part_is_told_with_its_sign(effect, words):
    assert effect.beyond("part") == words


# ---- a healthy verdict on weights that are too small ------------------------------------------------------


def test_weights_too_small_for_the_activation_are_tried_though_adam_still_moves_the_layers():
    """relu under Glorot weights: Adam moves all layers alike, but from weights that suit relu it learns sooner."""
    x, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    net = gc.MLP([64] + [50] * 30 + [10], init="glorot_normal")
    report = gc.analyze(net, x / 8 - 1, labels, optimizer=gc.optim.Adam(net, lr=1e-3))
    finding = report.findings[0]
    assert report.verdict == "healthy" and (finding.kind, finding.severity) == ("vanishing", "info")
    assert finding.cause == "weight_scale" and "It may still slow down learning" in finding.explanation
    assert "But under Adam this does not stop the layers from moving." in story.why(report)
    (remedy,) = report.remedies(steps=60)
    assert remedy.name == "critical initialization" and remedy.helps
    assert remedy.after.accuracy > remedy.before.accuracy + 0.2
    assert "But" not in " ".join(story.why(gc.analyze(remedy.apply(), x / 8 - 1, labels)))


def test_fewer_layers_of_a_trained_net_are_tried_without_its_optimizers_state():
    """They keep their weights, which steps have made; the moments of all layers do not fit them."""
    net = gc.MLP([20, *[32] * 20, 5], activation="relu", seed=0)
    for layer in range(20):
        net.parameters[f"dense{layer}.weight"][...] *= 1.6
    optimizer = gc.optim.Adam(net, lr=1e-3)
    for _ in range(3):
        net.train_step(X[:64], LABELS[:64], optimizer)
    report = gc.analyze(net, X, LABELS, optimizer=optimizer)
    change = {"widths": [20, *[32] * 9, 5], "activation": ["relu"] * 9}
    verification = Verification(report, report._case, Thresholds(), steps=5, seeds=2)
    remedy = verification.verified(Candidate("10 layers", "", change, "kept")).remedy
    assert remedy.after is not None and "could not be made" not in remedy.note


def test_new_weights_are_told_for_every_activation():
    """Each size but the first came after a comma of its own."""
    net = gc.MLP([20, 40, 40, 5], activation=["relu", "tanh"])
    net.parameters["dense1.weight"] = 0.5 * net.parameters["dense1.weight"]
    note = remedy_of(Candidate("", "", {"init": "auto"}), gc.analyze(net, X, LABELS)._case).note
    assert note == "draws new weights of variance 2 / fan_in for relu and 1 / fan_in for tanh; biases are zero"


def test_a_change_helps_where_only_a_part_of_it_is_in_doubt():
    """Adam at 0.1 on raw inputs: over two seeds, standardizing alone is no sure help; with a layer norm it is."""
    x, y = pytest.importorskip("sklearn.datasets").load_breast_cancer(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))[len(x) // 4 :]
    net = gc.MLP([30, 32, 1])
    report = gc.analyze(net, x[rows], y[rows], loss="binary_cross_entropy", optimizer=gc.optim.Adam(net, lr=0.1))
    tried = {remedy.name: remedy for remedy in report.remedies(steps=60, seeds=2, limit=6)}
    part, whole = (tried[f"{name}standardized inputs"] for name in ("", "layer norm, "))
    assert part.helps is False and part.confidence[0] < 0.0
    assert whole.helps and whole.confidence[0] > 0.3 and "compared with standardized inputs alone" in whole.note


# ---- what trials cost ------------------------------------------------------------------------


def test_a_changed_net_is_measured_once(monkeypatch):
    """Twice before: once for a rate that suits it, once to compare it. At 1000 trial steps each, that was minutes."""
    measured = []
    measure = Verification._measured_again
    monkeypatch.setattr(Verification, "_measured_again",
                        lambda self, each: measured.append(repr(each.candidate.change())) or measure(self, each))  # fmt: skip
    net = sick_net()
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.SGD(net, lr=0.1))
    remedies = report.remedies(steps=3, seeds=2, limit=4)
    assert len(measured) >= len(remedies) >= 4 and len(set(measured)) == len(measured)


def test_of_a_large_net_few_steps_judge_a_change(monkeypatch):
    """As many as cost what 1000 cost for a net at the border, and its note says that they were cut short."""
    net = sick_net()
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.Adam(net))
    small, asked = report._case, []

    def most(case, steps=60):
        return Verification(report, case, Thresholds(), steps, seeds=2)._most

    border = trials.affordable_steps(small) / trials.FEWEST_STEPS
    assert border > 1.0 and most(small) == outlook.MOST_STEPS
    large = replace(small, batch_size=round(4.0 * border * small.batch_size))
    assert most(large) == pytest.approx(outlook.MOST_STEPS / 4, rel=0.01)
    assert most(replace(large, batch_size=100 * large.batch_size)) == 60 and most(large, 700) == 700

    def look_ahead(subject, progress, limit):
        asked.append(limit)
        return Outlook(np.full(64, 2.0), subject.slope, 1.0, cut_short=True)

    monkeypatch.setattr(verification, "look_ahead", look_ahead)
    verifier = Verification(report, small, Thresholds(), steps=2, seeds=2)
    assert "its verdict was cut short after 64 trial steps, as the net is large" in verifier.verified(TANH).remedy.note
    assert asked == [outlook.MOST_STEPS]


def test_patience_ends_where_steps_cost_too_much():
    net = sick_net()
    case = make_case(net, X, LABELS, "cross_entropy", gc.optim.Adam(net), 128, 8, 0)
    subject = examine(case, measure_and_rehearse(case, Thresholds(), None), Thresholds())
    patient, cut = (outlook._outlook(subject, 8, None, most, until=200) for most in (1000, 20))
    assert (len(patient.losses), patient.cut_short, len(cut.losses), cut.cut_short) == (200, False, 16, True)


def test_an_interrupt_does_not_wait_for_trial_steps():
    net = sick_net()
    report = gc.analyze(net, X, LABELS, optimizer=gc.optim.Adam(net))
    with trials.Crew() as crew:
        verifier = Verification(report, report._case, Thresholds(), steps=2, seeds=2, crew=crew)
    with pytest.raises(trials.Stopped):
        verifier._tick()
