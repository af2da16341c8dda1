"""Measures all points of a grid in parallel and writes each to a file as soon as it is finished."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from .._runtime import get_num_threads
from .._status import Progress, shown
from ..analysis.analyze import analyze
from ..analysis.arithmetic import bounded_exp
from ..analysis.judge import worst_cause
from ..analysis.measure import travelling_norm
from ..analysis.report import Report
from ..mlp import MLP
from .file import SETTINGS, SweepFile
from .grid import Array, Row, build, checked_axes, key, points
from .result import SweepResult
from .row import as_row

# The default inputs: standard normal, as mean-field theory assumes, and wide enough to average.
_FEATURES, _CLASSES = 100, 10


def sweep(
    grid: Mapping[str, Any],
    x: ArrayLike | None = None,
    target: ArrayLike | None = None,
    *,
    loss: str = "cross_entropy",
    batch_size: int = 128,
    batches: int = 4,
    seed: int = 0,
    dtype: str = "float32",
    executor: Executor | None = None,
    path: str | PathLike[str] | None = None,
    progress: bool | Progress | None = True,
) -> SweepResult:
    """Measure the gradients of a net at every point of a grid.

    Args:
        grid: axis -> values, or one value. Axes and their defaults: depth (10 dense layers), width (64), activation
            ("relu"), init ("auto") or instead weight_var (weights of variance weight_var / fan_in), bias_var (variance
            of the biases, 0), normalization (None), residual (False), seed (of the weights, 0).
        x, target: data as for `gc.analyze`; a random subset that fills the batches is used. None: standard normal
            inputs with 100 features and random labels of 10 classes, which match the assumptions of the theory.
        loss, batch_size, batches, seed: as for `gc.analyze`; seed also selects the subset of the data.
        dtype: dtype of the nets.
        executor: runs the measurements and is not shut down. None: `gc.get_num_threads()` threads, which run in
            parallel inside native code. Processes suit tiny nets, which spend their time in Python:
            ProcessPoolExecutor(initializer=gc.set_num_threads, initargs=(1,)).
        path: file of finished points (JSON lines). If it exists, the sweep resumes from it; a file of another
            configuration or other data is refused.
        progress: True shows a line in a terminal or notebook, False nothing; a function is called with
            (done, total, what).

    Returns:
        SweepResult, with rows in the order of the grid for any executor. Ctrl-C ends the sweep early; the result then
        holds the points so far.

    Raises:
        ValueError, TypeError: naming the argument, before anything is measured.
    """
    dtype = _check.dtype_name(dtype)
    axes = checked_axes(grid, dtype)
    _check.choice(loss, "loss", _check.LOSSES)
    batch_size, batches = _check.integer(batch_size, "batch_size", 1), _check.integer(batches, "batches", 1)
    seed = _check.integer(seed, "seed", 0)
    work = _Work(
        *_data(x, target, loss, batch_size, batches, seed),
        loss=loss,
        batch_size=batch_size,
        batches=batches,
        seed=seed,
        dtype=dtype,
    )
    if executor is not None:
        _check.instance(executor, "executor", Executor, "a concurrent.futures.Executor or None")
    config = {"grid": axes, "settings": work.settings()}
    wanted = points(axes)
    with ExitStack() as stack:
        file = None if path is None else stack.enter_context(SweepFile(path, config))
        done = {} if file is None else {key(point): as_row(point, result) for point, result in file.rows}
        todo = [point for point in wanted if key(point) not in done]
        show = stack.enter_context(shown(progress))
        run = _Run(work, file, show, done, len(wanted))
        interrupted = run(todo, executor or stack.enter_context(_threads(len(todo))))
    rows = [done[key(point)] for point in wanted if key(point) in done]
    return SweepResult(rows, axes, config["settings"], interrupted)


def _data(
    x: ArrayLike | None, target: ArrayLike | None, loss: str, batch_size: int, batches: int, seed: int
) -> tuple[Array, Array, int]:
    """The rows to measure on, and the number of outputs they need."""
    count = batch_size * max(batches, 4)  # `analyze` measures at least four batches, smaller ones if necessary
    rng = np.random.default_rng(seed)
    if x is None or target is None:
        if x is not None or target is not None or loss != "cross_entropy":
            raise ValueError("x, target: expected both or, for loss 'cross_entropy', none of them")
        return rng.standard_normal((count, _FEATURES)), rng.integers(0, _CLASSES, count), _CLASSES
    rows, values = _check.array(x, "x"), _check.array(target, "target")
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"x: expected a 2-D array [rows, features] with at least one of each, got shape {rows.shape}")
    labels = loss == "cross_entropy" and values.dtype.kind in "iub" and (values.ndim == 1 or values.shape[1:] == (1,))
    outputs = int(values.max(initial=0)) + 1 if labels else 1 if values.ndim == 1 else math.prod(values.shape[1:])
    values = _check.target(values, np.dtype(np.float64), loss, len(rows), outputs)
    _check.finite(rows, "x")
    _check.not_constant(loss, outputs)
    _check.target_values(values, "target", loss, outputs)
    part = np.sort(rng.permutation(len(rows))[:count])
    return rows[part], values[part], outputs


def _threads(num_points: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, min(get_num_threads(), num_points)), "gradcore-sweep")


@dataclass
class _Run:
    """Measures points and writes each to the file as soon as it is finished. done: finished points, by `grid.key`."""

    work: _Work
    file: SweepFile | None
    show: Progress | None
    done: dict[str, Row]
    total: int

    def __call__(self, todo: list[Row], executor: Executor) -> bool:
        """Measure the points in `todo`; returns whether Ctrl-C interrupted it."""
        futures: dict[Future[Row], Row] = {}
        try:
            self._progress()
            for point in todo:
                futures[executor.submit(self.work, point)] = point
            for future in as_completed(futures):
                self._keep(futures.pop(future), future)
                self._progress()
        except KeyboardInterrupt:
            self._cancel(futures)
            return True
        except BaseException:
            self._cancel(futures)
            raise
        return False

    def _progress(self) -> None:
        if self.show is not None:
            self.show(len(self.done), self.total, f"measuring {self.total} net{'s' if self.total > 1 else ''}")

    def _keep(self, point: Row, future: Future[Row]) -> None:
        """Store the result of a finished point; raises the error of one that failed."""
        try:
            result = future.result()
        except Exception as error:
            error.add_note(f"at the point {point} of a sweep")
            raise
        if self.file is not None:
            self.file.append(point, result)
        self.done[key(point)] = as_row(point, result)

    def _cancel(self, futures: dict[Future[Row], Row]) -> None:
        """Cancel points that have not begun, and store those that are finished."""
        for future in futures:
            future.cancel()
        for future, point in futures.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self._keep(point, future)


# ---- one net ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Work:
    """Measures one point; holds the data and settings that all points share. Process executors pickle it with each."""

    x: Array
    target: Array
    out_features: int
    loss: str
    batch_size: int
    batches: int
    seed: int
    dtype: str

    def __call__(self, point: Row) -> Row:
        net = build(point, self.x.shape[1], self.out_features, self.dtype)
        report = analyze(
            net,
            self.x,
            self.target,
            loss=self.loss,
            batch_size=self.batch_size,
            batches=self.batches,
            seed=self.seed,
        )
        return _measured(net, report)

    def settings(self) -> dict[str, Any]:
        """Settings that must be equal for a sweep to resume from a file."""
        digest = hashlib.sha256()
        for array in (self.x, self.target):
            digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        fingerprint = digest.hexdigest()[:16]
        rows, columns = self.x.shape
        shapes = {"rows": rows, "in_features": columns}
        return {**{name: getattr(self, name) for name in SETTINGS}, **shapes, "data": fingerprint}


def _measured(net: MLP, report: Report) -> Row:
    """The numbers of a report that go into the row of its point."""
    slope, prediction, hidden = report.slope, report.prediction, report.layers[:-1]
    ends = hidden[0].delta_norm / hidden[-1].delta_norm if hidden and hidden[-1].delta_norm else math.nan
    return {
        "verdict": report.verdict,
        "cause": worst_cause(report.findings),
        "gain": bounded_exp(slope.value),
        "gain_low": bounded_exp(slope.low),
        "gain_high": bounded_exp(slope.high),
        "deep_gain": _deep_gain(report),
        "predicted_gain": bounded_exp(prediction.slope) if prediction.valid else math.nan,
        "norm_ratio": float(ends),
        "q_star": float(prediction.q_star),
        "chi_star": float(prediction.chi_star),
        "trainable_depth": float(prediction.trainable_depth),
        "loss": float(report.loss),
        "saturated_share": float(np.mean([layer.saturated_share for layer in hidden])) if hidden else math.nan,
        "dead_share": float(np.mean([layer.dead_share for layer in hidden])) if hidden else math.nan,
        "num_parameters": net.num_parameters,
    }


def _deep_gain(report: Report) -> float:
    """The gain over the deeper half of the hidden layers; the first layers still depend on the scale of the inputs."""
    norms = [getattr(layer, travelling_norm(report.config)) for layer in report.layers[:-1]]
    upper, lower = norms[-1:], norms[len(norms) // 2 :][:1]
    steps = len(norms) - 1 - len(norms) // 2
    if steps < 1 or not (0.0 < upper[0] < math.inf and 0.0 < lower[0] < math.inf):
        return math.nan
    return float((lower[0] / upper[0]) ** (2.0 / steps))
