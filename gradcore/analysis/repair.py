"""The whole procedure in one call: analyse, try remedies, apply the best one, and analyse the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import _check
from .._status import Progress, shown
from .analyze import analyze, make_case, measure_and_rehearse, report_of
from .remedies import check_trials, find_remedies
from .report import Record, Remedy, Report
from .subject import Thresholds


@dataclass(frozen=True, eq=False)
class Repair(Record):
    """A cured net with the evidence. `str()` gives the text, `to_dict` and `to_json` the numbers.

    net: the cured net, fresh and untrained; a copy of the given net if there was nothing to do, if only data or
        training change, or if nothing helped.
    optimizer: a fresh optimizer for it, like the given one but with the recommended learning rate; None if none was
        given.
    cured: whether `after.verdict` is healthy. before, after: reports of the given net, and of `net` on prepared data.
    remedies: the remedies applied, in order, each with its effect and confidence.
    training: {"lr": ..., "clip_norm": ...}, where the cure asks for them.
    """

    net: Any
    optimizer: Any
    cured: bool
    before: Report
    after: Report
    remedies: tuple[Remedy, ...] = ()
    training: Mapping[str, float] = field(default_factory=dict)

    def prepare(self, x: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets for `net`: standardized if that is part of the cure."""
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
        """All fields; for the net and its optimizer only their settings."""
        record = super().to_dict()
        record["net"] = self.after.to_dict()["config"]
        record["optimizer"] = None if self.optimizer is None else repr(self.optimizer)
        return record

    def __repr__(self) -> str:
        names = ", ".join(remedy.name for remedy in self.remedies)
        change = f" -> {self.after.verdict} by {names}" if names else ", nothing changed"
        return f"<Repair: {self.before.verdict}{change}>"

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
    progress: bool | Progress | None = True,
    **trials: Any,
) -> Repair:
    """Analyse a net, try remedies on its data, apply the best that helped, and analyse the result.

        cure = gc.repair(net, x, labels, optimizer=optimizer)
        print(cure)
        cure.net.fit(*cure.prepare(x, labels), optimizer=cure.optimizer, clip_norm=cure.training.get("clip_norm"), ...)

    The given net and optimizer do not change.

    Args:
        net, x, target, loss, optimizer, batch_size, batches, seed, thresholds: as for `analyze`.
        rounds: most rounds of treatment; another round follows while the net is not healthy.
        progress: True shows a line in a terminal or notebook, False nothing; a function is called with
            (done, total, what).
        trials: steps, seeds, limit, pairs, seconds, as for `Report.remedies`.

    Returns:
        Repair. If the net was healthy or no remedy helped, nothing is changed; `cured` tells which.
        An interrupt (KeyboardInterrupt) of an analysis ends it with the batches so far; an interrupt of the trials
        ends these, and the best remedy so far is applied. No further round follows either.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    rounds = _check.integer(rounds, "rounds", 1)
    x, target = _check.array(x, "x"), _check.array(target, "target")
    check_trials(**((find_remedies.__kwdefaults__ or {}) | trials | {"progress": progress}))
    settings: dict[str, Any] = {"loss": loss, "batch_size": batch_size, "batches": batches, "seed": seed}
    with shown(progress) as show:
        before = analyze(net, x, target, optimizer=optimizer, thresholds=thresholds, progress=show, **settings)
        found = Repair(net.copy(), None, before.verdict == "healthy", before, before)
        found = replace(found, optimizer=_like(optimizer, found.net, found.training))
        for _ in range(rounds):
            sick = found.after
            done = found.cured or sick.conditions["interrupted"]
            tried = [] if done else sick.remedies(progress=show, **trials)
            best = next((remedy for remedy in tried if remedy.helps), None)
            if best is None:
                break
            found = _applied(found, best, (x, target), optimizer, settings, show)
            if sick.trials_stopped_by == "interrupt":
                break
    return found


def _applied(
    found: Repair,
    remedy: Remedy,
    data: tuple[np.ndarray, np.ndarray],
    given: Any,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> Repair:
    """Apply one more remedy and analyse the resulting net, with the data and training that it asks for."""
    start = time.perf_counter()
    net = remedy.apply()
    training = {**found.training, **remedy.change.get("training", {})}
    found = replace(found, net=net, remedies=(*found.remedies, remedy), training=training)
    settings = {**settings, "loss": remedy.change.get("loss", found.after.conditions["loss"])}
    optimizer = _like(given, net, training)
    case = replace(make_case(net, *found.prepare(*data), optimizer=optimizer, **settings), training=training)
    limits = Thresholds(**found.before.conditions["thresholds"])
    measurement = measure_and_rehearse(case, limits, progress)
    after = report_of(case, measurement, limits, start)
    return replace(found, optimizer=optimizer, after=after, cured=after.verdict == "healthy")


def _like(optimizer: Any, net: Any, training: Mapping[str, float]) -> Any:
    """A fresh optimizer of the same kind and settings for another net, with the recommended learning rate if any."""
    return None if optimizer is None else optimizer._made_for(net, training.get("lr"))
