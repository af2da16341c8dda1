"""`gradcore analyze` and `gradcore predict`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .._status import Status
from ..show import story, text
from .outputs import OK, UNHEALTHY, check_outputs, write_outputs
from .table import Table, load

OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw")
NORMALIZATIONS: dict[Any, Any] = {"none": None, "batch": "batch", "layer": "layer", "rms": "rms"}


def run_analyze(arguments: argparse.Namespace) -> int:
    """`gradcore analyze`; returns the exit code, which gives the verdict."""
    from .. import analysis
    from ..analysis.candidates import starts_small

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
    from .. import analysis

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


def _build_net(arguments: argparse.Namespace) -> Any:
    from ..mlp import MLP

    return MLP(
        arguments.widths,
        activation=arguments.activation,
        normalization=NORMALIZATIONS[arguments.normalization],
        residual=arguments.residual,
        init=arguments.init,
        seed=arguments.seed,
    )


def _build_optimizer(arguments: argparse.Namespace, net: Any) -> Any:
    from .. import optim

    if arguments.optimizer is None and arguments.lr is None:
        return None
    kinds = (optim.SGD, optim.RMSprop, optim.Adam, optim.AdamW)
    name = arguments.optimizer or "sgd"
    default = 0.1 if name == "sgd" else 1e-3
    return dict(zip(OPTIMIZERS, kinds, strict=True))[name](net, default if arguments.lr is None else arguments.lr)
