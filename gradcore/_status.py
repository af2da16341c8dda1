"""Status of long work, as a live line on a terminal, else one line per stage; and handling of Ctrl-C."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO

from . import _check

Progress = Callable[[int, int, str], Any]  # (done, total, what)

REFRESH_SECONDS = 0.1
_BAR_WIDTH = 24
# Work that ends sooner shows nothing.
_SHORT_SECONDS = 0.5


@contextmanager
def shown(progress: bool | Progress | None) -> Iterator[Progress | None]:
    """What a `progress` argument asks for: a function to call with (done, total, what), or None.

    True: a live line on stderr where that is a terminal, or in a notebook, for work that is not short; elsewhere
    nothing, so that logs stay as they are. A function: itself. False or None: nothing.

    Raises:
        TypeError: anything else.
    """
    if callable(progress):
        yield progress
        return
    status: Status | None = None
    if _check.progress(progress):
        if display := _notebook_display():
            status = NotebookStatus(display, _SHORT_SECONDS)
        elif sys.stderr and sys.stderr.isatty():
            status = Status(sys.stderr, _SHORT_SECONDS)
    with status or nullcontext() as shown_in:
        yield shown_in


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` in a notebook (Jupyter, VS Code, Colab), else None."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return None if getattr(shell, "kernel", None) is None else sys.modules["IPython.display"].display


class Status:
    """Shows progress; called with (done, total, what) by `gc.analyze`, `Report.remedies` and `gc.sweep`.

    On a terminal it redraws one line, for the first time after `delay` seconds, and erases it at the end. Elsewhere it
    prints each new `what` once, so that a log shows the progress too. Use it as a context manager.
    """

    def __init__(self, stream: TextIO, delay: float = 0.0) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._columns = shutil.get_terminal_size().columns - 1  # a line that wraps could not be erased
        self._what, self._drawn = "", 0.0
        self._start = time.monotonic()
        self._first = self._start + delay

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` parts of `what` are finished."""
        now = time.monotonic()
        if not self._live:
            if what != self._what:
                print(f"  {now - self._start:5.1f} s  {what}", file=self._stream, flush=True)
        elif now >= self._first and (what != self._what or done >= total or now - self._drawn >= REFRESH_SECONDS):
            filled = round(_BAR_WIDTH * min(done / total, 1.0)) if total else 0
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            self._draw(f"  [{bar}] {now - self._start:5.1f} s  {what}"[: self._columns])
            self._drawn = now
        self._what = what

    def __enter__(self) -> Status:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            self._draw("")

    def _draw(self, text: str) -> None:
        print(f"\r\033[K{text}", end="", file=self._stream, flush=True)


class NotebookStatus(Status):
    """The same as a line in the output of a notebook's cell; the line is empty in the end."""

    def __init__(self, display: Callable[..., Any], delay: float) -> None:
        super().__init__(sys.stderr, delay)
        self._live, self._display, self._line = True, display, None

    def _draw(self, text: str) -> None:
        content = {"text/plain": text}
        if self._line is None:
            self._line = self._display(content, raw=True, display_id=True)
        else:
            self._line.update(content, raw=True)


class Interrupts:
    """Records whether Ctrl-C was pressed; a training, an analysis or a sweep only ends early then, without an error."""

    def __init__(self) -> None:
        self.seen = False
        self._noting = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        # Where SIGINT is ignored or has a handler of the host's, it stays so.
        self._noting = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._noting:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._noting and not self.seen:  # once seen, the process is about to end; a second Ctrl-C ends it at once
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: object) -> None:
        self.seen = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt
