"""Sentences of findings that would be wrong or confusing if they did not depend on the net and its data."""

from dataclasses import replace

import numpy as np
import pytest

import gradcore as gc
from gradcore.analysis import Thresholds, causes, wording
from gradcore.analysis.analyze import examine, make_case, measure_and_rehearse
from gradcore.show import story
from monitored import LABELS, X


def cause_of(net):
    return gc.analyze(net, X, LABELS).findings[0]


def subject_of(net):
    case = make_case(net, X, LABELS, "cross_entropy", None, 32, 8, 0)
    return examine(case, measure_and_rehearse(case, Thresholds(), None), Thresholds())


def test_a_net_is_not_sent_back_to_the_weights_it_was_made_with():
    """The head of the report says `init auto`; what the net has now is something else, and that is said."""
    net = gc.MLP([20] + [64] * 19 + [5])
    for layer in range(20):
        net.parameters[f"dense{layer}.weight"][...] *= 0.4
    changed, drawn = cause_of(net), cause_of(gc.MLP([20] + [64] * 19 + [5], init="glorot_normal"))
    assert changed.cause == drawn.cause == "weight_scale"
    assert '/ fan_in for relu (as init="auto" draws; these weights have changed since)' in changed.explanation
    assert '/ fan_in for relu (init="auto")' in drawn.explanation


def test_weights_that_lie_in_the_direction_of_the_gradient_are_not_called_too_large():
    """Trained on unscaled targets, they grow in one direction; on the whole, they are smaller than critical ones."""
    rng = np.random.default_rng(0)
    net = gc.MLP([20] + [64] * 6 + [1])
    direction = np.ones(64) / 8
    for layer in range(1, 6):
        weight = net.parameters[f"dense{layer}.weight"]
        weight[...] = 0.5 * rng.standard_normal((64, 64)) / 8 + 4.0 * np.outer(direction, direction)
    finding = next(
        each for each in gc.analyze(net, X, np.float64(LABELS), loss="mse").findings if "slope" in each.evidence
    )
    assert (finding.kind, finding.cause) == ("exploding", "weight_scale")
    assert finding.evidence["weight_excess_log"] < 0.0
    assert "too large for relu, but they lie in the direction of the gradient" in finding.explanation
    assert "random weights with a weight variance of 2 / fan_in for relu" in finding.explanation


def test_classes_have_no_scale_to_tell():
    """Steps too large for inputs of 300: a root mean square of 1 was told of the labels."""
    for loss, target in (("cross_entropy", LABELS), ("mse", np.float64(LABELS))):
        net = gc.MLP([20, 40, 40, 5 if loss == "cross_entropy" else 1])
        report = gc.analyze(net, 300 * X, target, loss=loss, optimizer=gc.optim.SGD(net, lr=0.05))
        (finding,) = (each for each in report.findings if each.kind == "exploding")
        assert "Inputs have a root mean square of" in finding.explanation
        assert ("targets of" in finding.explanation) == (loss == "mse")
    ordinary = gc.analyze(net := gc.MLP([20, 40, 40, 5]), X, LABELS, optimizer=gc.optim.SGD(net, lr=300.0))
    (finding,) = (each for each in ordinary.findings if each.kind == "exploding")
    assert "root mean square" not in finding.explanation and finding.cause == "learning_rate"


@pytest.mark.parametrize(("others", "sentence"), [(1.0, "% of the change happens"), (0.8, "undo part of it")])
def test_no_more_than_all_of_a_change_happens_at_one_place(others, sentence):
    """Where the rest goes the other way, its share is above 100 %."""
    net = gc.MLP([20] + [64] * 9 + [5], activation="identity")
    for layer in range(1, 9):
        net.parameters[f"dense{layer}.weight"][...] *= 30.0 if layer == 5 else others
    subject = subject_of(net)
    layer, share = causes.steepest_layer(subject)
    assert layer == 4 and (share > 1) == (others < 1)
    assert sentence in wording.location_sentence(subject)
    assert "between layers 5 and 4" in wording.location_sentence(subject)
    assert np.isfinite(share)


@pytest.mark.parametrize("loud", [1.0, 1e8])
def test_norms_that_one_batch_makes_are_told_from_those_of_the_typical_batch(loud):
    """Slopes are means over batches; norms are root mean squares, which a batch that explodes makes by itself."""
    slope = subject_of(gc.MLP([20] + [64] * 9 + [5], init="lecun_normal")).slope
    typical = np.exp(0.5 * slope.value * (slope.steps - 1))
    said = wording.uneven_batches(slope, loud * typical, wording.factor)
    assert said == "" if loud == 1.0 else said.endswith(f"in the typical batch it is {wording.factor(typical)}")
    assert wording.uneven_batches(slope, 0.0, wording.factor) == ""


def test_a_typical_batch_beyond_all_numbers_is_told():
    """A ratio of float64 norms may leave float64 itself, where "times smaller" would divide by zero."""
    report = gc.analyze(gc.MLP([20] + [64] * 9 + [5], init="lecun_normal"), X, LABELS)
    steep = replace(report, slope=replace(report.slope, value=-400.0))
    assert "in the typical batch it is 1.0e304 times smaller" in str(steep).replace("\n", " ")


def test_a_page_without_skip_connections_does_not_speak_of_them():
    """residual=True joins equal widths, and there are none."""
    plain, joined = (gc.analyze(gc.MLP([20, *widths, 5], residual=True), X, LABELS) for widths in ([30, 40], [30, 30]))
    assert "With skip connections" not in plain._repr_html_() and "With skip connections" in joined._repr_html_()


def test_large_targets_do_not_take_the_loss_above_a_constant_guess(rng):
    """Around zero, a fresh net is as good as that guess: its loss was called far above it, with the same number."""
    x, y = rng.standard_normal((512, 8)).astype("f4"), (1000 * rng.standard_normal((512, 1))).astype("f4")
    for shift, said in ((0.0, "compared with that"), (1e5, "far above that")):
        net = gc.MLP([8, 32, 32, 1])
        report = gc.analyze(net, x, y + np.float32(shift), loss="mse", optimizer=gc.optim.Adam(net, lr=0.1))
        (finding,) = (each for each in report.findings if each.kind == "exploding")
        assert finding.cause == "target_scale" and f", {said} of a constant guess" in finding.explanation


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05573, "0.0557"), (1.24e-8, "1.2e-8"), (340.4, "340"), (5934.2, "5934"), (9999.6, "1.0e4"), (999.7, "1000")],
)
def test_losses_of_thousands_are_written_out(value, text):
    """As in the tables, beside which 5.93e+03 stood for 5934."""
    assert wording.factor(value) == text


@pytest.mark.parametrize(
    ("loss", "outputs", "target", "said"),
    [
        ("cross_entropy", 5, np.full(200, 3), "All 200 rows have the same target, class 3: "),
        ("cross_entropy", 1, np.zeros(200, int), "All 200 rows have the same target, class 0: "),
        ("binary_cross_entropy", 1, np.ones(200), "All 200 rows have the same target: "),
        ("mse", 2, np.full((200, 2), 0.5), "All 200 rows have the same target: "),
        ("mse", 2, np.arange(400).reshape(200, 2) % 7, None),
        ("cross_entropy", 5, np.arange(200) % 2, None),
    ],
)
def test_data_of_a_single_target_teaches_nothing(loss, outputs, target, said):
    """Its accuracy of 100 % was reported without a word; the note does not change the verdict."""
    report = gc.analyze(gc.MLP([20, 40, 40, outputs]), X[:200], target, loss=loss)
    notes = [each for each in report.findings if each.kind == "unscaled_input" and each.cause is None]
    assert [each.severity for each in notes] == (["info"] if said else [])
    if said:
        assert notes[0].explanation.startswith(said)
        assert "Take rows with different targets" in " ".join(str(report).split())
        assert report.verdict == ("vanishing" if outputs == 1 and loss == "cross_entropy" else "healthy")


def test_a_single_row_teaches_nothing_either():
    report = gc.analyze(gc.MLP([20, 40, 40, 5]), X[:1], [3])
    (note,) = report.findings
    assert note.severity == "info" and report.verdict == "healthy"
    assert note.explanation.startswith("There is only one row: a constant output is right")


def test_sentences_and_tables_write_exponents_alike():
    """5.6e-06 stood beside 5.6e-6."""
    for value in (5.6e-6, -1.2e-20, 3.4e38, 1.5e4):
        assert wording.factor(value) == story.number(value) == wording.significant(value, 2)
    assert wording.significant(0.05 * 0.1) == "0.005" and wording.significant(1.3e-5) == "1.3e-5"


def test_a_lowered_rate_is_shown_without_rounding_errors():
    """0.05 * 0.1 is 0.005000000000000001."""
    net = gc.MLP([20, 40, 5])
    optimizer = gc.optim.SGD(net, lr=0.05)
    optimizer.lr *= 0.1
    assert repr(optimizer.lr) == "0.005000000000000001" and "SGD(lr=0.005, " in repr(optimizer)
    report = gc.analyze(net, X, LABELS, optimizer=optimizer)
    assert report.conditions["lr"] == optimizer.lr
    for shown in (str(report), report._repr_html_()):
        assert "0.005000" not in shown and "lr=0.005" in shown
    lowered = gc.optim.Adam(net, lr=1e-4)
    steep = gc.MLP([20] + [40] * 30 + [5], activation="sigmoid")
    finding = gc.analyze(steep, X, LABELS, optimizer=gc.optim.Adam(steep, lr=0.1 * lowered.lr)).findings[0]
    assert "at lr 1e-5 changes" in finding.explanation
