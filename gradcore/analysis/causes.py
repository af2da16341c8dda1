"""Why: the cause of a finding, computed from the factors that were measured.

The slope of ln |delta|^2 is the sum of the logarithms of its factors (`report.GainFactors`). Each factor is compared
with the best that the same design could have. The cause is the first of them, in a fixed order, that explains most of
the slope.
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

# Weight variance (times fan_in) that is large for a bounded activation: above it, pre-activations of unit inputs have
# a standard deviation above 2, and more than a third of the units of tanh have lost 90 % of their slope.
_LARGE_WEIGHT_VAR = 4.0
# A factor is the cause if it explains more than this share of the slope.
_MAIN_SHARE = 0.5
# Units are saturated if their mean squared derivative is below this share of that for inputs of unit variance.
_SATURATED_SLOPE = 0.25
# ln of a weight variance over the critical one, above which neither chance nor the choice of a scheme explains it.
LARGE_EXCESS = math.log(1.5)
# ln of a growth of the squared gradient per layer. Good designs stay below these 20 %, but not at 0: SELU grows by 7 %,
# tanh at unit variance by 18 %.
_MILD_SLOPE = math.log(1.2)


@harmless
def factor_logs(layers: Sequence[LayerRecord]) -> dict[str, np.ndarray]:
    """Natural logarithms of each gain factor, by its name: one for each step between hidden layers.

    Values that are not finite are left out.
    """
    rows = [layer.factors for layer in layers[:-2] if layer.factors is not None]
    logs = {entry.name: np.log([getattr(row, entry.name) for row in rows]) for entry in fields(GainFactors)}
    return {name: values[np.isfinite(values)] for name, values in logs.items()}


def hidden_factors(subject: Subject) -> dict[str, float]:
    """Mean natural logarithm of each gain factor over the hidden layers, by its name; 0 without finite values."""
    return {name: float(logs.mean()) if logs.size else 0.0 for name, logs in factor_logs(subject.records).items()}


def steepest_layer(subject: Subject) -> tuple[int, float]:
    """(layer, share): the profile changes most between layer + 1 and layer, by this share of its whole change.

    The share is above 1 if other layers undo a part of that change; NaN if there is no finite change, or none in total.
    """
    logs = np.log(subject.profile_norms[:-1])
    steps = logs[:-1] - logs[1:]
    if not np.isfinite(steps).any():
        return 0, math.nan
    layer = int(np.nanargmax(np.abs(np.where(np.isfinite(steps), steps, 0.0))))
    whole = float(np.nansum(np.where(np.isfinite(steps), steps, 0.0)))
    return layer, float(steps[layer] / whole) if whole else math.nan


def critical_variance(activation: str, bias_var: float = 0.0) -> float:
    """The weight variance (times fan_in) that keeps the gradient level if the biases have this variance.

    tanh and hard_tanh have their critical point at small signals, and biases move it: every signal is then at least as
    large as the biases, the slope is smaller, and the weights must make up for that (Schoenholz et al. 2017).
    """
    natural = CRITICAL_GAIN_SQUARED[activation]
    if bias_var <= 0.0 or activation not in ("tanh", "hard_tanh"):
        return natural
    moved = theory.critical_point(activation, float(f"{bias_var:.2g}"))[1]  # two digits: each value costs a search
    return max(natural, moved) if math.isfinite(moved) else natural


def weight_excess(subject: Subject) -> float:
    """Mean of ln(weight_var / critical weight_var) over the hidden layers whose weights the gradient passes.

    These are all but layer 0. The mean is 0 if there are none.
    """
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
    """Mean of ln(mean squared derivative / that for inputs of unit variance) over the hidden layers; 0 without any."""
    names = subject.measurement.config["activation"]
    measured = subject.measurement.mean("mean_squared_derivative")
    logs = [
        math.log(max(float(measured[layer]), TINY) / theory.derivative_moment(names[layer], 1.0))
        for layer in range(subject.depth - 1)
    ]
    return float(np.mean(logs)) if logs else 0.0


def can_be_level(activation: str) -> bool:
    """Whether weights of the activation's critical size can keep the gradient level.

    Those of a sigmoid cannot: its gain^2 times the square of its largest slope, 1/4, is below 1.
    """
    return CRITICAL_GAIN_SQUARED[activation] * theory.largest_derivative(activation) ** 2 >= 1.0


def slope_of_random(measurement: Measurement, weight_var: np.ndarray, bias_var: np.ndarray) -> float:
    """The slope over the hidden layers that wide layers with random weights would have on the measured inputs.

    weight_var, bias_var: of the random weights and biases of each dense layer. The slope is computed layer by layer:
    (M.1) and (M.2) of mean_field; with a normalization or skip connections, (P.1) and (P.2) of predict. With batch norm
    it is 0: whatever the weights, a gradient does not vanish, (M.4). It is also 0 with fewer than two hidden layers.
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
    # What travels is dL/dh with skip connections, otherwise delta, which is dL/dh times the layer's local factor.
    stream, ends = 0.0, 0.0 if skips.any() else float(local[0] - local[-1])
    for layer in range(hidden - 2, -1, -1):
        branch = float(weights[layer + 1] + local[layer + 1]) + stream
        stream = float(np.logaddexp(branch, stream)) if skips[layer + 1] else branch
    return (stream + ends) / (hidden - 1)


def width_loss(subject: Subject) -> float:
    """The change of ln |delta|^2 per layer that narrow layers make on a typical draw of the weights; at most 0.

    It has two parts: the `drift` of random directions, and what a normalization takes out of the gradient, on average
    over the hidden layers. Of the n directions of a layer, layer norm takes out two (its mean and its scale), rms norm
    one.
    """
    taken = {"layer": 2.0, "rms": 1.0}.get(subject.measurement.config["normalization"], 0.0)
    widths = np.array(subject.measurement.config["widths"][1:-1], dtype=np.float64)
    return subject.slope.drift + float(np.mean(np.log(np.maximum(1.0 - taken / widths, TINY))))


def can_be_levelled(subject: Subject, excess: float = LARGE_EXCESS) -> bool:
    """Whether random weights of at most exp(excess) times the critical variance would remedy a shrinking gradient.

    Without biases, the slope that they leave must lie above the lower end of the healthy band and fall less than half
    as steeply as the present one. The slope grows with the variance, so if it does not fall at this one, it is level at
    some smaller one. That need not be the critical one: no variance keeps GELU and similar activations level for ever,
    and which one carries them far enough depends on the depth.
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
        return "dead_units" if _only_rectifiers(subject) else "saturating_activation"
    fresh = slope_of_random(measurement, measurement.weight_var, measurement.bias_var) + narrow
    if not subject.slope.random and fresh > _MAIN_SHARE * slope:
        return "learning_rate"  # random weights of this size would do better, so training has turned them
    return "weight_scale" if can_be_levelled(subject) else "activation_slope"


def slope_of_inputs(subject: Subject) -> float:
    """The part of the slope that the scale of the inputs makes, all of it in layer 0.

    A normalization divides the gradient by the size of the pre-activations. In layer 0 that is the root mean square of
    the inputs, in the other hidden layers about 1. Without one, large inputs saturate layer 0 (`saturating_inputs`).
    With skip connections the slope is that of dL/dh instead of delta, in which layer 0 has no part.
    """
    measurement = subject.measurement
    if skip_connections(measurement.config).any():
        return 0.0
    if measurement.config["normalization"] is None:
        change = saturating_inputs(subject)
    else:
        change = -2.0 * math.log(math.hypot(measurement.input_rms, math.sqrt(NORM_EPS)))
    return change / max(subject.slope.steps - 1, 1)  # the slope is a mean over the steps between layers


def saturating_inputs(subject: Subject) -> float:
    """ln of layer 0's factor |delta|^2 / |dL/dh|^2 over the one that inputs of unit variance would give; at most 0.

    It is 0 if the inputs are not large, if by theory inputs of their size would not saturate this activation, or if no
    gradient is left, so that the slope leaves out layer 0.
    """
    measurement = subject.measurement
    if not subject.limits.input_scale < measurement.input_rms < math.inf or not measurement.config["activation"]:
        return 0.0
    name = measurement.config["activation"][0]
    weight_var, bias_var = float(measurement.weight_var[0]), float(measurement.bias_var[0])
    unit = theory.derivative_moment(name, weight_var + bias_var)
    large = min(weight_var * measurement.input_square + bias_var, _LARGE_SQUARE)
    if theory.derivative_moment(name, large) > _SATURATED_SLOPE * unit:
        return 0.0
    delta, arriving = (float(measurement.rms(norm)[0]) for norm in ("delta_norm", "grad_output_norm"))
    return min(0.0, math.log((delta / arriving) ** 2 / unit)) if delta > 0.0 and unit > 0.0 else 0.0


def signal_dies(subject: Subject) -> bool:
    """Whether the pre-activations shrink over depth by more than norm_ratio; False with a normalization.

    The mean squared slope of GELU and similar activations is smallest for small signals. If weights are a little too
    small, the signal shrinks, which makes the slope smaller and the signal shrink faster.
    """
    if subject.measurement.config["normalization"] is not None or subject.depth < 3:
        return False
    squares = subject.measurement.preact_square()[:-1]
    return bool(squares[-1] * subject.limits.norm_ratio**2 < squares[0])


def of_starvation(subject: Subject, layer: int) -> str:
    """Why next to nothing enters a layer: the inputs, or the weights below it, whichever fall further short.

    Inputs fall short of a root mean square of 1, weights of their critical sizes.
    """
    measurement = subject.measurement
    inputs = math.log(max(measurement.input_rms, TINY))
    weights = sum(
        0.5 * math.log(max(float(weight_var), TINY) / CRITICAL_GAIN_SQUARED[name])
        for weight_var, name in zip(measurement.weight_var[:layer], measurement.config["activation"], strict=False)
    )
    return "input_scale" if inputs < weights else "weight_scale"


def _only_rectifiers(subject: Subject) -> bool:
    """Whether every activation is a rectifier, whose units are dead rather than saturated if they pass no gradient."""
    return all(name in ("relu", "leaky_relu") for name in subject.measurement.config["activation"])


def of_exploding(subject: Subject) -> str:
    """The cause of a positive slope; "depth" if each layer grows as little as the design allows."""
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
    """(cause, evidence): why values are not finite."""
    input_rms = subject.measurement.input_rms
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
        if rms > math.sqrt(_LARGE_SQUARE):
            return cause, evidence
    return "overflow", evidence


# Mean square of inputs or targets that by itself uses up a third of float32's exponents.
_LARGE_SQUARE = 2.0**80


def of_saturation(subject: Subject, layer: int) -> str:
    """Why the units of a layer are saturated: large inputs (in layer 0), large weights, or else biases or training."""
    measurement = subject.measurement
    if layer == 0 and measurement.input_rms > subject.limits.input_scale:
        return "input_scale"
    if float(measurement.weight_var[layer]) > _LARGE_WEIGHT_VAR:
        return "weight_scale"
    return "saturating_activation"


def of_large_step(subject: Subject, *, scaled_loss: bool) -> str:
    """Why steps are too large although the profile is level: the scale of the data or weights, or the learning rate.

    If `outlook` has tried the steps, that scale is to blame without which they are fine. If not, it is the larger scale
    of the data that is far above 1. If there is none, it is the scale of the weights, provided that they are too large
    and scaled_loss is set: in a level profile, weights enlarge the steps by no more than they enlarge the output.

    scaled_loss: whether the first loss is far above that of a constant guess.
    """
    outlook = subject.measurement.outlook
    if outlook is not None:
        return outlook.calmed_by[0] if outlook.calmed_by else "learning_rate"
    scaled = scales_of_data(subject)
    if scaled:
        return max(scaled, key=lambda name: scaled[name])
    return "weight_scale" if scaled_loss and weights_too_large(subject) else "learning_rate"


def weights_too_large(subject: Subject) -> bool:
    """Whether the weights are larger than critical ones, beyond chance and the choice of a scheme (`LARGE_EXCESS`).

    False with a normalization, which undoes their scale.
    """
    return subject.measurement.config["normalization"] is None and weight_excess(subject) > LARGE_EXCESS


def scales_of_data(subject: Subject) -> dict[str, float]:
    """Root mean squares of inputs and targets that are far above 1, by the name of the cause that each would be."""
    scales = {"input_scale": subject.measurement.input_rms, "target_scale": subject.case.target_scale}
    return {name: scale for name, scale in scales.items() if scale > subject.limits.input_scale}
