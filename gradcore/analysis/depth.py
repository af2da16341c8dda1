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
    """Layers after which gradient norms at the two ends differ by `norm_ratio`; see `DepthLimit`."""
    slope, ratio = subject.slope, subject.limits.norm_ratio
    if math.isnan(slope.systematic):
        nan = math.nan
        return DepthLimit(nan, nan, nan, nan, nan, nan, nan, subject.depth)

    def carried(log_factor: float) -> float:
        return theory.carried_depth(bounded_exp(log_factor), ratio)

    ends = (slope.systematic_low, slope.systematic_high)
    level = ends[0] <= 0.0 <= ends[1]  # an interval around zero sets no limit at its far end
    limits = sorted(carried(end) for end in ends)
    # The typical fall by chance is half of the summed variance of ln |delta|^2, (M.6).
    noise = step_noise(subject.measurement)[0]
    drift = 0.5 * float(noise.mean()) if noise.size else 0.0
    chance = 1.0 + 2.0 * math.log(ratio) / drift if drift > 0.0 else math.inf
    measured = carried(slope.systematic)
    return DepthLimit(
        measured=measured,
        measured_low=limits[0],
        measured_high=math.inf if level else limits[1],
        predicted=carried(prediction.slope + drift) if prediction.valid else math.nan,  # which counts chance in
        chance=chance,
        distinct=prediction.trainable_depth,
        carried=max(2.0, min(measured, chance)),
        depth=subject.depth,
    )
