"""Findings about the size of training steps: too large, too small, or spent on undoing a wrong scale."""

from __future__ import annotations

import numpy as np

from . import causes, wording
from .doubt import diverged, falls_behind, late_loss, learned, outpaced, steps_in_doubt
from .report import Finding
from .subject import Subject

_LARGE_STEP = {
    "input_scale": "Standardize the inputs: they scale the outputs and the gradients alike.",
    "target_scale": "Standardize the targets: their scale is that of the error and of every gradient.",
    "weight_scale": "The weights are too large for the activation: every layer multiplies the error by the excess.",
    "learning_rate": "Lower the learning rate, or clip the gradients.",
}
_BOTH_SCALES = "Standardize the inputs and the targets: each alone makes the steps too large."

_SCALE_TO_UNLEARN = {
    "weight_scale": "The weights are too large for the activation: every layer multiplies the outputs by the excess.",
    "target_scale": "Targets this large need equally large outputs, which small steps reach late.",
}


def large_steps(subject: Subject, *, vanishing: bool) -> list[Finding]:
    """Steps that increase the loss, or that are large and teach nothing, as tried on copies of the net.

    vanishing: whether the gradient vanishes. Steps that replace weights then do not count: where weights are too small,
    every step replaces them, and that nothing is learned has its explanation.
    """
    rehearsal, outlook, limit = subject.measurement.rehearsal, subject.measurement.outlook, subject.limits.diverged
    doubt = steps_in_doubt(subject)
    if rehearsal is None or doubt is None or (vanishing and doubt.replacing):
        return []
    slow = outlook is not None and outpaced(subject, outlook)
    recovered = False
    if outlook is not None and not doubt.final and learned(subject, outlook.losses):
        recovered = not (slow and falls_behind(subject, outlook))
    if doubt.falling and not slow and (outlook is None or recovered):
        return []
    if doubt.rising and (vanishing or outlook is None or not (slow or diverged(subject, outlook.losses))):
        return []
    first, guess = float(rehearsal.losses[0]), subject.case.constant_loss
    cause = causes.of_large_step(subject, scaled_loss=first > limit * guess)
    text = f"Steps of {subject.optimizer_name} at lr {wording.significant(rehearsal.lr)} are too large: {doubt.what} "
    if causes.scales_of_data(subject):
        text += f"{wording.input_sentence(subject)} "
    text += _BOTH_SCALES if outlook is not None and len(outlook.calmed_by) > 1 else _LARGE_STEP[cause]
    peak = float(np.max(rehearsal.losses))
    evidence = {"lr": rehearsal.lr, "first_loss": first, "highest_loss": peak, "largest_update": doubt.update}
    if outlook is not None and (recovered or outlook.slower is not None):
        text += f" {wording.outlook_sentence(outlook, guess, recovered)}"
    every = tuple(range(subject.depth))
    return [Finding("exploding", "info" if recovered else "critical", every, cause, text, evidence)]


def scale_to_unlearn(subject: Subject, *, explained: bool) -> list[Finding]:
    """Weights or targets of a wrong scale, and what the optimizer in use makes of it.

    If the loss is still high after the time in which all weights could be written anew (`outlook`), then nothing about
    the data has been learned by then. explained: whether another finding accounts for this already.
    """
    cause, outlook = error_of_scale(subject), subject.measurement.outlook
    if explained or not cause or outlook is None:
        return []
    first, guess, later = subject.measurement.loss, subject.case.constant_loss, late_loss(outlook.losses)
    far = first > subject.limits.diverged * guess  # large targets alone do not take the loss there
    text = f"The loss is {wording.factor(first)}, {'far above that' if far else 'compared with that'} of a constant "
    text += f"guess ({wording.factor(guess)}). "
    text += f"{_SCALE_TO_UNLEARN[cause]} {wording.input_sentence(subject)} "
    text += f"{len(outlook.losses)} steps of {subject.optimizer_name} at lr {wording.significant(subject.lr)} take "
    text += f"the loss to {wording.factor(later)}, "
    loud = not later < subject.limits.diverged * guess
    if learned(subject, outlook.losses):
        severity, text = "info", text + "so training recovers from this."
    elif cause == "weight_scale" and not loud:
        severity, text = "info", text + "which undoes most of that scale."
    else:
        severity = "critical" if loud else "warning"
        text += "not clearly below that: little" if later < guess else "no better than a constant guess: nothing"
        text += " about the data is learned until that scale is undone."
    evidence = {"first_loss": first, "constant_guess": guess, "steps": len(outlook.losses), "later_loss": later}
    return [Finding("exploding", severity, tuple(range(subject.depth)), cause, text, evidence)]


def error_of_scale(subject: Subject) -> str:
    """What has a scale that makes the first loss large: "target_scale", "weight_scale", or "" for neither."""
    if subject.case.target_scale > subject.limits.input_scale:
        return "target_scale"
    guess = subject.case.constant_loss
    loud = subject.measurement.loss > subject.limits.diverged * guess > 0.0
    return "weight_scale" if loud and causes.weights_too_large(subject) else ""


def small_steps(subject: Subject, *, explained: bool) -> list[Finding]:
    """A learning rate of zero, or updates that are rounded away in every layer although there is a gradient to follow.

    explained: whether another finding accounts for small updates already.
    """
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
        f"In every layer, the update is below {wording.significant(subject.unit_roundoff, 1)} of the weights (the "
        f"largest: {wording.factor(float(updates.max()))}), which {subject.dtype} rounds away. The learning rate is "
        "too small for these gradients."
    )
    return [Finding("update_ratio", "warning", every, "learning_rate", text, {"largest_update": float(updates.max())})]


def few_rows(subject: Subject) -> list[Finding]:
    """Batch norm over two or three rows, where the mean growth of the gradient has no limit (`mean_field`).

    With two rows, a unit's values become exactly +1 and -1, and only eps lets any gradient pass.
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
