"""The line that long work shows on a terminal."""

import sys
from io import StringIO
from types import SimpleNamespace

import numpy as np

import gradcore as gc
from gradcore._status import Status

RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((200, 8)).astype("f4"), RNG.integers(0, 3, 200)


def sick_net():
    return gc.MLP([8] + [16] * 12 + [3], activation="sigmoid")


class Terminal(StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True


def test_long_work_shows_a_line_on_a_terminal_only(monkeypatch, capsys):
    """An analysis and its trials: nothing in logs, nothing that stays, nothing for short work or if it is not wanted."""
    gc.analyze(sick_net(), X, LABELS).remedies(steps=2, seeds=2, limit=1, pairs=0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", short := Terminal())
    monkeypatch.setattr("gradcore._status._SHORT_SECONDS", 60.0)
    report = gc.analyze(sick_net(), X, LABELS)
    assert short.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr("gradcore._status._SHORT_SECONDS", 0.0)
    gc.analyze(sick_net(), X, LABELS)
    assert "s  measuring gradients" in terminal.getvalue() and terminal.getvalue().endswith("\r\033[K")
    report.remedies(steps=2, seeds=2, limit=1, pairs=0)
    assert "s  the original net" in terminal.getvalue() and terminal.getvalue().endswith("\r\033[K")
    assert "\n" not in terminal.getvalue()
    drawn = terminal.getvalue()
    for off in (False, None):
        gc.analyze(sick_net(), X, LABELS, progress=off).remedies(steps=2, seeds=2, limit=1, pairs=0, progress=off)
    assert terminal.getvalue() == drawn


def test_repair_shows_one_line_for_all_its_parts(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr("gradcore._status._SHORT_SECONDS", 0.0)
    gc.repair(sick_net(), X, LABELS, rounds=1, steps=2, seeds=2, limit=1, pairs=0)
    assert "measuring gradients" in terminal.getvalue() and "the original net" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K") and terminal.getvalue().count("\r\033[K\r\033[K") == 0


def test_a_notebook_shows_a_line_in_the_cell(monkeypatch, capsys):
    """One output, which is updated and empty in the end; an IPython shell on a terminal has no kernel."""
    shown = []

    class Line:
        def update(self, content, raw):
            shown.append(content["text/plain"])

    def display(content, raw, display_id):
        assert raw and display_id and not shown
        shown.append(content["text/plain"])
        return Line()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr("gradcore._status._SHORT_SECONDS", 0.0)
    gc.analyze(sick_net(), X, LABELS)
    assert len(shown) > 1 and "measuring gradients" in shown[0] and shown[-1] == ""
    assert capsys.readouterr() == ("", "")
    del shown[:], shell.kernel
    gc.analyze(sick_net(), X, LABELS)
    assert shown == []


def test_sweep_shows_a_line_too(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr("gradcore._status._SHORT_SECONDS", 0.0)
    gc.sweep({"depth": [2, 3], "width": 4}, batch_size=16)
    assert "measuring 2 nets" in terminal.getvalue() and terminal.getvalue().endswith("\r\033[K")


def test_a_line_is_redrawn_in_place_and_erased():
    with Status(stream := Terminal()) as status:
        status(0, 2, "first")
        status(2, 2, "second")
    drawn = stream.getvalue()
    assert "\n" not in drawn
    assert "[############" in drawn
    assert drawn.endswith("\r\033[K")


def test_a_line_is_cut_to_the_width_of_the_terminal(monkeypatch):
    """A longer one would wrap, and only its last part would be erased."""
    monkeypatch.setenv("COLUMNS", "60")
    with Status(stream := Terminal()) as status:
        status(0, 2, "w" * 200)
    (line,) = [part.removeprefix("\033[K") for part in stream.getvalue().split("\r") if "w" in part]
    assert len(line) == 59
