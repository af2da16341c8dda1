"""The sentences of the findings: what the numbers mean, in plain English."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from .. import _check
from ..init import CRITICAL_GAIN_SQUARED
from ..mlp import skip_connections
from . import mean_field as theory
from .arithmetic import bounded_exp
from .causes import (
    LARGE_EXCESS,
    can_be_levelled,
    critical_variance,
    hidden_factors,
    saturating_inputs,
    signal_dies,
    steepest_layer,
    weight_excess,
)
from .measure import Outlook
from .report import Slope
from .subject import Subject


def factor(value: float) -> str:
    """A factor, ratio or loss with the digits that matter: 0.0557, 1.2e-8, 340, 4311."""
    if value == 0.0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-3 <= abs(value) < 9999.5:
        return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    return scientific(value)


def scientific(value: float, digits: int = 2) -> str:
    """`digits` significant digits and an exponent as in 1.2e-8 and 3.4e38, in sentences as in tables."""
    return _short(f"{value:.{digits - 1}e}")


def significant(value: float, digits: int = 6) -> str:
    """A number with up to `digits` significant digits, as a learning rate or a setting: 0.005, 1.3e-5, 1."""
    return _short(f"{value:.{digits}g}")


def _short(text: str) -> str:
    """A formatted number without the sign and zeros that Python puts before an exponent."""
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if mark else text


def layers(indices: Iterable[int]) -> str:
    """Layer numbers in words, with runs drawn together: 'layer 3', 'layers 0-4', 'layers 0-2 and 7'."""
    ordered = sorted(indices)
    runs: list[list[int]] = []
    for index in ordered:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in runs]
    joined = texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]
    return ("layer " if len(ordered) == 1 else "layers ") + joined


def closed_layer(layer: int, width: int) -> str:
    """That all units of a layer, of so many, are zero, as a clause."""
    who, verb = (f"all {width} units", "output") if width > 1 else ("the only unit", "outputs")
    return f"{who} of layer {layer} {verb} zero for every row, so nothing passes through it"


def slope_sentence(subject: Subject) -> str:
    """The growth of the gradient per layer, with its interval and the healthy band, and over all layers."""
    slope = subject.slope
    what = "dL/dh" if skip_connections(subject.measurement.config).any() else "delta"
    verb = "shrinks" if slope.value < 0.0 else "grows"
    half = 0.5 * (slope.systematic_high - slope.systematic_low)
    drift = f", and {slope.drift:+.2g} from finite width" if slope.typical < slope.band_low <= slope.systematic else ""
    norms = subject.profile_norms
    ends = norms[0] / norms[-2] if norms[-2] > 0.0 else math.nan
    growth = bounded_exp(slope.systematic)
    return (
        f"The gradient {verb} towards the input: |{what}|^2 is multiplied by {factor(growth)} per layer "
        f"(slope {slope.systematic:+.3g} +- {significant(half, 2)}{drift}; healthy at this depth: within "
        f"+-{slope.band_high:.2g}). Its norm at layer 0 is {factor(ends)} times that at the last hidden layer"
        f"{uneven_batches(slope, ends, factor)}."
    )


def uneven_batches(slope: Slope, ends: float, words: Callable[[float], str]) -> str:
    """A sentence to follow a ratio of norms, if it is a factor of 3 or more from that of the typical batch; else "".

    Norms over several batches are root mean squares, which the largest batch dominates; the slope is a mean over
    batches. ends: the ratio of norms at layer 0 and at the last hidden layer. words: puts a ratio into words.
    """
    typical = 0.5 * slope.value * (slope.steps - 1)
    if not (0.0 < ends < math.inf and abs(math.log(ends) - typical) >= math.log(3.0)):
        return ""
    told = words(bounded_exp(max(typical, -700.0)))
    return f". This is the root mean square over batches, which the largest dominate; in the typical batch it is {told}"


def location_sentence(subject: Subject) -> str:
    """Where the gradient changes, if most of the change happens between two layers; else ""."""
    layer, share = steepest_layer(subject)
    if subject.depth < 6 or not share > 0.5:
        return ""
    if share > 1.0:
        return f"The change happens between layers {layer + 1} and {layer}; the other layers undo part of it."
    return f"{100 * share:.0f} % of the change happens between layers {layer + 1} and {layer}."


def vanishing_cause(subject: Subject, cause: str) -> str:
    """Why the gradient shrinks: a sentence for a cause of `causes.of_vanishing`."""
    factors = {name: math.exp(value) for name, value in hidden_factors(subject).items()}
    names = sorted(set(subject.measurement.config["activation"]))
    name = " and ".join(names)
    slope = factors["mask"] * factors["active_slope"]
    if cause == "weight_scale":
        dies = " The signal also dies out on its way to the output." if signal_dies(subject) else ""
        small = weight_excess(subject) < 0.0
        scale = "The weights are too small for" if small else "The scale of the weights does not suit"
        enough = "would balance this" if can_be_levelled(subject, 0.0) else "is not quite enough at this depth"
        return (
            f"{scale} {name}: per layer, they multiply |delta|^2 by {factor(factors['weight_scale'])} and the "
            f"activation's derivative by {factor(slope)}; {_critical(subject)} {enough}.{dies}"
        )
    if cause == "input_scale":
        return _by_inputs(subject)
    if cause == "learning_rate":
        return (
            "Random weights of this size would preserve the gradient. The training steps have turned them into ones "
            "that do not; smaller steps would not have."
        )
    if cause == "activation_slope" and subject.measurement.config["normalization"]:
        return _normalized(subject, names)
    if cause == "narrow_layer":
        return (
            "Wide layers of this design would preserve the gradient; these are so narrow that chance decides. Wider "
            "layers, or fewer of them, preserve it."
        )
    if cause == "saturating_activation":
        return (
            f"The units are saturated: the mean squared derivative of {name} is {factor(slope)}, compared with "
            f"{factor(theory.derivative_moment(names[0], 1.0))} for inputs of unit variance."
        )
    if cause == "dead_units":
        return f"Most units are inactive: only {100 * factors['mask']:.3g} % of the entries pass a gradient."
    return (
        f"{name} shrinks the gradient even where it is not saturated: its mean squared derivative is "
        f"{factor(slope)} (at most {factor(_largest_slope(names) ** 2)}), and weights large enough to compensate "
        "would saturate it."
    )


def _by_inputs(subject: Subject) -> str:
    """Why the gradient changes if the scale of the inputs is the cause, as `causes.slope_of_inputs` explains."""
    rms, name = factor(subject.measurement.input_rms), subject.measurement.config["normalization"]
    if name is None:
        return (
            f"The inputs (root mean square {rms}) saturate layer 0: its activation passes on "
            f"{factor(bounded_exp(saturating_inputs(subject)))} times the |delta|^2 that it would for inputs of unit "
            "variance. Most of the change happens there, not over depth. Standardize the inputs."
        )
    return (
        f"In layer 0, {name} norm divides the gradient by the scale of the inputs (root mean square {rms}), as it "
        "does the signal: most of the change happens there, not over depth."
    )


def _normalized(subject: Subject, names: list[str]) -> str:
    """Why the gradient changes if the activation under layer or rms norm is the cause. names: of the activations."""
    growth = math.exp(float(np.mean([math.log(theory.layer_norm_growth(name)) for name in names])))
    return (
        f"With {subject.measurement.config['normalization']} norm, the scale of the weights has no effect, and "
        f"{' and '.join(names)} alone multiplies |delta|^2 by {factor(growth)} per layer: its mean squared slope over "
        "its mean squared output."
    )


def exploding_cause(subject: Subject, cause: str) -> str:
    """Why the gradient grows: a sentence for a cause of `causes.of_exploding`."""
    factors = {name: math.exp(value) for name, value in hidden_factors(subject).items()}
    names = sorted(set(subject.measurement.config["activation"]))
    if cause == "input_scale":
        return _by_inputs(subject)
    if cause == "batch_norm":
        rows = subject.measurement.batch_size
        growth = theory.batch_norm_growth(names[0], rows)
        gives = (
            f"should multiply |delta|^2 by {factor(growth)} per layer for {names[0]} at this batch size, whatever the"
        )
        gives += " weights (in theory, for wide layers and unlike rows), and this"
        if math.isinf(growth):
            gives = f"of {rows} rows, which can be close to zero by chance, multiplies |delta|^2 without limit, "
            gives += "and this"
        return (
            "Batch norm keeps the forward signal in range but makes the backward one grow: dividing by the standard "
            f"deviation {gives} compounds with depth. Skip connections stop it; "
            f"{'larger batches' if math.isinf(growth) else 'fewer layers'} limit it."
        )
    if cause == "weight_scale":
        return _by_weights(subject, names, factors)
    if cause == "activation_slope":
        return _normalized(subject, names)
    if skip_connections(subject.measurement.config).any():
        return (
            "Every skip connection adds its branch to the stream, so the sum grows from layer to layer. Dividing the "
            "branches by the square root of the depth, or a normalization, keeps it level."
        )
    return "The growth per layer is small, as small as this design allows; there are too many layers."


def _by_weights(subject: Subject, names: list[str], factors: Mapping[str, float]) -> str:
    """Why the gradient grows if the weights are the cause: by their size, or by how they lie to the gradient."""
    slope = factor(factors["mask"] * factors["active_slope"])
    whole = factor(factors["weight_scale"] * factors["alignment"])
    if weight_excess(subject) <= 0.0 < math.log(factors["alignment"]):
        return (
            f"The weights are not too large for {' and '.join(names)}, but they lie in the direction of the gradient: "
            f"per layer, they multiply |delta|^2 by {whole} (random weights of this size: by "
            f"{factor(factors['weight_scale'])}) and the activation's derivative by {slope}; random weights with "
            f"{_critical(subject)} would balance this."
        )
    return (
        f"The weights are too large for {' and '.join(names)}: per layer, they multiply |delta|^2 by {whole} and the "
        f"activation's derivative by {slope}; {_critical(subject)} would balance this."
    )


def _critical(subject: Subject) -> str:
    """The variance of the weights that would keep the gradient level with the biases that the net has, in words."""
    names = subject.measurement.config["activation"]
    biases = subject.measurement.bias_var
    best: dict[str, float] = {}
    for layer, name in enumerate(names[1:], start=1):
        best[name] = max(best.get(name, 0.0), critical_variance(name, float(biases[layer])))
    values = " and ".join(f"{best[name]:.3g} / fan_in for {name}" for name in sorted(best))
    beside = any(best[name] > 1.01 * CRITICAL_GAIN_SQUARED[name] for name in best)
    if beside:
        return f"a weight variance of {values} with these biases"
    redrawn = subject.measurement.config["init"] == "auto" and abs(weight_excess(subject)) > LARGE_EXCESS
    drawn = 'as init="auto" draws; these weights have changed since' if redrawn else 'init="auto"'
    return f"a weight variance of {values} ({drawn})"


def _largest_slope(names: list[str]) -> float:
    """The largest derivative of any of the activations."""
    return max(theory.largest_derivative(name) for name in names)


def update_sentence(subject: Subject) -> str:
    """How much one step of the optimizer changes the first and the last layer; "" at a learning rate of 0."""
    if subject.lr == 0.0:
        return ""
    updates = subject.updates
    text = "Weight decay apart, one" if subject.added_decay and not subject.adaptive else "One"
    text += (
        f" step of {subject.optimizer_name} at lr {significant(subject.lr)} changes the weights of layer 0 by "
        f"{factor(updates[0])} times their norm, and those of the output layer by {factor(updates[-1])}"
    )
    if subject.lasting_updates[0] < subject.unit_roundoff:
        text += f"; {subject.dtype} rounds away changes below {significant(subject.unit_roundoff, 1)}"
    return text + "."


def plateau_sentence(subject: Subject, steps: float) -> str:
    """What plain SGD achieves if the gradient vanishes: in one step, until it leaves the plateau, and in steps tried.

    steps: the number of steps in which theory expects SGD to leave the plateau; inf to say nothing about that.
    """
    parts = []
    fall, outlook = float(subject.relative_fall[:-1].sum()), subject.measurement.outlook
    if 0.0 < fall < 1.0 / subject.limits.learning_steps:
        parts.append(f"One step of the hidden layers removes only {factor(fall)} of the error.")
    if steps < math.inf:
        biases = ", often far sooner with biases" if subject.measurement.config["bias"] else ""
        parts.append(
            "Steps grow with the weights along the signal's path: in theory, they leave the plateau after about "
            f"{factor(float(f'{steps:.0e}'))} steps at this learning rate{biases}."
        )
    if outlook is not None and len(outlook.losses) > 1:
        half = len(outlook.losses) // 2
        first, later = (factor(float(part.mean())) for part in (outlook.losses[:half], outlook.losses[half:]))
        parts.append(f"In {len(outlook.losses)} trial steps, the loss went from {first} to {later}.")
    return " ".join(parts)


def adaptive_sentence(subject: Subject, lost: Mapping[str, float]) -> str:
    """What Adam would change, or why the adaptive optimizer in use does not help; "" if there is nothing to say.

    lost: the ways in which the gradient costs learning (`harm.harm_of_vanishing`).
    """
    outlook = subject.measurement.outlook
    if outlook is not None and "steps_to_tell_inputs_apart" in lost:
        return (
            f"{subject.optimizer_name} scales all gradients to one size, but after {len(outlook.losses)} steps, "
            "enough to rewrite the weights, the profile is still not level: only "
            f"{factor(outlook.difference)} of the last hidden layer's pre-activations differs between rows, which is "
            "lost in the noise of batches. At that pace it would take about "
            f"{factor(lost['steps_to_tell_inputs_apart'])} steps to tell inputs apart; the pace increases as they "
            "differ more, so it may take fewer, but still many."
        )
    share = subject.smallest_adaptive_step
    name, would = (subject.optimizer_name, "moves") if subject.adaptive else ("Adam", "would move")
    if share < 1.0 / subject.limits.norm_ratio:
        weakest = int(subject.adaptive_steps.argmin())
        smallest, decay = float(subject.gradient_elements[weakest]), float(subject.decay_elements[weakest])
        above = f"eps = {significant(subject.eps)}"
        if decay > subject.eps:
            above = f"what weight decay adds to them ({factor(decay)})"
        along = " along the gradient" if decay > subject.eps else ""
        return (
            f"{name} {would} the weights of the weakest layer by only {factor(share)} of its learning rate per step"
            f"{along}: the entries of that layer's dL/dW ({factor(smallest)}) are far below {above}."
        )
    if outlook is not None and "share_of_step" in lost:
        return (
            f"{subject.optimizer_name} adds weight decay to the gradient before it scales the sum, so the smaller the "
            f"gradient, the more of a step is decay: after {len(outlook.losses)} trial steps, the weights of the "
            f"weakest layer move along the gradient by only {factor(outlook.adaptive_step)} of the learning rate "
            f"(before: {factor(share)}), and the profile is still not level. Decay that acts apart from the gradient, "
            "as in AdamW, does not compete with it."
        )
    if subject.adaptive:
        return ""
    pace = f", the weakest by {factor(share)} of its learning rate per step" if share < 0.5 else ""
    return f"Adam, which divides each gradient by its size, would still move these layers{pace}."


def no_harm(subject: Subject, cause: str = "") -> str:
    """Why a slope outside its band is only an `info` finding, and what that leaves open.

    cause: of a gradient that shrinks; "" for one that grows.
    """
    tried = "; remedies() tries weights that suit the activation, to find out" if cause == "weight_scale" else ""
    return (
        f"Under {subject.optimizer_name} this does not stop the layers from moving, so it does not count against the "
        f"net. It may still slow down learning{tried}."
    )


def input_sentence(subject: Subject) -> str:
    """The root mean squares of the inputs and, unless they are classes or probabilities, of the targets."""
    inputs = f"Inputs have a root mean square of {factor(subject.measurement.input_rms)}"
    if subject.case.loss not in _check.VALUE_LOSSES:
        return f"{inputs}."
    return f"{inputs}, targets of {factor(subject.case.target_scale)}."


def outlook_sentence(outlook: Outlook, guess: float, recovered: bool) -> str:
    """Where further steps took the loss, after the first ones increased it; also at a lower rate, if that was tried.

    guess: loss of a constant guess. recovered: whether the net learned in these steps.
    """
    halves = [losses[len(losses) // 2 :] for losses in (outlook.losses, outlook.slower) if losses is not None]
    means = [float(half.mean()) for half in halves]
    ends = [factor(mean) for mean in means]
    beside = f"{'below' if means[0] < guess else 'no better than'} that of a constant guess ({factor(guess)})"
    verb = "the loss comes down again, to" if recovered else "the loss is at"
    text = f"Within {len(outlook.losses)} steps {verb} {ends[0]}, {beside}"
    return text + (f"; at {_SHARES[outlook.slower_share]} of this learning rate, {ends[1]}." if len(ends) > 1 else ".")


_SHARES = {0.1: "a tenth", 0.01: "a hundredth", 0.001: "a thousandth"}


def grown_weights(layer: int, growth: float, step: int) -> str:
    """How much training has enlarged the weights of a layer since a step, if that is the cause."""
    return (
        f"Since step {step}, training has multiplied the norm of layer {layer}'s weights by {factor(growth)}: its "
        "steps are too large. Lower the learning rate, or clip the gradients."
    )


def input_of_step(step: int, rms: float) -> str:
    """How large the inputs of one training step were, if that is the cause."""
    return (
        f"The inputs of step {step} have a root mean square of {factor(rms)}, which scales its gradients and so its "
        "size. Standardize the inputs, and check for outlier rows."
    )
