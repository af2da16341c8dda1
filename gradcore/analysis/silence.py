"""Findings about gradients that are exactly zero, and about units that are all alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..mlp import skip_connections
from . import causes, wording
from .measure import starved
from .report import Finding
from .subject import Subject, where

# n ReLU units are all dead by chance with probability 2^-n: in layers of more than 8 units (0.4 %) it is not chance.
_NARROW = 8
# Norms below this are so close to the smallest subnormal number (1.4e-45, 4.9e-324) that smaller values have been lost.
_NEAR_UNDERFLOW = {"float32": 1e-30, "float64": 1e-290}


def zero_gradient(subject: Subject) -> list[Finding]:
    """Findings about layers whose gradient is exactly zero for (nearly) all rows, or the same for all of their units.

    A layer without a gradient gets the first explanation that fits: all inputs are zero, a skip connection leads past
    the layer, some layer lets nothing through, next to nothing enters it (`starved`), nothing arrives from above.
    """
    found = [*_asleep(subject), *_alike(subject)]
    silent = where(subject.gradient_norms == 0.0)
    if not silent:
        return [*found, *_nearly_silent(subject)]
    if 0 in silent and subject.measurement.input_rms == 0.0:
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
    found += [_silent(rest, *_why_silent(subject, rest))] if rest else []
    found += [_silent(starved_layers, *_starvation(subject, starved_layers[0], _STARVED))] if starved_layers else []
    return found


def _silent(layers: tuple[int, ...], cause: str, text: str, evidence: dict[str, Any]) -> Finding:
    """A finding about layers without any gradient. text: the explanation."""
    opening = f"No gradient at all reaches the weights of {wording.layers(layers)}. "
    return Finding("zero_gradient", "critical", layers, cause, opening + text, evidence)


def _nearly_silent(subject: Subject) -> list[Finding]:
    """A finding about layers that hardly any row's gradient reaches, although it is not zero in every batch.

    If a share s of the batches of B rows brings no gradient at all, a row brings one with probability 1 - s^(1 / B). A
    layer learns as much slower as rows are rarer, and norm_ratio is the limit of that. Batches that the net has learned
    need no gradient.
    """
    measurement, limits = subject.measurement, subject.limits
    in_vain = measurement.stack("weight_grad_norm") == 0.0
    in_vain &= (measurement.losses > subject.unit_roundoff)[:, np.newaxis]
    passing = 1.0 - in_vain.mean(axis=0) ** (1.0 / measurement.mean_rows)
    layers = where(passing < 1.0 / limits.norm_ratio)
    if not layers:
        return []
    zeros = np.array([record.activation_zero_share for record in subject.records[:-1]])
    if zeros.max(initial=0.0) > 1.0 - 1.0 / limits.norm_ratio:
        layer = int(zeros.argmax())
        why = f"Of the outputs of layer {layer}, {100.0 * zeros[layer]:.4g} % are zero: next to nothing passes through."
        cause, evidence = "dead_units", dict[str, Any](dead_layer=layer)
    else:
        cause, why, evidence = _why_silent(subject, layers)
    batches = int(in_vain[:, layers].sum(axis=0).max())
    text = (
        f"In {batches} of {len(in_vain)} batches, no gradient at all reaches the weights of {wording.layers(layers)}. "
    )
    evidence = {**evidence, "share_of_rows": float(passing[list(layers)].max())}
    return [Finding("zero_gradient", "critical", layers, cause, text + why, evidence)]


def _alike(subject: Subject) -> list[Finding]:
    """A finding about layers whose units are all identical, as when all weights start at the same number."""
    layers = where(subject.measurement.alike & (subject.gradient_norms > 0.0))
    return [Finding("zero_gradient", "critical", layers, "weight_scale", _identical(layers))] if layers else []


def _identical(layers: tuple[int, ...]) -> str:
    return (
        f"The units of {wording.layers(layers)} are identical: they have the same weights and receive the same "
        "gradient, so they stay identical in every step, and a layer can do no more than a single unit. Draw the "
        "weights at random."
    )


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
        layers = where(woken)
        text = f"{opening.format(wording.layers(layers))}: all units of layer {dead} output zero for every row, until "
        text += f"{subject.optimizer_name} moves them with what it has accumulated in earlier steps."
        return [Finding("zero_gradient", "info", layers, "dead_units", text, {"dead_layer": dead})]
    found, starving = [], starved(start)
    above = where(woken & ~starving)
    below = where(woken & starving)
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
    evidence = {"input_rms": subject.measurement.input_rms}
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
    if zero := where(measurement.weight_var == 0.0):
        text = f"All weights of {wording.layers(zero)} are zero, and training cannot change that: draw them at random."
        return "weight_scale", text, {"layer": zero[-1]}
    layer = _dead_layer(subject)
    if layer is not None:
        if layer > 0 and measurement.rms("activation_norm")[layer - 1] < _NEAR_UNDERFLOW[subject.dtype]:
            what = f"Almost no signal enters layer {layer}, and its units output zero for every row."
            return _starvation(subject, layer, what)
        width = subject.records[layer].out_features
        cause = "narrow_layer" if width <= _NARROW else "dead_units"
        text = wording.closed_layer(layer, width) + "."
        text = text[0].upper() + text[1:]
        if cause == "narrow_layer":
            units = f"{width} ReLU unit{'s' if width > 1 else ''}"
            text += f" With random weights, this happens to a layer of {units} with probability 2^-{width}."
        return cause, text, {"dead_layer": layer, "width": width}
    return None


def _dead_layer(subject: Subject) -> int | None:
    """The lowest hidden layer whose units all output zero and pass no gradient, for every row; None without one."""
    measurement = subject.measurement
    dead = (measurement.stack("dead_share").min(axis=0) == 1.0) & (measurement.rms("delta_norm") == 0.0)
    return next(iter(where(dead[:-1])), None)


def _why_silent(subject: Subject, layers: tuple[int, ...]) -> tuple[str, str, dict[str, Any]]:
    """(cause, explanation, evidence): why no gradient arrives from above, although no layer is closed."""
    if subject.measurement.alike[list(layers)].all():  # layer norm, for one, leaves nothing of equal units
        return "weight_scale", _identical(layers), {}
    smallest = float(subject.profile_norms[subject.profile_norms > 0.0].min(initial=np.inf))
    if smallest < _NEAR_UNDERFLOW[subject.dtype]:
        text = f"The gradient shrinks to {wording.significant(smallest, 1)} and then underflows to zero in "
        text += f"{subject.dtype}."
        return "precision", text, {"smallest_norm": smallest}
    return "saturating_activation", "The derivative of the activation is exactly zero for every row.", {}
