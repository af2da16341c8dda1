"""What is judged, and by which limits: one net's numbers together, and every threshold with its derivation."""

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


@dataclass(frozen=True)
class Thresholds(Record):
    """The limits of the judgement. None is an absolute norm: those change with batch, loss and width.

    Raises:
        ValueError, TypeError: naming the limit that is no finite number, or out of its range (`_RANGES`).
    """

    # Gradient norms at the two ends of the net may differ by this factor. Plain SGD has one learning rate:
    # at a factor r the weaker end contributes r^-2 of the stronger end's share to the fall of the loss, and
    # r = 100 leaves it 1e-4, about one step in a training of 10,000. The healthy band of the slope follows,
    # 2 ln(100) / steps; so does "far below the other layers" for update-to-weight ratios.
    norm_ratio: float = 100.0

    # One SGD step can take lr |g|^2 of the loss away, to first order. A net whose hidden layers need more than
    # this many steps to remove an error of its present size does not learn: a hundred epochs of a thousand batches.
    learning_steps: float = 1e5

    # A training may begin on a plateau that small weights make, if it lasts no longer than one of those hundred epochs:
    # SGD's steps grow on it, and are tried for so long.
    plateau_steps: float = 1e3

    # |g| |dW| / loss, which is lr |g|^2 / loss for SGD, beyond which a step overshoots: a quadratic loss has
    # |g|^2 = 2 curvature * loss along its steepest direction, and gradient descent diverges at lr * curvature > 2.
    overshoot: float = 4.0

    # |dW| / |W| of one step beyond which the step replaces the weights instead of changing them.
    largest_update: float = 1.0

    # A rehearsed loss above this many times the first one, and the one of a constant guess, has diverged: a
    # rate just beyond stability at least doubles the loss every second step, which makes 16 in eight steps.
    diverged: float = 10.0

    # Chance of calling one healthy net's layers dead: half the units of a random ReLU layer are dead when all
    # rows of the batch point the same way, as they do deep in a net; the binomial tail beyond it is kept here.
    false_alarm: float = 1e-3

    # Share of saturated entries (derivative below 1 % of its largest) of a bounded activation, in one layer,
    # beyond which most of the gradient's paths are closed. A standard normal input saturates 0.3 % of tanh.
    saturated: float = 0.5

    # Root mean square of the inputs beyond which (or below whose inverse) the first layer's scale is the
    # data's doing: it enters the layer's output and its gradient, so that 10 makes norm_ratio. Steps of an
    # adaptive optimizer do not shrink with the gradient, so that small inputs slow it by the output alone: 1 / 100.
    input_scale: float = 10.0

    # Ratio of column standard deviations beyond which the weak columns learn (1 / ratio)^2 as fast: norm_ratio.
    column_ratio: float = 100.0

    # Share of non-zero deltas that flush to zero in a number format worth mentioning.
    underflow: float = 0.05

    def __post_init__(self) -> None:
        for entry in fields(self):
            expected, accept = _RANGES.get(entry.name, _POSITIVE)
            _check.number(getattr(self, entry.name), f"thresholds.{entry.name}", expected, accept)


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
        """Largest relative error of rounding to it."""
        return UNIT_ROUNDOFF[self.dtype]

    @property
    def optimizer_name(self) -> str:
        """Class of the optimizer judged for."""
        return "SGD" if self.case.optimizer is None else type(self.case.optimizer).__name__

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer divides each gradient by its own size."""
        return self.optimizer_name in _ADAPTIVE

    @property
    def eps(self) -> float:
        """What an adaptive optimizer adds to the size of a gradient before it divides by it."""
        return float(self.case.optimizer.hyperparameters["eps"]) if self.adaptive else 1e-8

    @property
    def lr(self) -> float:
        """Learning rate of its next step."""
        return self.case.step_size

    @cached_property
    def profile_norms(self) -> np.ndarray:
        """Norm of the gradient that travels, a dense layer: of delta, or of dL/dh with skip connections."""
        return self.measurement.rms(travelling_norm(self.measurement.config))

    @cached_property
    def gradient_norms(self) -> np.ndarray:
        """|dL/dW| a layer."""
        return self.measurement.rms("weight_grad_norm")

    @cached_property
    def gradient_elements(self) -> np.ndarray:
        """Root mean square of the entries of dL/dW, a layer."""
        widths = np.array(self.measurement.config["widths"], dtype=np.float64)
        return self.gradient_norms / np.sqrt(widths[1:] * widths[:-1])

    @cached_property
    def smallest_adaptive_step(self) -> float:
        """Smallest share of lr by which an adaptive optimizer moves the weights of a hidden layer: g / (g + eps)."""
        smallest = float(self.gradient_elements[:-1].min(initial=math.inf))
        return smallest / (smallest + self.eps) if math.isfinite(smallest) else 1.0

    @cached_property
    def updates(self) -> np.ndarray:
        """|dW| / |W| of one step, a layer."""
        return np.array([record.update_ratio for record in self.records])

    @cached_property
    def speeds(self) -> np.ndarray:
        """`updates` to compare layers by: at a rate of 0, which moves none, those of plain SGD at any other, scaled."""
        return self.updates if self.lr > 0.0 else self.gradient_norms / self.measurement.rms("weight_norm")

    @cached_property
    def output_error(self) -> float:
        """Mean over rows of |dloss/doutput|^2 of a single row: how wrong the outputs are, whatever the loss."""
        return float(self.measurement.mean_rows * self.measurement.rms("delta_norm")[-1] ** 2)

    @cached_property
    def relative_fall(self) -> np.ndarray:
        """lr |dL/dW|^2 / output_error a layer: the share of the error that one SGD step can take away.

        Relative to the error that is there, so that it does not fall as a net learns. With momentum under way a step
        is 1 / (1 - momentum) times as large.
        """
        return self.lr * self.case.memory * self.gradient_norms**2 / self.output_error

    @cached_property
    def lasting_updates(self) -> np.ndarray:
        """|dW| / |W| of a step once momentum is under way, as it is where the optimizer has taken steps: `updates`."""
        return self.updates * (1.0 if self.case.trained else self.case.memory)

    @property
    def largest_singular_values(self) -> np.ndarray:
        """Of random weights of the measured size: |W| (1 / sqrt(in) + 1 / sqrt(out)), a layer."""
        roots = 1.0 / np.sqrt(np.array(self.measurement.config["widths"], dtype=np.float64))
        return np.asarray(self.measurement.rms("weight_norm") * (roots[:-1] + roots[1:]))

    @cached_property
    def has_signal(self) -> bool:
        """Whether any layer's mean gradient stands above batch noise; True where that could not be measured.

        Without a gradient the mean of K batches has 1 / K of a single one's square on average; the estimate
        of the signal is then 0 with a standard deviation below the noise / sqrt(K) of one dominant direction.
        """
        count = len(self.measurement.flows)
        if count < 2:
            return True
        signal = np.array([record.gradient_signal for record in self.records])
        noise = np.array([record.gradient_noise for record in self.records])
        return bool(np.any(signal > noise / math.sqrt(count)))

    @cached_property
    def overshoot(self) -> float:
        """Sum over layers of |dL/dW| |dW|, relative to the loss: what a step would take away if nothing bent.

        lr |g|^2 / loss for SGD; an adaptive optimizer's dW points along the signs of the gradient.
        """
        steps = self.updates * self.measurement.rms("weight_norm")
        whole = float(np.sum(self.gradient_norms * np.nan_to_num(steps, nan=0.0, posinf=0.0)))
        loss = self.measurement.loss
        return whole / loss if loss > 0.0 else 0.0

    @property
    def loss_is_zero(self) -> bool:
        """Whether nothing is left to learn, to the precision of the net's numbers."""
        return bool(np.all(np.abs(self.measurement.losses) <= self.unit_roundoff))
