"""Exit codes, and the files that a command writes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import _files
from ..analysis.report import Prediction, Report
from ..sweeps import SweepResult

OK, UNHEALTHY, ERROR, INTERRUPTED = 0, 1, 2, 130


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raise ValueError before the analysis if its report could not be written."""
    if getattr(arguments, "csv", None) == arguments.json == "-":
        raise ValueError("--csv and --json: expected - for one of them at most, got both")
    names = ("html", "json", "csv", "out")
    for option, name in ((f"--{name}", getattr(arguments, name, None)) for name in names):
        if name == "-" and option in ("--html", "--out"):
            raise ValueError(f"{option}: expected a file, got '-'")
        if name and name != "-" and (Path(name).is_dir() or not Path(name).resolve().parent.is_dir()):
            raise ValueError(f"{option}: cannot write {name}: it is a directory, or its directory does not exist")


def write_outputs(report: Report | Prediction | SweepResult, arguments: argparse.Namespace) -> None:
    """Write the requested files; `--json -` prints to stdout."""
    if arguments.html:
        report.save_html(arguments.html)
        print(f"wrote {arguments.html}", file=sys.stderr)
    if arguments.json == "-":
        print(report.to_json())
    elif arguments.json:
        _files.write_report(Path(arguments.json), report.to_json() + "\n")
        print(f"wrote {arguments.json}", file=sys.stderr)
