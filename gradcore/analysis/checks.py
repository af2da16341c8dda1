"""Findings that do not concern the slope or the steps: output and loss, units, data, number formats."""

from __future__ import annotations

import math

import numpy as np

from .._scaling import column_deviations
from ..mlp import NORM_EPS
from . import causes, wording
from .report import Finding, LayerRecord
from .subject import SMALLEST_NORMAL, Subject

_BOUNDED = ("sigmoid", "tanh", "hard_tanh")
_MASKING = ("relu",)
_TRAINING_FORMATS = ("fp16", "bf16")  # not fp8, in which gradients are always scaled, tensor by tensor


def loss_output(subject: Subject) -> list[Finding]:
    """A finding if a cross entropy has a single output: the softmax is always 1, so every gradient is zero."""
    measurement = subject.measurement
    if subject.case.loss != "cross_entropy" or measurement.config["widths"][-1] != 1:
        return []
    text = (
        "Cross entropy takes a softmax over the outputs, and there is only one: its probability is always 1, so every "
        "gradient is exactly zero. Use two outputs, or loss='binary_cross_entropy'; for real-valued targets, "
        "loss='mse'."
    )
    every = tuple(range(measurement.depth))
    return [Finding("loss_output_mismatch", "critical", every, "loss_output", text, {"outputs": 1})]


# ---- units ----


def dead_units(subject: Subject) -> list[Finding]:
    """A finding about ReLU layers in which more units are zero for every row than chance explains."""
    layers = []
    for record in subject.records[:-1]:
        if record.activation in _MASKING and record.dead_units > _dead_by_chance(subject, record.out_features):
            layers.append(record.index)
    if not layers:
        return []
    worst = max(layers, key=lambda layer: subject.records[layer].dead_share)
    share = subject.records[worst].dead_share
    text = (
        f"In {wording.layers(layers)}, more units output zero for every row than chance explains: "
        f"{100 * share:.0f} % of layer {worst}. They receive no gradient and do not change. Deep in a ReLU net, half "
        "of the units can be dead by chance; more come from negative biases or from steps that were too large."
    )
    return [Finding("dead_units", "warning", tuple(layers), "dead_units", text, {"layer": worst, "dead_share": share})]


def _dead_by_chance(subject: Subject, width: int) -> int:
    """The number of dead units, of `width`, that chance exceeds only in a share `false_alarm` of random ReLU nets.

    Deep in a net, all rows can point the same way; each unit is then dead with probability 1/2. The share is divided
    among the hidden layers.
    """
    tail, level = 0.0, subject.limits.false_alarm / max(subject.depth - 1, 1)
    for dead in range(width, 0, -1):
        tail += math.exp(math.lgamma(width + 1) - math.lgamma(dead + 1) - math.lgamma(width - dead + 1)
                         - width * math.log(2.0))  # fmt: skip
        if tail > level:
            return dead
    return 0


def saturation(subject: Subject) -> list[Finding]:
    """Findings about bounded activations of which most entries are saturated, one for each cause."""
    by_cause: dict[str, list[int]] = {}
    for record in subject.records[:-1]:
        if record.activation in _BOUNDED and record.saturated_share > subject.limits.saturated:
            by_cause.setdefault(causes.of_saturation(subject, record.index), []).append(record.index)
    findings = []
    for cause, layers in by_cause.items():
        worst = max(layers, key=lambda layer: subject.records[layer].saturated_share)
        share = subject.records[worst].saturated_share
        text = (
            f"In {wording.layers(layers)}, most activations are saturated (derivative below 1 % of its maximum): "
            f"{100 * share:.0f} % in layer {worst}. {_SATURATION[cause]}"
        )
        if cause == "input_scale":
            text += " " + wording.input_sentence(subject)
        evidence = {"layer": worst, "saturated_share": share}
        findings.append(Finding("saturation", "warning", tuple(layers), cause, text, evidence))
    return findings


_SATURATION = {
    "input_scale": "The inputs are too large: standardize them.",
    "weight_scale": "The weights are too large.",
    "saturating_activation": "Biases or trained weights have driven them there.",
}


# ---- data ----


def unscaled_input(subject: Subject) -> list[Finding]:
    """Findings about inputs and targets of an unsuitable scale.

    Inputs are reported if their scale is far from 1 or one column varies far more than most; targets if they are large,
    or (an info) all the same.
    """
    case, limits, measurement = subject.case, subject.limits, subject.measurement
    rms = measurement.input_rms
    deviations = column_deviations(case.x)
    varying = deviations[deviations > 0.0]
    ratio = float(varying.max() / np.median(varying)) if varying.size else 1.0
    problems, effect = [], "the first layer's outputs and gradients inherit that scale"
    if rms > limits.input_scale:
        problems.append(f"Inputs have a root mean square of {wording.factor(rms)}")
    elif 0.0 < _seen_scale(subject, rms) < limits.input_scale ** (-2.0 if subject.adaptive else -1.0):
        problems.append(f"Inputs have a root mean square of only {wording.factor(rms)}")
        if _normalizes(subject) and _biases_weigh(subject):
            effect = "the first layer's biases soon outweigh them, because its normalization enlarges the steps of both"
    if ratio > limits.column_ratio:
        problems.append(f"one column has {wording.factor(ratio)} times the median standard deviation")
    findings = []
    if problems:
        text = " and ".join(problems)
        text = f"{text[0].upper()}{text[1:]}: {effect}. Standardize each column to mean 0 and variance 1."
        evidence = {"input_rms": rms, "column_ratio": ratio}
        findings.append(Finding("unscaled_input", "warning", (0,), "input_scale", text, evidence))
    scale = subject.case.target_scale
    if scale > limits.input_scale:
        text = (
            f"Targets have a root mean square of {wording.factor(scale)}, while a fresh net outputs values near 1: "
            "the error, which scales every gradient, has the scale of the targets. Standardize them."
        )
        findings.append(
            Finding("unscaled_input", "warning", (subject.depth - 1,), "target_scale", text, {"target_rms": scale})
        )
    return [*findings, *one_target(subject.case.target, subject.depth)]


def one_target(target: np.ndarray, depth: int) -> list[Finding]:
    """A finding (`info`) if all rows of the data have the same target, as a single row has."""
    if not (target == target[0]).all():
        return []
    same = f"All {len(target)} rows have the same target" if len(target) > 1 else "There is only one row"
    same += f", class {target[0]}" if len(target) > 1 and target.dtype.kind == "i" else ""
    text = (
        f"{same}: a constant output is right, whatever the inputs. So no loss, accuracy or remedy on this data tells "
        "whether the net can learn from its inputs. Take rows with different targets."
    )
    return [Finding("unscaled_input", "info", (depth - 1,), None, text, {"rows": len(target)})]


def _seen_scale(subject: Subject, rms: float) -> float:
    """Root mean square of the inputs as the layers above the first one see it.

    A normalization brings small inputs to unit size, up to its eps, unless it leaves biases in. It also enlarges the
    steps of layer 0 by 1 / rms. The weights need that, but the biases do not, and soon outweigh the inputs. Batch norm
    takes the biases out.
    """
    mended = _normalizes(subject) and not _biases_weigh(subject)
    return rms / math.hypot(rms, math.sqrt(NORM_EPS)) if mended else rms


def _normalizes(subject: Subject) -> bool:
    """Whether a normalization follows the first layer. None follows the output layer."""
    return subject.measurement.config["normalization"] is not None and subject.depth > 1


def _biases_weigh(subject: Subject) -> bool:
    """Whether the first layer has biases, and no batch norm takes them out."""
    config = subject.measurement.config
    return bool(config["bias"]) and config["normalization"] != "batch"


# ---- number formats ----


def _loses_digits(subject: Subject, record: LayerRecord) -> bool:
    """Whether many of a layer's deltas are subnormal, and the digits lost are worth mentioning.

    They are not if the typical delta times the unit roundoff is a normal number, as in a net that is sure of most rows:
    the sums that the deltas enter then round off more than that.
    """
    typical = record.delta_norm / math.sqrt(subject.measurement.mean_rows * record.out_features)
    negligible = typical * subject.unit_roundoff >= SMALLEST_NORMAL[subject.dtype]
    return record.delta_subnormal_share > subject.limits.underflow and not negligible


def underflow(subject: Subject) -> list[Finding]:
    """Findings about deltas too small for the net's own format (a warning), or for fp16 or bf16 (an info)."""
    findings = []
    own = [record.index for record in subject.records if _loses_digits(subject, record)]
    if own:
        text = (
            f"Deltas of {wording.layers(own)} are subnormal in {subject.dtype}: they have lost digits, and smaller "
            "ones are zero. Scaling the loss up (and the gradients down again) would preserve them."
        )
        share = max(subject.records[layer].delta_subnormal_share for layer in own)
        findings.append(Finding("underflow", "warning", tuple(own), "precision", text, {"subnormal_share": share}))
    worst = {name: max(record.underflow[name] for record in subject.records) for name in _TRAINING_FORMATS}
    lossy = {name: share for name, share in worst.items() if share > subject.limits.underflow}
    if lossy:
        limit = subject.limits.underflow
        layers = [record.index for record in subject.records if any(record.underflow[name] > limit for name in lossy)]
        shares = ", ".join(f"{100 * share:.0f} % in {name}" for name, share in lossy.items())
        text = f"Without loss scaling, non-zero deltas would become zero; the largest shares in a layer: {shares}."
        evidence = {f"underflow_{name}": share for name, share in worst.items()}
        findings.append(Finding("underflow", "info", tuple(layers), "precision", text, evidence))
    return findings
