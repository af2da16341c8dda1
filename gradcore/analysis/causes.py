"""Why: the cause of a finding, computed from the factors that were measured.

The slope of ln |delta|^2 is the sum of the logarithms of its factors. Each is compared with what the same
design could have at its best, and the factor that falls short (or overshoots) most is the cause.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ..init import CRITICAL_GAIN_SQUARED
from ..mlp import NORM_EPS, skip_connections
from . import mean_field as theory
from .arithmetic import TINY, harmless
from .measure import Measurement
from .report import GainFactors, LayerRecord
from .subject import Subject

# Weight variance (times fan_in) beyond which pre-activations of unit inputs have a deviation of 2 and more,
# where half the units of tanh have lost 90 % of their slope.
_LARGE_WEIGHT_VAR = 4.0
# A factor is the cause when it explains at least this share of the slope.
_MAIN_SHARE = 0.5
# Derivatives below this share of what inputs of unit variance give are called saturated.
_SATURATED_SLOPE = 0.25
# Weights this much larger (in variance) than critical are no matter of chance or of a choice of scheme.
LARGE_EXCESS = math.log(1.5)
# Growth a layer of squared gradients (20 %) that good designs show too: SELU 7 %, tanh at unit variance 18 %.
_MILD_SLOPE = math.log(1.2)


@harmless
def factor_logs(layers: Sequence[LayerRecord]) -> dict[str, np.ndarray]:
    """Logarithms of each gain factor, of all steps between hidden layers in which they are finite."""
    rows = [layer.factors for layer in layers[:-2] if layer.factors is not None]
    logs = {entry.name: np.log([getattr(row, entry.name) for row in rows]) for entry in fields(GainFactors)}
    return {name: values[np.isfinite(values)] for name, values in logs.items()}


def hidden_factors(subject: Subject) -> dict[str, float]:
    """Mean natural logarithm of each gain factor over the hidden layers."""
    return {name: float(logs.mean()) if logs.size else 0.0 for name, logs in factor_logs(subject.records).items()}


def steepest_layer(subject: Subject) -> tuple[int, float]:
    """The layer below which the profile changes most, and that change's share of the whole change."""
    logs = np.log(subject.profile_norms[:-1])
    steps = logs[:-1] - logs[1:]
    if not np.isfinite(steps).any():
        return 0, math.nan
    layer = int(np.nanargmax(np.abs(np.where(np.isfinite(steps), steps, 0.0))))
    whole = float(np.nansum(np.where(np.isfinite(steps), steps, 0.0)))
    return layer, float(steps[layer] / whole) if whole else math.nan


def critical_variance(activation: str, bias_var: float = 0.0) -> float:
    """The weight variance (times fan_in) that keeps the gradient level beside biases of this variance.

    tanh and hard_tanh have their critical point at small signals, and biases move it: every signal is then as
    large as they are, the slope is smaller, and the weights must make up for that (Schoenholz et al. 2017).
    """
    natural = CRITICAL_GAIN_SQUARED[activation]
    if bias_var <= 0.0 or activation not in ("tanh", "hard_tanh"):
        return natural
    moved = theory.critical_point(activation, float(f"{bias_var:.2g}"))[1]  # two digits: each is a search
    return max(natural, moved) if math.isfinite(moved) else natural


def weight_excess(subject: Subject) -> float:
    """Mean of ln(weight_var / critical weight_var) over the hidden layers that the slope runs through."""
    names, measurement = subject.measurement.config["activation"], subject.measurement
    excess = [
        math.log(
            max(float(measurement.weight_var[layer]), TINY)
            / critical_variance(names[layer], float(measurement.bias_var[layer]))
        )
        for layer in range(1, subject.depth - 1)
    ]
    return float(np.mean(excess)) if excess else 0.0


def slope_shortfall(subject: Subject) -> float:
    """Mean of ln(mean squared derivative / what unit inputs give) over the hidden layers."""
    names = subject.measurement.config["activation"]
    measured = subject.measurement.mean("mean_squared_derivative")
    logs = [
        math.log(max(float(measured[layer]), TINY) / theory.derivative_moment(names[layer], 1.0))
        for layer in range(subject.depth - 1)
    ]
    return float(np.mean(logs)) if logs else 0.0


def can_be_level(activation: str) -> bool:
    """Whether weights of the activation's own scale can keep the gradient level.

    A sigmoid's cannot: even its largest slope, 1/4, squared and times its gain^2, is below 1.
    """
    return CRITICAL_GAIN_SQUARED[activation] * theory.largest_derivative(activation) ** 2 >= 1.0


def slope_of_random(measurement: Measurement, weight_var: np.ndarray, bias_var: np.ndarray) -> float:
    """The slope over the hidden layers that wide layers of random weights and biases would have on these inputs.

    (M.1) and (M.2) of mean_field layer by layer, (P.1) and (P.2) of predict with a normalization and skip connections.
    Batch norm keeps a gradient from vanishing, (M.4), whatever the weights: 0 stands for all of that.
    """
    names, normalization = measurement.config["activation"], measurement.config["normalization"]
    hidden, skips = measurement.depth - 1, skip_connections(measurement.config)
    if normalization == "batch" or hidden < 2:
        return 0.0
    square, local = measurement.input_square, np.zeros(hidden)
    for layer, name in enumerate(names):
        whole = float(weight_var[layer] * square + bias_var[layer])
        q, divisor = (whole, 1.0) if normalization is None else (1.0, whole)
        local[layer] = theory.derivative_moment(name, q) / max(divisor, TINY)
        square = theory.activation_square(name, q) + (square if skips[layer] else 0.0)
    local, weights = np.log(np.maximum(local, TINY)), np.log(np.maximum(weight_var, TINY))
    stream, total = 0.0, 0.0 if skips.any() else float(local[0] - local[-1])
    for layer in range(hidden - 2, -1, -1):
        branch = float(weights[layer + 1] + local[layer + 1]) + stream
        stream = float(np.logaddexp(branch, stream)) if skips[layer + 1] else branch
    return (stream + total) / (hidden - 1)


def width_loss(subject: Subject) -> float:
    """What a layer takes from ln |delta|^2 on the typical draw because it is narrow, mean over the layers; at most 0.

    The drift of random directions, and of n directions those that a normalization over units takes out of the gradient:
    its mean's and its scale's.
    """
    taken = {"layer": 2.0, "rms": 1.0}.get(subject.measurement.config["normalization"], 0.0)
    widths = np.array(subject.measurement.config["widths"][1:-1], dtype=np.float64)
    return subject.slope.drift + float(np.mean(np.log(np.maximum(1.0 - taken / widths, TINY))))


def can_be_levelled(subject: Subject, excess: float = LARGE_EXCESS) -> bool:
    """Whether random weights of a scale up to exp(excess) times the critical one, without biases, take the fall away.

    The slope grows with the scale, so it is level at some scale below one where it does not fall. That need not be the
    critical one: nothing keeps GELU and its kin level for ever, and how much carries them depends on the depth.
    """
    gains = [CRITICAL_GAIN_SQUARED[name] for name in subject.measurement.config["activation"]]
    weight_var = math.exp(excess) * np.array([*gains, 1.0])
    left = slope_of_random(subject.measurement, weight_var, np.zeros_like(weight_var))
    return left > max(subject.slope.band_low, _MAIN_SHARE * subject.slope.typical)


def of_vanishing(subject: Subject) -> str:
    """The cause of a negative slope: the first that explains most of it."""
    measurement, slope, narrow = subject.measurement, subject.slope.typical, width_loss(subject)
    if slope_of_inputs(subject) < _MAIN_SHARE * slope:
        return "input_scale"
    if narrow < _MAIN_SHARE * slope:
        return "narrow_layer"
    if slope_shortfall(subject) < math.log(_SATURATED_SLOPE):
        return "dead_units" if _mostly_masked(subject) else "saturating_activation"
    fresh = slope_of_random(measurement, measurement.weight_var, measurement.bias_var) + narrow
    if not subject.slope.random and fresh > _MAIN_SHARE * slope:
        return "learning_rate"  # random weights of this size would do better: steps have turned them
    return "weight_scale" if can_be_levelled(subject) else "activation_slope"


def slope_of_inputs(subject: Subject) -> float:
    """What the scale of the inputs makes of the slope: a normalization divides the gradient by what it divided z by.

    That is about one in hidden layers, and in layer 0 the inputs' root mean square. Where delta is not what travels, as
    beside skip connections, it has no part in the slope.
    """
    measurement = subject.measurement
    if measurement.config["normalization"] is None or skip_connections(measurement.config).any():
        return 0.0
    return -math.log(measurement.input_square + NORM_EPS) / subject.slope.steps


def signal_dies(subject: Subject) -> bool:
    """Whether pre-activations shrink over depth by as much as gradients may.

    GELU and its kin have a slope of 1/2 at 0, less than anywhere beside it: weights a little too small let the signal
    shrink, which makes the slope smaller and the signal shrink faster.
    """
    if subject.measurement.config["normalization"] is not None or subject.depth < 3:
        return False
    squares = subject.measurement.preact_square()[:-1]
    return bool(squares[-1] * subject.limits.norm_ratio**2 < squares[0])


def of_starvation(subject: Subject, layer: int) -> str:
    """Why next to nothing enters a layer: the inputs, or the weights below it, whichever fall further short."""
    measurement = subject.measurement
    inputs = 0.5 * math.log(max(measurement.input_square, TINY))
    weights = sum(
        0.5 * math.log(max(float(weight_var), TINY) / CRITICAL_GAIN_SQUARED[name])
        for weight_var, name in zip(measurement.weight_var[:layer], measurement.config["activation"], strict=False)
    )
    return "input_scale" if inputs < weights else "weight_scale"


def _mostly_masked(subject: Subject) -> bool:
    return all(name in ("relu", "leaky_relu") for name in subject.measurement.config["activation"])


def of_exploding(subject: Subject) -> str:
    """The cause of a positive slope."""
    slope = subject.slope.systematic
    normalization = subject.measurement.config["normalization"]
    if slope_of_inputs(subject) > _MAIN_SHARE * slope:
        return "input_scale"
    if normalization == "batch":
        return "batch_norm"
    if normalization is None and not skip_connections(subject.measurement.config).any():
        if weight_excess(subject) > _MAIN_SHARE * slope or slope > _MILD_SLOPE:
            return "weight_scale"
    elif normalization is None:
        if weight_excess(subject) > LARGE_EXCESS:
            return "weight_scale"
    elif slope > _MILD_SLOPE and _MAIN_SHARE * slope < slope_of_random(
        subject.measurement, subject.measurement.weight_var, subject.measurement.bias_var
    ):
        return "activation_slope"
    return "depth"


def of_overflow(subject: Subject) -> tuple[str, dict[str, Any]]:
    """The cause of values that left the finite range, and the numbers it rests on."""
    input_rms = math.sqrt(subject.measurement.input_square)
    evidence: dict[str, Any] = {"input_rms": input_rms}
    if not subject.measurement.finite_parameters.all():
        return "learning_rate", evidence
    if subject.measurement.config["normalization"] is None:
        growth = weight_excess(subject)
        evidence["weight_excess_log"] = growth
        if growth > LARGE_EXCESS:
            return "weight_scale", evidence
    evidence["target_rms"] = subject.case.target_scale
    for cause, rms in (("input_scale", input_rms), ("target_scale", evidence["target_rms"])):
        if rms > math.sqrt(LARGE_INPUT):
            return cause, evidence
    return "overflow", evidence


# Data whose square alone uses up a third of float32's exponents.
LARGE_INPUT = 2.0**80


def of_saturation(subject: Subject, layer: int) -> str:
    """Why the units of a layer saturate: large inputs, large weights, or else the activation's own biases."""
    measurement = subject.measurement
    if layer == 0 and measurement.input_square > subject.limits.input_scale**2:
        return "input_scale"
    if float(measurement.weight_var[layer]) > _LARGE_WEIGHT_VAR:
        return "weight_scale"
    return "saturating_activation"


def of_large_step(subject: Subject, *, scaled_loss: bool) -> str:
    """Why steps are too large where the profile is level: the scale of data or weights, or the learning rate.

    That scale is to blame without which the same steps are fine, as tried by `outlook`. Where nothing was tried, that
    of the data by its size, or of the weights where the loss began far above that of a constant guess (scaled_loss): in
    a level profile they enlarge the steps by no more than they enlarge the output.
    """
    outlook = subject.measurement.outlook
    if outlook is not None:
        return outlook.calmed_by[0] if outlook.calmed_by else "learning_rate"
    scaled = scales_of_data(subject)
    if scaled:
        return max(scaled, key=lambda name: scaled[name])
    return "weight_scale" if scaled_loss and weights_too_large(subject) else "learning_rate"


def weights_too_large(subject: Subject) -> bool:
    """Whether weights whose scale has an effect are larger than critical ones, beyond chance and choice of scheme."""
    return subject.measurement.config["normalization"] is None and weight_excess(subject) > LARGE_EXCESS


def scales_of_data(subject: Subject) -> dict[str, float]:
    """Root mean squares of inputs and targets that are far above one, by the cause that they are."""
    scales = {"input_scale": math.sqrt(subject.measurement.input_square), "target_scale": subject.case.target_scale}
    return {name: scale for name, scale in scales.items() if scale > subject.limits.input_scale}
