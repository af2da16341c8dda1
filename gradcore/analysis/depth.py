"""How many layers a design can carry: from the measured slope, from theory, and from chance at its width."""

from __future__ import annotations

import math

from . import mean_field as theory
from .arithmetic import bounded_exp, harmless
from .report import DepthLimit, Prediction
from .slope import step_noise
from .subject import Subject


@harmless
def depth_limit(subject: Subject, prediction: Prediction) -> DepthLimit:
    """The number of layers after which gradient norms at the two ends differ by `norm_ratio`; see `DepthLimit`.

    Every number of layers is NaN if there is no slope.
    """
    slope, ratio = subject.slope, subject.limits.norm_ratio
    if math.isnan(slope.systematic):
        nan = math.nan
        return DepthLimit(nan, nan, nan, nan, nan, nan, nan, subject.depth)

    def carried(log_factor: float) -> float:
        return theory.carried_depth(bounded_exp(log_factor), ratio)

    ends = (slope.systematic_low, slope.systematic_high)
    level = ends[0] <= 0.0 <= ends[1]  # the slope may be zero, at which there is no upper limit
    limits = sorted(carried(end) for end in ends)
    # On a typical draw, ln |delta|^2 falls by half of its variance (M.6) per layer.
    noise = step_noise(subject.measurement)[0]
    drift = 0.5 * float(noise.mean()) if noise.size else 0.0
    chance = 1.0 + 2.0 * math.log(ratio) / drift if drift > 0.0 else math.inf
    measured = carried(slope.systematic)
    return DepthLimit(
        measured=measured,
        measured_low=limits[0],
        measured_high=math.inf if level else limits[1],
        # the predicted slope contains the typical fall by chance; `chance` reports that by itself
        predicted=carried(prediction.slope + drift) if prediction.valid else math.nan,
        chance=chance,
        distinct=prediction.trainable_depth,
        carried=max(2.0, min(measured, chance)),
        depth=subject.depth,
    )
