"""What is judged, and by which limits: all numbers of one net, and every threshold with its derivation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from .. import _check
from .case import Case
from .measure import Measurement, travelling_norm
from .report import LayerRecord, Record, Slope

# Half the relative spacing of numbers just above 1: an update smaller than this is rounded away. Nets that multiply
# bfloat16 keep their weights in float32.
UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-24}
SMALLEST_NORMAL = {"float32": 2.0**-126, "float64": 2.0**-1022}
LARGEST = {"float32": 3.4028235e38, "float64": 1.7976931348623157e308}

_ADAPTIVE = ("RMSprop", "Adam", "AdamW")
_ADDS_DECAY = ("SGD", "RMSprop", "Adam")  # weight_decay * W to the gradient


@dataclass(frozen=True)
class Thresholds(Record):
    """The limits of the judgement. None is an absolute norm: those change with batch, loss and width.

    Attributes:
        norm_ratio: factor between the gradient norms at the two ends of the net.
        learning_steps: steps of SGD that a hidden layer needs to remove an error of its present size.
        plateau_steps: steps that SGD needs to leave a plateau at the start of a training.
        overshoot: |g| |dW| / loss of a step; for SGD, that is lr |g|^2 / loss.
        largest_update: |dW| / |W| of a step.
        diverged: a rehearsed loss over the first loss, and over that of a constant guess.
        false_alarm: chance that a healthy net is said to have too many dead units.
        saturated: share of saturated entries in a layer with a bounded activation.
        input_scale: root mean square of inputs or targets. That of inputs may be as small as the inverse of this limit;
            with an adaptive optimizer, as the square of the inverse.
        column_ratio: largest standard deviation of a column over the median one.
        underflow: share of a layer's deltas that a number format flushes to zero, or that are subnormal.

    Raises:
        ValueError, TypeError: naming a limit that is not a finite number or is out of its range.
    """

    # Plain SGD has one learning rate: at a factor of r, the weaker end contributes r^-2 of the stronger end's share to
    # the fall of the loss. r = 100 leaves it 1e-4, about one step in a training of 10,000. From this follow the healthy
    # band of the slope, 2 ln(100) / steps, and the ratio at which the updates of one layer are far below those of
    # another.
    norm_ratio: float = 100.0

    # One SGD step can take lr |g|^2 of the loss away, to first order: a hundred epochs of a thousand batches.
    learning_steps: float = 1e5

    # A training may begin on a plateau that small weights make, if SGD can leave it within one of those hundred epochs.
    # SGD's steps grow on a plateau; up to this many of them are tried.
    plateau_steps: float = 1e3

    # A quadratic loss has |g|^2 = 2 curvature * loss along its steepest direction, and gradient descent diverges at
    # lr * curvature > 2.
    overshoot: float = 4.0

    # A larger step replaces the weights instead of changing them.
    largest_update: float = 1.0

    # A rate just beyond stability at least doubles the loss every second step: a factor of 16 in eight steps.
    diverged: float = 10.0

    # If all rows of a batch point the same way, as they do deep in a net, half of the units of a random ReLU layer are
    # dead on average; more are counted as too many where the binomial tail is below this chance.
    false_alarm: float = 1e-3

    # Above one half, most paths of the gradient are closed. A standard normal input saturates 0.3 % of tanh.
    saturated: float = 0.5

    # The scale of the inputs enters both the first layer's output and its gradient: 10 in each makes norm_ratio. Steps
    # of an adaptive optimizer do not shrink with the gradient: small inputs slow it down by the output alone.
    input_scale: float = 10.0

    # Weak columns learn (1 / ratio)^2 as fast as the strongest, so the limit is that of norm_ratio.
    column_ratio: float = 100.0

    # What is worth mentioning.
    underflow: float = 0.05

    def __post_init__(self) -> None:
        for entry in fields(self):
            expected, accept = _RANGES.get(entry.name, _POSITIVE)
            _check.number(getattr(self, entry.name), f"thresholds.{entry.name}", expected, accept)


def checked_limits(thresholds: Thresholds | None) -> Thresholds:
    """A `thresholds` argument: these, or for None the usual ones."""
    limits = Thresholds() if thresholds is None else thresholds
    _check.instance(limits, "thresholds", Thresholds, "a gradcore.analysis.Thresholds or None")
    return limits


_POSITIVE = "a finite number > 0", lambda x: 0.0 < x < math.inf
_RATIO = "a finite number > 1", lambda x: 1.0 < x < math.inf
_SHARE = "a number in (0, 1]", lambda x: 0.0 < x <= 1.0
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("norm_ratio", "diverged", "input_scale", "column_ratio"), _RATIO),
    **dict.fromkeys(("false_alarm", "saturated", "underflow"), _SHARE),
}


@dataclass(frozen=True)
class Subject:
    """One measured net with all that is known about it."""

    case: Case
    measurement: Measurement
    records: tuple[LayerRecord, ...]
    slope: Slope
    limits: Thresholds

    @property
    def depth(self) -> int:
        """Number of dense layers."""
        return self.measurement.depth

    @property
    def dtype(self) -> str:
        """Name of the dtype of the net's arrays."""
        return "float64" if self.measurement.config["dtype"] == "float64" else "float32"

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to that dtype."""
        return UNIT_ROUNDOFF[self.dtype]

    @property
    def optimizer_name(self) -> str:
        """Class name of the optimizer judged for; "SGD" if none is given."""
        return "SGD" if self.case.optimizer is None else type(self.case.optimizer).__name__

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer divides each entry of the gradient by its typical size."""
        return self.optimizer_name in _ADAPTIVE

    @property
    def eps(self) -> float:
        """What an adaptive optimizer adds to a gradient's size before dividing by it; for others 1e-8, as in Adam."""
        return float(self.case.optimizer.hyperparameters["eps"]) if self.adaptive else 1e-8

    @property
    def lr(self) -> float:
        """Learning rate of the optimizer's next step."""
        return self.case.step_size

    @cached_property
    def profile_norms(self) -> np.ndarray:
        """Norm of the gradient that travels, for each dense layer: |delta|, or |dL/dh| with skip connections."""
        return self.measurement.rms(travelling_norm(self.measurement.config))

    @cached_property
    def gradient_norms(self) -> np.ndarray:
        """|dL/dW| of each layer."""
        return self.measurement.rms("weight_grad_norm")

    @cached_property
    def gradient_elements(self) -> np.ndarray:
        """Root mean square of the entries of dL/dW, for each layer."""
        return self._of_entries(self.gradient_norms)

    def _of_entries(self, norms: np.ndarray) -> np.ndarray:
        """Root mean squares of the entries of matrices shaped like the weights. norms: of each layer."""
        widths = np.array(self.measurement.config["widths"], dtype=np.float64)
        return np.asarray(norms / np.sqrt(widths[1:] * widths[:-1]))

    @property
    def added_decay(self) -> float:
        """The weight decay that the optimizer adds to the gradient; 0 where it acts apart from it, as in AdamW."""
        adds = self.case.optimizer is not None and self.optimizer_name in _ADDS_DECAY
        return float(self.case.optimizer.hyperparameters["weight_decay"]) if adds else 0.0

    @cached_property
    def decay_elements(self) -> np.ndarray:
        """Root mean square of what weight decay adds to the entries of dL/dW that are rescaled, for each layer.

        It is 0 for SGD, which does not rescale.
        """
        decay = self.added_decay if self.adaptive else 0.0
        return decay * self._of_entries(self.measurement.rms("weight_norm"))

    @cached_property
    def adaptive_steps(self) -> np.ndarray:
        """Share of lr by which an adaptive optimizer moves the weights of each hidden layer along the gradient.

        That is g / (g + d + eps), where g and d are the sizes of the entries of the layer's gradient and of what weight
        decay adds to them.
        """
        elements = self.gradient_elements[:-1]
        return np.asarray(elements / (elements + self.decay_elements[:-1] + self.eps))

    @cached_property
    def smallest_adaptive_step(self) -> float:
        """The smallest of `adaptive_steps`; 1 if there is no hidden layer, or if gradients are not finite."""
        smallest = float(self.adaptive_steps.min(initial=1.0))
        return smallest if math.isfinite(smallest) else 1.0

    @cached_property
    def updates(self) -> np.ndarray:
        """|dW| / |W| of one step, for each layer, without weight decay, which teaches nothing.

        For SGD, which adds the decay to the gradient, this is at most lr |dL/dW| / |W|, or with the momentum of earlier
        steps 1 / (1 - momentum) times that. Adaptive optimizers are not judged by it.
        """
        measured = np.array([record.update_ratio for record in self.records])
        if self.adaptive or not self.added_decay:
            return measured
        steps = self.lr * (self.case.memory if self.case.trained else 1.0)
        return np.asarray(np.fmin(measured, steps * self.gradient_norms / self.measurement.rms("weight_norm")))

    @cached_property
    def speeds(self) -> np.ndarray:
        """`updates`, for comparing layers with each other.

        At a rate of 0 no layer moves. Then these are |dL/dW| / |W|, to which the updates of plain SGD are proportional.
        """
        return self.updates if self.lr > 0.0 else self.gradient_norms / self.measurement.rms("weight_norm")

    @cached_property
    def output_error(self) -> float:
        """Mean over rows of |d(loss of the row)/d(output)|^2: how wrong the outputs are, whatever the loss."""
        return float(self.measurement.mean_rows * self.measurement.rms("delta_norm")[-1] ** 2)

    @cached_property
    def relative_fall(self) -> np.ndarray:
        """lr |dL/dW|^2 / output_error of each layer: the share of the error that one SGD step can take away.

        It is relative to the present error, so that it does not fall as a net learns. With momentum, lr is multiplied
        by 1 / (1 - momentum), as in a step of full momentum.
        """
        return self.lr * self.case.memory * self.gradient_norms**2 / self.output_error

    @cached_property
    def lasting_updates(self) -> np.ndarray:
        """|dW| / |W| of a step of full momentum, for each layer.

        An optimizer that has taken steps has full momentum already: then these are `updates`.
        """
        return self.updates * (1.0 if self.case.trained else self.case.memory)

    @property
    def largest_singular_values(self) -> np.ndarray:
        """Largest singular value that random weights of the measured size have, for each layer.

        That is |W| (1 / sqrt(in) + 1 / sqrt(out)).
        """
        roots = 1.0 / np.sqrt(np.array(self.measurement.config["widths"], dtype=np.float64))
        return np.asarray(self.measurement.rms("weight_norm") * (roots[:-1] + roots[1:]))

    @cached_property
    def has_signal(self) -> bool:
        """Whether any layer's mean gradient stands above batch noise; True if that could not be measured.

        If the true gradient is zero, the square of the mean of K batches is on average 1 / K of that of a single one,
        and the estimate of the signal is 0. Its standard deviation is largest if the noise has one dominant direction:
        then it is sqrt(2 / (K (K - 1))) of the noise, at most 1 / sqrt(K) for K >= 3.
        """
        count = len(self.measurement.flows)
        if count < 2:
            return True
        signal = np.array([record.gradient_signal for record in self.records])
        noise = np.array([record.gradient_noise for record in self.records])
        return bool(np.any(signal > noise / math.sqrt(count)))

    @cached_property
    def overshoot(self) -> float:
        """Sum over layers of |dL/dW| |dW|, relative to the loss: what one step would take away if the loss were linear.

        For SGD, this is lr |g|^2 / loss. For an adaptive optimizer it is an upper bound: its dW points along the signs
        of the gradient.
        """
        steps = self.updates * self.measurement.rms("weight_norm")
        whole = float(np.sum(self.gradient_norms * np.nan_to_num(steps, nan=0.0, posinf=0.0)))
        loss = self.measurement.loss
        return whole / loss if loss > 0.0 else 0.0

    @property
    def loss_is_zero(self) -> bool:
        """Whether the loss is zero to the precision of the net's numbers, so that nothing is left to learn."""
        return bool(np.all(np.abs(self.measurement.losses) <= self.unit_roundoff))


def where(flags: np.ndarray) -> tuple[int, ...]:
    """Indices of the layers whose flag is true."""
    return tuple(np.flatnonzero(flags).tolist())
