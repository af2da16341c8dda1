"""What is analysed: one net, its data, its loss, its optimizer, and the rows that are measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check, ops
from ..optim import SGD
from .arithmetic import root_mean_square

# Learning rate of the plain SGD judged for when no optimizer is given: the usual default for SGD.
SGD_LR = 0.01

# Steps towards the center of Huber's loss: what is left of it does not show in the loss.
_HUBER_STEPS = 20

Floats = NDArray[Any]  # float64, except for the data, which has the net's dtype


@dataclass(frozen=True)
class Case:
    """What is analysed: a private copy of the net, the data, the loss, and how to measure.

    x, target: all rows of the data.
    optimizer: an Optimizer of the user's net, or None to judge for plain SGD at SGD_LR.
    batch_size: rows per batch; their mean where batches differ. rows: the row numbers of each measured batch.
    training: settings to train with that differ from the optimizer's: "lr", or "clip_norm" to clip at.
    trained: whether the optimizer has taken steps on this net.
    """

    net: Any
    x: Floats
    target: Floats
    loss: str
    optimizer: Any
    batch_size: int
    rows: tuple[Floats, ...]
    seed: int
    training: Mapping[str, float] = field(default_factory=dict)
    trained: bool = False

    def batch(self, index: int) -> tuple[Floats, Floats]:
        """Inputs and targets of measured batch number `index`; after the last batch, the first one follows."""
        return self.batch_of(self.net, self.rows[index % len(self.rows)])

    def random_batch(self, net: Any, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Inputs and `trainable` targets of as many random rows as a step takes."""
        return self.batch_of(net, self.random_rows(rng))

    def random_rows(self, rng: np.random.Generator) -> Floats:
        """As many random rows as a step takes."""
        return rng.choice(len(self.x), min(self.batch_size, len(self.x)), replace=False)

    def batch_of(self, net: Any, rows: Floats) -> tuple[Floats, Floats]:
        """Inputs and `trainable` targets of these rows."""
        return self.x[rows], self.trainable(net, self.target[rows])

    def trainable(self, net: Any, target: Floats) -> Floats:
        """The targets in a form that `net` accepts.

        A softmax over one output knows a single label, whatever the data says: labels then become 0.
        """
        one_label = self.loss == "cross_entropy" and net.out_features == 1 and target.dtype.kind == "i"
        return np.zeros_like(target) if one_label else target

    @functools.cached_property
    def as_drawn(self) -> bool:
        """Whether the weights are those that `init="auto"` draws.

        This is taken for granted if `init` is "auto" and the net has no seed to draw them from again.
        """
        config = self.net.config
        if config["init"] != "auto" or config["seed"] is None:
            return bool(config["init"] == "auto")
        return bool(np.array_equal(type(self.net)(**config).parameters.flat, self.net.parameters.flat))

    @property
    def classes(self) -> int:
        """Number of classes that the labels of a cross entropy name; at least two."""
        return max(int(self.target.max(initial=0)) + 1, 2)

    @property
    def step_size(self) -> float:
        """The learning rate of the next step."""
        return float(self.training.get("lr", SGD_LR if self.optimizer is None else self.optimizer.lr))

    @property
    def memory(self) -> float:
        """How many gradients momentum adds up in a step at full speed: 1 / (1 - momentum), or 1 without momentum.

        If the gradients agree, such a step is that many times lr. It takes about as many steps to get there.
        """
        momentum = 0.0 if self.optimizer is None else float(self.optimizer.hyperparameters.get("momentum", 0.0))
        return 1.0 / (1.0 - momentum) if momentum < 1.0 else math.inf

    def optimizer_for(self, net: Any, *, anew: bool = False) -> Any:
        """A new optimizer for `net`, of the kind and with the settings of the one judged for; plain SGD without one.

        It continues from that optimizer's state if the optimizer has trained the net, and the state fits: it does not
        fit a net of fewer layers that has kept its weights. anew: start without a state in any case.
        """
        if self.optimizer is None:
            return SGD(net, lr=self.step_size)
        fits = net.parameters.flat.shape == self.optimizer.net.parameters.flat.shape
        return self.optimizer._made_for(net, self.step_size, keep_state=self.trained and fits and not anew)

    def step(self, net: Any, optimizer: Any, batch: tuple[Floats, Floats], *, record: bool = False) -> float:
        """Take one training step and return its loss.

        The step is clipped if the case asks for it. The loss is NaN if gradients are not finite and so cannot be
        clipped.
        """
        clip = self.training.get("clip_norm")
        try:
            return float(net.train_step(*batch, optimizer, loss=self.loss, clip_norm=clip, record=record).loss)
        except FloatingPointError:
            return math.nan

    def loss_in_training(self, batch: tuple[Floats, Floats]) -> float:
        """Loss of a batch as a step from the case's own weights would give it."""
        return loss_in_training(self._unchanged, batch, self.loss)

    @functools.cached_property
    def _unchanged(self) -> Any:
        """A copy whose running statistics may change."""
        return self.net.copy()

    @functools.cached_property
    def constant_loss(self) -> float:
        """The loss of the best constant output, called a constant guess."""
        return float(self.constant_losses.mean()) if self.loss in _check.VALUE_LOSSES else self._entropy()

    @functools.cached_property
    def constant_losses(self) -> Floats:
        """`constant_loss` of each row of a regression, [rows]."""
        target = np.asarray(self.target, dtype=np.float64)
        center = target.mean(axis=0) if self.loss == "mse" else np.median(target, axis=0)
        if self.loss == "huber":  # within 1 of the median, where steps of the whole gradient go downhill
            for _ in range(_HUBER_STEPS):
                center = center + np.clip(target - center, -1.0, 1.0).mean(axis=0)
        away = np.abs(target - center)
        losses = {"mse": away**2, "mae": away, "huber": np.where(away < 1.0, 0.5 * away**2, away - 0.5)}
        each: Floats = losses[self.loss].reshape(len(target), -1).mean(axis=1)
        return each

    def _entropy(self) -> float:
        """Entropy of the mean target.

        For cross entropy, that of the shares of the classes; for binary cross entropy, that of the mean probability of
        each output, averaged over the outputs.
        """
        labels = self.target.dtype.kind == "i"
        shares = np.bincount(self.target) / len(self.target) if labels else self.target.mean(axis=0, dtype=np.float64)
        if self.loss == "binary_cross_entropy":
            shares = np.stack([1.0 - shares, shares])
        terms = np.where(shares > 0.0, -shares * np.log(np.where(shares > 0.0, shares, 1.0)), 0.0)
        return float(terms.sum(axis=0).mean())

    @functools.cached_property
    def target_scale(self) -> float:
        """Root mean square of regression targets; 1 for classes and probabilities."""
        if self.loss not in _check.VALUE_LOSSES:
            return 1.0
        return root_mean_square(self.target)


def loss_in_training(net: Any, batch: tuple[Floats, Floats], loss: str) -> float:
    """Loss of a batch as a step from the weights of `net` would give it; changes the running statistics."""
    x, target = batch
    return ops.loss(net.forward(x, training=True), target, loss)


def batch_rows(
    num_rows: int, batch_size: int, batches: int, seed: int, *, keep_size: bool = False
) -> tuple[Floats, ...]:
    """Row numbers of random batches, disjoint if the data holds at least four of this size (or as many as asked for).

    With less data, batches are smaller. With keep_size, they keep their size instead and share rows, or there is a
    single batch of all rows. Batch norm needs keep_size, because it makes another net of smaller batches. Each batch is
    then drawn from all rows, as in a training. In any case, each is an independent sample of the data.
    """
    rng, fewest = np.random.default_rng(seed), min(batches, 4)
    if keep_size and num_rows < batch_size * fewest:
        size, count = min(batch_size, num_rows), fewest if batch_size < num_rows else 1
        return tuple(np.sort(rng.permutation(num_rows)[:size]) for _ in range(count))
    if num_rows < batch_size * fewest:
        batch_size = max(num_rows // fewest, min(2, num_rows))
    count = max(1, min(batches, num_rows // batch_size))
    order = rng.permutation(num_rows)
    return tuple(np.sort(order[index * batch_size : (index + 1) * batch_size]) for index in range(count))
