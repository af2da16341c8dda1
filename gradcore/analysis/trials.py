"""Short trainings of equal budget: the sick net beside the cured one."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .candidates import Candidate, Preparation
from .measure import Case

# Learning rates tried where none is given: each net gets the best of them, so that neither loses by the choice.
LEARNING_RATES = (0.01, 0.05, 0.2)
_PILOT_SHARE = 0.5  # of the steps, for the choice of the learning rate
# A training that ends above this many times its first loss has diverged (as `Thresholds.diverged`).
_DIVERGED = 10.0
_HELD_OUT_SHARE, _MOST_HELD_OUT, _FEWEST_ROWS = 0.25, 512, 40


@dataclass(frozen=True)
class Split:
    """Row numbers to train on and to judge by; the same for every trial. With few rows they are the same rows."""

    train: np.ndarray
    test: np.ndarray


def split_rows(num_rows: int, seed: int) -> Split:
    """A quarter of the rows (at most 512) held out."""
    order = np.random.default_rng((seed, 1)).permutation(num_rows)
    if num_rows < _FEWEST_ROWS:
        return Split(order, order)
    held_out = min(int(_HELD_OUT_SHARE * num_rows), _MOST_HELD_OUT)
    return Split(order[held_out:], order[:held_out])


@dataclass(frozen=True)
class Trial:
    """One short training. Losses and accuracy are of the held-out rows, in the targets' own units."""

    start_loss: float
    loss: float
    accuracy: float
    seconds_per_step: float

    @property
    def diverged(self) -> bool:
        """Whether the training broke off, or ended far above where it began."""
        return not self.loss <= _DIVERGED * self.start_loss


class Stopped(Exception):
    """A training was broken off because its result is no longer wanted."""


class Contestant:
    """A candidate's nets and data, made once: building (orthogonal matrices) can cost more than training.

    stop: once set, its trainings raise Stopped.
    """

    def __init__(self, case: Case, candidate: Candidate | None = None, stop: threading.Event | None = None) -> None:
        self.stop = threading.Event() if stop is None else stop
        self.candidate = candidate or Candidate("as it is", "")
        self.case = case = self.candidate.case(case)
        self.preparation = Preparation.of(self.candidate, case)
        self.x, self.target = self.preparation.apply(case.x, case.target)
        self._nets: dict[int, Any] = {}

    def net(self, seed: int = 0) -> Any:
        """A fresh net; seed 0 is that of the analysed one, and others count on from there."""
        if seed not in self._nets:
            own = int(self.case.net.config["seed"] or 0) + seed
            self._nets[seed] = self.candidate.build(self.case, own if seed else None)
        return self._nets[seed].copy()


def train(contestant: Contestant, split: Split, *, steps: int, seed: int, lr: float | None) -> Trial:
    """Train a contestant's net for `steps`; the order of the data follows from `seed`, for all alike.

    lr None: that of the optimizer in use. The time of a step is the median over those that were taken.
    """
    case, preparation = contestant.case, contestant.preparation
    net, x = contestant.net(seed), contestant.x
    target = case.trainable(net, contestant.target)
    optimizer = case.optimizer_for(net)
    training = contestant.candidate.training
    optimizer.lr = training.get("lr", optimizer.lr if lr is None else lr)
    clip = training.get("clip_norm")
    start = _evaluate(net, case, x, split.test, preparation)[0]
    size = min(case.batch_size, len(split.train))
    rng = np.random.default_rng((case.seed, seed))
    seconds: list[float] = []
    for _ in range(steps):
        if contestant.stop.is_set():
            raise Stopped
        rows = rng.choice(split.train, size, replace=False)
        batch = x[rows], target[rows]
        begin = time.perf_counter()
        try:
            loss = net.train_step(*batch, optimizer, loss=case.loss, clip_norm=clip).loss
        except FloatingPointError:  # a gradient that is not finite cannot be clipped
            loss = math.nan
        seconds.append(time.perf_counter() - begin)
        if not math.isfinite(loss):
            return Trial(start, math.inf, math.nan, statistics.median(seconds))
    return Trial(start, *_evaluate(net, case, x, split.test, preparation), statistics.median(seconds))


def _evaluate(net: Any, case: Case, x: np.ndarray, rows: np.ndarray, preparation: Preparation) -> tuple[float, float]:
    """(loss, accuracy) in inference mode."""
    from .. import ops

    output = np.asarray(preparation.restore(net(x[rows])), dtype=np.float64)
    if not np.isfinite(output).all():
        return math.inf, math.nan
    target = case.target[rows]
    if case.loss == "cross_entropy" and net.out_features == 1:
        output = _as_logits(output, case.classes)
    value = float(ops.loss(output, target, case.loss))
    return value, _accuracy(output, target, case.loss)


def _as_logits(output: np.ndarray, classes: int) -> np.ndarray:
    """The single output under a softmax, read as the logit of class 1 beside zeros.

    That is the loss it was meant for (binary cross entropy for two classes): the softmax over one output is
    constantly 1, and its loss of 0 cannot be compared with anything.
    """
    logits = np.zeros((len(output), classes))
    logits[:, 1] = output[:, 0]
    return logits


def _accuracy(output: np.ndarray, target: np.ndarray, loss: str) -> float:
    if loss == "cross_entropy":
        labels = target if target.ndim == 1 else target.argmax(axis=1)
        return float(np.mean(output.argmax(axis=1) == labels))
    if loss == "binary_cross_entropy":
        return float(np.mean((output > 0.0) == (target > 0.5)))
    return math.nan


def best_learning_rate(contestant: Contestant, split: Split, steps: int) -> float | None:
    """The rate of LEARNING_RATES with the lowest loss after part of the budget; None where one is given."""
    if contestant.case.optimizer is not None or "lr" in contestant.candidate.training:
        return None
    pilot = max(1, int(_PILOT_SHARE * steps))
    losses = [train(contestant, split, steps=pilot, seed=0, lr=lr).loss for lr in LEARNING_RATES]
    return LEARNING_RATES[int(np.argmin(losses))]


def summary(trials: list[Trial]) -> Mapping[str, float]:
    """Means over seeds; infinite where a training diverged."""
    names = ("start_loss", "loss", "accuracy")
    return {name: float(np.mean([getattr(trial, name) for trial in trials])) for name in names}


def effects(sick: list[Trial], cured: list[Trial]) -> np.ndarray:
    """Share of the sick net's final loss that is gone, seed by seed, in [-1, 1].

    A diverged training counts as the worst: sick it gives 1 to a finite cured one, cured it gives -1.
    """
    values = []
    for before, after in zip(sick, cured, strict=True):
        if not math.isfinite(after.loss):
            values.append(0.0 if not math.isfinite(before.loss) else -1.0)
        elif not math.isfinite(before.loss):
            values.append(1.0)
        else:
            values.append(1.0 - after.loss / max(before.loss, 1e-30))
    return np.clip(values, -1.0, 1.0)
