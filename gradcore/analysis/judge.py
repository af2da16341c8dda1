"""From the numbers of a `Subject` to findings and a verdict.

A slope over depth counts as vanishing or exploding if three conditions hold at once: it is outside its healthy band by
more than its error; it impairs learning with the optimizer in use; and, where the absolute size of updates is judged,
the gradient stands above batch noise. A slope that fails only the second is an `info`, which changes no verdict. The
limits and their derivations are in `subject.Thresholds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from . import causes, checks, steps, wording
from .arithmetic import bounded_exp, harmless
from .doubt import learned
from .harm import ABSOLUTE, harm_of_exploding, harm_of_vanishing, steps_to_escape
from .report import SEVERITIES, VERDICTS, Finding
from .silence import zero_gradient
from .slope import beyond_band
from .subject import LARGEST, Subject, where

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


def worst_cause(findings: Iterable[Finding]) -> str | None:
    """Cause of the first finding that is not an `info`; None if there is none."""
    return next((finding.cause for finding in findings if finding.severity != "info"), None)


def _stands_for(finding: Finding) -> str:
    return _VERDICT_OF_KIND.get(finding.kind, "healthy")


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
    text = f"The loss is {wording.significant(loss)}: nothing is left to learn, so the gradients are small."
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
        text += f" the largest {subject.dtype} is {wording.scientific(LARGEST[subject.dtype])}."
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
    if bad := where(~measurement.finite_parameters):
        return bad[0], "parameters", 0
    for batch, flow in enumerate(measurement.flows):
        if bad := where(flow.activation_nonfinite_share > 0.0):
            return bad[0], "forward", batch
        if not math.isfinite(measurement.losses[batch]):
            return measurement.depth - 1, "loss", batch
        for name, place in (("delta_nonfinite_share", "backward"), ("weight_grad_nonfinite_share", "weight_grad")):
            if bad := where(getattr(flow, name) > 0.0):
                return bad[-1], place, batch
    return None


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


def _vanishing(subject: Subject) -> Finding:
    harm = harm_of_vanishing(subject)
    cause = causes.of_vanishing(subject)
    norms = subject.profile_norms[:-1]
    affected = where(norms * subject.limits.norm_ratio < norms.max()) or (0,)
    parts = [wording.slope_sentence(subject), wording.location_sentence(subject)]
    parts += [wording.vanishing_cause(subject, cause), wording.update_sentence(subject)]
    if not subject.adaptive:
        outlook = subject.measurement.outlook
        left = outlook is not None and learned(subject, outlook.losses)
        parts.append(wording.plateau_sentence(subject, math.inf if left else steps_to_escape(subject)))
    parts.append(wording.adaptive_sentence(subject, harm) if harm else wording.no_harm(subject, cause))
    return _slope_finding("vanishing", subject, harm, affected, cause, parts)


def _exploding(subject: Subject) -> Finding:
    harm = harm_of_exploding(subject)
    cause = causes.of_exploding(subject)
    norms = subject.profile_norms[:-1]
    affected = where(norms > subject.limits.norm_ratio * norms[-1]) or (0,)
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


def _severity(subject: Subject, harm: dict[str, float]) -> str:
    """The severity of a harmful slope: critical if norms differ by norm_ratio^2 or a harm is absolute, else warning."""
    slope = subject.slope
    total = max(-slope.typical, slope.systematic) * slope.steps
    ends = bounded_exp(0.5 * total)
    absolute = any(name in harm for name in ABSOLUTE)
    return "critical" if absolute or ends > subject.limits.norm_ratio**2 else "warning"


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
