"""The slope of ln |delta|^2 over depth, with an error bar that knows what finite width does.

Between neighbouring layers ln |delta|^2 changes by d_l, whose noise is independent from layer to layer
(weights of different layers are drawn independently): along depth the profile is a random walk, so a
line fitted by least squares to the profile itself would be far too sure of its slope. For a walk with
step variances v_l the best linear unbiased estimate (generalized least squares) is the weighted mean of
the increments,

    slope = sum(d_l / v_l) / sum(1 / v_l),     width_error^2 = 1 / sum(1 / v_l)          (S.1)

with v_l of (M.6) in mean_field. Batch noise is the spread of (S.1) over batches. Steps past a skip connection and
steps without one have slopes of their own, and (S.1) holds within each kind; the slope is the mean of the two by the
number of their steps, so that it still makes the whole change over depth.

Most of v_l is luck of one draw of weights: how W_{l+1} happens to be turned towards delta_{l+1}. It is
measured too ("alignment", see GainFactors). Where its sum is what random directions give, the slope
without it is reported as `systematic`: what another seed of the same design would show, and the part a
remedy can act on. Where it is not (trained or structured weights), all of the slope is systematic.
"""

from __future__ import annotations

import math

import numpy as np

from . import mean_field as theory
from .measure import Measurement, expected_weight_gain, skip_connections
from .report import Slope

# Two-sided 95 % points of Student's t, by degrees of freedom; 1.96 in the limit.
_STUDENT_95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
GAUSS_95 = 1.96
# Alignment is called random as long as its sum lies within 3 standard deviations (0.3 % of random nets do not).
RANDOM_WITHIN = 3.0


def student_95(degrees: int) -> float:
    """Half width, in standard errors, of a 95 % interval of a mean with this many degrees of freedom."""
    if degrees < 1:
        return math.inf
    return _STUDENT_95[degrees - 1] if degrees <= len(_STUDENT_95) else GAUSS_95 + 2.5 / degrees


def profile(measurement: Measurement) -> np.ndarray:
    """ln |.|^2 of the gradient that travels, per batch and hidden layer, [batches, depth - 1].

    It is delta, but with skip connections dL/dh: there delta is what enters one branch (zero for a branch
    that starts at zero), and the stream beside it is what reaches the layers below. -inf where it is zero.
    """
    name = "grad_output_norm" if skip_connections(measurement.config).any() else "delta_norm"
    return np.asarray(2.0 * np.log(measurement.stack(name)[:, :-1]))


def step_noise(measurement: Measurement) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each increment from finite width, and the part of it that is alignment; [depth - 2] each.

    (M.6) with the q at which the layer's activation would have the mean squared derivative measured; a
    skip connection dilutes both as in `predict`.
    """
    widths = np.array(measurement.config["widths"][1:-1], dtype=np.float64)[:-1]
    kappa = np.array([_kurtosis(measurement, layer) for layer in range(len(widths))])
    share = _branch_share(measurement)
    mixed = 4.0 * share * (1.0 - share) / widths
    return share**2 * (3.0 * kappa - 1.0) / widths + mixed, share**2 * 2.0 * kappa / widths + mixed


def _kurtosis(measurement: Measurement, layer: int) -> float:
    """E phi'^4 / (E phi'^2)^2 of a layer, at the pre-activation variance it has."""
    q = 1.0 if measurement.config["normalization"] else measurement.preact_square()[layer]
    return min(theory.kurtosis(measurement.config["activation"][layer], float(np.clip(q, 1e-6, 1e6))), 50.0)


def _branch_share(measurement: Measurement) -> np.ndarray:
    """Share of the branch in |dL/dh_l|^2 for l = 0 .. depth - 3; 1 without a skip connection."""
    expected = expected_weight_gain(measurement)[:-1]
    skips = skip_connections(measurement.config)[1:-1]
    out_features = np.array(measurement.config["widths"][2:-1], dtype=np.float64)
    branch = measurement.rms("weight_norm")[1:-1] ** 2 / out_features
    return np.where(skips, np.nan_to_num(branch / expected), 1.0)


def _systematic_steps(measurement: Measurement) -> np.ndarray:
    """The increments without alignment: what the sizes of weights, derivatives and norms make, [depth - 2]."""
    rms = measurement.rms
    weights = np.log(expected_weight_gain(measurement)[:-1])
    if skip_connections(measurement.config).any():
        above = 2.0 * np.log(rms("delta_norm")[1:-1] / rms("grad_output_norm")[1:-1])
        return np.asarray(weights + above)
    slopes = np.log(measurement.mean("mean_squared_derivative")[:-2])
    norms = 2.0 * np.log(rms("delta_norm")[:-2] / rms("grad_preact_norm")[:-2])
    return np.asarray(weights + slopes + norms)


def estimate(measurement: Measurement, norm_ratio: float) -> Slope:
    """The slope of a measured net.

    Args:
        measurement: of at least one batch.
        norm_ratio: largest healthy ratio of gradient norms between the two ends (`judge.Thresholds`); it
            sets the band.
    """
    lines = profile(measurement)
    increments = lines[:, :-1] - lines[:, 1:]
    usable = np.isfinite(increments).all(axis=0)
    # Where no gradient passes, the slope is one of fewer layers, over which norms may change by as much.
    steps = int(usable.sum()) + 1 if usable.any() else measurement.depth - 1
    band = 2.0 * math.log(norm_ratio) / max(steps, 1)
    if not usable.any():
        nan = math.nan
        return Slope(nan, nan, nan, nan, nan, nan, nan, nan, -band, band, steps)
    # Branches that start at zero add no noise; the floor keeps their weight finite.
    noise, alignment_noise = (np.maximum(values[usable], 1e-9) for values in step_noise(measurement))
    increments, systematic = increments[:, usable], _systematic_steps(measurement)[usable]
    weights = _weights(noise, skip_connections(measurement.config)[1:-1][usable])
    per_batch = increments @ weights
    value = float(per_batch.mean())
    width_error = float(np.sqrt(np.sum(weights**2 * noise)))
    half = math.hypot(half_interval(per_batch), GAUSS_95 * width_error)
    low, high = _systematic_interval(increments.mean(axis=0), systematic, noise, alignment_noise, weights, half)
    return Slope(
        value=value,
        low=value - half,
        high=value + half,
        systematic=0.5 * (low + high),
        systematic_low=low,
        systematic_high=high,
        batch_error=error_of_mean(per_batch),
        width_error=width_error,
        band_low=-band,
        band_high=band,
        steps=steps,
    )


def _weights(noise: np.ndarray, skips: np.ndarray) -> np.ndarray:
    """Weights of (S.1) within the steps with and those without a skip connection; each kind has its share of 1."""
    weights = 1.0 / noise
    for kind in (skips, ~skips):
        if kind.any():
            weights[kind] *= kind.mean() / weights[kind].sum()
    return weights


def error_of_mean(values: np.ndarray) -> float:
    """Standard error of the mean of independent values; NaN for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def half_interval(values: np.ndarray) -> float:
    """Half width of the 95 % interval of their mean; 0 for a single one, which tells nothing of it."""
    return error_of_mean(values) * student_95(len(values) - 1) if len(values) > 1 else 0.0


def _systematic_interval(
    increments: np.ndarray,
    systematic: np.ndarray,
    noise: np.ndarray,
    alignment_noise: np.ndarray,
    weights: np.ndarray,
    half: float,
) -> tuple[float, float]:
    """95 % interval of the slope without alignment, or of the whole slope where alignment is not random."""
    value = float(increments @ weights)
    without = float(systematic @ weights)
    if not math.isfinite(without):
        return value - half, value + half
    drift = -0.5 * float(alignment_noise @ weights)  # typical value of the logarithm of a mean-one factor
    spread = math.sqrt(float(np.sum(weights**2 * alignment_noise)))
    if not drift - RANDOM_WITHIN * spread <= value - without <= RANDOM_WITHIN * spread:
        return value - half, value + half
    # What is left of the noise: mask counts and weight sizes; the batch noise of a mean derivative is small.
    rest = GAUSS_95 * math.sqrt(max(float(np.sum(weights**2 * (noise - alignment_noise))), 0.0))
    return without - rest, without + rest
