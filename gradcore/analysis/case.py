"""What is analysed: one net, its data, its loss and its optimizer, and which of the rows are measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check

# Learning rate of the plain SGD judged for when no optimizer is given: the usual default for SGD.
SGD_LR = 0.01

Floats = NDArray[Any]  # float64 but for the data, which has the net's dtype


@dataclass(frozen=True)
class Case:
    """What is analysed: a private copy of the net, the data, the loss, and how to measure.

    optimizer: an Optimizer of the user's net, or None to judge for plain SGD at SGD_LR.
    batch_size: rows of a batch, their mean where they differ. rows: the index arrays of the batches.
    training: "lr" or "clip_norm" to train with instead. trained: whether the optimizer has taken steps on this net.
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
        """Inputs and targets of one batch, cycling through them."""
        rows = self.rows[index % len(self.rows)]
        return self.x[rows], self.trainable(self.net, self.target[rows])

    def random_batch(self, net: Any, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Inputs, and targets that `net` can be given, of as many random rows as a step takes."""
        rows = rng.choice(len(self.x), min(self.batch_size, len(self.x)), replace=False)
        return self.x[rows], self.trainable(net, self.target[rows])

    def trainable(self, net: Any, target: Floats) -> Floats:
        """Targets that `net` can be given: a softmax over one output knows but one label, whatever the data says."""
        one_label = self.loss == "cross_entropy" and net.out_features == 1 and target.dtype.kind == "i"
        return np.zeros_like(target) if one_label else target

    @functools.cached_property
    def as_drawn(self) -> bool:
        """Whether the weights are those that `init="auto"` draws; taken for granted of a net without a seed."""
        config = self.net.config
        if config["init"] != "auto" or config["seed"] is None:
            return bool(config["init"] == "auto")
        return bool(np.array_equal(type(self.net)(**config).parameters.flat, self.net.parameters.flat))

    @property
    def classes(self) -> int:
        """Number of classes that labels of a cross entropy name; at least two."""
        return max(int(self.target.max(initial=0)) + 1, 2)

    @property
    def step_size(self) -> float:
        """The learning rate of the next step."""
        return float(self.training.get("lr", SGD_LR if self.optimizer is None else self.optimizer.lr))

    @property
    def memory(self) -> float:
        """Gradients that momentum has added up in a step once it is under way, 1 / (1 - momentum); 1 without it.

        Where they agree a step is that many times lr, and it takes about as many steps to get there.
        """
        momentum = 0.0 if self.optimizer is None else float(self.optimizer.hyperparameters.get("momentum", 0.0))
        return 1.0 / (1.0 - momentum) if momentum < 1.0 else math.inf

    def optimizer_for(self, net: Any, *, anew: bool = False) -> Any:
        """The optimizer judged for, made for `net`: where that is what it has trained, in its present state.

        None fits a net of fewer layers that has kept its weights. anew: without it in any case.
        """
        if self.optimizer is None:
            from ..optim import SGD

            return SGD(net, lr=self.step_size)
        fits = net.parameters.flat.shape == self.optimizer.net.parameters.flat.shape
        return self.optimizer._made_for(net, self.step_size, keep_state=self.trained and fits and not anew)

    def step(self, net: Any, optimizer: Any, batch: tuple[Floats, Floats], *, record: bool = False) -> float:
        """Loss of one step, clipped if that is asked for; NaN where its gradients are not finite and cannot be."""
        clip = self.training.get("clip_norm")
        try:
            return float(net.train_step(*batch, optimizer, loss=self.loss, clip_norm=clip, record=record).loss)
        except FloatingPointError:
            return math.nan

    @functools.cached_property
    def constant_loss(self) -> float:
        """The loss of the best constant output; of Huber's loss that of the mean, which is close to it."""
        if self.loss in ("cross_entropy", "binary_cross_entropy"):
            return self._entropy()
        target = np.asarray(self.target, dtype=np.float64)
        away = np.abs(target - (np.median(target, axis=0) if self.loss == "mae" else target.mean(axis=0)))
        losses = {"mse": away**2, "mae": away, "huber": np.where(away < 1.0, 0.5 * away**2, away - 0.5)}
        return float(losses[self.loss].mean())

    def _entropy(self) -> float:
        """Entropy of the mean target: of the classes' shares, or of each output's probability, mean over outputs."""
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
        return float(np.sqrt(np.mean(np.asarray(self.target, dtype=np.float64) ** 2)))


def batch_rows(
    num_rows: int, batch_size: int, batches: int, seed: int, *, keep_size: bool = False
) -> tuple[Floats, ...]:
    """Random batches, disjoint where the data holds four; else smaller ones, or with keep_size ones that share rows.

    Each is an independent sample of the data. Batch norm makes another net of smaller ones, so for it each batch is
    drawn from all rows, as a training does; one batch where it takes all of them.
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
