"""The training loop: `net.fit`, its history and its callbacks.

A callback is any object with one or more of these methods; `Callback` defines all of them, empty.

    on_run(run)             first, with the `Run`, whose settings may be changed during training
    on_fit_start(net)       before the first step
    before_step(rows)       before each step, with its rows; True records the pass in `net.flow`
    on_step(logs) -> stop   after each step: epoch, step, num_steps, loss, total_norm, lr; True ends the training
    on_error(error)         after a step that raised FloatingPointError and changed nothing: True ends the training,
                            False skips the step, None raises the error
    on_epoch(logs) -> stop  after each epoch: epoch, epochs, loss, total_norm, lr, seconds, and with
                            validation val_loss and, for the cross entropies, val_accuracy; True ends the training
    on_fit_end(history)     after the last step, also if training was interrupted or failed, or if another on_fit_end
                            failed

`logs` is a plain dict of numbers, new at each call. Where a hook may return True or False, only the bools of Python and
NumPy count. Other values are ignored, so a hook may be a lambda that returns whatever it calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _progress, ops
from .history import History as History
from .history import Logs as Logs
from .mlp import MLP
from .optim import Optimizer, check_step

Array = _check.Array

_HOOKS = ("on_run", "on_fit_start", "before_step", "on_step", "on_error", "on_epoch", "on_fit_end")


Rows = Any  # an index array or a slice of the run's data, or the pair (x, target) itself


@dataclass
class Run:
    """A training run. Clipping can be changed here during training, and the learning rate in `optimizer`.

    net, optimizer, loss, clip_norm, clip_value: as for `MLP.train_step`.
    x, target: the data that rows are taken from; None if each step brings its own batch.
    batch_size: rows per step; 0 if not known beforehand.
    """

    net: MLP
    optimizer: Optimizer
    loss: str = "cross_entropy"
    clip_norm: float | None = None
    clip_value: float | None = None
    x: Array | None = None
    target: Array | None = None
    batch_size: int = 0

    def batch(self, rows: Rows) -> tuple[Array, Array]:
        """Inputs and targets of a step, from the `rows` of `before_step`."""
        if isinstance(rows, tuple):
            return rows[0], rows[1]
        if self.x is None or self.target is None:
            raise ValueError("rows: expected a pair (x, target), as this run has no data of its own")
        return self.x[rows], self.target[rows]

    def num_rows(self, rows: Rows) -> int:
        """Number of rows of a step, from the `rows` of `before_step`."""
        if isinstance(rows, slice):
            return len(self.batch(rows)[0])
        return len(rows[0] if isinstance(rows, tuple) else rows)

    def step(self, x: ArrayLike, target: ArrayLike, record: bool = False) -> tuple[float, float]:
        """Take one step with the current settings; returns (loss, total_norm)."""
        return self.net.train_step(x, target, self.optimizer, self.loss, self.clip_norm, self.clip_value, record)


class TrainingWarning(UserWarning):
    """A warning about a training, by `fit` or a Monitor."""


class Callback:
    """Base class of callbacks, with empty hooks; `gradcore.training` says when each is called."""

    def on_run(self, run: Run) -> None:
        """Before all other hooks."""

    def before_step(self, rows: Rows) -> bool | None:
        """Before each step; True records its pass."""

    def on_error(self, error: FloatingPointError) -> bool | None:
        """After a step that raised: True ends the training, False skips the step, None raises the error."""

    def on_fit_start(self, net: MLP) -> None:
        """Before the first step."""

    def on_step(self, logs: Logs) -> bool | None:
        """After each step; True ends the training."""

    def on_epoch(self, logs: Logs) -> bool | None:
        """After each epoch; True ends the training."""

    def on_fit_end(self, history: History) -> None:
        """After the last step."""


class EarlyStopping(Callback):
    """End the training when a quantity has stopped improving, and restore the best weights.

    Args:
        monitor: name of the quantity in the epoch's logs.
        patience: epochs to wait without improvement, >= 1.
        min_delta: smallest change that counts as an improvement, >= 0.
        mode: "min" or "max"; None means "max" for an accuracy and "min" otherwise.
        restore_best: restore the parameters and buffers of the best epoch at the end.

    Attributes:
        best, best_epoch: the best value and its epoch, once a training has begun; until its first epoch has ended,
            infinity (for "max": -infinity) and -1.

    Raises:
        ValueError, TypeError: naming the argument; at the end of the first epoch, if its logs have no such quantity.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str | None = None,
        restore_best: bool = True,
    ) -> None:
        _check.instance(monitor, "monitor", str, "the name of a quantity")
        inferred = "max" if monitor.endswith("accuracy") else "min"
        self._sign = _check.choice(inferred if mode is None else mode, "mode", {"min": 1.0, "max": -1.0})
        self.monitor = monitor
        self.patience = _check.integer(patience, "patience", 1)
        self.min_delta = _check.non_negative(min_delta, "min_delta")
        self.restore_best = _check.flag(restore_best, "restore_best")

    def on_fit_start(self, net: MLP) -> None:
        """Reset."""
        self._net = net
        self._saved: tuple[Array, Array] | None = None
        self.best, self.best_epoch = math.inf * self._sign, -1

    def on_epoch(self, logs: Logs) -> bool:
        """True when `patience` epochs have passed since the best one."""
        if self.monitor not in logs:
            raise ValueError(f"monitor: expected one of {', '.join(logs)}, got {self.monitor!r}")
        value, epoch = logs[self.monitor], int(logs["epoch"])
        if self._sign * value < self._sign * self.best - self.min_delta:
            self.best, self.best_epoch = value, epoch
            if self.restore_best:
                self._saved = self._net.parameters.flat.copy(), self._net.buffers.flat.copy()
        return epoch - max(self.best_epoch, 0) >= self.patience

    def on_fit_end(self, history: History) -> None:
        """Restore the best weights."""
        if self._saved is not None:
            self._net.parameters.flat[:], self._net.buffers.flat[:] = self._saved
        self._saved = None


# ---- data --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Data:
    """Rows ready for the net, checked."""

    x: Array
    target: Array

    @classmethod
    def of(cls, net: MLP, x: ArrayLike, target: ArrayLike, loss: str, names: tuple[str, str]) -> _Data:
        return cls(*_check.data(net, x, target, loss, names))

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Array) -> _Data:
        return _Data(self.x[rows], self.target[rows])


def _with_validation(
    data: _Data, net: MLP, loss: str, validation: Any, rng: np.random.Generator
) -> tuple[_Data, _Data | None]:
    """Training and validation rows: given separately, or a random share set aside."""
    if validation is None:
        return data, None
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        return data, _Data.of(net, validation[0], validation[1], loss, ("validation[0]", "validation[1]"))
    share = _check.number(
        validation, "validation", "None, a pair (X, target) or a share in (0, 1)", lambda x: 0 < x < 1
    )
    held_out = max(1, round(share * len(data)))
    if held_out >= len(data):
        raise ValueError(f"validation: expected a share that leaves rows to train on, got {share:g} of {len(data)}")
    order = rng.permutation(len(data))
    return data.take(np.sort(order[held_out:])), data.take(np.sort(order[:held_out]))


class _Batches:
    """The batches of an epoch: slices, or shuffled rows gathered into two reused buffers.

    With batch norm, a last batch of a single row is skipped, because it has no variance. `drop_last` skips any last
    batch that is smaller than the others.
    """

    def __init__(
        self, data: _Data, batch_size: int, rng: np.random.Generator | None, net: MLP, drop_last: bool
    ) -> None:
        self._data, self._batch_size, self._rng = data, min(batch_size, len(data)), rng
        last = len(data) % self._batch_size
        no_variance = net.normalization == "batch" and last == 1 and len(data) > 1
        self._end = len(data) - (last if drop_last or no_variance else 0)
        if self._end % self._batch_size:
            _warn_of_small_batch(net, len(data), self._batch_size)
        if rng is not None:
            # np.take copies a source that is not contiguous at every call
            self._data = _Data(np.ascontiguousarray(data.x), data.target)
            self._buffer = data.take(np.arange(self._batch_size))

    def __len__(self) -> int:
        return -(-self._end // self._batch_size)

    @property
    def size(self) -> int:
        """Rows of every batch but perhaps the last."""
        return self._batch_size

    def __iter__(self) -> Iterator[tuple[Rows, tuple[Array, Array]]]:
        x, target, size = self._data.x, self._data.target, self._batch_size
        if self._rng is None:
            for start in range(0, self._end, size):
                part = slice(start, min(start + size, self._end))
                yield part, (x[part], target[part])
            return
        order = self._rng.permutation(len(self._data))
        for start in range(0, self._end, size):
            rows = order[start : min(start + size, self._end)]
            batch_x, batch_target = self._buffer.x[: len(rows)], self._buffer.target[: len(rows)]
            # mode="clip" writes to `out` directly; the rows are in range by construction
            np.take(x, rows, axis=0, out=batch_x, mode="clip")
            np.take(target, rows, axis=0, out=batch_target, mode="clip")
            yield rows, (batch_x, batch_target)


def _warn_of_small_batch(net: MLP, num_rows: int, batch_size: int) -> None:
    """Warn if batch norm makes the gradients of the last batch far larger than others, because it has few rows."""
    from .analysis.predict import extra_growth
    from .analysis.subject import Thresholds

    last, limit = num_rows % batch_size, Thresholds().norm_ratio
    growth = extra_growth(net, last, batch_size)
    if growth <= limit:
        return
    times = f"{growth:.1g} times" if math.isfinite(growth) else "any number of times"
    better = (size for size in range(batch_size - 1, 1, -1) if extra_growth(net, num_rows % size, size) <= limit)
    other = next(better, None)
    text = (
        f"batch_size: the last batch of each epoch has {last} of {batch_size} rows, and batch norm in {net.depth - 1} "
        f"layers makes the gradient of the first layer {times} as large for so few rows as for {batch_size}: one such "
        "step can undo all others. Leave that batch out (drop_last=True)"
    )
    text += "" if other is None else f", or take another batch size, such as {other}"
    _progress.warn(f"{text}.", TrainingWarning)


# ---- the loop ----------------------------------------------------------------------------------------------


class _Hooks:
    """The callbacks' hooks by name; missing hooks are skipped."""

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self._callbacks, self._warned = list(callbacks), False
        for index, callback in enumerate(self._callbacks):
            if isinstance(callback, type) or not any(hasattr(callback, name) for name in _HOOKS):
                expected = f"an object with one of {', '.join(_HOOKS)}"
                raise TypeError(f"callbacks[{index}]: expected {expected}, got {_check.described(callback)}")

    def of(self, name: str) -> list[tuple[str, Callable[[Any], Any]]]:
        """(name of the callback's class, bound hook) of every callback that has this hook."""
        # The empty hooks of Callback are left out: each would cost a call per step.
        return [
            (type(callback).__name__, getattr(callback, name))
            for callback in self._callbacks
            if hasattr(callback, name) and getattr(type(callback), name, None) is not getattr(Callback, name)
        ]

    def warn_of_loss(self, loss: float, epoch: int, step: int) -> None:
        """Warn once that the loss is no longer finite, unless there is a Monitor, which says more."""
        from .monitor import Monitor

        if self._warned or any(isinstance(callback, Monitor) for callback in self._callbacks):
            return
        self._warned = True
        text = f"the loss is {loss} in epoch {epoch}, step {step} of fit (counted from 0), and training goes on: "
        text += "callbacks=[gc.Monitor(action='restore')] names the step and layer where it began and goes back"
        _progress.warn(text, TrainingWarning)


class _Stop(Exception):
    """Ends the training at a callback's request."""


def _says(answer: Any, expected: bool) -> bool:
    """Whether a hook's answer is this bool, Python's or NumPy's; numbers and arrays do not count."""
    return isinstance(answer, (bool, np.bool_)) and bool(answer) is expected


def _call(hooks: Sequence[tuple[str, Callable[[Any], Any]]], logs: Logs) -> None:
    stops = [name for name, hook in hooks if _says(hook(dict(logs)), True)]
    if stops:
        raise _Stop(stops[0])


def fit(
    net: MLP,
    X: ArrayLike,  # noqa: N803
    target: ArrayLike,
    *,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    loss: str = "cross_entropy",
    clip_norm: float | None = None,
    clip_value: float | None = None,
    validation: tuple[ArrayLike, ArrayLike] | float | None = None,
    callbacks: Iterable[Any] = (),
    progress: bool | Callable[[Logs], Any] = True,
    shuffle: bool = True,
    seed: int | None = 0,
    drop_last: bool = False,
) -> History:
    """Train `net` on a data set.

    Args:
        net: the net; trained in place.
        X: [rows, in_features]; converted as a whole if necessary.
        target: as for `MLP.loss_and_gradients`; cross_entropy needs at least two outputs.
        epochs: passes over the data, >= 1.
        batch_size: rows per step. The last batch of an epoch may be smaller. With batch norm, a last batch of one row
            is skipped, and a TrainingWarning is issued if it is so small that its gradients far exceed those of the
            others.
        optimizer: an optimizer created for this net.
        loss: as for `MLP.loss_and_gradients`.
        clip_norm, clip_value: as for `MLP.train_step`.
        validation: (X, target) to evaluate after each epoch, or a share of the rows to set aside.
        callbacks: see `gradcore.training`.
        progress: True shows the progress on stderr: a bar on a terminal if rich is installed, else at most 20 lines.
            False shows nothing. A function is called with the logs of each epoch.
        shuffle: shuffle the rows in each epoch.
        seed: seed of the order and of the validation share; None for fresh randomness.
        drop_last: skip a last batch that is smaller than the others; with `shuffle`, other rows in each epoch.

    Returns:
        History. Ctrl-C ends the training after the current step and returns the history so far. A loss that is not
        finite does not end the training; the first one issues a TrainingWarning, unless a Monitor does.

    Raises:
        ValueError, TypeError: naming the argument, before training starts; a schedule that gives no learning rate at
            some step raises there.
        FloatingPointError: with `clip_norm`, if gradients are no longer finite and no callback deals with it.
    """
    check_step(net, optimizer, clip_norm, clip_value)
    epochs = _check.integer(epochs, "epochs", 1)
    batch_size = _check.integer(batch_size, "batch_size", 1)
    _check.choice(loss, "loss", _check.LOSSES)
    _check.not_constant(loss, net.out_features)
    rng = np.random.default_rng(_check.seed(seed))
    data, held_out = _with_validation(_Data.of(net, X, target, loss, ("X", "target")), net, loss, validation, rng)
    order = rng if _check.flag(shuffle, "shuffle") else None
    batches = _Batches(data, batch_size, order, net, _check.flag(drop_last, "drop_last"))
    given = _check.items(callbacks)
    if given is None:
        raise TypeError(f"callbacks: expected a list of callbacks, got {_check.described(callbacks)}")
    hooks = _Hooks([*given, *_progress.callbacks(progress, epochs)])

    run = Run(net, optimizer, loss, clip_norm, clip_value, data.x, data.target, batches.size)

    def validate() -> Logs:
        return {} if held_out is None else _validate(net, held_out, loss)

    return _run(run, batches, epochs, hooks, validate)


def _run(run: Run, batches: _Batches, epochs: int, hooks: _Hooks, validate: Callable[[], Logs]) -> History:
    """Run all epochs; stop early on Ctrl-C or at a callback's request."""
    history = History()
    for name, argument in (("on_run", run), ("on_fit_start", run.net)):
        for _, hook in hooks.of(name):
            hook(argument)
    try:
        for epoch in range(epochs):
            started = time.perf_counter()
            logs: Logs = {"epoch": epoch, "epochs": epochs}
            logs |= _epoch(epoch, batches, run, hooks)
            logs |= {**validate(), "seconds": time.perf_counter() - started}
            history.epochs.append(logs)
            _call(hooks.of("on_epoch"), logs)
    except _Stop as stop:
        history.stopped_by = str(stop)
    except KeyboardInterrupt:
        history.stopped_by = "interrupt"
    except BaseException:
        history.stopped_by = "error"
        raise
    finally:
        with ExitStack() as ends:  # runs every hook, whichever of them raises
            for _, hook in reversed(hooks.of("on_fit_end")):
                ends.callback(hook, history)
    return history


def _epoch(epoch: int, batches: _Batches, run: Run, hooks: _Hooks) -> Logs:
    """One pass over the data; means over its rows and steps."""
    before_step, on_step, on_error = (hooks.of(name) for name in ("before_step", "on_step", "on_error"))
    rows, steps, loss_sum, norm_sum, lr = 0, 0, 0.0, 0.0, run.optimizer.lr
    for index, (chosen, batch) in enumerate(batches):
        lr = run.optimizer.lr
        record = True in [_says(hook(chosen), True) for _, hook in before_step]
        try:
            loss, norm = run.step(*batch, record)
        except FloatingPointError as error:
            error.add_note(f"in epoch {epoch}, step {index} of fit")
            if not _left_out(on_error, error):
                raise
            continue
        if not math.isfinite(loss):
            hooks.warn_of_loss(loss, epoch, index)
        rows, steps = rows + len(batch[0]), steps + 1
        loss_sum += loss * len(batch[0])
        norm_sum += norm
        if on_step:
            logs: Logs = {"epoch": epoch, "step": index, "num_steps": len(batches)}
            _call(on_step, {**logs, "loss": loss, "total_norm": norm, "lr": lr})
    return {
        "loss": loss_sum / rows if rows else math.nan,
        "total_norm": norm_sum / steps if steps else math.nan,
        "lr": lr,
    }


def _left_out(hooks: Sequence[tuple[str, Callable[[Any], Any]]], error: FloatingPointError) -> bool:
    """Whether a callback wants to skip the step that raised and go on."""
    answers = [(name, hook(error)) for name, hook in hooks]
    for name, answer in answers:
        if _says(answer, True):
            raise _Stop(name)
    return any(_says(answer, False) for _, answer in answers)


def _validate(net: MLP, data: _Data, loss: str) -> Logs:
    """Loss, and accuracy for the cross entropies, in inference mode."""
    output = net.forward(data.x)
    logs = {"val_loss": ops.loss(output, data.target, loss)}
    if loss in ("cross_entropy", "binary_cross_entropy"):
        logs["val_accuracy"] = accuracy(output, data.target, loss)
    return logs


def accuracy(output: Array, target: Array, loss: str) -> float:
    """Share of correct outputs; NaN for regression losses.

    Args:
        output: [rows, out_features]; logits.
        target: labels [rows], or probabilities [rows, out_features].
        loss: with "cross_entropy" the largest logit decides, with "binary_cross_entropy" the sign of each.
    """
    if loss == "cross_entropy":
        labels = target if target.ndim == 1 else target.argmax(axis=1)
        return float(np.mean(output.argmax(axis=1) == labels))
    if loss == "binary_cross_entropy":
        return float(np.mean((output > 0.0) == (target > 0.5)))
    return math.nan
