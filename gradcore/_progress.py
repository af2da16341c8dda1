"""Output of a training: progress, as a live line on a terminal or a few plain lines, and warnings."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from . import _check
from ._status import REFRESH_SECONDS
from .history import Logs

_MAX_LINES = 20
_PACKAGE = os.path.join(os.path.dirname(__file__), "")


def callbacks(progress: bool | Callable[[Logs], Any], epochs: int) -> list[Any]:
    """The callback that `progress` asks for, if any."""
    if callable(progress):
        return [_Function(progress)]
    if not _check.progress(progress):
        return []
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            return [_Bar(epochs)]
        except ImportError:
            pass
    return [_Lines(epochs)]


def _summary(logs: Logs) -> str:
    names = ("loss", "val_loss", "val_accuracy")
    return "  ".join(f"{name} {logs[name]:.3g}" for name in names if name in logs)


class _Function:
    """Calls the user's function and ignores its result: that of a callback could stop the training."""

    def __init__(self, function: Callable[[Logs], Any]) -> None:
        self._function = function

    def on_epoch(self, logs: Logs) -> None:
        self._function(logs)


class _Lines:
    """At most `_MAX_LINES` lines, evenly over the epochs, on stderr."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._every = epochs, -(-epochs // _MAX_LINES)

    def on_epoch(self, logs: Logs) -> None:
        epoch = int(logs["epoch"]) + 1
        if epoch % self._every == 0 or epoch == self._epochs:
            print(f"epoch {epoch}/{self._epochs}  {_summary(logs)}", file=sys.stderr)


class _Bar:
    """A progress bar of rich; raises ImportError if rich is not installed."""

    def __init__(self, epochs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        # fits into 80 columns
        columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(12), TextColumn("{task.description}"))
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), auto_refresh=False)
        self._task = self._progress.add_task("", total=float(epochs), epoch=f"0/{epochs}")
        self._epochs, self._shown = epochs, 0.0

    def on_fit_start(self, net: object) -> None:
        self._progress.start()

    def on_step(self, logs: Logs) -> None:
        now = time.monotonic()
        if now - self._shown >= REFRESH_SECONDS:
            self._shown = now
            done = logs["epoch"] + (logs["step"] + 1) / logs["num_steps"]
            self._progress.update(self._task, completed=done, refresh=True)

    def on_epoch(self, logs: Logs) -> None:
        epoch = int(logs["epoch"]) + 1
        # on_step refreshes; doing so here too would repaint the same line for every short epoch
        self._progress.update(self._task, completed=epoch, description=_summary(logs), epoch=f"{epoch}/{self._epochs}")

    def on_fit_end(self, history: object) -> None:
        self._progress.refresh()
        self._progress.stop()


def warn(text: str, category: type[Warning]) -> None:
    """Warn with the location of the line in the user's program that called the package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
