"""The steps of a training since a snapshot, kept so that they can be replayed bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import _check
from ._check import Array
from .training import Rows, Run

if TYPE_CHECKING:
    from .flow import GradientFlow
    from .mlp import MLP
    from .optim import Optimizer

_BYTES_A_STEP = 300  # size of a `Taken` without its rows


def kept(run: Run, x: ArrayLike, target: ArrayLike) -> tuple[Array, Array]:
    """Copies of a batch, because the loop that brings it may reuse its buffers."""
    rows = _check.matrix(x, "x", run.net.dtype, run.net.in_features)
    values = _check.target(target, run.net.dtype, run.loss, len(rows), run.net.out_features)
    return rows.copy(), values.copy()


@dataclass(frozen=True)
class Snapshot:
    """A net and its optimizer before step `step`: parameters, running statistics, optimizer state."""

    step: int
    parameters: Array
    buffers: Array
    optimizer: dict[str, Any]

    @classmethod
    def of(cls, run: Run, step: int) -> Snapshot:
        """Copy everything that a step reads and writes."""
        net = run.net
        return cls(step, net.parameters.flat.copy(), net.buffers.flat.copy(), run.optimizer.state_dict())

    def restore(self, net: MLP, optimizer: Optimizer) -> None:
        """Restore the snapshot; the optimizer keeps its current learning rate or schedule."""
        net.parameters.flat[:] = self.parameters
        net.buffers.flat[:] = self.buffers
        optimizer.load_state_dict({**self.optimizer, "lr": optimizer._given_lr})

    def weight_norms(self, net: MLP) -> Array:
        """|W| of each dense layer of `net` at the snapshot, [depth]."""
        weights = net.parameters.like(self.parameters)
        squares = [np.sum(np.square(weights[f"dense{layer}.weight"], dtype=np.float64)) for layer in range(net.depth)]
        return np.sqrt(squares)


class Taken(NamedTuple):
    """One step: its rows, settings and results; loss is None if the step raised."""

    rows: Rows
    lr: float
    clip_norm: float | None
    clip_value: float | None
    loss: float | None
    total_norm: float


@dataclass(frozen=True, eq=False)
class ReplayedStep:
    """A step of the training, replayed on a copy and recorded.

    step: its number. loss, total_norm: results of the replay. flow: GradientFlow of the recorded pass. same_bits:
    whether loss and norm equal those of the training to the bit. refused: clipping refused the gradients, and nothing
    was updated.
    """

    step: int
    loss: float
    total_norm: float
    flow: GradientFlow
    same_bits: bool
    refused: bool
    _rows: Rows = field(repr=False)
    _net: MLP = field(repr=False)  # after the step
    _before: Array = field(repr=False)  # parameters before the step


class Tape:
    """A snapshot and the steps taken since."""

    def __init__(self, run: Run, step: int) -> None:
        self.run, self.base = run, Snapshot.of(run, step)
        self.taken: list[Taken] = []
        self.nbytes = 0

    def add(self, taken: Taken) -> None:
        """Add a step."""
        self.taken.append(taken)
        self.nbytes += _BYTES_A_STEP + _nbytes(taken.rows)

    def replay(self) -> Iterator[ReplayedStep]:
        """Replay every step since the snapshot on a copy of the net, recorded."""
        net = self.run.net.copy()
        optimizer = self.run.optimizer._made_for(net, 0.0)
        self.base.restore(net, optimizer)
        for index, taken in enumerate(self.taken):
            optimizer.lr = taken.lr
            yield self._again(self.base.step + index, taken, net, optimizer)

    def _again(self, step: int, taken: Taken, net: MLP, optimizer: Optimizer) -> ReplayedStep:
        x, target = self.run.batch(taken.rows)
        before, refused = net.parameters.flat.copy(), False
        try:
            loss, norm = net.train_step(
                x, target, optimizer, self.run.loss, taken.clip_norm, taken.clip_value, record=True
            )
        except FloatingPointError:
            refused, norm = True, math.nan
            buffers = net.buffers.flat.copy()  # the second pass would update them once more
            loss = net.loss_and_gradients(x, target, self.run.loss, record=True)
            net.buffers.flat[:] = buffers
        if taken.loss is None:
            same = refused
        else:
            same = not refused and _same(loss, taken.loss) and _same(norm, taken.total_norm)
        return ReplayedStep(step, loss, norm, net.flow, same, refused, taken.rows, net, before)


def _nbytes(rows: Rows) -> int:
    parts = rows if isinstance(rows, tuple) else (rows,)
    return sum(getattr(part, "nbytes", 0) for part in parts)


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
