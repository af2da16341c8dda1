"""The actions of a monitor on a running training. Functions that change something say in words what they did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _check
from ._tape import Snapshot
from .analysis.report import Finding
from .analysis.wording import significant
from .optim import NamedSchedule, Schedule
from .training import Run

CHANGES = ("restore", "clip", "lower_lr")  # always made in this order
NAMES = (*CHANGES, "stop", "warn")

# Kinds of findings that too large steps can cause: the first two at any time; the others only if an earlier check did
# not show them, because initial weights can cause them, too.
_BY_STEPS, _LATER_BY_STEPS = ("non_finite", "exploding"), ("dead_units", "saturation")


def names(action: Any, argument: str) -> tuple[str, ...]:
    """The names that a user gives: one or several of NAMES. Errors call them `argument`."""
    given = [action] if isinstance(action, str) else _check.items(action)
    if given is None:
        expected = f"a function, or one or several of {', '.join(NAMES)}"
        raise TypeError(f"{argument}: expected {expected}, got {_check.described(action)}")
    for entry in given:
        _check.choice(entry, argument, dict.fromkeys(NAMES))
    return tuple(given)


def changes_for(finding: Finding, healthy_before: bool, wanted: Sequence[str]) -> list[str]:
    """The wanted ones among CHANGES, in their order; none if steps cannot have caused the finding.

    healthy_before: whether an earlier check did not show it.
    """
    by_steps = finding.kind in _BY_STEPS or (finding.kind in _LATER_BY_STEPS and healthy_before)
    return [name for name in CHANGES if name in wanted and by_steps]


def restore(run: Run, healthy: Snapshot) -> str:
    """Restore parameters, running statistics and optimizer state."""
    healthy.restore(run.net, run.optimizer)
    return f"restored the net as it was before step {healthy.step}"


def clip(run: Run, healthy_norm: float, norms: Sequence[float]) -> str:
    """Clip at `healthy_norm` or, if there is none (0), at half the median of `norms`; a smaller bound in use stays."""
    bound = healthy_norm
    if bound <= 0.0:
        finite = [norm for norm in norms if math.isfinite(norm)]
        bound = 0.5 * float(np.median(finite)) if finite else 1.0
    if run.clip_norm is not None:
        bound = min(bound, run.clip_norm)
    run.clip_norm = float(f"{bound:.2g}") or bound
    return f"clipping at norm {significant(run.clip_norm)}"


def lower_lr(run: Run, factor: float) -> str:
    """Multiply the learning rate, or its schedule, by `factor`."""
    optimizer = run.optimizer
    schedule = optimizer.schedule
    if schedule is None:
        optimizer.lr *= factor
    else:
        optimizer.lr = NamedSchedule(_scaled, schedule=schedule, factor=factor)
    return f"learning rate {significant(optimizer.lr, 3)}"


def _scaled(step: int, *, schedule: Schedule, factor: float) -> float:
    return factor * schedule(step)
