"""The slope of ln |delta|^2 over depth, with an error bar that includes the effect of finite width.

Between neighbouring layers, ln |delta|^2 changes by an increment d_l. Its noise has the variance v_l, (M.6) in
mean_field, and is independent from layer to layer, because the weights of different layers are drawn independently.
Along depth the profile is therefore a random walk, and a least-squares line through it would underestimate its own
error by far. What counts is the change over the whole depth, whatever kinds of layers it comes from. The slope is its
mean over the m increments,

    slope = sum(d_l) / m,     width_error^2 = sum(v_l) / m^2                              (S.1)

Batch noise is the spread of (S.1) over batches, weighted by their rows.

Most of v_l is the luck of one draw of weights: how W_{l+1} happens to be aligned with delta_{l+1}. This alignment is
measured (see GainFactors). If its sum is what random directions give, the slope without it is reported as `systematic`:
what another seed of the same design would show, and the part that a remedy can change. The logarithm of a factor with
mean 1 and variance a_l is typically -a_l / 2: narrow layers lose this much on most draws, the `drift`.

All of the slope is systematic in three cases: if alignment is not random (structured weights); if the net has been
trained, so that another draw does not matter; and with batch norm, under which the rows of a batch have little luck in
common (`predict`).
"""

from __future__ import annotations

import math

import numpy as np

from ..mlp import skip_connections
from . import mean_field as theory
from .arithmetic import GAUSS_95
from .measure import Measurement, travelling_norm, weight_gain
from .report import Slope

# Two-sided 95 % points of Student's t for 1, 2, ... degrees of freedom; 1.96 in the limit.
_STUDENT_95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
# Alignment is called random as long as its sum lies within 3 standard deviations (0.3 % of random nets do not).
RANDOM_WITHIN = 3.0


def student_95(degrees: float) -> float:
    """The half width, in standard errors, of the 95 % interval of a mean. degrees: of freedom, a real number >= 1."""
    if degrees > len(_STUDENT_95):
        return GAUSS_95 + 2.5 / degrees
    return float(np.interp(degrees, np.arange(1, len(_STUDENT_95) + 1), _STUDENT_95))


def profile(measurement: Measurement) -> np.ndarray:
    """2 ln of the norm of the gradient that travels (`travelling_norm`) in each hidden layer, [batches, depth - 1].

    It is -inf where the gradient is zero.
    """
    return np.asarray(2.0 * np.log(measurement.stack(travelling_norm(measurement.config))[:, :-1]))


def step_noise(measurement: Measurement) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each increment from finite width, and the part of it that comes from alignment; [depth - 2] each.

    The variance is (M.6), the part 2 E[phi'^4] / E[phi'^2]^2 / n of it. With a skip connection, both are multiplied by
    the square of the branch's share, and the noise of the branch's random sign against the skip is added, as in
    `predict`.
    """
    widths = np.array(measurement.config["widths"][1:-1], dtype=np.float64)[:-1]
    kappa = np.array([_kurtosis(measurement, layer) for layer in range(len(widths))])
    share = _branch_share(measurement)
    mixed = 4.0 * share * (1.0 - share) / widths
    return share**2 * (3.0 * kappa - 1.0) / widths + mixed, share**2 * 2.0 * kappa / widths + mixed


def _kurtosis(measurement: Measurement, layer: int) -> float:
    """E[phi'^4] / E[phi'^2]^2 of a layer, for the pre-activation variance that random weights of its size make."""
    q = 1.0 if measurement.config["normalization"] else measurement.preact_square()[layer]
    q = max(min(1e6, float(q)), 1e-6)  # NaN (infinite squares of weights times inputs of 0) becomes 1e6, too
    return min(theory.kurtosis(measurement.config["activation"][layer], q), 50.0)


def _branch_gain(measurement: Measurement) -> np.ndarray:
    """What each branch passes on of |dL/dh_{l+1}|^2 to |dL/dh_l|^2, [depth - 2]; a skip connection passes on 1 besides.

    That is `weight_gain` times |delta_{l+1}|^2 / |dL/dh_{l+1}|^2.
    """
    entering = measurement.rms("delta_norm") / measurement.rms("grad_output_norm")
    return np.asarray(weight_gain(measurement)[:-1] * entering[1:-1] ** 2)


def _branch_share(measurement: Measurement) -> np.ndarray:
    """The branch's share of |dL/dh_l|^2, for l = 0 .. depth - 3; 1 without a skip connection."""
    branch, skips = _branch_gain(measurement), skip_connections(measurement.config)[1:-1]
    return np.where(skips, branch / (branch + 1.0), 1.0)


def _systematic_steps(measurement: Measurement) -> np.ndarray:
    """The increments without alignment: what the sizes of weights, derivatives and norms make, [depth - 2]."""
    rms, skips = measurement.rms, skip_connections(measurement.config)
    if skips.any():
        return np.asarray(np.log(_branch_gain(measurement) + skips[1:-1]))
    slopes = np.log(measurement.mean("mean_squared_derivative")[:-2])
    norms = 2.0 * np.log(rms("delta_norm")[:-2] / rms("grad_preact_norm")[:-2])
    return np.asarray(np.log(weight_gain(measurement)[:-1]) + slopes + norms)


def estimate(measurement: Measurement, norm_ratio: float, *, trained: bool = False) -> Slope:
    """Estimate the slope of a measured net; its numbers are NaN if no gradient passes between any two hidden layers.

    Args:
        measurement: of at least one batch.
        norm_ratio: largest healthy ratio of gradient norms between the two ends (`subject.Thresholds`); sets the band.
        trained: whether the net is known to have taken steps, so that no part of its slope is luck.
    """
    lines = profile(measurement)
    increments = lines[:, :-1] - lines[:, 1:]
    usable = np.isfinite(increments).all(axis=0)
    # Increments next to a zero gradient are left out. The slope is then one of fewer layers, whose two ends may differ
    # by as much.
    steps = int(usable.sum()) + 1 if usable.any() else measurement.depth - 1
    band = 2.0 * math.log(norm_ratio) / max(steps, 1)
    if not usable.any():
        nan = math.nan
        return Slope(nan, nan, nan, nan, nan, nan, nan, nan, -band, band, steps, nan, False, nan)
    noise, alignment_noise = (values[usable] for values in step_noise(measurement))
    per_batch = increments[:, usable].mean(axis=1)
    value, batch_half = float(measurement.mean_of(per_batch)), half_interval(per_batch, measurement.weights)
    width_error = math.sqrt(noise.sum()) / len(noise)
    half = math.hypot(batch_half, GAUSS_95 * width_error)
    drift = -0.5 * float(alignment_noise.mean())
    without_luck = float(_systematic_steps(measurement)[usable].mean())
    all_systematic = trained or measurement.config["normalization"] == "batch"
    random = not all_systematic and _is_random(value - without_luck, drift, alignment_noise)
    low, high = value - half, value + half
    if all_systematic:
        low, high = value - batch_half, value + batch_half
    elif random:
        # The noise that is left comes from mask counts and weight sizes; the batch noise of mean derivatives is small.
        rest = GAUSS_95 * math.sqrt(max(float(np.sum(noise - alignment_noise)), 0.0)) / len(noise)
        low, high = without_luck - rest, without_luck + rest
    return Slope(
        value=value,
        low=value - half,
        high=value + half,
        systematic=0.5 * (low + high),
        systematic_low=low,
        systematic_high=high,
        batch_error=error_of_mean(per_batch, measurement.weights),
        width_error=width_error,
        band_low=-band,
        band_high=band,
        steps=steps,
        drift=drift,
        random=random,
        batch_half=batch_half,
    )


def _is_random(luck: float, drift: float, alignment_noise: np.ndarray) -> bool:
    """Whether alignment changed the slope by no more than random directions do.

    luck: the part of the slope that comes from alignment. drift: its typical value. alignment_noise: its variance in
    each increment.
    """
    spread = math.sqrt(float(alignment_noise.sum())) / len(alignment_noise)
    return drift - RANDOM_WITHIN * spread <= luck <= RANDOM_WITHIN * spread


def error_of_mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    """Standard error of the mean of independent values; NaN for a single value.

    weights: of a weighted mean; their own mean is 1. None: all values count the same.

    The error is the jackknife's (Tukey 1958), which leaves out each value in turn. So nothing needs to be known about
    how the noise of a value depends on its weight: for any variances, the squared error is on average at least
    (n - 1) / n of the true one. Without weights it is the formula of the textbooks.
    """
    count = len(values)
    if count < 2:
        return math.nan
    weights = np.ones(count) if weights is None else weights
    shifts = weights * (count - 1) / (count - weights) * (values - np.mean(weights * values))
    return math.sqrt(np.sum(shifts**2) / (count - 1)) / math.sqrt(count)


def half_interval(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Half width of the 95 % interval of the mean of independent values; 0 for a single value, which tells nothing.

    Values of unequal weights count as fewer, (sum of weights)^2 / sum of their squares (Kish 1965), but as no fewer
    than two.
    """
    if len(values) < 2:
        return 0.0
    count = len(values) if weights is None else len(values) ** 2 / float(np.sum(weights**2))
    return error_of_mean(values, weights) * student_95(count - 1)


def beyond_band(slope: Slope) -> int:
    """-1 if a slope is clearly below its healthy band, 1 if it is clearly above, otherwise 0.

    The measured slope must lie there by more than the noise of batches, and so must the slope of a typical draw of the
    weights: otherwise it was luck. Where gradients vanish, all rows come to point the same way, and narrow layers
    typically lose the `drift` besides. Where they grow, rows go apart (Schoenholz et al. 2017: chi < 1 and chi > 1),
    and a mean over many directions has no drift.
    """
    if slope.value + slope.batch_half < slope.band_low and slope.typical < slope.band_low:
        return -1
    return int(slope.value - slope.batch_half > slope.band_high and slope.systematic > slope.band_high)
