"""What could cure a net: candidates for the findings of a report, the likeliest by theory first.

Nothing is recommended here: `remedies` tries the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise, zip_longest
from typing import Any

import numpy as np

from ..init import CRITICAL_GAIN_SQUARED
from ..mlp import skip_connections
from . import mean_field as theory
from .arithmetic import TINY, bounded_exp
from .candidates import Candidate, changed_settings, combined, joined, lower_learning_rate, standardizing
from .case import Case
from .causes import can_be_level
from .report import Report
from .subject import Thresholds
from .wording import significant

# A lower learning rate is at most this share of the largest one that the measured gradient allows.
_LR_MARGIN = 0.5
# A clipped step moves the weights by at most this share of their size, a usual healthy update-to-weight ratio.
_CLIPPED_UPDATE = 1e-2


def propose(report: Report, case: Case, limits: Thresholds) -> list[Candidate]:
    """Candidates for the findings of a report, the likeliest first; empty for a net that has nothing to gain."""
    return _distinct([_drawable(candidate, case) for candidate in _proposed(report, case, limits)])


def _proposed(report: Report, case: Case, limits: Thresholds) -> list[Candidate]:
    """The candidates of `propose`, with repetitions, and before undrawable weights are replaced."""
    serious = [finding for finding in report.findings if finding.severity != "info"]
    kinds, causes = {finding.kind for finding in serious}, _serious_causes(report)
    data = standardizing("input_scale" in causes, "target_scale" in causes)
    if "loss_output_mismatch" in kinds:
        return _other_outputs(case)
    found: list[Candidate] = []
    step_causes = {finding.cause for finding in serious if finding.kind == "exploding"}
    if step_causes & {"learning_rate", "input_scale", "target_scale"}:
        found += _for_steps(report, limits)
    found += [] if data is None else [data]
    structural = kinds & {"vanishing", "exploding", "zero_gradient", "non_finite", "saturation", "dead_units"}
    # a single layer has only its weights, whose scale does not matter until numbers overflow
    layered = bool(case.net.config["activation"]) or "non_finite" in kinds
    if layered and (structural or "batch_norm" in causes):
        found += _structural(report, case, limits, data)
    elif starts_small(report):
        found.append(_critical_initialization(sorted(set(case.net.config["activation"]))))
    if "exploding" in kinds:  # behind the first few: clipping is tried to show that it is no cure
        found.insert(min(3, len(found)), _clipping(report))
    return found


def _serious_causes(report: Report) -> set[str | None]:
    return {finding.cause for finding in report.findings if finding.severity != "info"}


def _drawable(candidate: Candidate, case: Case) -> Candidate:
    """The candidate, with `init="auto"` if it needs new weights but how those of the net were drawn is unknown."""
    kept = candidate.keeps_net or candidate.weights in ("kept", "rescaled") or "init" in candidate.net
    if kept or case.net.config["init"] != "custom":
        return candidate
    note = 'init="auto" draws the weights: how those of this net were drawn is not known'
    return replace(candidate, net={**candidate.net, "init": "auto"}, note=joined(candidate.note, note))


def starts_small(report: Report) -> bool:
    """Whether any finding, be it an `info`, says that the scale of the weights lets the gradient shrink.

    The optimizer may make up for that in time, or not: a trial of the weights that suit shows what it costs.
    """
    return any(finding.kind == "vanishing" and finding.cause == "weight_scale" for finding in report.findings)


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """The candidates without repetitions of the same change."""
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        seen.setdefault(repr(candidate.change()), candidate)
    return list(seen.values())


def _other_outputs(case: Case) -> list[Candidate]:
    """Candidates with an output for each class; for two classes, also the loss that one output is meant for."""
    widths = [*case.net.config["widths"][:-1], case.classes]
    title = "two outputs" if case.classes == 2 else f"{case.classes} outputs"
    found = [Candidate(title, "a softmax needs one output per class", {"widths": widths})]
    if case.classes == 2:
        reason = "takes the single output as the logit of class 1"
        found.append(Candidate("binary cross entropy", reason, loss="binary_cross_entropy"))
    return found


def _for_steps(report: Report, limits: Thresholds) -> list[Candidate]:
    """Candidates against steps that are too large: a lower learning rate, and clipping."""
    lr = float(report.conditions["lr"])
    gradient = math.hypot(*(layer.weight_grad_norm for layer in report.layers))
    # lr gradient^2 / loss: the share of the loss that one step may take away, in an order that does not overflow
    fall = lr * gradient / max(report.loss, 1e-30) * gradient
    update = max((layer.update_ratio for layer in report.layers if math.isfinite(layer.update_ratio)), default=0.0)
    shares = [0.1]
    shares += [_LR_MARGIN * limits.overshoot / fall] if fall > 0.0 else []
    shares += [_CLIPPED_UPDATE / update] if update > 0.0 else []
    lower = float(f"{lr * min(shares):.1g}")
    slower = [lower_learning_rate(lower)] if lower > 0.0 else []
    return [*slower, _clipping(report)]


def _clipping(report: Report) -> Candidate:
    """A candidate that clips at half of the median norm, or lower, as far as SGD needs to keep to _CLIPPED_UPDATE."""
    lr = float(report.conditions["lr"])
    weights = math.hypot(*(layer.weight_norm for layer in report.layers))
    bound = _CLIPPED_UPDATE * weights / lr if lr > 0.0 else 1.0
    norms = [math.hypot(*flow.weight_grad_norm, *flow.bias_grad_norm) for flow in report.flows]
    finite = [norm for norm in norms if math.isfinite(norm)]
    bound = float(f"{min(bound, 0.5 * float(np.median(finite)) if finite else bound):.1g}") or 1.0
    return Candidate(
        f"clipping at norm {significant(bound)}",
        "bounds each step",
        training={"clip_norm": bound},
        note="clipping scales all layers alike: the slope over depth does not change",
    )


def _structural(report: Report, case: Case, limits: Thresholds, data: Candidate | None) -> list[Candidate]:
    """Candidates that change the net, each combined with standardization (`data`) if that is needed."""
    names = sorted(set(case.net.config["activation"]))
    groups = {"weights": _initializations(report, names)}
    if names:
        groups["activation"] = _activations(report, names)
        groups["normalization"] = _normalizations(report, case.net.config)
        groups["depth"] = _shallower(report, case, limits)
        groups = {name: groups[name] for name in (_first_group(report, case), *groups)}
    found = _wider(report, case, limits)
    # One of each kind in turn, because another kind of change tells more than another of the same kind.
    for row in zip_longest(*groups.values()):
        found += [candidate for candidate in row if candidate is not None]
    if data is not None:
        found = [pair for candidate in found if (pair := combined(candidate, data)) is not None]
    return sorted(found, key=lambda candidate: not _expected_level(candidate, case, limits))


def _expected_level(candidate: Candidate, case: Case, limits: Thresholds) -> bool:
    """Whether, by mean-field theory, gradient norms at the two ends of the changed net stay within norm_ratio.

    Inputs are taken to be of unit size: what another size does to the first layers is no slope.
    """
    config, names = changed_settings(candidate, case)
    growth, q, skips = 0.0, 1.0, skip_connections(config)
    for layer, name in enumerate(names[1:], start=1):
        if config["normalization"] == "batch":
            chi = theory.batch_norm_growth(name, case.batch_size)
        elif config["normalization"] is not None:
            chi = theory.layer_norm_growth(name)
        else:
            square = theory.activation_square(name, q)
            weight_var = 1.0 / square if candidate.weights == "lsuv" else CRITICAL_GAIN_SQUARED[name]
            chi, q = theory.chi(name, q, weight_var), min(weight_var * square, 1e6)
        if skips[layer]:  # level if a normalization undoes the stream's growth, or if its branches are scaled down
            level = config["normalization"] is not None or candidate.weights == "scaled_branches"
            chi = 1.0 if level else 1.0 + chi
        growth += math.log(max(chi, TINY))
    return abs(growth) <= 2.0 * math.log(limits.norm_ratio)


def _first_group(report: Report, case: Case) -> str:
    """The kind of change that acts on the cause, to be tried first."""
    causes = _serious_causes(report)
    if causes & {"activation_slope", "saturating_activation", "dead_units"}:
        return "activation"
    if "depth" in causes or case.net.config["normalization"] is not None:
        return "normalization"
    return "weights"


def _wider(report: Report, case: Case, limits: Thresholds) -> list[Candidate]:
    """A candidate with layers wide enough for the depth, if chance in narrow ones is the cause.

    Wide enough means two things. The typical fall of |delta|^2 by chance, depth (3 kurtosis - 1) / (2 n) in logarithm
    (M.6), takes at most half of the healthy band. And a ReLU layer is dead (2^-n each) in at most `false_alarm` of
    nets.
    """
    if "narrow_layer" not in _serious_causes(report):
        return []
    config = case.net.config
    depth = len(config["widths"]) - 1
    noise = max(theory.width_noise(name, 1.0, 1) for name in config["activation"])
    needed = max(0.5 * depth * noise / math.log(limits.norm_ratio), math.log2(depth / limits.false_alarm))
    width = 8 * math.ceil(needed / 8)
    widths = [config["widths"][0], *(max(width, own) for own in config["widths"][1:-1]), config["widths"][-1]]
    if widths == config["widths"]:
        return []
    reason = f"over {depth} layers, chance alone can block the gradient in layers of fewer than {width} units"
    return [Candidate(f"layers of {width} units", reason, {"widths": widths, "init": "auto"})]


def _initializations(report: Report, names: list[str]) -> list[Candidate]:
    """Candidates that change the weights alone."""
    found = []
    residual = bool(skip_connections(report.config).any())
    if residual:
        reason = "branches divided by the square root of their number keep the sum level"
        found.append(Candidate("scaled residual branches", reason, {"init": "auto"}, "scaled_branches"))
    critical = _critical_initialization(names)
    found.append(critical)
    causes = {finding.cause for finding in report.findings}
    if "weight_scale" in causes and report.verdict != "non_finite" and not residual:
        found.append(Candidate("rescaled weights", f"{critical.reason}; their directions are kept", {}, "rescaled"))
    if set(names) <= _ORTHOGONAL:
        reason = "preserves norms exactly; independent weights do so only on average"
        found.append(Candidate("orthogonal initialization", reason, {"init": "orthogonal"}))
    if all(can_be_level(name) for name in names):
        found.append(Candidate("LSUV initialization", "scales each layer to unit variance on this data", {}, "lsuv"))
    return found


def _critical_initialization(names: list[str]) -> Candidate:
    """A candidate with critical weights."""
    gains = ", ".join(f"{CRITICAL_GAIN_SQUARED[name]:.3g}" for name in names) or "1"
    reason = f"weights of variance {gains} / fan_in suit {' and '.join(names) or 'a single layer'} best"
    return Candidate("critical initialization", reason, {"init": "auto"})


# Activations with which orthogonal weights preserve norms: near-linear ones, and ReLU's kind, up to a constant factor.
_ORTHOGONAL = {"tanh", "hard_tanh", "identity", "relu", "leaky_relu", "selu"}
# Activations with positive outputs only, so that residual sums of them grow in proportion to the depth.
_POSITIVE = {"sigmoid", "softplus"}

_ACTIVATION_REASONS = {
    "relu": "passes the gradient unchanged where it is active",
    "tanh": "has slope 1 at zero, four times the sigmoid's",
    "selu": "keeps mean 0 and variance 1 by itself",
    "leaky_relu": "passes a gradient on both sides: no unit can die",
    "elu": "passes a gradient on both sides and does not saturate for positive inputs",
}


def _activations(report: Report, names: list[str]) -> list[Candidate]:
    """Candidates with another activation in all layers."""
    wanted = ["selu", "tanh", "relu"]
    if any(finding.cause in ("dead_units", "narrow_layer") for finding in report.findings):
        wanted = ["leaky_relu", "elu", "selu"]
    elif "relu" in names:
        wanted = ["selu", "leaky_relu"]
    return [
        Candidate(f"{name} activation", f"{name} {_ACTIVATION_REASONS[name]}", {"activation": name, "init": "auto"})
        for name in wanted
        if names != [name]
    ]


def _normalizations(report: Report, config: Mapping[str, Any]) -> list[Candidate]:
    """Candidates with a normalization or skip connections."""
    found = []
    # A net that is too deep although it has a normalization, or the best weights, needs a way past its layers.
    skip_first = config["normalization"] is not None or any(finding.cause == "depth" for finding in report.findings)
    if config["normalization"] != "layer":
        change = {"normalization": "layer", "init": "auto"}
        found.append(Candidate("layer norm", "rescales every layer's input, row by row", change))
    if config["normalization"] is None:
        change = {"normalization": "batch", "init": "auto"}
        found.append(Candidate("batch norm", "rescales every unit over the batch", change))
    widths = config["widths"][1:-1]
    if not config["residual"] and any(low == high for low, high in pairwise(widths)):
        found.insert(0 if skip_first else 1, _residual(config))
    return found


def _residual(config: Mapping[str, Any]) -> Candidate:
    """A candidate with skip connections, layer norm and scaled branches; ReLU replaces positive activations."""
    change: dict[str, Any] = {"residual": True, "normalization": "layer", "init": "auto"}
    title = "residual connections and layer norm"
    if set(config["activation"]) & _POSITIVE:
        change["activation"] = "relu"
        title = "residual connections, layer norm and relu"
    return Candidate(title, "gives the gradient a direct path around every block", change, "scaled_branches")


def _shallower(report: Report, case: Case, limits: Thresholds) -> list[Candidate]:
    """A net with as many layers as the measured slope can carry, if that is fewer and hidden widths are equal."""
    slope = report.slope.systematic
    widths = case.net.config["widths"]
    if not math.isfinite(slope) or slope == 0.0:
        return []
    carried = max(2, int(theory.carried_depth(bounded_exp(slope), limits.norm_ratio)))
    if carried >= len(widths) - 1 or len(set(widths[1:-1])) > 1:
        return []
    kept = widths[:carried]
    change = {"widths": [*kept, widths[-1]], "activation": case.net.config["activation"][: carried - 1]}
    reason = f"at this slope, the design can carry at most {carried} layers; those that remain keep their weights"
    return [Candidate(f"{carried} layers", reason, change, "kept")]
