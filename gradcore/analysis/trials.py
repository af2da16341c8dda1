"""Short trainings with the same budget, of the sick net (the one analysed) and of changed ones."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from .. import ops
from ..training import accuracy
from .arithmetic import harmless
from .candidates import Candidate, Preparation
from .case import Case
from .subject import Thresholds

# Learning rates tried if none is given. Each net gets the best of them, so that the choice favours neither.
LEARNING_RATES = (0.01, 0.05, 0.2)
_PILOT_SHARE = 0.5  # of the steps, for the choice of the learning rate
Item = TypeVar("Item")
Result = TypeVar("Result")
# A trial trains for as many steps as 10 GFLOP allow, in this range.
_WORK, FEWEST_STEPS, MOST_TRAINED = 1e10, 60, 150
# Share and largest number of the rows held out; below the third number, none are.
_HELD_OUT_SHARE, _MOST_HELD_OUT, FEWEST_ROWS = 0.25, 512, 40


def affordable_steps(case: Case) -> float:
    """The number of training steps that take about 10 GFLOP: a second or two, with those of several seeds."""
    weights = sum(low * high for low, high in pairwise(case.net.config["widths"]))
    return float(_WORK / (6.0 * weights * case.batch_size))


def default_steps(case: Case) -> int:
    """Steps of each training: `affordable_steps`, but at least 60 and at most 150."""
    return int(min(max(affordable_steps(case), FEWEST_STEPS), MOST_TRAINED))


@dataclass(frozen=True)
class Split:
    """Row numbers to train on and to evaluate on, the same for every trial; both are all rows if there are few."""

    train: np.ndarray
    test: np.ndarray


def split_rows(num_rows: int, seed: int) -> Split:
    """A random quarter of the rows (at most 512) held out; of fewer than 40 rows, none."""
    order = np.random.default_rng((seed, 1)).permutation(num_rows)
    if num_rows < FEWEST_ROWS:
        return Split(order, order)
    held_out = min(int(_HELD_OUT_SHARE * num_rows), _MOST_HELD_OUT)
    return Split(order[held_out:], order[:held_out])


@dataclass(frozen=True)
class Trial:
    """The result of one short training. Losses and accuracy are of `Split.test`, in the targets' own units.

    start_loss, loss, accuracy: before and after training; inf and NaN after one that broke off. fitted: final loss of
    (at most 512 of) the rows trained on; inf if not measured.
    """

    start_loss: float
    loss: float
    accuracy: float
    seconds_per_step: float
    fitted: float = math.inf

    @property
    def diverged(self) -> bool:
        """Whether the training broke off, or ended with a loss far above that at its start."""
        return not self.loss <= Thresholds.diverged * self.start_loss


class Stopped(Exception):
    """Raised in a training whose result is no longer wanted."""


class Crew:
    """A pool of threads that train nets side by side. It is a context manager; leaving it breaks off all trainings.

    With several threads in the pool, each training uses only one thread of the native library: for small nets, several
    trainings of one thread each use the cores better than one training of several threads.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.threads = 0 if size == 1 else 1  # native threads of each training; 0: all
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(size, "gradcore-remedies")

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Call function(*arguments) on the pool, as soon as one of its threads is free."""
        return self._pool.submit(function, *arguments)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """function(item) of each item, in order; safe to call from a thread of the pool.

        The calling thread takes over every item that no other thread has begun, so it never waits for one in vain.
        """
        items = list(items)
        futures = [self.submit(function, item) for item in items] if self.size > 1 else []
        if not futures:
            return [function(item) for item in items]
        return [
            function(item) if future.cancel() else future.result() for item, future in zip(items, futures, strict=True)
        ]

    def check(self) -> None:
        """Raise Stopped if the crew has been left, and nobody waits for results any more."""
        if self._stop.is_set():
            raise Stopped

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


class Contestant:
    """The nets and the data of a candidate, or of the original net (None).

    Each net is built once, because building (orthogonal matrices) can cost more than training.
    """

    def __init__(self, case: Case, candidate: Candidate | None = None, crew: Crew | None = None) -> None:
        self.crew = Crew() if crew is None else crew
        self.candidate = candidate or Candidate("original", "")
        self.case = case = self.candidate.case(case)
        self.preparation = Preparation.of(self.candidate, case)
        self.x, self.target = self.preparation.apply(case.x, case.target)
        self._nets: dict[int, Any] = {}
        self._lock = threading.Lock()

    def net(self, seed: int = 0) -> Any:
        """A fresh copy of the net, drawn from the seed of the analysed net plus `seed`.

        A change that draws no weights, such as a lower learning rate, has the same net for every seed.
        """
        with self._lock:
            if seed not in self._nets:
                own = int(self.case.net.config["seed"] or 0) + seed
                self._nets[seed] = self.candidate.build(self.case, own if seed else None)
            return self._nets[seed].copy()


def train(contestant: Contestant, split: Split, *, steps: int, seed: int, lr: float | None) -> Trial:
    """Train a contestant's net for some steps and evaluate it; a loss that is not finite ends the training early.

    seed: of the net and of the batches, which are the same for every contestant. lr: None for that of the case. The
    time per step is that of the fastest step, because others may have waited for a core.
    """
    case, preparation = contestant.case, contestant.preparation
    net, x = contestant.net(seed), contestant.x
    net._core.set_num_threads(contestant.crew.threads)
    target = case.trainable(net, contestant.target)
    optimizer = case.optimizer_for(net, anew=True)
    optimizer.lr = optimizer.lr if lr is None else lr
    start = _evaluate(net, case, x, split.test, preparation)[0]
    size = min(case.batch_size, len(split.train))
    rng = np.random.default_rng((case.seed, seed))
    seconds: list[float] = []
    for _ in range(steps):
        contestant.crew.check()
        rows = rng.choice(split.train, size, replace=False)
        batch = x[rows], target[rows]
        begin = time.perf_counter()
        loss = case.step(net, optimizer, batch)
        seconds.append(time.perf_counter() - begin)
        if not math.isfinite(loss):
            return Trial(start, math.inf, math.nan, min(seconds))
    fitted = _evaluate(net, case, x, split.train[:_MOST_HELD_OUT], preparation)[0]
    return Trial(start, *_evaluate(net, case, x, split.test, preparation), min(seconds), fitted)


@harmless
def _evaluate(net: Any, case: Case, x: np.ndarray, rows: np.ndarray, preparation: Preparation) -> tuple[float, float]:
    """(loss, accuracy) on some rows, in inference mode and in the units of the targets; (inf, NaN) if not finite."""
    output = np.asarray(preparation.restore(net(x[rows])), dtype=np.float64)
    if not np.isfinite(output).all():
        return math.inf, math.nan
    target = case.target[rows]
    if case.loss == "cross_entropy" and net.out_features == 1:
        output = _as_logits(output, case.classes)
    value = float(ops.loss(output, target, case.loss))
    return value, accuracy(output, target, case.loss)


def _as_logits(output: np.ndarray, classes: int) -> np.ndarray:
    """Logits [rows, classes] for a net with one output under a softmax: the output for class 1, zero for the others.

    For two classes this gives the loss that such a net is meant for, the binary cross entropy. The softmax over the one
    output is always 1, and its loss of 0 cannot be compared with anything.
    """
    logits = np.zeros((len(output), classes))
    logits[:, 1] = output[:, 0]
    return logits


def best_learning_rate(contestant: Contestant, split: Split, steps: int) -> float | None:
    """The rate of LEARNING_RATES with the lowest loss after half of the steps; None if a rate above 0 is given.

    The rate may be given by the optimizer or by the candidate.
    """
    given = contestant.case.optimizer is not None and contestant.case.step_size > 0.0
    if given or "lr" in contestant.candidate.training:
        return None
    pilot = max(1, int(_PILOT_SHARE * steps))

    def loss(lr: float) -> float:
        return train(contestant, split, steps=pilot, seed=0, lr=lr).loss

    losses = contestant.crew.map(loss, LEARNING_RATES)
    return LEARNING_RATES[int(np.argmin(losses))]


def summary(trials: list[Trial]) -> Mapping[str, float]:
    """Means over seeds, by name; loss inf and accuracy NaN if a training broke off."""
    names = ("start_loss", "loss", "accuracy")
    return {name: float(np.mean([getattr(trial, name) for trial in trials])) for name in names}


def effects(sick: list[Trial], cured: list[Trial], of: str = "loss") -> np.ndarray:
    """1 - (cured loss) / (sick loss) for each seed, in [-1, 1]: the share of the sick net's final loss that is gone.

    of: the loss compared, "loss" or "fitted". A loss that is not finite counts as the worst: the share is 1 if only the
    sick net has one, -1 if only the cured net, and 0 if both have.
    """
    values = []
    for trials in zip(sick, cured, strict=True):
        before, after = (getattr(trial, of) for trial in trials)
        if not math.isfinite(after):
            values.append(0.0 if not math.isfinite(before) else -1.0)
        elif not math.isfinite(before):
            values.append(1.0)
        else:
            values.append(1.0 - after / max(before, 1e-30))
    return np.clip(values, -1.0, 1.0)
