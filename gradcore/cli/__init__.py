"""The command line: `gradcore demo`, `gradcore analyze`, `gradcore predict`, `gradcore sweep`, `gradcore info`.

Reports go to stdout, progress and errors to stderr. Every error is one line and exit code 2; GRADCORE_TRACEBACK=1 in
the environment prints the traceback before that line. After Ctrl-C, a command shows its results so far and starts
nothing new; a second Ctrl-C ends it at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from .._status import Interrupts
from .arguments import make_parser
from .outputs import ERROR, INTERRUPTED, OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.places:
        print(" ".join(show() for show in arguments.places))
        return OK
    if arguments.command is None:
        parser.error("expected a command: demo, analyze, predict, sweep or info")
    try:
        with Interrupts() as arguments.interrupts:
            code = int(arguments.run(arguments))
            sys.stdout.flush()  # so that a broken pipe raises here, not in the interpreter's last flush
        if arguments.interrupts.seen:
            raise KeyboardInterrupt
        return code
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("\ngradcore: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("GRADCORE_TRACEBACK"):
            traceback.print_exc()
        print(f"gradcore: {_one_line(error)}", file=sys.stderr)
        return ERROR


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ValueError, TypeError, FloatingPointError, OSError, ImportError, MemoryError)):
        return message
    return f"internal error, {type(error).__name__}: {message} (GRADCORE_TRACEBACK=1 shows where)"
