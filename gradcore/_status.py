"""What a long command is doing right now, as one live line on a terminal, else a line for each stage; and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from typing import TextIO

_REFRESH_SECONDS = 0.1
_BAR_WIDTH = 24


class Status:
    """Called with (done, total, what) as `gc.analyze` and `Report.remedies` do.

    On a terminal the line is drawn over itself and erased at the end; elsewhere each new `what` is
    printed once, so that a log shows the progress too. Use as a context manager.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._live = stream, stream.isatty()
        self._what, self._drawn = "", 0.0
        self._start = time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Show that `done` of `total` parts of `what` are finished."""
        now = time.monotonic()
        if not self._live:
            if what != self._what:
                print(f"  {now - self._start:5.1f} s  {what}", file=self._stream, flush=True)
        elif what != self._what or done >= total or now - self._drawn >= _REFRESH_SECONDS:
            filled = round(_BAR_WIDTH * min(done / total, 1.0)) if total else 0
            bar = "#" * filled + "." * (_BAR_WIDTH - filled)
            text = f"  [{bar}] {now - self._start:5.1f} s  {what}"
            print(f"\r\033[K{text[:100]}", end="", file=self._stream, flush=True)
            self._drawn = now
        self._what = what

    def __enter__(self) -> Status:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            print("\r\033[K", end="", file=self._stream, flush=True)


class Interrupts:
    """Notes Ctrl-C, at which a training, an analysis or a sweep ends without an error and gives what it has."""

    def __init__(self) -> None:
        self.seen = False
        self._noting = False

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        self._noting = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not if it is ignored
        if self._noting:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._noting and not self.seen:  # else the process is about to end, and a second Ctrl-C hastens that
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: object) -> None:
        self.seen = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt
