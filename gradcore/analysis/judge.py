"""From the numbers of a `Subject` to findings and a verdict.

A slope over depth counts as vanishing or exploding if three conditions hold at once: it is outside its healthy band by
more than its error; it impairs learning with the optimizer in use; and, where the absolute size of updates is judged,
the gradient stands above batch noise. A slope that fails only the second is an `info`, which changes no verdict. The
limits and their derivations are in `subject.Thresholds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ..mlp import skip_connections
from . import causes, checks, steps, wording
from .arithmetic import bounded_exp, harmless
from .doubt import learned
from .measure import starved
from .report import SEVERITIES, VERDICTS, Finding, Slope
from .subject import LARGEST, Subject

_VERDICT_OF_KIND = {
    "non_finite": "non_finite",
    "exploding": "exploding",
    "vanishing": "vanishing",
    "zero_gradient": "vanishing",
    "loss_output_mismatch": "vanishing",
}


@harmless
def judge(subject: Subject) -> tuple[str, tuple[Finding, ...]]:
    """The verdict and the findings, worst first."""
    findings = _findings(subject)
    findings.sort(key=lambda each: (SEVERITIES.index(each.severity), VERDICTS.index(_stands_for(each))), reverse=True)
    return verdict_of(findings), tuple(findings)


def verdict_of(findings: Iterable[Finding]) -> str:
    """The worst verdict that any of the findings stands for, apart from `info` findings."""
    verdicts = [_stands_for(finding) for finding in findings if finding.severity != "info"]
    return max(verdicts, key=VERDICTS.index, default="healthy")


def _stands_for(finding: Finding) -> str:
    return _VERDICT_OF_KIND.get(finding.kind, "healthy")


def _where(flags: np.ndarray) -> tuple[int, ...]:
    """Indices of the layers whose flag is true."""
    return tuple(np.flatnonzero(flags).tolist())


def _findings(subject: Subject) -> list[Finding]:
    broken = non_finite(subject)
    if broken:
        return [*broken, *checks.unscaled_input(subject)]
    mismatch = checks.loss_output(subject)
    if mismatch:
        return [*mismatch, *checks.unscaled_input(subject)]
    if subject.loss_is_zero:
        return [_nothing_left(subject), *checks.unscaled_input(subject)]
    travelling = [*zero_gradient(subject), *gradient_slope(subject)]
    found = verdict_of(travelling)
    large = [] if found == "exploding" else steps.large_steps(subject, vanishing=found == "vanishing")
    return [
        *travelling,
        *large,
        *steps.scale_to_unlearn(subject, explained=bool(travelling) or bool(large)),
        *steps.small_steps(subject, explained=bool(travelling)),
        *steps.few_rows(subject),
        *checks.dead_units(subject),
        *checks.saturation(subject),
        *checks.unscaled_input(subject),
        *checks.underflow(subject),
    ]


def _nothing_left(subject: Subject) -> Finding:
    loss = subject.measurement.loss
    text = f"The loss is {loss:g}: nothing is left to learn, so the gradients are small."
    return Finding("zero_gradient", "info", (), None, text, {"loss": loss})


# ---- values that left the finite range ----


def non_finite(subject: Subject) -> list[Finding]:
    """A finding that names the first layer and pass with a non-finite value; none if all values are finite."""
    found = _first_non_finite(subject)
    if found is None:
        return []
    layer, place, batch = found
    cause, evidence = causes.of_overflow(subject)
    reached = subject.measurement.stack("activation_max_abs")[batch]
    evidence |= {"pass": place, "batch": batch, "largest_finite": LARGEST[subject.dtype]}
    which = f" (batch {batch})" if len(subject.measurement.flows) > 1 else ""
    text = f"The first non-finite value appears in {_PLACES[place]} of layer {layer}{which}."
    if place == "forward" and layer > 0:
        evidence["activation_max_abs_below"] = float(reached[layer - 1])
        text += f" The layer before it reaches {wording.factor(float(reached[layer - 1]))};"
        text += f" the largest {subject.dtype} is {LARGEST[subject.dtype]:.2g}."
    text += " " + _OVERFLOW_CAUSES[cause]
    if cause in ("input_scale", "target_scale"):
        text += " " + wording.input_sentence(subject)
    return [Finding("non_finite", "critical", (layer,), cause, text, evidence)]


_PLACES = {
    "parameters": "the parameters",
    "forward": "the forward pass, at the output",
    "loss": "the loss, computed from the output",
    "backward": "the backward pass, at the pre-activation gradient",
    "weight_grad": "the weight gradient",
}
_OVERFLOW_CAUSES = {
    "learning_rate": "The weights themselves are no longer finite: an earlier step was too large.",
    "weight_scale": "The weights are too large: every layer multiplies the signal until it overflows.",
    "input_scale": "The inputs are far too large.",
    "target_scale": "The targets are far too large.",
    "overflow": "The signal grows from layer to layer until it overflows.",
}


def _first_non_finite(subject: Subject) -> tuple[int, str, int] | None:
    """(layer, pass, batch) of the first non-finite value in the order of computation; None if there is none."""
    measurement = subject.measurement
    if bad := _where(~measurement.finite_parameters):
        return bad[0], "parameters", 0
    for batch, flow in enumerate(measurement.flows):
        if bad := _where(flow.activation_nonfinite_share > 0.0):
            return bad[0], "forward", batch
        if not math.isfinite(measurement.losses[batch]):
            return measurement.depth - 1, "loss", batch
        for name, place in (("delta_nonfinite_share", "backward"), ("weight_grad_nonfinite_share", "weight_grad")):
            if bad := _where(getattr(flow, name) > 0.0):
                return bad[-1], place, batch
    return None


# ---- gradients that are exactly zero ----


def zero_gradient(subject: Subject) -> list[Finding]:
    """Findings about layers whose gradient is exactly zero in every batch, or the same for all of their units.

    A layer without a gradient gets the first explanation that fits: all inputs are zero, a skip connection leads past
    the layer, some layer lets nothing through, next to nothing enters it (`starved`), nothing arrives from above.
    """
    found = [*_asleep(subject), *_alike(subject)]
    silent = _where(subject.gradient_norms == 0.0)
    if not silent:
        return found
    if 0 in silent and subject.measurement.input_square == 0.0:
        return [*found, _silent(silent, "input_scale", "All inputs are zero.", {})]
    starving, skips = starved(subject.measurement), skip_connections(subject.measurement.config)
    bypassed = tuple(layer for layer in silent if skips[layer] and not starving[layer])
    if bypassed:
        found.append(_silent_branches(bypassed))
        silent = tuple(layer for layer in silent if layer not in bypassed)
    closed = _closed_layer(subject) if silent else None
    if closed is not None:
        return [*found, _silent(silent, *closed)]
    starved_layers = tuple(layer for layer in silent if starving[layer])
    rest = tuple(layer for layer in silent if layer not in starved_layers)
    found += [_silent(rest, *_why_silent(subject))] if rest else []
    found += [_silent(starved_layers, *_starvation(subject, starved_layers[0], _STARVED))] if starved_layers else []
    return found


def _silent(layers: tuple[int, ...], cause: str, text: str, evidence: dict[str, Any]) -> Finding:
    """A finding about layers without any gradient. text: the explanation."""
    opening = f"No gradient at all reaches the weights of {wording.layers(layers)}. "
    return Finding("zero_gradient", "critical", layers, cause, opening + text, evidence)


def _alike(subject: Subject) -> list[Finding]:
    """A finding about layers whose units are all identical, as when all weights start at the same number."""
    layers = _where(subject.measurement.alike)
    if not layers:
        return []
    text = (
        f"The units of {wording.layers(layers)} are identical: they have the same weights and receive the same "
        "gradient, so they stay identical in every step, and a layer can do no more than a single unit. Draw the "
        "weights at random."
    )
    return [Finding("zero_gradient", "critical", layers, "weight_scale", text)]


def _asleep(subject: Subject) -> list[Finding]:
    """Findings (`info`) about layers whose gradient is zero at the start (`Measurement.asleep`), but not later."""
    start = subject.measurement.asleep
    if start is None:
        return []
    before = replace(subject, measurement=start)
    woken = (before.gradient_norms == 0.0) & (subject.gradient_norms > 0.0)
    opening = "The gradients of {} are exactly zero at the start, but not after two steps"
    dead = None if (start.weight_var == 0.0).any() else _dead_layer(before)
    if dead is not None:  # without a gradient, only the optimizer's memory of earlier ones can have moved them
        layers = _where(woken)
        text = f"{opening.format(wording.layers(layers))}: all units of layer {dead} output zero for every row, until "
        text += f"{subject.optimizer_name} moves them with what it has accumulated in earlier steps."
        return [Finding("zero_gradient", "info", layers, "dead_units", text, {"dead_layer": dead})]
    found, starving = [], starved(start)
    above = _where(woken & ~starving)
    below = _where(woken & starving)
    if above:
        text = ": something above them starts at zero, such as a zero-initialized output layer or branch."
        text = opening.format(wording.layers(above)) + text
        found.append(Finding("zero_gradient", "info", above, "weight_scale", text))
    if below:
        cause, text, evidence = _starvation(before, below[0], _STARVED)
        text = f"{opening.format(wording.layers(below))}. {text}"
        found.append(Finding("zero_gradient", "info", below, cause, text, evidence))
    return found


_STARVED = "A gradient arrives from above, but almost no signal from below, and their product is zero."


def _starvation(subject: Subject, layer: int, what: str) -> tuple[str, str, dict[str, Any]]:
    """(cause, explanation, evidence): why next to nothing enters a layer. what: the explanation's first sentence."""
    cause = causes.of_starvation(subject, layer)
    if cause == "weight_scale":
        return (
            cause,
            f"{what} The weights of the layers below are too small, or zero: the signal dies out on its way up.",
            {},
        )
    evidence = {"input_rms": math.sqrt(subject.measurement.input_square)}
    return cause, f"{what} The inputs are too small. {wording.input_sentence(subject)}", evidence


def _silent_branches(layers: tuple[int, ...]) -> Finding:
    """A finding about residual branches without a gradient; their skip connections still pass it on."""
    text = (
        f"The branches of {wording.layers(layers)} receive no gradient and will not learn, as when ReLU branches start "
        "at exactly zero. Their skip connections pass the gradient on, so the layers below are not affected."
    )
    return Finding("dead_units", "warning", layers, "dead_units", text)


def _closed_layer(subject: Subject) -> tuple[str, str, dict[str, Any]] | None:
    """(cause, explanation, evidence) of a layer that passes neither signal nor gradient; None if there is none."""
    measurement = subject.measurement
    if zero := _where(measurement.weight_var == 0.0):
        text = f"All weights of {wording.layers(zero)} are zero, and training cannot change that: draw them at random."
        return "weight_scale", text, {"layer": zero[-1]}
    layer = _dead_layer(subject)
    if layer is not None:
        if layer > 0 and measurement.rms("activation_norm")[layer - 1] < _NEAR_UNDERFLOW[subject.dtype]:
            what = f"Almost no signal enters layer {layer}, and its units output zero for every row."
            return _starvation(subject, layer, what)
        width = subject.records[layer].out_features
        cause = "narrow_layer" if width <= _NARROW else "dead_units"
        text = f"All {width} units of layer {layer} output zero for every row, so nothing passes through it."
        if cause == "narrow_layer":
            text += f" With random weights, this happens to a layer of {width} ReLU units with probability 2^-{width}."
        return cause, text, {"dead_layer": layer, "width": width}
    return None


def _dead_layer(subject: Subject) -> int | None:
    """The lowest hidden layer whose units all output zero and pass no gradient, for every row; None without one."""
    measurement = subject.measurement
    dead = (measurement.stack("dead_share").min(axis=0) == 1.0) & (measurement.rms("delta_norm") == 0.0)
    return next(iter(_where(dead[:-1])), None)


def _why_silent(subject: Subject) -> tuple[str, str, dict[str, Any]]:
    """(cause, explanation, evidence): why no gradient arrives from above, although no layer is closed."""
    smallest = float(subject.profile_norms[subject.profile_norms > 0.0].min(initial=np.inf))
    if smallest < _NEAR_UNDERFLOW[subject.dtype]:
        text = f"The gradient shrinks to {smallest:.1g} and then underflows to zero in {subject.dtype}."
        return "precision", text, {"smallest_norm": smallest}
    return "saturating_activation", "The derivative of the activation is exactly zero for every row.", {}


# n ReLU units are all dead by chance with probability 2^-n: in layers of more than 8 units (0.4 %) it is not chance.
_NARROW = 8
# Norms below this are so close to the smallest subnormal number (1.4e-45, 4.9e-324) that smaller values have been lost.
_NEAR_UNDERFLOW = {"float32": 1e-30, "float64": 1e-290}


# ---- gradients that shrink or grow over depth ----


def gradient_slope(subject: Subject) -> list[Finding]:
    """The finding about a slope that leaves its healthy band; it may be an `info`. None if the slope stays inside."""
    slope = subject.slope
    side = beyond_band(slope)
    if side:
        return [_vanishing(subject)] if side < 0 else [_exploding(subject)]
    outside = max(slope.band_low - slope.value, slope.value - slope.band_high)
    if not outside > 0.0:
        return []
    return [_luck(subject) if outside > slope.batch_half else _undecided(subject)]


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


def _vanishing(subject: Subject) -> Finding:
    harm = harm_of_vanishing(subject)
    cause = causes.of_vanishing(subject)
    norms = subject.profile_norms[:-1]
    affected = _where(norms * subject.limits.norm_ratio < norms.max()) or (0,)
    parts = [wording.slope_sentence(subject), wording.location_sentence(subject)]
    parts += [wording.vanishing_cause(subject, cause), wording.update_sentence(subject)]
    if not subject.adaptive:
        parts.append(wording.plateau_sentence(subject, steps_to_escape(subject)))
    parts.append(wording.adaptive_sentence(subject, harm) if harm else wording.no_harm(subject, cause))
    return _slope_finding("vanishing", subject, harm, affected, cause, parts)


def _exploding(subject: Subject) -> Finding:
    harm = harm_of_exploding(subject)
    cause = causes.of_exploding(subject)
    norms = subject.profile_norms[:-1]
    affected = _where(norms > subject.limits.norm_ratio * norms[-1]) or (0,)
    parts = [wording.slope_sentence(subject), wording.location_sentence(subject)]
    parts += [wording.exploding_cause(subject, cause), wording.update_sentence(subject)]
    parts.append(_CLIPPING if harm else wording.no_harm(subject))
    return _slope_finding("exploding", subject, harm, affected, cause, parts)


_CLIPPING = "Clipping would bound the step but not change the slope: it scales all layers alike."


def _slope_finding(
    kind: str, subject: Subject, harm: dict[str, float], affected: tuple[int, ...], cause: str, parts: list[str]
) -> Finding:
    slope = subject.slope
    evidence = {
        "slope": slope.systematic,
        "slope_low": slope.systematic_low,
        "slope_high": slope.systematic_high,
        "band": slope.band_high,
        **{f"factor_{name}": math.exp(value) for name, value in causes.hidden_factors(subject).items()},
        "weight_excess_log": causes.weight_excess(subject),
        **harm,
    }
    severity = _severity(subject, harm) if harm else "info"
    return Finding(kind, severity, affected, cause, " ".join(part for part in parts if part), evidence)


# Kinds of harm that are absolute, and not a difference between layers.
_ABSOLUTE = ("update_lost", "share_of_step", "fall_a_step", "steps_to_tell_inputs_apart", "overshoot",
             "loss_over_constant_guess")  # fmt: skip


def _severity(subject: Subject, harm: dict[str, float]) -> str:
    """The severity of a harmful slope: critical if norms differ by norm_ratio^2 or a harm is absolute, else warning."""
    slope = subject.slope
    total = max(-slope.typical, slope.systematic) * slope.steps
    ends = bounded_exp(0.5 * total)
    absolute = any(name in harm for name in _ABSOLUTE)
    return "critical" if absolute or ends > subject.limits.norm_ratio**2 else "warning"


def harm_of_vanishing(subject: Subject) -> dict[str, float]:
    """The kinds of harm that a shrinking gradient does to learning with the optimizer in use, with their numbers."""
    harm: dict[str, float] = {}
    if subject.adaptive and not rescaled(subject):
        return {"share_of_step": subject.smallest_adaptive_step}
    if subject.adaptive:
        needed = steps_to_tell_apart(subject)
        return {"steps_to_tell_inputs_apart": needed} if needed > subject.limits.learning_steps else {}
    speeds, outlook = subject.speeds, subject.measurement.outlook
    learns = outlook is not None and learned(subject, outlook.losses)
    relative = float(speeds.min() / speeds.max()) if speeds.max() > 0.0 else 0.0
    if relative < 1.0 / subject.limits.norm_ratio and not learns:
        harm["weakest_update_over_strongest"] = relative
    if subject.lr == 0.0:
        return harm
    fall = float(subject.relative_fall[:-1].sum())
    if fall < 1.0 / subject.limits.learning_steps and not learns:
        harm["fall_a_step"] = fall
    # If the gradient is all noise, as in a net that has converged, no harm is done: there is nothing to follow.
    lasting = float(subject.lasting_updates.min())
    if subject.has_signal and lasting < subject.unit_roundoff:
        harm["update_lost"] = lasting
    return harm


def rescaled(subject: Subject) -> bool:
    """Whether an adaptive optimizer makes steps of comparable size in all hidden layers.

    It moves a weight by lr g / (g + eps), where g is the size of the gradient. Down to 1 / norm_ratio of lr, this is
    comparable, as for SGD's updates. Entries of eps / (norm_ratio - 1), a hundredth of eps, suffice for that.
    """
    return subject.adaptive and subject.smallest_adaptive_step >= 1.0 / subject.limits.norm_ratio


def steps_to_tell_apart(subject: Subject) -> float:
    """The number of steps in which an adaptive optimizer makes outputs differ between inputs, if the gradient vanishes.

    All rows then arrive as nearly the same vector m; only a part d of relative size r (`Outlook.difference`) differs.
    Over a batch of B rows, the errors add up to zero, except for 1 / sqrt(B) of one row's error. In the gradient, their
    outer product with m + d, the noise is therefore |m| / sqrt(B), and the signal at most |d|. A step moves each entry
    by lr (with momentum by lr / (1 - momentum)), of which a share r sqrt(B) follows the signal. For n inputs, this is a
    matrix of rank one and size lr n r sqrt(B), which has to reach 1 for the differences to pass.

    0 if the trial steps (`outlook`) have made the profile level, or if there were none.
    """
    outlook = subject.measurement.outlook
    if outlook is None or outlook.slope is None or beyond_band(outlook.slope) >= 0:
        return 0.0
    case = subject.case
    share = min(outlook.difference * math.sqrt(min(case.batch_size, len(case.x))), 1.0)
    step = subject.lr * case.memory * subject.records[-1].in_features * share
    return 1.0 / step if step > 0.0 else math.inf


def steps_to_escape(subject: Subject) -> float:
    """The earliest step at which SGD can leave the plateau of small weights, to an order of magnitude.

    SGD does not keep the pace of its first steps. dL/dW has low rank; along the path of its signal, a step increases
    the largest singular value s of a layer by a share g = lr |dL/dW| / ((1 - momentum) s), which grows with the weights
    of the other layers. For L layers in balance, s' = c s^(L-1) and g = c s^(L-2), so s leaves all bounds after
    1 / ((L - 2) g) steps (Saxe et al. 2014, arXiv:1312.6120). The layer with the smallest g decides. |dL/dW| is that of
    the mean gradient, without the noise of batches. Its part that comes from an error common to all rows is gone once
    the plateau is reached, so it takes longer. Infinite (unknown) with a normalization or skip connections.
    """
    measurement = subject.measurement
    if measurement.config["normalization"] is not None or skip_connections(measurement.config).any():
        return math.inf
    signal = np.array([record.gradient_signal for record in subject.records])
    signal = np.where(np.isnan(signal), measurement.mean_gradient_norm**2, signal)
    growth = np.sqrt(np.maximum(signal, 0.0)) / subject.largest_singular_values
    slowest = subject.lr * subject.case.memory * float(growth[:-1].min(initial=math.inf))
    return 1.0 / (max(subject.depth - 2, 1) * slowest) if slowest > 0.0 else math.inf


def may_leave_plateau(subject: Subject) -> bool:
    """Whether SGD may leave the plateau early enough for a vanishing gradient to do no harm; only steps can tell."""
    steep = not subject.adaptive and beyond_band(subject.slope) < 0
    return steep and bool(harm_of_vanishing(subject)) and steps_to_escape(subject) <= subject.limits.plateau_steps


def harm_of_exploding(subject: Subject) -> dict[str, float]:
    """The kinds of harm that a growing gradient does to learning with the optimizer in use, with their numbers."""
    harm: dict[str, float] = {}
    # A loss this high shows that the growth has reached the output: the net's own scale hides what is to be learned.
    guess = subject.case.constant_loss
    if subject.measurement.loss > subject.limits.diverged * guess > 0.0:
        harm["loss_over_constant_guess"] = subject.measurement.loss / guess
    if subject.overshoot > subject.limits.overshoot:
        harm["overshoot"] = subject.overshoot
    if subject.adaptive:
        return harm
    speeds = subject.speeds[:-1]
    relative = float(speeds.max() / speeds.min()) if speeds.min() > 0.0 else math.inf
    if relative > subject.limits.norm_ratio:
        harm["strongest_update_over_weakest"] = relative
    return harm


def _luck(subject: Subject) -> Finding:
    """A finding (`info`): the profile leaves the band, but on a typical draw of the weights it would not."""
    slope = subject.slope
    text = (
        f"With this draw of the weights, the profile leaves the healthy band: its slope is {slope.value:+.2g} per "
        f"layer, of which {slope.systematic:+.2g} comes from the sizes of weights and derivatives. The rest is chance, "
        f"which contributes {slope.drift:+.2g} in a typical draw of layers this narrow; another seed will differ."
    )
    evidence = {"slope": slope.value, "systematic": slope.systematic, "drift": slope.drift}
    return Finding("vanishing" if slope.value < 0.0 else "exploding", "info", (0,), "narrow_layer", text, evidence)


def _undecided(subject: Subject) -> Finding:
    """A finding (`info`): the profile leaves the band by less than the noise of batches."""
    slope = subject.slope
    low, high = slope.value - slope.batch_half, slope.value + slope.batch_half
    text = (
        f"The profile leaves the healthy band, but by less than the noise of batches: its slope is {slope.value:+.2g} "
        f"per layer (interval {low:+.2g} to {high:+.2g}; healthy: within +-{slope.band_high:.2g}). More batches would "
        "decide."
    )
    evidence = {"slope": slope.value, "slope_low": low, "slope_high": high}
    shrinks = slope.value < 0.0
    cause = causes.of_vanishing(subject) if shrinks else causes.of_exploding(subject)
    return Finding("vanishing" if shrinks else "exploding", "info", (0,), cause, text, evidence)
