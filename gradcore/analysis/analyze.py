"""The way through the analysis: a net and its data in, a report out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from .._status import Progress, shown
from ..mlp import MLP
from ..optim import Optimizer
from . import measure as measuring
from .arithmetic import harmless
from .case import SGD_LR, Case, batch_rows
from .depth import depth_limit
from .judge import judge
from .measure import Measurement
from .outlook import look_ahead
from .predict import expected_profile
from .propagation import propagate
from .rehearsal import rehearse
from .report import Prediction, Report
from .slope import estimate
from .subject import Subject, Thresholds, checked_limits

# Steps within which layers without a gradient at the start must receive one: one step for each of two layers in a row
# whose weights start at zero.
WAKING_STEPS = 2


def analyze(
    net: Any,
    x: ArrayLike,
    target: ArrayLike,
    *,
    loss: str = "cross_entropy",
    optimizer: Any = None,
    batch_size: int = 128,
    batches: int = 8,
    seed: int = 0,
    thresholds: Thresholds | None = None,
    progress: bool | Progress | None = True,
) -> Report:
    """Measure a net's gradients on data, judge them, and explain what is wrong.

    Everything runs on copies: the net, its gradients and running statistics, and the optimizer do not change. An
    interrupt (KeyboardInterrupt) after the first batch returns the report of the batches so far.

    Args:
        net: a gradcore.MLP, fresh or trained.
        x: [rows, in_features]. target: as for `net.loss_and_gradients`, for all rows.
        loss: name of the loss.
        optimizer: an optimizer of gc.optim created for this net. Its update sizes are judged in its current state, and
            a few of its steps are rehearsed on a copy of the net. Where the verdict depends on more steps, up to 1000
            more follow, and as many on other batches, or at one or two lower rates (`analysis.outlook`). None means
            plain SGD at a rate that suits the net: updates are given for lr 0.01, but steps are called too large only
            if they are so at 1e-4.
        batch_size, batches: disjoint random batches to measure, fewer or smaller ones if there is less data. With batch
            norm, gradients depend on the batch size: use the one you train with. It is kept; with little data, batches
            then share rows.
        seed: seed of the choice of batches.
        thresholds: limits of the judgement; see `Thresholds`.
        progress: True shows a line in a terminal or notebook, False nothing; a function is called with
            (done, total, what).

    Returns:
        A Report.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    start = time.perf_counter()
    case = make_case(net, x, target, loss, optimizer, batch_size, batches, seed)
    limits = checked_limits(thresholds)
    with shown(progress) as show:
        measurement = measure_and_rehearse(case, limits, show)
    return report_of(case, measurement, limits, start)


def report_of(case: Case, measurement: Measurement, limits: Thresholds, start: float) -> Report:
    """The report on a measurement. start: the value of `time.perf_counter` before it was made."""
    subject = examine(case, measurement, limits)
    verdict, findings = judge(subject)
    prediction = _prediction(measurement)
    return Report(
        verdict=verdict,
        findings=findings,
        layers=subject.records,
        slope=subject.slope,
        prediction=prediction,
        config=measurement.config,
        conditions=_conditions(case, measurement, limits, time.perf_counter() - start),
        loss=measurement.loss,
        jacobian=None if measurement.propagation is None else measurement.propagation.jacobian,
        depth_limit=depth_limit(subject, prediction),
        flows=measurement.flows,
        _case=case,
    )


def make_case(
    net: Any, x: ArrayLike, target: ArrayLike, loss: str, optimizer: Any, batch_size: int, batches: int, seed: int
) -> Case:
    """The Case of the arguments of `analyze`, which are checked; the net is copied."""
    _check.instance(net, "net", MLP, "a gradcore.MLP")
    if optimizer is not None:
        _check.instance(optimizer, "optimizer", Optimizer, "one of gc.optim made for this net, or None")
        if optimizer.net is not net:
            raise ValueError("optimizer: expected one made for this net, got one of another net")
    _check.choice(loss, "loss", _check.LOSSES)
    batch_size = _check.integer(batch_size, "batch_size", 1)
    batches, seed = _check.integer(batches, "batches", 1), _check.integer(seed, "seed", 0)
    # A cross entropy over one output cannot use labels (`Case.trainable`), but a remedy with more outputs can: keep
    # them.
    one_output = loss == "cross_entropy" and net.out_features == 1
    rows, targets = _check.data(net, x, target, loss, classes=np.iinfo(np.int64).max if one_output else None)
    if one_output and targets.dtype.kind != "i":
        targets = (targets[:, 0] > 0.5).astype(np.int64)
    if net.normalization == "batch" and (len(rows) < 2 or batch_size < 2):
        few = min(len(rows), batch_size)
        raise ValueError(f"x, batch_size: expected at least two rows a batch for batch norm, got {few}")
    return Case(
        net=net.copy(),
        x=rows,
        target=targets,
        loss=loss,
        optimizer=optimizer,
        batch_size=batch_size,
        rows=batch_rows(len(rows), batch_size, batches, seed, keep_size=net.normalization == "batch"),
        seed=seed,
        trained=optimizer is not None and optimizer.step_count > 0,
    )


def measure_and_rehearse(case: Case, limits: Thresholds, progress: Progress | None) -> Measurement:
    """Everything that is measured of a case: passes over its batches, rehearsed steps, propagation and outlook.

    Whether there is an outlook depends on the verdict by `limits`. An interrupt after the first batch leaves out what
    was not measured yet.
    """
    net = case.net.copy()
    measurement = measuring.measure(case, net, progress=progress)
    try:
        measurement = _woken(case, measurement)
        if np.isfinite(measurement.losses).all() and not measurement.interrupted:
            # The measured net can be used again: its gradients and running statistics differ, but a step reads neither.
            measurement = replace(measurement, rehearsal=rehearse(case, net, _at_start(measurement)))
            measurement = replace(measurement, propagation=propagate(case.net, case.x[case.rows[0]], case.seed))
            measurement = replace(measurement, outlook=look_ahead(examine(case, measurement, limits), progress))
    except KeyboardInterrupt:
        measurement = replace(measurement, interrupted=True)
    return measurement


def _woken(case: Case, measurement: Measurement) -> Measurement:
    """The measurement; or, if layers without a gradient receive one within a few steps, that of the net after them.

    The first one is then kept in `Measurement.asleep`.
    """
    silent = measurement.rms("weight_grad_norm") == 0.0
    blocked = silent.any() and measurement.has_gradient and np.isfinite(measurement.losses).all()
    if blocked and not measurement.interrupted:
        net = case.net.copy()
        optimizer = case.optimizer_for(net)
        optimizer.lr = optimizer.lr or SGD_LR  # whether layers wake up does not depend on the rate, unless it is 0
        for index in range(WAKING_STEPS):
            case.step(net, optimizer, case.batch(index))
        later = measuring.measure(case, net)
        if (later.rms("weight_grad_norm")[silent] > 0.0).any():
            return replace(later, asleep=measurement)
    return measurement


def _at_start(measurement: Measurement) -> np.ndarray:
    """Losses of the batches before any step, those that woke layers included."""
    return (measurement.asleep or measurement).losses


@harmless
def examine(case: Case, measurement: Measurement, limits: Thresholds) -> Subject:
    """The Subject to judge by `limits`: a measurement with its records of layers and its slope."""
    return Subject(
        case=case,
        measurement=measurement,
        records=measuring.layer_records(case, measurement),
        slope=estimate(measurement, limits.norm_ratio, trained=case.trained),
        limits=limits,
    )


@harmless
def _prediction(measurement: Measurement) -> Prediction:
    """What mean-field theory expects; shown beside the measurement, it has no part in the judgement."""
    delta = measurement.rms("delta_norm")
    return expected_profile(
        measurement.config,
        measurement.weight_var,
        measurement.bias_var,
        input_square=measurement.input_square,
        batch_size=measurement.batch_size,
        measured_log=2.0 * np.log(delta / delta[-1]),
    )


def _conditions(case: Case, measurement: Measurement, limits: Thresholds, seconds: float) -> dict[str, Any]:
    """`Report.conditions`; seconds: duration of the analysis."""
    return {
        "loss": case.loss,
        "optimizer": None if case.optimizer is None else repr(case.optimizer),
        "lr": case.step_size,
        "batches": len(measurement.flows),
        "batch_size": measurement.batch_size,
        "rows": len(case.x),
        "seed": case.seed,
        "dtype": str(measurement.config["dtype"]),
        "interrupted": measurement.interrupted,
        "thresholds": limits.to_dict(),
        "seconds": seconds,
    }
