"""What the losses of a few training steps say: whether the steps look too large, and whether anything is learned.

The losses come from steps that are tried on a copy of the net: a few rehearsed ones (`rehearsal`), and more where the
verdict depends on them (`outlook`). Here they are only read; `steps` turns them into findings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .arithmetic import GAUSS_95
from .case import Case
from .measure import Outlook
from .slope import half_interval
from .subject import Subject
from .wording import closed_layer, factor

# A step is large if, with momentum at full speed, it changes the pre-activations of the last hidden layer by more than
# this share of their norm. The changes of all layers add up only while each of them is small beside the others. Beyond
# that, the gradient no longer tells what a step does; deep nets get there at rates with which shallow ones learn.
_LARGE_SHIFT = 0.25
# A lower rate counts only if it takes away at least this share of the loss of a constant guess.
_CLEAR_GAIN = 0.05
# A rate falls behind if, in the same number of steps, it gains less than this share of what a lower rate gains.
_KEEPS_UP = 1.0 / 3.0


@dataclass(frozen=True)
class Doubt:
    """Why rehearsed steps look too large.

    what: the reason, as the end of a sentence.
    update: the largest |dW| / |W| of any layer.
    replacing: the step replaces the weights of a layer, but the loss stays near that of a constant guess or below it.
    falling: the loss falls nevertheless. Only more steps can tell.
    rising: the loss rises a little, or does not fall. Only more steps can tell, beside as many at a lower rate.
    passing: the loss stays, or rises in single steps only. Other explanations come first.
    final: no further step changes anything, as there is neither a gradient nor a memory of one.
    """

    what: str
    update: float
    replacing: bool = False
    falling: bool = False
    rising: bool = False
    passing: bool = False
    final: bool = False


def steps_in_doubt(subject: Subject) -> Doubt | None:
    """Whether the rehearsed steps look too large, and why; None if they do not, or if there are none."""
    rehearsal, limit = subject.measurement.rehearsal, subject.limits.diverged
    if rehearsal is None or rehearsal.lr == 0.0:
        return None
    losses, before, guess = rehearsal.losses, rehearsal.before, subject.case.constant_loss
    first, later = float(losses[0]), late_loss(losses)
    update = float(np.max(rehearsal.update_ratio, where=np.isfinite(rehearsal.update_ratio), initial=0.0))
    thrown = losses[~(losses <= limit * _own(before, max(first, guess)))]
    if thrown.size:
        what = f"within {len(losses)} steps the loss goes from {factor(first)} to {factor(thrown.max())}."
        return Doubt(what, update)
    if update > subject.limits.largest_update:
        what = f"the first step changes the weights of a layer by {factor(update)} times their norm, which "
        what += f"replaces them, and within {len(losses)} steps the loss goes from {factor(first)} to {factor(later)}."
        quiet = later <= limit * guess
        return Doubt(what, update, replacing=quiet, falling=quiet and not no_lower(losses))
    if rehearsal.closed is not None:
        clause = closed_layer(rehearsal.closed, subject.records[rehearsal.closed].out_features)
        final = not subject.adaptive and subject.case.memory == 1.0
        return Doubt(f"after {len(losses)} steps, {clause} any more.", update, final=final)
    if subject.case.optimizer is not None and no_lower(losses) and first > limit * guess > 0.0:
        what = f"the loss is {factor(first / guess)} times that of a constant guess and does not fall."
        return Doubt(what, update)
    relapse = _relapse(losses, before, guess)
    if relapse is not None:
        low, last = map(factor, relapse)
        what = f"within {len(losses)} steps the loss falls to {low} and rises again to {last}; "
        what += "further steps undo what was learned."
        return Doubt(what, update, falling=True)
    base = max(subject.measurement.loss, guess)
    noise = _noise_of_loss(subject, base, len(losses) - len(losses) // 2)
    stays = no_lower(losses) and later > base + noise
    peak = float(np.max(losses, where=losses > _own(before, first), initial=first))
    if subject.case.optimizer is not None and (stays or peak > base + _noise_of_loss(subject, base, 1)):
        what = f"within {len(losses)} steps the loss rises from {factor(first)} to {factor(peak)}."
        return Doubt(what, update, rising=True, passing=not stays)
    if subject.case.optimizer is not None and _restless(subject, losses):
        what = "the first step changes the pre-activations of the last hidden layer by "
        what += f"{factor(rehearsal.shift)} times their norm, and within {len(losses)} steps the loss does not "
        what += "fall below that of a constant guess."
        return Doubt(what, update, rising=True, passing=True)
    return None


def _restless(subject: Subject, losses: np.ndarray) -> bool:
    """Whether steps change much and nothing is learned. A lower rate may learn, so it has to be tried."""
    rehearsal = subject.measurement.rehearsal
    large = rehearsal is not None and is_large_shift(subject.case, rehearsal.shift)
    return large and not learned(subject, losses)


def is_large_shift(case: Case, shift: float) -> bool:
    """Whether steps are large, given what the first one changes (`_LARGE_SHIFT`) and the optimizer's momentum."""
    return shift * case.memory > _LARGE_SHIFT


def _own(before: np.ndarray | None, floor: float) -> np.ndarray | float:
    """What the loss of each step is compared with: that of its own batch before the steps, but at least `floor`.

    Of data with outliers, one batch has many times the loss of another: those that the steps meet later say nothing.
    """
    return floor if before is None else np.fmax(before, floor)


def _relapse(losses: np.ndarray, before: np.ndarray | None, guess: float) -> tuple[float, float] | None:
    """(lowest, last) mean loss over a quarter of the steps, if the steps learn something and then unlearn it.

    The lowest must lie below the loss of a constant guess, and the last above the lowest, both beyond their 95 %
    intervals; the last also by what the steps have made of the same batches. Fewer than eight steps are too few to
    tell: two losses a quarter have wide intervals.
    """
    if len(losses) < 8:
        return None
    quarters = np.array_split(losses, 4)
    lowest = int(np.argmin([part.mean() for part in quarters]))
    low, last = quarters[lowest], quarters[-1]
    if not float(low.mean()) + half_interval(low) < guess or not _clearly_lower(low, last):
        return None
    if before is not None:
        changes = np.array_split(losses - before, 4)
        if not _clearly_lower(changes[lowest], changes[-1]):
            return None
    return float(low.mean()), float(last.mean())


def _clearly_lower(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the mean of the one lies below that of the other, beyond the 95 % intervals of both."""
    return float(one.mean()) + half_interval(one) < float(other.mean()) - half_interval(other)


def late_loss(losses: np.ndarray) -> float:
    """Mean loss over the second half of the steps."""
    return float(np.mean(losses[len(losses) // 2 :]))


def no_lower(losses: np.ndarray) -> bool:
    """Whether the second half of a few steps has no lower mean loss than the first.

    Single batches differ too much to be compared; halves hardly do. A good step may replace weights that are small on
    purpose, but then the loss falls.
    """
    half = len(losses) // 2
    return half > 0 and float(np.mean(losses[half:])) >= float(np.mean(losses[:half]))


def learned(subject: Subject, losses: np.ndarray) -> bool:
    """Whether the late loss is below that of a constant guess by more than the noise of the batches."""
    later, guess = losses[len(losses) // 2 :], subject.case.constant_loss
    noise = max(half_interval(later), _noise_of_loss(subject, guess, len(later)))
    return bool(np.isfinite(losses).all()) and float(later.mean()) + noise < guess


def diverged(subject: Subject, losses: np.ndarray) -> bool:
    """Whether the late loss is far above both the loss at the start and that of a constant guess."""
    return not late_loss(losses) <= subject.limits.diverged * max(subject.measurement.loss, subject.case.constant_loss)


def outpaced(subject: Subject, outlook: Outlook) -> bool:
    """Whether as many steps at a lower rate learn, and end below those of the rate in use by more than the noise.

    They must also gain clearly (`_CLEAR_GAIN`): a gain just above the noise may come from learning a few rows by heart.
    """
    if outlook.slower is None or not learned(subject, outlook.slower):
        return False
    if late_loss(outlook.slower) > (1.0 - _CLEAR_GAIN) * subject.case.constant_loss:
        return False
    ends = [losses[len(losses) // 2 :] for losses in (outlook.slower, outlook.losses)]
    (low, margin), (high, other) = ((float(part.mean()), half_interval(part)) for part in ends)
    return low + margin < high - other


def falls_behind(subject: Subject, outlook: Outlook) -> bool:
    """Whether the rate in use learns next to nothing beside the lower one that outpaces it."""
    guess = subject.case.constant_loss
    assert outlook.slower is not None
    return guess - late_loss(outlook.losses) < _KEEPS_UP * (guess - late_loss(outlook.slower))


def _noise_of_loss(subject: Subject, loss: float, steps: int) -> float:
    """Half width of the 95 % interval of a mean loss over some batches.

    The loss of one row varies by about its mean, so the mean over N rows varies by loss / sqrt(N).
    """
    return GAUSS_95 * loss / math.sqrt(steps * min(subject.case.batch_size, len(subject.case.x)))
