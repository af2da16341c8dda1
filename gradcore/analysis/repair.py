"""The whole way in one call: analyse, try remedies, apply the best, and measure again what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from .analyze import analyze, make_case, measure_and_rehearse, report_of
from .measure import Progress
from .remedies import check_trials, find_remedies
from .report import Record, Remedy, Report
from .subject import Thresholds


@dataclass(frozen=True, eq=False)
class Repair(Record):
    """A cured net and what shows that it is cured; `str()` tells the story, `to_dict` and `to_json` the numbers.

    net: the cured net, fresh and untrained; a copy of the given one where there was nothing to do, where only
        data or training change, and where nothing helped. optimizer: a fresh one for it, like the one given
        and with the recommended learning rate; None where none was given.
    cured: `after.verdict` is healthy. before, after: reports of the given net, and of `net` on the data as
        `prepare` makes it. remedies: those applied, in order, each with its effect and confidence.
    training: {"lr": ..., "clip_norm": ...}, as far as the cure asks for it.
    """

    net: Any
    optimizer: Any
    cured: bool
    before: Report
    after: Report
    remedies: tuple[Remedy, ...] = ()
    training: Mapping[str, float] = field(default_factory=dict)

    def prepare(self, x: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets as `net` wants them: standardized if that is part of the cure."""
        x, target = _check.array(x, "x"), _check.array(target, "target")
        for remedy in self.remedies:
            x, target = remedy.prepare(x, target)
        return x, target

    def restore(self, output: Any) -> np.ndarray:
        """Outputs of `net` in the units of the targets given to `prepare`."""
        restored: np.ndarray = np.asarray(output)
        for remedy in reversed(self.remedies):
            restored = remedy.restore(restored)
        return restored

    def to_dict(self) -> dict[str, Any]:
        """Everything but the net and its optimizer, of which the settings are kept."""
        record = super().to_dict()
        record["net"] = self.after.to_dict()["config"]
        record["optimizer"] = None if self.optimizer is None else repr(self.optimizer)
        return record

    def __repr__(self) -> str:
        names = ", ".join(remedy.name for remedy in self.remedies) or "nothing changed"
        return f"<Repair: {self.before.verdict} -> {self.after.verdict} by {names}>"

    def __str__(self) -> str:
        from ..show import text

        return text.render_repair(self)


def repair(
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
    rounds: int = 2,
    progress: Progress | None = None,
    **trials: Any,
) -> Repair:
    """Analyse a net, try remedies on its data, apply the best that helped, and analyse what came of it.

        cure = gc.repair(net, x, labels, optimizer=optimizer)
        print(cure)
        cure.net.fit(*cure.prepare(x, labels), optimizer=cure.optimizer, clip_norm=cure.training.get("clip_norm"), ...)

    The given net and optimizer stay as they are.

    Args:
        net, x, target, loss, optimizer, batch_size, batches, seed, thresholds: as `analyze`.
        rounds: a net that is still not healthy is treated again, up to this many times in all.
        progress: called with (done, total, what) while measuring and trying.
        trials: steps, seeds, limit, seconds, as `Report.remedies`.

    Returns:
        Repair. Where the net was healthy or no remedy helped, nothing is changed: `cured` tells which.
        An interrupt (KeyboardInterrupt) of an analysis ends it with what is there; one of the trials ends these, and
        the best remedy so far is applied.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    rounds = _check.integer(rounds, "rounds", 1)
    x, target = _check.array(x, "x"), _check.array(target, "target")
    check_trials(**((find_remedies.__kwdefaults__ or {}) | trials))
    settings: dict[str, Any] = {"loss": loss, "batch_size": batch_size, "batches": batches, "seed": seed}
    before = analyze(net, x, target, optimizer=optimizer, thresholds=thresholds, progress=progress, **settings)
    found = Repair(net.copy(), None, before.verdict == "healthy", before, before)
    found = replace(found, optimizer=_like(optimizer, found.net, found.training))
    for _ in range(rounds):
        done = found.cured or found.after.conditions["interrupted"]
        tried = [] if done else found.after.remedies(progress=progress, **trials)
        best = next((remedy for remedy in tried if remedy.helps), None)
        if best is None:
            break
        found = _applied(found, best, (x, target), optimizer, settings, progress)
    return found


def _applied(
    found: Repair,
    remedy: Remedy,
    data: tuple[np.ndarray, np.ndarray],
    given: Any,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> Repair:
    """One more remedy, and the report of the net that it makes, on the data and with the training it asks for."""
    start = time.perf_counter()
    net = remedy.apply()
    training = {**found.training, **remedy.change.get("training", {})}
    found = replace(found, net=net, remedies=(*found.remedies, remedy), training=training)
    settings = {**settings, "loss": remedy.change.get("loss", found.after.conditions["loss"])}
    optimizer = _like(given, net, training)
    case = replace(make_case(net, *found.prepare(*data), optimizer=optimizer, **settings), training=training)
    limits = Thresholds(**found.before.conditions["thresholds"])
    measurement = measure_and_rehearse(case, limits, progress)
    after = report_of(case, measurement, limits, seconds=time.perf_counter() - start)
    return replace(found, optimizer=optimizer, after=after, cured=after.verdict == "healthy")


def _like(optimizer: Any, net: Any, training: Mapping[str, float]) -> Any:
    """A fresh optimizer of the same kind and settings for another net, at the recommended learning rate if any."""
    if optimizer is None:
        return None
    lr = training.get("lr", optimizer._given_lr)
    return type(optimizer)(net, lr=lr, **optimizer.hyperparameters)
