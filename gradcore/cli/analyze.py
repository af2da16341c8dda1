"""`gradcore analyze` and `gradcore predict`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from .. import _check, analysis, optim
from .._status import Status
from ..analysis.proposals import starts_small
from ..mlp import MLP
from ..show import story, text
from .outputs import OK, UNHEALTHY, check_outputs, write_outputs
from .table import Table, load

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": optim.SGD,
    "rmsprop": optim.RMSprop,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
}
NORMALIZATIONS: dict[Any, str | None] = {name or "none": name for name in _check.NORMALIZATIONS}


def run_analyze(arguments: argparse.Namespace) -> int:
    """`gradcore analyze`; returns the exit code, which gives the verdict."""
    check_outputs(arguments)
    table = _load_table(arguments)
    net = _build_net(arguments)
    with Status(sys.stderr) as status:
        report = analysis.analyze(
            net,
            table.x,
            table.target,
            loss=table.loss,
            optimizer=_build_optimizer(arguments, net),
            batch_size=arguments.batch_size,
            batches=arguments.batches,
            seed=arguments.seed,
            progress=status,
        )
        whole = not report.conditions["interrupted"]
        if whole and not arguments.no_remedies and (report.verdict != "healthy" or starts_small(report)):
            report.remedies(progress=status)
    if arguments.json != "-":
        print("\n".join(table.notes), end="\n\n")
        print(text.render(report, color=None))
    write_outputs(report, arguments)
    return OK if report.verdict == "healthy" else UNHEALTHY


def run_predict(arguments: argparse.Namespace) -> int:
    """`gradcore predict`."""
    check_outputs(arguments)
    prediction = analysis.predict(
        arguments.widths,
        activation=arguments.activation,
        normalization=NORMALIZATIONS[arguments.normalization],
        residual=arguments.residual,
        init=arguments.init,
        weight_var=arguments.weight_var,
        bias_var=arguments.bias_var,
        batch_size=arguments.batch_size,
    )
    if arguments.json != "-":
        print(prediction)
    write_outputs(prediction, arguments)
    return OK


def _load_table(arguments: argparse.Namespace) -> Table:
    widths = arguments.widths
    table = load(arguments.data, target=arguments.target, loss=arguments.loss, outputs=widths[-1])
    features = table.x.shape[1]
    if widths[0] != features or widths[-1] != table.outputs:
        raise ValueError(
            f"--widths starts with {widths[0]} and ends in {widths[-1]}, but {table.source} has {features} features "
            f"and its target needs {story.counted(table.outputs, 'output')} ({table.loss})"
        )
    return table.standardized() if arguments.standardize else table


def _build_net(arguments: argparse.Namespace) -> MLP:
    return MLP(
        arguments.widths,
        activation=arguments.activation,
        normalization=NORMALIZATIONS[arguments.normalization],
        residual=arguments.residual,
        init=arguments.init,
        seed=arguments.seed,
    )


def _build_optimizer(arguments: argparse.Namespace, net: MLP) -> optim.Optimizer | None:
    if arguments.optimizer is None and arguments.lr is None:
        return None
    name = arguments.optimizer or "sgd"
    default = 0.1 if name == "sgd" else 1e-3
    return OPTIMIZERS[name](net, default if arguments.lr is None else arguments.lr)
