"""What the optimizer's own steps make of a net, tried on a copy where the verdict depends on it.

Two things no pass can tell. A step that throws the loss up may be the start of a divergence, or one of the few with
which a large rate finds flatter ground (Lewkowycz et al. 2020, arXiv:2003.02218). And a profile that is not level, or
outputs of a wrong scale, need not stop an optimizer that rescales each entry of the gradient: it moves every weight by
about lr a step, so that |w| / lr steps are the time in which it can write the weights anew. By then it has made good
what it can make good, or the net has lost what tells its inputs apart (`judge.steps_to_tell_apart`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from . import causes, checks
from . import measure as measuring
from .judge import beyond_band, rescaled
from .measure import Case, Outlook, Progress, harmless
from .propagation import difference
from .slope import estimate
from .subject import Subject

# After this many times the rehearsed steps a rate that finds flatter ground has found it, or is on its way.
RECOVERY = 8
# Steps at most: a smaller rate, which would need more to write the weights anew, is left undecided.
MOST_STEPS = RECOVERY * measuring.MOST_REHEARSED


@harmless
def look_ahead(subject: Subject, progress: Progress | None = None) -> Outlook | None:
    """The outlook of what was judged, or None where the verdict does not depend on it."""
    case = subject.case
    if case.optimizer is None:
        return None
    if checks.steps_in_doubt(subject) is not None:
        steps = RECOVERY * case.rehearsal_steps
        return _outlook(subject, steps, progress, patient=True, calmed_by=_calmed_by(subject))
    if (rescaled(subject) and beyond_band(subject.slope) < 0) or checks.error_of_scale(subject):
        steps = math.ceil(_rewriting_steps(case))
        return _outlook(subject, steps, progress) if 0 < steps <= MOST_STEPS else None
    return None


def _calmed_by(subject: Subject) -> str:
    """Which of the data's scales alone makes the steps too large: they are rehearsed with it divided out."""
    for cause, scale in causes.scales_of_data(subject).items():
        name = {"input_scale": "x", "target_scale": "target"}[cause]
        values = getattr(subject.case, name)
        case = replace(subject.case, **{name: (values / scale).astype(values.dtype)})
        rehearsal = measuring.rehearse(case, case.net.copy())
        trial = replace(subject, case=case, measurement=replace(subject.measurement, rehearsal=rehearsal))
        if checks.steps_in_doubt(trial) is None:
            return cause
    return ""


def _rewriting_steps(case: Case) -> float:
    """Steps of the size lr, with momentum lr / (1 - momentum), that add up to a typical weight of the middle layer."""
    sizes = [
        math.sqrt(measuring.mean_square(case.net.parameters[f"dense{layer}.weight"])) for layer in range(case.net.depth)
    ]
    return float(np.median(sizes)) / (case.step_size * case.memory)


def _outlook(
    subject: Subject, steps: int, progress: Progress | None, *, patient: bool = False, calmed_by: str = ""
) -> Outlook:
    """patient: as many steps again, time after time, while the loss comes down and the net has not learned."""
    case, net = subject.case, subject.case.net.copy()
    optimizer = case.optimizer_for(net, keep_state=case.trained)
    rng = np.random.default_rng((case.seed, 3))
    losses = _train(case, net, optimizer, rng, steps, progress)
    while patient and 2 * len(losses) <= MOST_STEPS and _comes_down(losses) and not checks.learned(subject, losses):
        losses = np.concatenate((losses, _train(case, net, optimizer, rng, len(losses), progress)))
    if not np.isfinite(losses).all():
        return Outlook(losses, None, math.nan, calmed_by)
    slope = estimate(measuring.measure(case, net), subject.limits.norm_ratio, trained=True)
    return Outlook(losses, slope, difference(net, case.x[case.rows[0]]), calmed_by)


def _comes_down(losses: np.ndarray) -> bool:
    half = len(losses) // 2
    return bool(np.isfinite(losses).all()) and float(losses[half:].mean()) < float(losses[:half].mean())


def _train(
    case: Case, net: Any, optimizer: Any, rng: np.random.Generator, steps: int, progress: Progress | None
) -> np.ndarray:
    """Losses of steps on random batches; ends with the first that is not finite."""
    losses: list[float] = []
    for done in range(steps):
        if progress is not None:
            progress(done, steps, "trying steps")
        batch = case.random_batch(net, rng)
        try:
            losses.append(
                net.train_step(*batch, optimizer, loss=case.loss, clip_norm=case.training.get("clip_norm")).loss
            )
        except FloatingPointError:  # a gradient that is not finite cannot be clipped
            losses.append(math.nan)
        if not math.isfinite(losses[-1]):
            break
    return np.array(losses)
