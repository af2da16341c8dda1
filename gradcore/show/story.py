"""What all forms of a report say: their words, the form of their numbers and the order of their parts.

What is claimed is decided once, here; the renderers decide how it looks. All text is ASCII and not yet escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from ..analysis.causes import can_be_level, factor_logs
from ..analysis.measure import travelling_norm
from ..analysis.report import Finding, LayerRecord, Prediction, Report
from ..analysis.slope import beyond_band
from ..analysis.subject import Thresholds
from ..analysis.wording import layers as layer_names
from ..analysis.wording import scientific, uneven_batches
from ..mlp import skip_connections

TITLES = {
    "healthy": "Healthy gradients",
    "vanishing": "Vanishing gradients",
    "exploding": "Exploding gradients",
    "non_finite": "Non-finite numbers",
}

# GainFactors in words, for readers who do not know this decomposition.
FACTORS = {
    "weight_scale": "size of the weights",
    "alignment": "alignment of weights and gradient",
    "mask": "share of units that pass a gradient",
    "active_slope": "squared slope of the activation",
    "coupling": "coupling of gradient and slope",
    "normalization": "normalization",
}

# Nonzero numbers below 2^exponent round to zero (half the smallest subnormal of the format).
FLUSH_EXPONENTS = {"fp8 e4m3": -10, "fp8 e5m2": -17, "fp16": -25, "bf16": -134}

TERMS = (
    ("activation", "root mean square of a layer's output over the batch"),
    ("delta", "norm over the batch of the gradient of the loss with respect to a layer's pre-activation"),
    ("weight gradient", "norm of the gradient of the loss with respect to a layer's weights"),
    ("saturated", "share of entries whose derivative is below 1 % of its maximum; for ReLU, share of zeros"),
    ("dead", "share of units that are zero for every row of a batch"),
    ("update", "change of the weights in one step of the optimizer, relative to the weights"),
)


# ---- the verdict -----------------------------------------------------------------------------


def title(report: Report) -> str:
    """The verdict in words; "with warnings" if gradients are healthy but a finding needs attention."""
    warned = report.verdict == "healthy" and any(finding.severity != "info" for finding in report.findings)
    return TITLES[report.verdict] + (", with warnings" if warned else "")


# ---- numbers ---------------------------------------------------------------------------------


def number(value: float, digits: int = 2) -> str:
    """`digits` significant digits, plain between 0.001 and 10000, else like 1.2e-20; n/a for NaN."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0 or 1e-3 <= abs(value) < 9999.5:
        return f"{value:.{max(digits, len(str(int(abs(value)))))}g}"
    return scientific(value, digits)


def percent(share: float) -> str:
    """A share as a percentage; small shares are never rounded to 0 %, nor large ones to 100 %."""
    if math.isnan(share):
        return "n/a"
    value = 100.0 * share
    if 0 < value < 0.1:
        return "<0.1%"
    if 99.9 < value < 100:
        return ">99.9%"
    return f"{value:.3g}%"


def exp(value: float) -> float:
    """e^value, infinite instead of an error beyond the range of a double."""
    return math.exp(value) if value < 709.0 else math.inf if not math.isnan(value) else value


def evidence(values: Mapping[str, Any]) -> str:
    """Named numbers in one line; nested records are only in the JSON."""
    words = []
    for name, value in values.items():
        if isinstance(value, (float, np.floating)):
            value = number(float(value), 3)
        elif not isinstance(value, (str, int, np.integer)):
            continue
        words.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(words)


# ---- the net and the conditions --------------------------------------------------------------


def architecture(widths: Sequence[int]) -> str:
    """Widths with equal neighbours joined: 64, 100 x 30, 10."""
    runs = [(width, len(list(equal))) for width, equal in groupby(widths)]
    return ", ".join(str(width) if count == 1 else f"{width} x {count}" for width, count in runs)


_GIVEN_SCALES = {"weight_var": "weight", "bias_var": "bias"}  # settings that only a prediction may have


def net_words(config: Mapping[str, Any]) -> str:
    """The settings of a net, or of a prediction, in one line."""
    parts = [architecture(config["widths"]), " / ".join(dict.fromkeys(config["activation"]))]
    if config["normalization"]:
        parts.append(f"{config['normalization']} norm")
    if config["residual"]:
        parts.append("residual")
    init = config["init"]
    if init:
        parts.append(f"init {init if isinstance(init, str) else getattr(init, '__name__', 'of its own')}")
    parts += [
        f"{name} variance {config[key]:.4g}" for key, name in _GIVEN_SCALES.items() if config.get(key) is not None
    ]
    return ", ".join(filter(None, [*parts, config.get("dtype")]))


def counted(count: int, noun: str, nouns: str = "") -> str:
    """1 row, 2 rows; nouns: the plural, if not formed by an s."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


_NO_OPTIMIZER = "plain SGD at a suitable learning rate"


def conditions_line(report: Report) -> str:
    """One line with the measurement and the optimizer that it is judged for."""
    conditions = report.conditions
    batches = f"{counted(conditions['batches'], 'batch', 'batches')} of {counted(conditions['batch_size'], 'row')}"
    # settings that are off would only lengthen the line
    optimizer = re.sub(r", \w+=(False|0\.0)\b", "", conditions["optimizer"] or _NO_OPTIMIZER)
    parts = [conditions["loss"], batches, f"loss {number(report.loss, 3)}", f"judged for {optimizer}"]
    if conditions["interrupted"]:
        parts.append("interrupted: not everything was measured")
    return ", ".join(parts)


# ---- the verdict and its reason --------------------------------------------------------------


_NO_DEPTH = "With fewer than two hidden layers there is no depth over which a gradient could vanish or explode."
_NO_PATH = "No gradient passes between any two hidden layers, so there is no slope to judge."
_NO_STEADY_PATH = (
    "Between any two hidden layers, no gradient passes in some of the batches: there is no slope to judge."
)


def why(report: Report) -> list[str]:
    """The verdict in two to four sentences, each with its numbers."""
    slope = report.slope
    broken = _nonfinite_sentences(report)
    if math.isnan(slope.value):
        passes = any(low.delta_norm * high.delta_norm > 0.0 for low, high in pairwise(report.layers[:-1]))
        return broken or [_NO_DEPTH if len(report.layers) < 3 else _NO_STEADY_PATH if passes else _NO_PATH]
    level = f"{round(100 * slope.confidence)}% interval"
    first = (
        f"Towards the input, each hidden layer multiplies the squared gradient {traveller(report)}^2 by "
        f"{gain(slope.value)} ({level} {gain(slope.low)} to {gain(slope.high)}; "
        f"healthy at this depth: {gain(slope.band_low)} to {gain(slope.band_high)})."
    )
    return [*broken, first, *_ends_sentence(report), *_factor_sentence(report), *_but_sentence(report)]


def gain(log_squared: float) -> str:
    """A slope of ln |delta|^2 as a factor on |delta|^2."""
    return number(exp(log_squared), 3)


def has_skips(report: Report) -> bool:
    """Whether there is any skip connection; with `residual`, there is none unless two neighbouring widths are equal."""
    return bool(skip_connections(report.config).any())


def traveller(report: Report) -> str:
    """The gradient whose slope is judged; with skip connections, the one that bypasses the branches."""
    return "|dL/dh|" if has_skips(report) else "|delta|"


def travelling(report: Report) -> np.ndarray:
    """Norm of the gradient that `traveller` names, [layers]."""
    return np.array([getattr(layer, travelling_norm(report.config)) for layer in report.layers])


def end_ratio(report: Report) -> float:
    """Norm of that gradient at layer 0 over that at the last hidden layer; NaN unless both are positive and finite."""
    norms = travelling(report)[:-1]
    if len(norms) < 2 or not (0 < norms[0] < math.inf and 0 < norms[-1] < math.inf):
        return math.nan
    return float(norms[0] / norms[-1])


def times(ratio: float) -> tuple[str, str]:
    """A ratio in words: (how many times, "smaller" or "larger")."""
    return (number(1 / ratio), "smaller") if ratio < 1 else (number(ratio), "larger")


def _ends_sentence(report: Report) -> list[str]:
    ratio = end_ratio(report)
    if math.isnan(ratio):
        return []
    many, word = times(ratio)
    size = "about as large as" if 0.5 < ratio < 2 else f"{many} times {word} than"
    uneven = uneven_batches(report.slope, ratio, lambda typical: "{} times {}".format(*times(typical)))
    last = f"layer {len(report.layers) - 2}, the last hidden layer"
    return [f"At layer 0, {traveller(report)} is {size} at {last}{uneven}."]


def _nonfinite_sentences(report: Report) -> list[str]:
    sentences = []
    for name, attribute in (
        ("Activations", "activation_nonfinite_share"),
        ("Deltas", "delta_nonfinite_share"),
    ):
        bad = [layer.index for layer in report.layers if getattr(layer, attribute) > 0]
        if bad:
            sentences.append(f"{name} are NaN or infinite at {layer_names(bad)}.")
    return sentences


def _factor_sentence(report: Report) -> list[str]:
    factors = mean_factors(report)
    if not factors or report.verdict == "healthy" or report.slope.inside_band:
        return []
    words = dict(FACTORS)
    if report.config["normalization"]:  # it undoes the scale of the weights, so neither is a cause by itself
        factors["normalization"] = factors.get("normalization", 1.0) * factors.pop("weight_scale", 1.0)
        words["normalization"] = "normalization (the size of the weights cancels)"
    sign = 1.0 if report.slope.value > 0 else -1.0
    name, value = max(factors.items(), key=lambda item: sign * math.log(item[1]))
    return [f"The largest part of that factor is due to the {words[name]}: {number(value, 3)} per layer."]


def _but_sentence(report: Report) -> list[str]:
    """Why a slope outside its band does not change the verdict, if it does not."""
    slope = report.slope
    kind = "vanishing" if slope.value < 0.0 else "exploding"
    severities = {finding.severity for finding in report.findings if finding.kind == kind}
    if slope.inside_band or severities != {"info"}:
        return []
    if not beyond_band(slope):
        return ["It may be outside that band only by the noise of batches or the luck of this draw of weights."]
    optimizer = (report.conditions["optimizer"] or "SGD").split("(")[0]
    return [f"But under {optimizer} this does not stop the layers from moving."]


def mean_factors(report: Report) -> dict[str, float]:
    """Geometric mean over the steps between hidden layers of each factor of the gain; {} if none was measured.

    The step from the output layer to the last hidden one is left out, as it is from the slope. So are
    factors that are 1 in every layer, because the net has no such part.
    """
    logs = factor_logs(report.layers)
    return {name: float(np.exp(values.mean())) for name, values in logs.items() if values.any()}


def finding_title(finding: Finding) -> str:
    """Kind, layers and cause of a finding in one line."""
    title = finding.kind.replace("_", " ")
    if finding.layers:
        title += f", {layer_names(finding.layers)}"
    return title + (f"; cause: {finding.cause.replace('_', ' ')}" if finding.cause else "")


def prediction_lines(report: Report) -> list[str]:
    """The prediction of the theory for this architecture, beside the measurement."""
    prediction = report.prediction
    if not prediction.valid:
        return [f"No mean-field prediction: {prediction.note or 'no theory covers this design'}."]
    lines = [
        f"For this architecture with random weights, mean-field theory predicts a factor of "
        f"{gain(prediction.slope)} on {traveller(report)}^2 per layer; measured: {gain(report.slope.value)}"
        f"{_luck(report)}."
    ]
    if prediction.depth_scale < 10 * len(report.layers):  # above that, the profile is level over this depth
        words = f"The squared gradient changes by a factor of e every {number(prediction.depth_scale)} layers"
        if math.isfinite(prediction.trainable_depth):
            words += f"; inputs stay distinguishable through about {number(prediction.trainable_depth)} layers"
        lines.append(words + ".")
    # if the activation contributes, larger weights would keep the size of the gradient but saturate the units
    blames_weights = any(finding.cause == "weight_scale" for finding in report.findings)
    blames_weights &= all(can_be_level(layer.activation) for layer in report.layers if layer.activation)
    if blames_weights and math.isfinite(prediction.critical_gain):
        spread = number(prediction.critical_gain, 3)
        lines.append(f"The gradient would stay level with weights of standard deviation {spread} / sqrt(fan_in).")
    if prediction.departs:
        departs = layer_names(prediction.departs)
        lines.append(f"The measured deltas are outside the 95% band of random draws at {departs}.")
    lines += depth_lines(report) + nearby_lines(report)
    return [*lines, *filter(None, [prediction.note])]


def depth_lines(report: Report) -> list[str]:
    """How many layers the design can carry, by measurement, theory and chance."""
    limit = report.depth_limit
    if limit is None or math.isnan(limit.carried):
        return []
    ratio = number(report.conditions["thresholds"]["norm_ratio"])
    interval = f"{_layer_count(limit.measured_low)} to {_layer_count(limit.measured_high)}"
    line = (
        f"This design can carry {_layer_count(limit.carried)} layers before the gradient norms at the two ends differ "
        f"by a factor of {ratio} (measured slope: {_layer_count(limit.measured)}, {interval}; theory: "
        f"{_layer_count(limit.predicted)}; random variation at this width: {_layer_count(limit.chance)})."
    )
    return [line]


def _layer_count(layers: float) -> str:
    """Whole layers; a limit above a thousand does not matter in practice."""
    return "n/a" if math.isnan(layers) else "over 1000" if layers > 1000.0 else str(int(layers))


def nearby_lines(report: Report) -> list[str]:
    """How the net treats two similar inputs: their correlation at the end, and the Jacobian."""
    lines, jacobian = [], report.jacobian
    measured = [layer.correlation for layer in report.layers[:-1]]
    if len(measured) > 1 and math.isfinite(measured[-1]):
        reached = number(measured[-1], 3)
        line = f"A cosine similarity of 0.9 between two inputs becomes {reached} by the last hidden layer"
        expected = report.prediction.correlation
        if len(expected) > 1 and math.isfinite(expected[-2]):
            line += f" (theory: {number(float(expected[-2]), 3)})"
        lines.append(line + ".")
    if jacobian is not None and jacobian.mean_square == 0.0:
        lines.append("On the rows sampled, the output does not change with the input.")
    elif jacobian is not None and math.isfinite(jacobian.mean_square):
        square = number(math.sqrt(jacobian.mean_square))
        if min(report.config["widths"][0], report.config["widths"][-1]) == 1:
            value = number(float(jacobian.largest[0]))
            lines.append(
                f"The only singular value of the input-output Jacobian is {value}, as a mean over rows (root mean "
                f"square {square})."
            )
            return lines
        low = ("" if jacobian.exact else "at most ") + number(float(jacobian.smallest[-1]))
        lines.append(
            f"The singular values of the input-output Jacobian range from {number(float(jacobian.largest[0]))} down "
            f"to {low} (root mean square {square})."
        )
    return lines


def _luck(report: Report) -> str:
    """The part of the slope that another draw of the weights would keep, if that is not all of it."""
    slope = report.slope
    if math.isnan(slope.systematic) or abs(slope.systematic - slope.value) < 0.01:
        return ""
    low, high = gain(slope.systematic_low), gain(slope.systematic_high)
    return f", or {gain(slope.systematic)} ({low} to {high}) without the luck of this draw of weights"


# ---- profiles --------------------------------------------------------------------------------


def activation_rms(layer: LayerRecord) -> float:
    """Root mean square of the layer's output."""
    return math.hypot(math.sqrt(layer.activation_var), layer.activation_mean)


def profiles(report: Report) -> dict[str, np.ndarray]:
    """The three profiles over depth, [layers] float64 each, by name."""
    layers = report.layers
    return {
        "activation": np.array([activation_rms(layer) for layer in layers]),
        "delta": np.array([layer.delta_norm for layer in layers]),
        "weight gradient": np.array([layer.weight_grad_norm for layer in layers]),
    }


def log10(values: np.ndarray) -> np.ndarray:
    """log10, with NaN for zero, NaN and infinity."""
    usable = np.isfinite(values) & (values > 0)
    return np.where(usable, np.log10(np.where(usable, values, 1.0)), np.nan)


def formulas(text: str) -> str:
    """Text escaped for HTML, with the ASCII spelling of the formulas set as formulas."""
    text = escape(text).replace("|^2", "|<sup>2</sup>").replace("|delta|", "|&delta;|")
    return text.replace("sqrt(fan_in)", "&radic;<i>fan_in</i>").replace("+-", "&plusmn;")


def healthy_cone(report: Report) -> tuple[np.ndarray, np.ndarray]:
    """log10 |delta| (low, high) at the ends of the healthy band, drawn from the last hidden layer; NaN after it."""
    slope, log = report.slope, log10(profiles(report)["delta"])
    last = max(len(log) - 2, 0)
    steps = np.where(np.arange(len(log)) <= last, last - np.arange(len(log)), math.nan)
    half = 0.5 / math.log(10.0)
    return log[last] + half * slope.band_low * steps, log[last] + half * slope.band_high * steps


def predicted_deltas(report: Report) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log10 |delta| (low, high, typical) of the theory, shifted to agree with the measurement at the output layer."""
    prediction, log = report.prediction, log10(profiles(report)["delta"])
    half = 0.5 / math.log(10.0) if prediction.valid else math.nan
    arrays = (prediction.delta_log_low, prediction.delta_log_high, prediction.delta_log)
    low, high, middle = (log[-1] + half * array for array in arrays)
    return low, high, middle


def expected_deltas(prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log10 |delta| relative to the output layer (low, high, typical) of a prediction by itself."""
    half = 0.5 / math.log(10.0)
    return half * prediction.delta_log_low, half * prediction.delta_log_high, half * prediction.delta_log


def expected_cone(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """The same cone for a prediction: layer 0 differs from the last hidden layer by at most the healthy ratio.

    It surrounds |delta| relative to the output layer, as `expected_deltas` does.
    """
    middle = expected_deltas(prediction)[2]
    last = max(len(middle) - 2, 1)
    steps = np.where(np.arange(len(middle)) <= last, last - np.arange(len(middle)), math.nan)
    reach = math.log10(Thresholds().norm_ratio) * steps / last
    return middle[last] - reach, middle[last] + reach


def expected_profiles(prediction: Prediction) -> list[tuple[str, np.ndarray, bool]]:
    """(title, values over the layers, whether on a log scale) of the quantities behind a prediction."""
    profiles = [
        ("q, variance of the pre-activations", prediction.preact_var, True),
        ("chi, factor on |delta|^2 per layer", prediction.chi, True),
        ("cosine similarity of two inputs that start at 0.9", prediction.correlation, False),
    ]
    return [profile for profile in profiles if np.isfinite(profile[1]).any()]


def delta_histogram(report: Report) -> tuple[np.ndarray, np.ndarray] | None:
    """(exponents [bins], counts [layers, bins]) of the deltas of all batches; None without raw flows."""
    if not report.flows:
        return None
    return report.flows[0].exponents, np.sum([flow.delta_histogram for flow in report.flows], axis=0)


def elide(count: int, limit: int) -> list[int | None]:
    """Indices 0..count-1, at most `limit` of them, with None for an omitted middle."""
    if count <= limit:
        return list(range(count))
    head = (limit + 1) // 2
    return [*range(head), None, *range(count - (limit - head), count)]
