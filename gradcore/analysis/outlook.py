"""What the optimizer's own steps make of a net, tried on a copy where the verdict depends on it.

Three things no pass can tell. A step that throws the loss up may be the start of a divergence, or one of the few with
which a large rate finds flatter ground (Lewkowycz et al. 2020, arXiv:2003.02218); where it is thrown up a little, or
stays although steps change much, those of a lower rate tell whether they are too large or the net slow. A
profile that is not level, or outputs of a wrong scale, need not stop an optimizer that rescales each entry of the
gradient: it moves every weight by about lr a step, so that |w| / lr steps are the time in which it can write the
weights anew. By then it has made good what it can make good, or the net has lost what tells its inputs apart
(`judge.steps_to_tell_apart`). And SGD's small steps on a plateau grow; where they may leave it soon
(`judge.steps_to_escape`), they are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .._status import Progress
from . import causes
from . import measure as measuring
from .arithmetic import harmless
from .case import Case
from .doubt import Doubt, is_large_shift, learned, no_lower, outpaced, steps_in_doubt
from .judge import beyond_band, may_leave_plateau, rescaled
from .measure import Outlook
from .propagation import difference
from .rehearsal import MOST_REHEARSED, first_shift, rehearsal_steps, rehearse
from .slope import estimate
from .steps import error_of_scale
from .subject import Subject
from .weights import rescale

# After this many times the rehearsed steps a rate that finds flatter ground has found it, or is on its way.
RECOVERY = 8
# The other rates that steps are tried at, as shares of theirs: the first that a lower one is looked for at, and those
# that deep nets need where a tenth of a rate is still too large.
SLOWER = (0.1, 0.01, 0.001)
# Steps at most: a smaller rate, which would need more to write the weights anew, is left undecided.
MOST_STEPS = RECOVERY * MOST_REHEARSED


@harmless
def look_ahead(subject: Subject, progress: Progress | None = None) -> Outlook | None:
    """The outlook of what was judged, or None where the verdict does not depend on it."""
    case = subject.case
    if case.optimizer is None or case.step_size == 0.0:
        return None
    several = RECOVERY * rehearsal_steps(case)
    doubt = steps_in_doubt(subject)
    if doubt is not None and not doubt.passing:
        return _of_doubt(subject, doubt, several, progress)
    if may_leave_plateau(subject):
        return _outlook(subject, several, progress, until=round(min(subject.limits.plateau_steps, MOST_STEPS)))
    grows = bool(error_of_scale(subject))
    if grows or (rescaled(subject) and beyond_band(subject.slope) < 0):
        steps = _rewriting_steps(case)
        if not 0.0 < steps <= MOST_STEPS:
            return None
        # Weights that have to grow, or to shrink, need longer than it takes to write them at the size they have.
        return _outlook(subject, max(math.ceil(steps), several if grows else 0), progress, patient=grows)
    return None if doubt is None else _of_doubt(subject, doubt, several, progress)


def _of_doubt(subject: Subject, doubt: Doubt, steps: int, progress: Progress | None) -> Outlook:
    """What becomes of steps that look too large; where they may not be, also of as many at a lower rate."""
    found = _outlook(subject, steps, progress, patient=True, calmed_by=_calmed_by(subject))
    return _beside_lower_rate(subject, found, progress) if doubt.rising or doubt.falling else found


def _beside_lower_rate(subject: Subject, found: Outlook, progress: Progress | None) -> Outlook:
    """Found, with as many steps at a tenth of the rate; where neither learns, at the first whose steps change little.

    A rate that is far too large for the depth is so at a tenth, too.
    """
    case, steps = subject.case, len(found.losses)
    losses = _losses_at(SLOWER[0], case, steps, progress)
    tenth = replace(found, slower=losses)
    if learned(subject, found.losses) or learned(subject, losses):
        return tenth
    calm = (share for share in SLOWER if not is_large_shift(case, first_shift(_at_share(case, share))))
    share = next(calm, SLOWER[-1])
    if share == SLOWER[0]:
        return tenth
    slower = replace(found, slower=_losses_at(share, case, steps, progress), slower_share=share)
    return slower if outpaced(subject, slower) else tenth


def _calmed_by(subject: Subject) -> tuple[str, ...]:
    """Whose scale makes the steps too large, the larger first: without it the same steps raise no doubt.

    One of the data's by itself, or else both together; or else that of weights larger than critical ones.
    """
    case, scales = subject.case, causes.scales_of_data(subject)
    by_size = tuple(sorted(scales, key=lambda name: -scales[name]))
    for chosen in dict.fromkeys([*((name,) for name in scales), by_size]):
        if chosen and _calm(subject, _at_unit_scale(case, {name: scales[name] for name in chosen})):
            return chosen
    if causes.weights_too_large(subject):
        net = case.net.copy()
        rescale(net)
        if _calm(subject, replace(case, net=net)):
            return ("weight_scale",)
    return ()


def _at_unit_scale(case: Case, scales: Mapping[str, float]) -> Case:
    names = {"input_scale": "x", "target_scale": "target"}
    values = {names[cause]: getattr(case, names[cause]) for cause in scales}
    sizes = {names[cause]: scale for cause, scale in scales.items()}
    return replace(case, **{name: (values[name] / sizes[name]).astype(values[name].dtype) for name in values})


def _calm(subject: Subject, case: Case) -> bool:
    """Whether rehearsed steps of a changed case raise no doubt but one that passes."""
    net = case.net.copy()
    measurement = measuring.measure(case, net)
    if not np.isfinite(measurement.losses).all():
        return False
    measurement = replace(measurement, rehearsal=rehearse(case, net))
    doubt = steps_in_doubt(replace(subject, case=case, measurement=measurement))
    return doubt is None or doubt.passing


def _rewriting_steps(case: Case) -> float:
    """Steps of the size lr, with momentum lr / (1 - momentum), that add up to a typical weight of the middle layer."""
    sizes = [
        math.sqrt(measuring.mean_square(case.net.parameters[f"dense{layer}.weight"])) for layer in range(case.net.depth)
    ]
    step = case.step_size * case.memory
    return float(np.median(sizes)) / step if step > 0.0 else math.inf


def _outlook(
    subject: Subject,
    steps: int,
    progress: Progress | None,
    *,
    patient: bool = False,
    until: int = 0,
    calmed_by: tuple[str, ...] = (),
) -> Outlook:
    """As many steps again, time after time, while the net has not learned.

    patient: and while the loss comes down. until: or up to so many, whatever it does, as on a plateau.
    """
    case, net = subject.case, subject.case.net.copy()
    optimizer = case.optimizer_for(net)
    rng = np.random.default_rng((case.seed, 3))
    losses = _train(case, net, optimizer, rng, steps, progress)
    while np.isfinite(losses).all() and not learned(subject, losses):
        more = min(len(losses), until - len(losses))
        if patient and 2 * len(losses) <= MOST_STEPS and not no_lower(losses):
            more = len(losses)
        if more <= 0:
            break
        losses = np.concatenate((losses, _train(case, net, optimizer, rng, more, progress)))
    if not np.isfinite(losses).all():
        return Outlook(losses, None, math.nan, calmed_by)
    slope = estimate(measuring.measure(case, net), subject.limits.norm_ratio, trained=True)
    return Outlook(losses, slope, difference(net, case.x[case.rows[0]]), calmed_by)


def _at_share(case: Case, share: float) -> Case:
    """The same at a lower rate."""
    return replace(case, training={**case.training, "lr": share * case.step_size})


def _losses_at(share: float, case: Case, steps: int, progress: Progress | None) -> np.ndarray:
    """Losses of the same steps on the same batches at a share of the rate."""
    case = _at_share(case, share)
    net = case.net.copy()
    optimizer = case.optimizer_for(net)
    return _train(case, net, optimizer, np.random.default_rng((case.seed, 3)), steps, progress)


def _train(
    case: Case, net: Any, optimizer: Any, rng: np.random.Generator, steps: int, progress: Progress | None
) -> np.ndarray:
    """Losses of steps on random batches; ends with the first that is not finite."""
    losses: list[float] = []
    for done in range(steps):
        if progress is not None:
            progress(done, steps, "trying steps")
        losses.append(case.step(net, optimizer, case.random_batch(net, rng)))
        if not math.isfinite(losses[-1]):
            break
    return np.array(losses)
