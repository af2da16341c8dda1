"""From numbers to findings and a verdict.

vanishing and exploding need three things at once: the slope over depth leaves its healthy band by more
than its own error; it matters to the optimizer in use; and, where absolute sizes are judged, the gradient
stands above batch noise. Limits and their derivations: `subject.Thresholds`.
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
    """The worst that any finding but an `info` stands for."""
    verdicts = [_stands_for(finding) for finding in findings if finding.severity != "info"]
    return max(verdicts, key=VERDICTS.index, default="healthy")


def _stands_for(finding: Finding) -> str:
    return _VERDICT_OF_KIND.get(finding.kind, "healthy")


def _where(flags: np.ndarray) -> tuple[int, ...]:
    """The layers of which something is true."""
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
    """The first layer and pass where a value left the range of finite numbers."""
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
    """(layer, pass, batch) in the order in which a pass computes them."""
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
    """Layers whose weights receive exactly zero gradient from every batch."""
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
    hungry = tuple(layer for layer in silent if starving[layer])
    rest = tuple(layer for layer in silent if layer not in hungry)
    found += [_silent(rest, *_why_silent(subject))] if rest else []
    found += [_silent(hungry, *_starvation(subject, hungry[0], _HUNGRY))] if hungry else []
    return found


def _silent(layers: tuple[int, ...], cause: str, text: str, evidence: dict[str, Any]) -> Finding:
    opening = f"No gradient at all reaches the weights of {wording.layers(layers)}. "
    return Finding("zero_gradient", "critical", layers, cause, opening + text, evidence)


def _alike(subject: Subject) -> list[Finding]:
    """Layers whose units are one over and over, as where all weights start at the same number."""
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
    """Layers without a gradient at the start that the first steps wake."""
    start = subject.measurement.asleep
    if start is None:
        return []
    before = replace(subject, measurement=start)
    woken = (before.gradient_norms == 0.0) & (subject.gradient_norms > 0.0)
    opening = "The gradients of {} are exactly zero at the start, but not after two steps"
    dead = None if (start.weight_var == 0.0).any() else _dead_layer(before)
    if dead is not None:  # their steps are zero but for those that an optimizer still makes of earlier gradients
        layers = _where(woken)
        text = f"{opening.format(wording.layers(layers))}: all units of layer {dead} output zero for every row, until "
        text += f"{subject.optimizer_name} moves them with what it has accumulated in earlier steps."
        return [Finding("zero_gradient", "info", layers, "dead_units", text, {"dead_layer": dead})]
    found, hungry = [], starved(start)
    above = _where(woken & ~hungry)
    below = _where(woken & hungry)
    if above:
        text = ": something above them starts at zero, such as a zero-initialized output layer or branch."
        text = opening.format(wording.layers(above)) + text
        found.append(Finding("zero_gradient", "info", above, "weight_scale", text))
    if below:
        cause, text, evidence = _starvation(before, below[0], _HUNGRY)
        text = f"{opening.format(wording.layers(below))}. {text}"
        found.append(Finding("zero_gradient", "info", below, cause, text, evidence))
    return found


_HUNGRY = "A gradient arrives from above, but almost no signal from below, and their product is zero."


def _starvation(subject: Subject, layer: int, what: str) -> tuple[str, str, dict[str, Any]]:
    """Why next to nothing enters a layer from below, after what comes of it."""
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
    """Residual branches without a gradient: their skip connections pass it on to the layers below."""
    text = (
        f"The branches of {wording.layers(layers)} receive no gradient and will not learn, as when ReLU branches start "
        "at exactly zero. Their skip connections pass the gradient on, so the layers below are not affected."
    )
    return Finding("dead_units", "warning", layers, "dead_units", text)


def _closed_layer(subject: Subject) -> tuple[str, str, dict[str, Any]] | None:
    """A layer that neither a signal nor a gradient passes: it silences those below and above it."""
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
    """The lowest hidden layer whose units all output zero and pass no gradient, for every row: it silences the rest."""
    measurement = subject.measurement
    dead = (measurement.stack("dead_share").min(axis=0) == 1.0) & (measurement.rms("delta_norm") == 0.0)
    return next(iter(_where(dead[:-1])), None)


def _why_silent(subject: Subject) -> tuple[str, str, dict[str, Any]]:
    """Why nothing arrives from above."""
    smallest = float(subject.profile_norms[subject.profile_norms > 0.0].min(initial=np.inf))
    if smallest < _NEAR_UNDERFLOW[subject.dtype]:
        text = f"The gradient shrinks to {smallest:.1g} and then underflows to zero in {subject.dtype}."
        return "precision", text, {"smallest_norm": smallest}
    return "saturating_activation", "The derivative of the activation is exactly zero for every row.", {}


# A layer of n ReLU units is dead by chance with probability 2^-n: above 8 units (0.4 %) that is no chance.
_NARROW = 8
# A norm this close to the smallest subnormal number: entries below it are lost.
_NEAR_UNDERFLOW = {"float32": 1e-30, "float64": 1e-290}


# ---- gradients that shrink or grow over depth ----


def gradient_slope(subject: Subject) -> list[Finding]:
    """vanishing or exploding, or nothing."""
    slope = subject.slope
    side = beyond_band(slope)
    if side:
        return [_vanishing(subject)] if side < 0 else [_exploding(subject)]
    outside = max(slope.band_low - slope.value, slope.value - slope.band_high)
    if not outside > 0.0:
        return []
    return [_luck(subject) if outside > slope.batch_half else _undecided(subject)]


def beyond_band(slope: Slope) -> int:
    """-1 where a slope lies below its healthy band, 1 where above, else 0.

    What was measured must lie there beyond the noise of batches, and so must the typical draw, or it was luck. Where
    gradients vanish all rows come to point the same way, and narrow layers lose the `drift` besides; where they grow
    rows go apart (Schoenholz et al. 2017: chi < 1 and chi > 1), and the mean over many directions has none.
    """
    if slope.value + slope.batch_half < slope.band_low and slope.typical < slope.band_low:
        return -1
    return int(slope.value - slope.batch_half > slope.band_high and slope.systematic > slope.band_high)


def _vanishing(subject: Subject) -> Finding:
    lost = losses_of_vanishing(subject)
    cause = causes.of_vanishing(subject)
    norms = subject.profile_norms[:-1]
    affected = _where(norms * subject.limits.norm_ratio < norms.max()) or (0,)
    parts = [wording.slope_sentence(subject), wording.location_sentence(subject)]
    parts += [wording.vanishing_cause(subject, cause), wording.update_sentence(subject)]
    if not subject.adaptive:
        parts.append(wording.plateau_sentence(subject, steps_to_escape(subject)))
    parts.append(wording.adaptive_sentence(subject, lost) if lost else wording.no_harm(subject, cause))
    return _slope_finding("vanishing", subject, lost, affected, cause, parts)


def _exploding(subject: Subject) -> Finding:
    lost = losses_of_exploding(subject)
    cause = causes.of_exploding(subject)
    norms = subject.profile_norms[:-1]
    affected = _where(norms > subject.limits.norm_ratio * norms[-1]) or (0,)
    parts = [wording.slope_sentence(subject), wording.location_sentence(subject)]
    parts += [wording.exploding_cause(subject, cause), wording.update_sentence(subject)]
    parts.append(_CLIPPING if lost else wording.no_harm(subject))
    return _slope_finding("exploding", subject, lost, affected, cause, parts)


_CLIPPING = "Clipping would bound the step but not change the slope: it scales all layers alike."


def _slope_finding(
    kind: str, subject: Subject, lost: dict[str, float], affected: tuple[int, ...], cause: str, parts: list[str]
) -> Finding:
    slope = subject.slope
    evidence = {
        "slope": slope.systematic,
        "slope_low": slope.systematic_low,
        "slope_high": slope.systematic_high,
        "band": slope.band_high,
        **{f"factor_{name}": math.exp(value) for name, value in causes.hidden_factors(subject).items()},
        "weight_excess_log": causes.weight_excess(subject),
        **lost,
    }
    severity = _severity(subject, lost) if lost else "info"
    return Finding(kind, severity, affected, cause, " ".join(part for part in parts if part), evidence)


# Losses of learning that are no matter of one layer beside another.
_ABSOLUTE = ("update_lost", "share_of_step", "fall_a_step", "steps_to_tell_inputs_apart", "overshoot",
             "loss_over_constant_guess")  # fmt: skip


def _severity(subject: Subject, lost: dict[str, float]) -> str:
    """critical once the weaker layers get norm_ratio^2 less than the others, or nothing at all."""
    slope = subject.slope
    total = max(-slope.typical, slope.systematic) * slope.steps
    ends = bounded_exp(0.5 * total)
    absolute = any(name in lost for name in _ABSOLUTE)
    return "critical" if absolute or ends > subject.limits.norm_ratio**2 else "warning"


def losses_of_vanishing(subject: Subject) -> dict[str, float]:
    """The ways in which a shrinking gradient costs learning under the optimizer in use, with their numbers."""
    lost: dict[str, float] = {}
    if subject.adaptive and not rescaled(subject):
        return {"share_of_step": subject.smallest_adaptive_step}
    if subject.adaptive:
        needed = steps_to_tell_apart(subject)
        return {"steps_to_tell_inputs_apart": needed} if needed > subject.limits.learning_steps else {}
    speeds, outlook = subject.speeds, subject.measurement.outlook
    learns = outlook is not None and learned(subject, outlook.losses)
    relative = float(speeds.min() / speeds.max()) if speeds.max() > 0.0 else 0.0
    if relative < 1.0 / subject.limits.norm_ratio and not learns:
        lost["weakest_update_over_strongest"] = relative
    if subject.lr == 0.0:
        return lost
    fall = float(subject.relative_fall[:-1].sum())
    if fall < 1.0 / subject.limits.learning_steps and not learns:
        lost["fall_a_step"] = fall
    # At the noise floor, as in a net that has converged, updates are small because there is nothing to follow.
    lasting = float(subject.lasting_updates.min())
    if subject.has_signal and lasting < subject.unit_roundoff:
        lost["update_lost"] = lasting
    return lost


def rescaled(subject: Subject) -> bool:
    """Whether an adaptive optimizer brings the gradients of all hidden layers to one size.

    It moves a weight by lr g / (g + eps). That is a step like the others' down to 1 / norm_ratio of lr, from where on
    SGD's count as far below the other layers', too: entries of eps / (norm_ratio - 1), a hundredth of eps, are enough.
    """
    return subject.adaptive and subject.smallest_adaptive_step >= 1.0 / subject.limits.norm_ratio


def steps_to_tell_apart(subject: Subject) -> float:
    """Steps that an adaptive optimizer needs to make outputs differ between inputs, where the gradient still vanishes.

    All rows then arrive as one, m, but for a part d of relative size r. Errors of a batch of B rows sum to zero but for
    1 / sqrt(B) of one row's, so that of the gradient's outer product with m + d noise is |m| / sqrt(B) and signal at
    most |d|. A step moves each entry by lr (with momentum by 1 / (1 - momentum) of that), a share r sqrt(B) of it with
    the signal: a matrix of rank one and size lr n r sqrt(B) for n inputs, which has to reach 1 for the differences to
    pass. 0 where the steps have made the profile level, or nothing is known of them.
    """
    outlook = subject.measurement.outlook
    if outlook is None or outlook.slope is None or beyond_band(outlook.slope) >= 0:
        return 0.0
    case = subject.case
    share = min(outlook.difference * math.sqrt(min(case.batch_size, len(case.x))), 1.0)
    step = subject.lr * case.memory * subject.records[-1].in_features * share
    return 1.0 / step if step > 0.0 else math.inf


def steps_to_escape(subject: Subject) -> float:
    """Steps after which SGD leaves the plateau of small weights at the earliest, to an order of magnitude.

    Not at the pace of its first steps: dL/dW is of low rank, and along the path of its signal the weights of a layer
    grow by g = lr |dL/dW| / (1 - momentum) of their largest singular value a step, which grows with the weights of the
    other layers. In balance s' = c s^(L-1) for L of them, where g = c s^(L-2), and s leaves all bounds after
    1 / ((L - 2) g) steps (Saxe et al. 2014, arXiv:1312.6120); the layer that grows least decides. |dL/dW| is its mean
    over batches, without their noise. What it holds of an error that all rows share is gone once the plateau is
    reached: it takes longer by that. Nothing is known (infinite) with a normalization or skip connections, whose layers
    grow otherwise.
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
    """Whether SGD's steps may grow soon enough for a vanishing gradient to cost nothing, which only they can tell."""
    steep = not subject.adaptive and beyond_band(subject.slope) < 0
    return steep and bool(losses_of_vanishing(subject)) and steps_to_escape(subject) <= subject.limits.plateau_steps


def losses_of_exploding(subject: Subject) -> dict[str, float]:
    """The same for a growing gradient."""
    lost: dict[str, float] = {}
    # The growth has reached the output as well: what is to be learned is buried under the net's own scale.
    guess = subject.case.constant_loss
    if subject.measurement.loss > subject.limits.diverged * guess > 0.0:
        lost["loss_over_constant_guess"] = subject.measurement.loss / guess
    if subject.overshoot > subject.limits.overshoot:
        lost["overshoot"] = subject.overshoot
    if subject.adaptive:
        return lost
    speeds = subject.speeds[:-1]
    relative = float(speeds.max() / speeds.min()) if speeds.min() > 0.0 else math.inf
    if relative > subject.limits.norm_ratio:
        lost["strongest_update_over_weakest"] = relative
    return lost


def _luck(subject: Subject) -> Finding:
    """A profile that leaves the band although the typical draw of the design does not."""
    slope = subject.slope
    text = (
        f"With this draw of the weights, the profile leaves the healthy band: its slope is {slope.value:+.2g} per "
        f"layer, of which {slope.systematic:+.2g} comes from the sizes of weights and derivatives. The rest is chance, "
        f"which contributes {slope.drift:+.2g} in a typical draw of layers this narrow; another seed will differ."
    )
    evidence = {"slope": slope.value, "systematic": slope.systematic, "drift": slope.drift}
    return Finding("vanishing" if slope.value < 0.0 else "exploding", "info", (0,), "narrow_layer", text, evidence)


def _undecided(subject: Subject) -> Finding:
    """A profile that leaves the band by less than the noise of batches."""
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
