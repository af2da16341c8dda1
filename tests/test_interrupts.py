"""Work that Ctrl-C or a time limit ends: what there is is kept, and every form tells what is missing."""

import json
import os
import signal
import sys

import pytest

import gradcore as gc
from gradcore import cli
from gradcore._status import Status
from gradcore.analysis import trials
from sick import LABELS, X, sick_net

QUICK = {"steps": 2, "seeds": 2}


def analysed():
    return gc.analyze(sick_net(), X, LABELS)


def interrupt_at(done_or_name):
    """A progress function that interrupts when so many remedies are done, or when one of this name is under way."""

    def stop(done, total, name):
        if done_or_name == done or (isinstance(done_or_name, str) and done_or_name in name):
            raise KeyboardInterrupt

    return stop


def one_line(text):
    return " ".join(text.split())


def test_an_interrupt_keeps_what_was_tried_and_says_so_of_the_rest():
    report = analysed()
    remedies = report.remedies(**QUICK, progress=interrupt_at(3))
    untried = [remedy for remedy in remedies if remedy.helps is None]
    assert sum(remedy.helps is not None for remedy in remedies) == 2 and len(untried) >= 3
    assert all(remedy.note.endswith("interrupted before its trials ended") for remedy in untried)
    assert report.trials_stopped_by == "interrupt"
    told = "The trials were interrupted. Proposed, not tried to the end: "
    told += "; ".join(remedy.name for remedy in untried)
    assert told in one_line(str(report)) and told in report._repr_html_()
    record = json.loads(report.to_json())
    assert record["trials_stopped_by"] == "interrupt"
    assert record["tried"][-1]["note"].endswith("interrupted before its trials ended")


def test_the_figure_tells_of_an_interrupt():
    pytest.importorskip("matplotlib")
    report = analysed()
    report.remedies(**QUICK, progress=interrupt_at(3))
    assert any("interrupted" in ax.get_title() for ax in report.plot().axes)


def test_a_remedy_whose_longer_training_was_interrupted_says_so():
    """All candidates have a result then, so that nothing else would tell."""
    report = analysed()
    best, *others = report.remedies(steps=40, seeds=2, limit=2, pairs=0, progress=interrupt_at("trained longer"))
    assert best.helps and best.note.endswith("interrupted before its longer training ended")
    assert all(other.helps is not None and "interrupted" not in other.note for other in others)
    assert report.trials_stopped_by == "interrupt" and "The trials were interrupted." in str(report)


def test_trials_that_reach_their_end_say_nothing():
    report = analysed()
    assert report.trials_stopped_by is None
    report.remedies(**QUICK, limit=2, progress=interrupt_at(0))
    assert report.trials_stopped_by == "interrupt"
    report.remedies(**QUICK, limit=2)
    assert report.trials_stopped_by == "end" and "interrupted" not in str(report)
    report.remedies(verify=False)
    assert report.trials_stopped_by is None and "Proposed, not tried: " in str(report)
    assert "interrupted" not in "".join(remedy.note for remedy in report.tried)


def test_a_time_limit_leaves_the_rest_untried():
    report = analysed()
    remedies = report.remedies(**QUICK, seconds=0.0)
    assert all(remedy.helps is None and remedy.note.endswith("not tried: the time was up") for remedy in remedies)
    assert report.trials_stopped_by == "seconds"
    assert "The time for trials was up. Proposed, not tried: " in one_line(str(report))


def test_ctrl_c_while_threads_train_gives_what_there_is():
    """The first candidate is done, the others would train for hours."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    report = analysed()
    train = trials.train

    def endless(contestant, split, *, steps, seed, lr):
        first = contestant.candidate.name in ("original", "selu activation")
        return train(contestant, split, steps=steps if first else 10**9, seed=seed, lr=lr)

    def interrupt(done, total, name):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trials, "train", endless)
            tried = report.remedies(**QUICK, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert [remedy.name for remedy in tried if remedy.helps is not None] == ["selu activation"]
    assert len([remedy for remedy in tried if remedy.helps is None]) >= 5


# ---- gc.repair ------------------------------------------------------------------------------------------


def test_a_repair_tells_that_its_trials_were_interrupted():
    cure = gc.repair(sick_net(), X, LABELS, progress=interrupt_at("the original net"), **QUICK)
    assert cure.before.tried and all(remedy.helps is None for remedy in cure.before.tried)
    text = one_line(str(cure))
    assert "not cured, no remedy was tried" in text and "The trials were interrupted. Proposed, not tried" in text
    assert "tried on this data" not in text and "Remedies ─" in text


@pytest.fixture
def still_sick(monkeypatch):
    """Lets every net that a repair has changed look as sick as the given one."""
    module = sys.modules["gradcore.analysis.repair"]
    report_of, findings = module.report_of, analysed().findings

    def sick_report(*arguments):
        report = report_of(*arguments)
        report.verdict, report.findings = "vanishing", findings
        return report

    monkeypatch.setattr(module, "report_of", sick_report)


@pytest.mark.usefixtures("still_sick")
def test_no_second_round_follows_an_interrupt():
    """Who presses Ctrl-C does not want a minute of further trials, even if the best remedy so far is not enough."""
    trained = []

    def stop(done, total, what):
        trained.append(what)
        if "trained longer" in what:
            raise KeyboardInterrupt

    cure = gc.repair(sick_net(), X, LABELS, progress=stop, steps=40, seeds=2, limit=2, pairs=0)
    assert len(cure.remedies) == 1 and not cure.cured
    assert trained.count("the original net") == 1
    assert "The trials were interrupted." in str(cure)


@pytest.mark.usefixtures("still_sick")
def test_what_a_second_round_tried_is_shown():
    """Its trials are those of the net that remains sick; those of the given net came to their end."""
    rounds = []

    def stop(done, total, what):
        rounds.extend([what] * (what == "the original net"))
        if len(rounds) == 2:
            raise KeyboardInterrupt

    cure = gc.repair(sick_net(), X, LABELS, progress=stop, steps=40, seeds=2, limit=2, pairs=0)
    assert cure.before.trials_stopped_by == "end" and cure.after.trials_stopped_by == "interrupt"
    text = str(cure)
    assert "The trials were interrupted." in text[text.index("What remains") :]


# ---- at the command line ---------------------------------------------------------------------------------


@pytest.fixture
def pressed(monkeypatch):
    """(part of a command's work at which Ctrl-C is pressed, the command) -> exit code."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's children ignore it

    def run_it(part, *arguments, after=0):
        show = Status.__call__

        def press(self, done, total, what):
            show(self, done, total, what)
            if what == part and done == after:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Status, "__call__", press)
        return cli.main(arguments)

    yield run_it
    signal.signal(signal.SIGINT, before)


ANALYZE = ("analyze", "--data", "digits", "--widths", "64,16x12,10", "--activation", "sigmoid")


def test_ctrl_c_ends_an_analysis_with_what_was_found(pressed, capsys):
    pytest.importorskip("sklearn")
    assert pressed("the original net", *ANALYZE) == 130
    out, err = capsys.readouterr()
    assert out.startswith("handwritten digits") and "VANISHING GRADIENTS" in out
    assert "The trials were interrupted. Proposed, not tried to the end: " in " ".join(out.split())
    assert err.endswith("gradcore: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a second one ends it at once


def test_a_measurement_cut_short_is_told_and_no_remedies_follow(pressed, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("gradcore.analysis.report.Report.remedies", lambda *arguments, **options: pytest.fail("tried"))
    assert pressed("measuring gradients", *ANALYZE, after=2) == 130
    assert "interrupted: not everything was measured" in " ".join(capsys.readouterr().out.split())


def test_ctrl_c_ends_the_demo_after_the_part_it_cut_short(pressed, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("gradcore.cli.demo.Demo.train", lambda *arguments: 0.1)
    assert pressed("the original net", "demo", "--quick") == 130
    out, err = capsys.readouterr()
    assert "Proposed, not tried" in out and "4. The cure" not in out and err.endswith("gradcore: interrupted\n")
