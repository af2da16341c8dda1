"""`gradcore sweep`."""

from __future__ import annotations

import argparse
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import _check, _files
from .._runtime import get_num_threads
from .._status import Status
from ..show import sweep_text
from ..sweeps import SweepResult, sweep
from ..sweeps.grid import checked_axes
from .analyze import NORMALIZATIONS
from .outputs import INTERRUPTED, OK, check_outputs, write_outputs
from .table import load

_RESIDUAL: dict[Any, Any] = {"no": False, "yes": True}


def run_sweep(arguments: argparse.Namespace) -> int:
    """`gradcore sweep`."""
    check_outputs(arguments)
    names = ("depth", "width", "activation", "init", "weight_var", "bias_var")
    grid = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name, words in (("normalization", NORMALIZATIONS), ("residual", _RESIDUAL)):
        if getattr(arguments, name) is not None:
            grid[name] = [_check.choice(word, f"--{name}", words) for word in getattr(arguments, name)]
    grid["seed"] = range(arguments.seeds)
    data: dict[str, Any] = {}
    if arguments.data is not None:
        table = load(arguments.data, target=arguments.target)
        table = table.standardized() if arguments.standardize else table
        data = {"x": table.x, "target": table.target, "loss": table.loss}
    elif arguments.target is not None or arguments.standardize:
        raise ValueError("--target and --standardize: expected --data as well, got none")
    _check_axes(grid)
    with ThreadPoolExecutor(arguments.workers or get_num_threads()) as executor, Status(sys.stderr) as status:
        result = sweep(
            grid,
            **data,
            batch_size=arguments.batch_size,
            batches=arguments.batches,
            executor=executor,
            path=arguments.out,
            progress=status,
        )
    _write_sweep(result, arguments)
    return INTERRUPTED if result.interrupted else OK


def _check_axes(grid: dict[str, Any]) -> None:
    """As `sweep` will, but errors name the options of the command line."""
    try:
        checked_axes(grid, "float32")
    except (ValueError, TypeError) as error:
        text = re.sub(r"^grid\['(\w+)'\]", lambda axis: "--" + axis[1].replace("_", "-"), str(error))
        raise type(error)(text) from None


def _write_sweep(result: SweepResult, arguments: argparse.Namespace) -> None:
    if "-" not in (arguments.json, arguments.csv):
        print(sweep_text.render(result, color=None))
    if arguments.csv == "-":
        print(result.to_csv(), end="")
    elif arguments.csv:
        _files.write_report(Path(arguments.csv), result.to_csv())
        print(f"wrote {arguments.csv}", file=sys.stderr)
    write_outputs(result, arguments)
