"""A few steps of the optimizer in use, tried on a copy of the net."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arithmetic import harmless
from .case import Case
from .measure import Rehearsal
from .propagation import NEIGHBOURS, last_hidden

# REHEARSAL_STEPS are enough to show a diverging loss, and cost less than the measured batches. Momentum mu needs
# 1 / (1 - mu) steps to reach its full step (`Case.memory`); beyond mu = 0.992, this is more than a diagnosis may cost.
REHEARSAL_STEPS, MOST_REHEARSED = 8, 125

# Below the learning rates in use for plain SGD (1e-3 to 1): a net that diverges at this one has no usable rate.
SMALLEST_LR = 1e-4


def rehearsal_steps(case: Case) -> int:
    """The number of steps to rehearse: enough for momentum to reach its full step, from 8 to 125."""
    return round(min(max(REHEARSAL_STEPS, case.memory), MOST_REHEARSED))


def rehearse(case: Case, net: Any, measured: np.ndarray) -> Rehearsal:
    """Take a few steps on `net`, which is changed, with the optimizer in use, and record their losses.

    There are eight, or with momentum 1 / (1 - momentum) if that is more: 10 at 0.9, 100 at 0.99. Each costs a gradient
    and an update. Those after the first eight are on random batches, because a few batches, over and over, would be
    learned by heart. The steps end once the loss is not finite.

    Without an optimizer, plain SGD takes the steps at a rate so small that a sound net cannot diverge, and no shift is
    measured.

    measured: losses of the case's batches before the first step.
    """
    optimizer = case.optimizer_for(net)
    if case.optimizer is None and "lr" not in case.training:
        optimizer.lr = SMALLEST_LR
    in_use = case.optimizer is not None  # only the shift that it makes is judged
    loss, shift = _first_step(case, net, optimizer) if in_use else (_recorded(case, net, optimizer), math.nan)
    losses, before = [loss], [float(measured[0])]
    update_ratio = np.array(net.flow.update_ratio) if math.isfinite(loss) else np.full(net.depth, np.nan)
    alive = bool(net.flow.delta_norm[0] > 0.0)
    rng = np.random.default_rng((case.seed, 4))
    while math.isfinite(losses[-1]) and len(losses) < rehearsal_steps(case):
        index = len(losses)
        early = index < REHEARSAL_STEPS
        batch = case.batch(index) if early else case.random_batch(net, rng)
        before.append(float(measured[index % len(measured)]) if early else case.loss_in_training(batch))
        losses.append(case.step(net, optimizer, batch))
    closed = _closed_layer(case, net) if in_use and math.isfinite(losses[-1]) and alive else None
    return Rehearsal(float(optimizer.lr), np.array(losses), update_ratio, shift, np.array(before), closed)


def first_shift(case: Case) -> float:
    """`Rehearsal.shift` of a case, from a single step on a copy of its net."""
    net = case.net.copy()
    return _first_step(case, net, case.optimizer_for(net))[1]


def _recorded(case: Case, net: Any, optimizer: Any) -> float:
    """The loss of a recorded step on the first batch."""
    return case.step(net, optimizer, case.batch(0), record=True)


def _first_step(case: Case, net: Any, optimizer: Any) -> tuple[float, float]:
    """(loss, shift) of the first step; a shift of NaN if the loss is not finite."""
    rows = _some_rows(net, case.batch(0)[0])
    before = last_hidden(net, rows)
    loss = _recorded(case, net, optimizer)
    return loss, _shift(before, last_hidden(net, rows)) if math.isfinite(loss) else math.nan


def _closed_layer(case: Case, net: Any) -> int | None:
    """The lowest hidden layer whose units all output zero for every row of the data; None without one.

    Looked for only where the outputs of a batch are all alike, which a closed layer makes them.
    """
    if not _alike(net.forward(case.batch(0)[0], training=True)):
        return None
    net.loss_and_gradients(case.x, case.trainable(net, case.target), case.loss, record=True)
    closed = (net.flow.dead_share[:-1] == 1.0) & (net.flow.delta_norm[:-1] == 0.0)
    return int(closed.argmax()) if closed.any() else None


def _alike(rows: np.ndarray) -> bool:
    """Whether all rows are the same."""
    return bool((rows == rows[0]).all())


def _some_rows(net: Any, x: np.ndarray) -> np.ndarray:
    """The rows by which a shift is measured: all with batch norm, where they depend on each other, else NEIGHBOURS."""
    return x if net.normalization == "batch" else x[:NEIGHBOURS]


@harmless
def _shift(before: np.ndarray, after: np.ndarray) -> float:
    """Root mean square of the change, relative to that of the values before; NaN if there are none."""
    return float(np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))) if before.size else math.nan
