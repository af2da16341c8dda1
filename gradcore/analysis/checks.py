"""The findings beside the slope: output and loss, step sizes, units, data, number formats."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..mlp import NORM_EPS
from . import causes, wording
from .arithmetic import GAUSS_95
from .case import Case
from .measure import Outlook
from .report import Finding, LayerRecord
from .slope import half_interval
from .subject import SMALLEST_NORMAL, Subject

_BOUNDED = ("sigmoid", "tanh", "hard_tanh")
_MASKING = ("relu",)
_TRAINING_FORMATS = ("fp16", "bf16")  # gradients in fp8 are always scaled, tensor by tensor


def loss_output(subject: Subject) -> list[Finding]:
    """A softmax over one output is constantly 1: no loss, no gradient."""
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


# ---- step sizes ----


def large_steps(subject: Subject, *, vanishing: bool) -> list[Finding]:
    """Steps that throw the loss up, or that are large and for nothing, as tried on copies.

    vanishing: whether the gradient does. Then weights that a step replaces do not count: any step does that where they
    are too small, and that nothing is learned has its reason.
    """
    rehearsal, outlook, limit = subject.measurement.rehearsal, subject.measurement.outlook, subject.limits.diverged
    doubt = steps_in_doubt(subject)
    if rehearsal is None or doubt is None or (vanishing and doubt.replacing):
        return []
    slow = outlook is not None and outpaced(subject, outlook)
    recovered = (
        outlook is not None and learned(subject, outlook.losses) and not (slow and _falls_behind(subject, outlook))
    )
    if doubt.falling and not slow and (outlook is None or recovered):
        return []
    if doubt.rising and (vanishing or outlook is None or not (slow or diverged(subject, outlook.losses))):
        return []
    first, guess = float(rehearsal.losses[0]), subject.case.constant_loss
    cause = causes.of_large_step(subject, scaled_loss=first > limit * guess)
    text = f"Steps of {subject.optimizer_name} at lr {rehearsal.lr:g} are too large: {doubt.what} "
    both = outlook is not None and len(outlook.calmed_by) > 1
    text += f"{wording.input_sentence(subject)} {_BOTH_SCALES if both else _LARGE_STEP[cause]}"
    peak = float(np.max(rehearsal.losses))
    evidence = {"lr": rehearsal.lr, "first_loss": first, "highest_loss": peak, "largest_update": doubt.update}
    if outlook is not None and (recovered or outlook.slower is not None):
        text += f" {wording.outlook_sentence(outlook, guess, recovered)}"
    every = tuple(range(subject.depth))
    return [Finding("exploding", "info" if recovered else "critical", every, cause, text, evidence)]


@dataclass(frozen=True)
class Doubt:
    """What rehearsed steps do that makes them look too large.

    update: |dW| / |W|, the largest. replacing: by its size alone, at a loss near that of a constant guess or below.
    falling: the loss does fall, so that only more steps can tell. rising: it rises, but not far, or does not fall: the
    same, and what a lower rate makes of as many. passing: it rises in single steps only, or stays: others come first.
    """

    what: str
    update: float
    replacing: bool = False
    falling: bool = False
    rising: bool = False
    passing: bool = False


def steps_in_doubt(subject: Subject) -> Doubt | None:
    """Whether the rehearsed steps look too large, and why."""
    rehearsal, limit = subject.measurement.rehearsal, subject.limits.diverged
    if rehearsal is None or rehearsal.lr == 0.0:
        return None
    losses, guess = rehearsal.losses, subject.case.constant_loss
    first, peak, later = float(losses[0]), float(np.max(losses)), _later(losses)
    update = float(np.max(rehearsal.update_ratio, where=np.isfinite(rehearsal.update_ratio), initial=0.0))
    if not peak <= limit * max(first, guess):
        what = f"within {len(losses)} steps the loss goes from {first:.3g} to {peak:.3g}."
        return Doubt(what, update)
    if update > subject.limits.largest_update:
        what = f"the first step changes the weights of a layer by {wording.factor(update)} times their norm, which "
        what += f"replaces them, and within {len(losses)} steps the loss goes from {first:.3g} to {later:.3g}."
        quiet = later <= limit * guess
        return Doubt(what, update, replacing=quiet, falling=quiet and not no_lower(losses))
    if subject.case.optimizer is not None and no_lower(losses) and first > limit * guess > 0.0:
        what = f"the loss is {wording.factor(first / guess)} times that of a constant guess and does not fall."
        return Doubt(what, update)
    relapse = _relapse(losses, guess)
    if relapse is not None:
        what = f"within {len(losses)} steps the loss falls to {relapse[0]:.3g} and rises again to {relapse[1]:.3g}; "
        what += "further steps undo what was learned."
        return Doubt(what, update, falling=True)
    base = max(subject.measurement.loss, guess)
    noise = _noise_of_loss(subject, base, len(losses) - len(losses) // 2)
    stays = no_lower(losses) and later > base + noise
    if subject.case.optimizer is not None and (stays or peak > base + _noise_of_loss(subject, base, 1)):
        what = f"within {len(losses)} steps the loss rises from {first:.3g} to {peak:.3g}."
        return Doubt(what, update, rising=True, passing=not stays)
    if subject.case.optimizer is not None and _restless(subject, losses):
        what = "the first step changes the pre-activations of the last hidden layer by "
        what += f"{wording.factor(rehearsal.shift)} times their norm, and within {len(losses)} steps the loss does not "
        what += "fall below that of a constant guess."
        return Doubt(what, update, rising=True, passing=True)
    return None


# Change of what the last hidden layer computes, by one step, from which on the layers' changes are no longer small
# beside each other: where each is small, those of all layers add up, so that deep nets leave the range in which a
# gradient tells what a step does at rates that shallow ones learn with.
_LARGE_SHIFT = 0.25


def _restless(subject: Subject, losses: np.ndarray) -> bool:
    """Whether steps, momentum under way, change much and nothing is learned: a lower rate may, which is to be tried."""
    rehearsal = subject.measurement.rehearsal
    large = rehearsal is not None and is_large_shift(subject.case, rehearsal.shift)
    return large and not learned(subject, losses)


def is_large_shift(case: Case, shift: float) -> bool:
    """Whether steps of which the first changes the last hidden layer by this share change much, momentum under way."""
    return shift * case.memory > _LARGE_SHIFT


def _relapse(losses: np.ndarray, guess: float) -> tuple[float, float] | None:
    """The lowest mean of a quarter of some losses and that of the last, where steps have learned and unlearn it again.

    That is, where the first lies below the loss of a constant guess and the second above the first, beyond the 95 %
    intervals of both: with the two steps a quarter of a short rehearsal these are too wide to tell.
    """
    if len(losses) < 8:
        return None
    quarters = np.array_split(losses, 4)
    means, noises = [float(part.mean()) for part in quarters], [half_interval(part) for part in quarters]
    lowest = int(np.argmin(means))
    ceiling = means[lowest] + noises[lowest]
    return (means[lowest], means[-1]) if ceiling < min(guess, means[-1] - noises[-1]) else None


def _later(losses: np.ndarray) -> float:
    """Mean of the second half of some losses."""
    return float(np.mean(losses[len(losses) // 2 :]))


def learned(subject: Subject, losses: np.ndarray) -> bool:
    """Whether the second half of some steps' losses is below that of a constant guess, beyond the noise of batches."""
    later, guess = losses[len(losses) // 2 :], subject.case.constant_loss
    noise = max(half_interval(later), _noise_of_loss(subject, guess, len(later)))
    return bool(np.isfinite(losses).all()) and float(later.mean()) + noise < guess


def diverged(subject: Subject, losses: np.ndarray) -> bool:
    """Whether it is far above both the loss that the net began with and that of a constant guess."""
    return not _later(losses) <= subject.limits.diverged * max(subject.measurement.loss, subject.case.constant_loss)


def outpaced(subject: Subject, outlook: Outlook) -> bool:
    """Whether the same steps at a lower rate learn, and end below those of the rate in use beyond the noise of both.

    A gain that is only just above the noise may be that of learning a few rows by heart.
    """
    if outlook.slower is None or not learned(subject, outlook.slower):
        return False
    if _later(outlook.slower) > (1.0 - _CLEAR_GAIN) * subject.case.constant_loss:
        return False
    ends = [losses[len(losses) // 2 :] for losses in (outlook.slower, outlook.losses)]
    (low, margin), (high, other) = ((float(part.mean()), half_interval(part)) for part in ends)
    return low + margin < high - other


# Share of the loss of a constant guess that a lower rate has to take away to count.
_CLEAR_GAIN = 0.05
# Share of what a lower rate learns in the same steps, below which a rate that is outpaced hardly learns.
_KEEPS_UP = 1.0 / 3.0


def _falls_behind(subject: Subject, outlook: Outlook) -> bool:
    """Whether the rate in use learns next to nothing beside a lower one that outpaces it."""
    guess = subject.case.constant_loss
    assert outlook.slower is not None
    return guess - _later(outlook.losses) < _KEEPS_UP * (guess - _later(outlook.slower))


def _noise_of_loss(subject: Subject, loss: float, steps: int) -> float:
    """Half width of the 95 % interval of a loss over some batches: on N rows within about 1 / sqrt(N) of it."""
    return GAUSS_95 * loss / math.sqrt(steps * min(subject.case.batch_size, len(subject.case.x)))


def scale_to_unlearn(subject: Subject, *, explained: bool) -> list[Finding]:
    """An error of the scale of weights or targets, not of the data, and what the optimizer in use makes of it.

    Where it stays for as long as writing all weights anew takes (`outlook`), nothing of the data is learned by then.
    """
    cause, outlook = error_of_scale(subject), subject.measurement.outlook
    if explained or not cause or outlook is None:
        return []
    first, guess, later = subject.measurement.loss, subject.case.constant_loss, _later(outlook.losses)
    far = first > subject.limits.diverged * guess  # large targets alone do not take the loss there
    text = f"The loss is {wording.factor(first)}, {'far above that' if far else 'compared with that'} of a constant "
    text += f"guess ({wording.factor(guess)}). "
    text += f"{_SCALE_TO_UNLEARN[cause]} {wording.input_sentence(subject)} "
    text += f"{len(outlook.losses)} steps of {subject.optimizer_name} at lr {subject.lr:g} take the loss to "
    text += f"{wording.factor(later)}, "
    loud = not later < subject.limits.diverged * guess
    if learned(subject, outlook.losses):
        severity, text = "info", text + "so training recovers from this."
    elif cause == "weight_scale" and not loud:
        severity, text = "info", text + "which undoes most of that scale."
    else:
        severity = "critical" if loud else "warning"
        text += "no better than a constant guess: nothing about the data is learned until that scale is undone."
    evidence = {"first_loss": first, "constant_guess": guess, "steps": len(outlook.losses), "later_loss": later}
    return [Finding("exploding", severity, tuple(range(subject.depth)), cause, text, evidence)]


_SCALE_TO_UNLEARN = {
    "weight_scale": "The weights are too large for the activation: every layer multiplies the outputs by the excess.",
    "target_scale": "Targets this large need equally large outputs, which small steps reach late.",
}


def error_of_scale(subject: Subject) -> str:
    """The cause of an error that is none of the data's: "weight_scale", "target_scale" or ""."""
    if subject.case.target_scale > subject.limits.input_scale:
        return "target_scale"
    guess = subject.case.constant_loss
    loud = subject.measurement.loss > subject.limits.diverged * guess > 0.0
    return "weight_scale" if loud and causes.weights_too_large(subject) else ""


def no_lower(losses: np.ndarray) -> bool:
    """Whether the second half of a few steps is no better than the first: batches differ, halves hardly do.

    Weights that are small on purpose are replaced by a good step, too, but then the loss falls.
    """
    half = len(losses) // 2
    return half > 0 and float(np.mean(losses[half:])) >= float(np.mean(losses[:half]))


_LARGE_STEP = {
    "input_scale": "Standardize the inputs: they scale the outputs and the gradients alike.",
    "target_scale": "Standardize the targets: their scale is that of the error and of every gradient.",
    "weight_scale": "The weights are too large for the activation: every layer multiplies the error by the excess.",
    "learning_rate": "Lower the learning rate, or clip the gradients.",
}
_BOTH_SCALES = "Standardize the inputs and the targets: each alone makes the steps too large."


def small_steps(subject: Subject, *, explained: bool) -> list[Finding]:
    """Updates that rounding swallows in every layer, although there is a gradient to follow; or a rate of zero."""
    if subject.case.optimizer is None:
        return []
    every, updates = tuple(range(subject.depth)), subject.lasting_updates
    if subject.lr == 0.0:
        text = (
            f"The learning rate of {subject.optimizer_name} is 0, as before a warm-up or after a schedule has ended: "
            "no step changes the weights, so none is judged."
        )
        return [Finding("update_ratio", "warning", every, "learning_rate", text, {"largest_update": 0.0})]
    if explained or not subject.has_signal or not np.all(updates < subject.unit_roundoff):
        return []
    text = (
        f"In every layer, the update is below {subject.unit_roundoff:.1g} of the weights (the largest: "
        f"{wording.factor(float(updates.max()))}), which {subject.dtype} rounds away. The learning rate is too small "
        "for these gradients."
    )
    return [Finding("update_ratio", "warning", every, "learning_rate", text, {"largest_update": float(updates.max())})]


def few_rows(subject: Subject) -> list[Finding]:
    """Batch norm over two or three rows: the mean growth of a gradient on its way back has no limit (`mean_field`).

    Of two rows a unit makes +1 and -1 exactly, so that no gradient passes but what its eps leaves of one.
    """
    rows = subject.measurement.batch_size
    if subject.measurement.config["normalization"] != "batch" or rows > 3:
        return []
    if rows == 2:
        text = "With 2 rows, batch norm turns every unit into +1 and -1, whatever it computes. No gradient passes, "
        text += "except where the rows nearly agree, and there the factor can be any number. "
    else:
        text = f"With {rows} rows, batch norm divides by a standard deviation that can be close to zero by chance, so "
        text += "the mean growth of |delta|^2 per layer has no limit. "
    text += "Some steps are therefore far larger than others. Use batches of 8 rows or more, which limit the growth to "
    text += "1.2 times that of large ones, or layer norm, which does not depend on the batch."
    every = tuple(range(subject.depth - 1))
    return [Finding("update_ratio", "warning", every, "batch_norm", text, {"rows": rows})]


# ---- units ----


def dead_units(subject: Subject) -> list[Finding]:
    """More units off for the whole data than chance explains."""
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
    """Largest number of dead units among `width` that random ReLU layers show, but for `false_alarm` of the nets.

    When all rows point the same way, as deep in a net, each unit is dead with probability 1/2.
    """
    tail, level = 0.0, subject.limits.false_alarm / max(subject.depth - 1, 1)
    for dead in range(width, 0, -1):
        tail += math.exp(math.lgamma(width + 1) - math.lgamma(dead + 1) - math.lgamma(width - dead + 1)
                         - width * math.log(2.0))  # fmt: skip
        if tail > level:
            return dead
    return 0


def saturation(subject: Subject) -> list[Finding]:
    """Bounded activations whose entries are mostly saturated; one finding a cause."""
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
    """Inputs whose overall scale, or whose columns' scales, are far apart from one."""
    case, limits, measurement = subject.case, subject.limits, subject.measurement
    rms = math.sqrt(measurement.input_square)
    deviations = np.asarray(case.x, dtype=np.float64).std(axis=0)
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
    return findings


def _seen_scale(subject: Subject, rms: float) -> float:
    """Root mean square of small inputs as the layers after the first one meet it.

    A normalization makes most good, but where biases are left that the inputs have to stand up to. Steps of layer 0 are
    enlarged by 1 / rms: its weights need that, while biases of unit size would do without. Batch norm takes them out.
    """
    mended = _normalizes(subject) and not _biases_weigh(subject)
    return rms / math.sqrt(rms**2 + NORM_EPS) if mended else rms


def _normalizes(subject: Subject) -> bool:
    """Whether a normalization follows the first layer: none does the output layer."""
    return subject.measurement.config["normalization"] is not None and subject.depth > 1


def _biases_weigh(subject: Subject) -> bool:
    """Whether the first layer has biases that its normalization leaves in: batch norm takes them out."""
    config = subject.measurement.config
    return bool(config["bias"]) and config["normalization"] != "batch"


# ---- number formats ----


def _loses_digits(subject: Subject, record: LayerRecord) -> bool:
    """Whether many of a layer's deltas are subnormal, and matter.

    They do not where the typical delta, times the unit roundoff, is a normal number, as in a net that is sure of
    most rows: the sums that they enter round off more than they have lost.
    """
    typical = record.delta_norm / math.sqrt(subject.measurement.mean_rows * record.out_features)
    negligible = typical * subject.unit_roundoff >= SMALLEST_NORMAL[subject.dtype]
    return record.delta_subnormal_share > subject.limits.underflow and not negligible


def underflow(subject: Subject) -> list[Finding]:
    """Deltas too small for the net's own format (a warning), or for a smaller one (for information)."""
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
