"""A few steps of the optimizer in use, tried on a copy of the net."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arithmetic import harmless
from .case import Case
from .measure import Rehearsal
from .propagation import NEIGHBOURS, last_hidden

# Steps tried on a copy: enough for a diverging loss to show, few enough to cost less than the batches. Momentum mu
# takes 1 / (1 - mu) of them to reach its full step (`Case.memory`); beyond mu = 0.992 that is more than a diagnosis may
# cost.
REHEARSAL_STEPS, MOST_REHEARSED = 8, 125

# Below the learning rates in use for plain SGD (1e-3 to 1): what diverges here has none.
SMALLEST_LR = 1e-4


def rehearsal_steps(case: Case) -> int:
    """Steps to rehearse: until momentum is under way."""
    return round(min(max(REHEARSAL_STEPS, case.memory), MOST_REHEARSED))


def rehearse(case: Case, net: Any) -> Rehearsal:
    """Take a few steps on `net`, which is changed, with the optimizer in use; stops once the loss is not finite.

    Eight, each at the cost of a gradient and an update; with momentum 1 / (1 - momentum), 10 at 0.9 and 100 at 0.99,
    those after the first eight on random batches: a few, over and over, would be learned by heart.

    Where no optimizer is known, plain SGD takes them at a rate so small that a sound net cannot diverge.
    """
    optimizer = case.optimizer_for(net)
    if case.optimizer is None and "lr" not in case.training:
        optimizer.lr = SMALLEST_LR
    in_use = case.optimizer is not None  # of whose steps alone the shift is judged
    loss, shift = _first_step(case, net, optimizer) if in_use else (_recorded(case, net, optimizer), math.nan)
    losses = [loss]
    update_ratio = np.array(net.flow.update_ratio) if math.isfinite(loss) else np.full(net.depth, np.nan)
    rng = np.random.default_rng((case.seed, 4))
    while math.isfinite(losses[-1]) and len(losses) < rehearsal_steps(case):
        early = len(losses) < REHEARSAL_STEPS
        batch = case.batch(len(losses)) if early else case.random_batch(net, rng)
        losses.append(case.step(net, optimizer, batch))
    return Rehearsal(float(optimizer.lr), np.array(losses), update_ratio, shift)


def first_shift(case: Case) -> float:
    """`Rehearsal.shift` of the case, without further steps."""
    net = case.net.copy()
    return _first_step(case, net, case.optimizer_for(net))[1]


def _recorded(case: Case, net: Any, optimizer: Any) -> float:
    return case.step(net, optimizer, case.batch(0), record=True)


def _first_step(case: Case, net: Any, optimizer: Any) -> tuple[float, float]:
    """Its loss and its shift."""
    rows = _some_rows(net, case.batch(0)[0])
    before = last_hidden(net, rows)
    loss = _recorded(case, net, optimizer)
    return loss, _shift(before, last_hidden(net, rows)) if math.isfinite(loss) else math.nan


def _some_rows(net: Any, x: np.ndarray) -> np.ndarray:
    """As many as neighbours are followed of, where rows are independent of each other."""
    return x if net.normalization == "batch" else x[:NEIGHBOURS]


@harmless
def _shift(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))) if before.size else math.nan
