"""The commands and their options, and how the values of options are read."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from .. import _check, _core, config
from ..init import activations, initializers
from .analyze import NORMALIZATIONS, OPTIMIZERS, run_analyze, run_predict
from .demo import run_demo
from .info import run_info
from .outputs import ERROR
from .sweep import run_sweep
from .table import CLASS_LOSSES

_EXIT_CODES = """exit code: 0 the gradients are healthy, 1 they are not, 2 an error (described in one line on stderr),
130 interrupted (the report shows the results so far)"""
_ANALYZE_EXAMPLES = f"""examples:
  gradcore analyze --data digits --widths 64,100x30,10 --activation sigmoid
  gradcore analyze --data houses.csv --target price --widths 12,64x8,1 --standardize --html report.html
  gradcore analyze --data train.npz --widths 20,256x20,5 --optimizer adam --lr 1e-3 --json -

{_EXIT_CODES}
"""
_SWEEP_EXAMPLES = """lists: values such as 5,10,20, or first:last:count such as 0.5:3:6 for 6 values from 0.5 to 3

examples:
  gradcore sweep --depth 5,10,20,40 --activation relu,tanh,sigmoid --normalization none,batch --seeds 3
  gradcore sweep --weight-var 0.5:4:8 --bias-var 0:0.4:5 --activation tanh --depth 30 --html phase.html
  gradcore sweep --data digits --depth 10:50:5 --init he_normal,orthogonal --out sweep.jsonl

exit code: 0 all nets were measured, 2 an error, 130 interrupted (run it again with the same --out to resume)
"""


class _Parser(argparse.ArgumentParser):
    """Prints errors as one line, like all other errors of the command line."""

    def error(self, message: str) -> NoReturn:
        self.exit(ERROR, f"gradcore: {message} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `run` of its result is the function of the chosen command."""
    parser = _Parser(
        prog="gradcore",
        description="Finds vanishing and exploding gradients in deep MLPs, explains them, and tests cures.",
    )
    parser.add_argument("--version", action="version", version=f"gradcore {_core.version()}")
    _add_places(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    _add_demo(commands)
    _add_analyze(commands)
    _add_predict(commands)
    _add_sweep(commands)
    info = commands.add_parser("info", help="show version, CPU targets and threads of this installation")
    info.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    info.set_defaults(run=run_info)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Options for building other programs; several of them print one line, as with pkg-config."""
    group = parser.add_argument_group("for compilers and build systems")
    for option, show, meaning in (
        ("--cflags", config.cflags, "compiler flags that find the headers"),
        ("--libs", config.libs, "linker flags for libgradcore"),
        ("--includedir", config.get_include, "directory of the headers"),
        ("--libdir", config.get_library_dir, "directory of libgradcore"),
        ("--cmakedir", config.get_cmake_dir, "directory of gradcoreConfig.cmake"),
        ("--pkgconfigdir", config.get_pkgconfig_dir, "directory of gradcore.pc"),
    ):
        group.add_argument(option, dest="places", action="append_const", const=show, help=meaning)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="diagnose, cure and train a 30-layer net that cannot learn real data (under a minute)",
        description="A 30-layer sigmoid net fails to learn handwritten digits. The demo shows the failure, analyzes "
        "where and why its gradients vanish, tries remedies, and trains the net with the best one. "
        "It needs scikit-learn for its data: pip install 'gradcore[demo]'",
        epilog="exit code: 0 the cured net learned and the original did not, 1 otherwise, 2 an error, 130 interrupted",
    )
    demo.add_argument("--quick", action="store_true", help="try the remedies for fewer steps, for a slow machine")
    _add_outputs(demo)
    demo.add_argument("--seed", type=_seed, default=0, help="seed of weights, batches and split (default 0)")
    demo.set_defaults(run=run_demo)


def _add_analyze(commands: Any) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="analyze the gradients of a net of your shape on your data, and try cures",
        description="Builds a net, measures its gradients on your data, judges and explains them, and tries remedies.\n"
        "A CSV file has numbers in every column but the target, separated by commas, semicolons, tabs\n"
        "or |; a header line is optional. An NPZ file has arrays x (or X) and y (or target).",
        epilog=_ANALYZE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = analyze.add_argument
    add(
        "--data",
        required=True,
        metavar="digits|FILE",
        help="the bundled digits, a .csv, .tsv, .txt or .npz file, or - for CSV from standard input",
    )
    add("--target", metavar="COLUMN", help="target column of a CSV, by name or index (default: the last)")
    add("--standardize", action="store_true", help="shift each feature to mean 0, scale it to variance 1")
    _add_design(analyze)
    losses = (*CLASS_LOSSES, *_check.VALUE_LOSSES)
    add("--loss", choices=losses, metavar="NAME", help=f"{', '.join(losses)} (default: depends on the target)")
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        help="judge for this optimizer (default: plain SGD at a rate that suits the net)",
    )
    add("--lr", type=_number(">= 0"), help="learning rate of the optimizer (default: 0.1 for sgd, 1e-3 for the others)")
    add("--batch-size", type=_count, default=128, metavar="N", help="rows per batch (default 128)")
    add("--batches", type=_count, default=8, metavar="N", help="number of batches to measure (default 8)")
    add("--seed", type=_seed, default=0, help="seed of weights and batches (default 0)")
    add("--no-remedies", action="store_true", help="diagnose only, try no remedies")
    _add_outputs(analyze)
    analyze.set_defaults(run=run_analyze)


def _add_design(parser: argparse.ArgumentParser) -> None:
    """Options for the net's shape, as in `gc.MLP`."""
    add = parser.add_argument
    add("--widths", required=True, type=_widths, metavar="LIST", help="layer widths; 64,100x30,10 has 30 layers of 100")
    add("--activation", default="relu", choices=activations(), metavar="NAME", help=", ".join(activations()))
    kinds = tuple(NORMALIZATIONS)
    add("--normalization", choices=kinds, default="none", help="normalization before each activation (default: none)")
    add("--residual", action="store_true", help="add each block's input to its output where their widths are equal")
    add("--init", default="auto", choices=initializers(), metavar="NAME", help=", ".join(initializers()))


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="predict the gradients of a net of your shape by theory, without data",
        description="Shows what mean-field theory predicts: the factor on the squared gradient per layer, the profile "
        "with the range of random initializations at these widths, how many layers the design can carry, and the "
        "critical weight scale.",
        epilog="example: gradcore predict --widths 64,100x30,10 --activation sigmoid",
    )
    _add_design(predict)
    add = predict.add_argument
    add(
        "--weight-var", type=_number("> 0"), metavar="V", help="variance of the weights times fan_in, instead of --init"
    )
    add("--bias-var", type=_number(">= 0"), metavar="V", help="variance of the biases (default 0)")
    add("--batch-size", type=_count, default=128, metavar="N", help="rows per batch, for batch norm (default 128)")
    _add_outputs(predict)
    predict.set_defaults(run=run_predict)


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep",
        help="measure the gradients of many nets: depth, width, activation, initialization, normalization, seeds",
        description="Measures a net at every combination of the given values, in parallel, and shows the gain of\n"
        "the gradient per layer as a table and as heat maps. With --weight-var and --bias-var, the heat\n"
        "map is the phase diagram of mean-field theory, with its critical line.",
        epilog=_SWEEP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = sweep.add_argument
    numbers, counts = _values(float), _values(int)
    add("--depth", type=counts, metavar="LIST", help="number of dense layers (default 10)")
    add("--width", type=counts, metavar="LIST", help="units of each hidden layer (default 64)")
    add("--activation", type=_names, metavar="LIST", help=f"{', '.join(activations())} (default relu)")
    add("--init", type=_names, metavar="LIST", help=f"{', '.join(initializers())} (default auto)")
    add("--weight-var", type=numbers, metavar="LIST", help="variance of the weights times fan_in, instead of --init")
    add("--bias-var", type=numbers, metavar="LIST", help="variance of the biases (default 0)")
    add("--normalization", type=_names, metavar="LIST", help="none, batch, layer, rms (default none)")
    add("--residual", type=_names, metavar="LIST", help="no, yes (default no)")
    add("--seeds", type=_count, default=1, metavar="N", help="number of weight draws for each design (default 1)")
    add("--data", metavar="digits|FILE", help="as for analyze (default: standard normal inputs, random labels)")
    add("--target", metavar="COLUMN", help="target column of a CSV, by name or index (default: the last)")
    add("--standardize", action="store_true", help="shift each feature to mean 0, scale it to variance 1")
    add("--batch-size", type=_count, default=128, metavar="N", help="rows per batch (default 128)")
    add("--batches", type=_count, default=4, metavar="N", help="number of batches to measure each net on (default 4)")
    add("--workers", type=_count, metavar="N", help="number of threads (default: that of `gradcore info`)")
    add("--out", metavar="FILE", help="save each net when measured (JSON lines); an interrupted sweep resumes from it")
    add("--csv", metavar="FILE", help="write one row per net as CSV; - prints it instead of the text")
    _add_outputs(sweep)
    sweep.set_defaults(run=run_sweep)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", metavar="FILE", help="write the report as a self-contained HTML page")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - prints it instead of the text")


def _names(argument: str) -> list[str]:
    return [name.strip() for name in argument.split(",")]


def _values(kind: Callable[[str], float]) -> Callable[[str], list[float]]:
    """A parser of 5,10,20 or first:last:count, which includes both ends."""

    def read(argument: str) -> list[float]:
        try:
            if ":" not in argument:
                return [kind(part) for part in argument.split(",")]
            first, last, count = argument.split(":")
            found = np.linspace(float(first), float(last), _count(count))
            return [kind(f"{value:.10g}") for value in found]
        except (ValueError, argparse.ArgumentTypeError):
            expected = "whole numbers" if kind is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"expected {expected} such as 5,10,20 or first:last:count, got {argument!r}"
            ) from None

    return read


def _number(bound: str) -> Callable[[str], float]:
    """A parser of a finite number; bound: ">= 0" or "> 0"."""

    def read(argument: str) -> float:
        try:
            value = float(argument)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0.0 or (value == 0.0 and bound == "> 0"):
            raise argparse.ArgumentTypeError(f"expected a finite number {bound}, got {argument!r}")
        return value

    return read


def _widths(argument: str) -> list[int]:
    widths: list[int] = []
    for part in argument.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*x\s*(\d+))?\s*", part)
        if match is None or int(match[1]) < 1 or int(match[2] or 1) < 1:
            raise argparse.ArgumentTypeError(f"expected widths such as 64,100x30,10, got {argument!r}")
        if len(widths) + int(match[2] or 1) > _check.MOST_LAYERS:
            raise argparse.ArgumentTypeError(f"expected at most {_check.MOST_LAYERS} layers, got {argument!r}")
        widths += [int(match[1])] * int(match[2] or 1)
    if len(widths) < 2:
        raise argparse.ArgumentTypeError(f"expected at least an input and an output width, got {argument!r}")
    return widths


def _count(argument: str) -> int:
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {argument!r}")
    return int(argument)


def _seed(argument: str) -> int:
    if not argument.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {argument!r}")
    return int(argument)
