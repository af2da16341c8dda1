"""What the optimizer's own steps make of a net, tried on a copy if the verdict depends on it.

Passes alone cannot answer three questions:

- Are the steps too large? One that makes the loss jump may be the start of a divergence, or one of the few with which a
  large rate finds flatter ground (Lewkowycz et al. 2020, arXiv:2003.02218). If the loss rises only a little, or does
  not fall although the steps change much, steps at a lower rate tell whether the rate is too large or the net is slow.
- Does an optimizer that rescales each entry of the gradient make up for a profile that is not level, or for outputs of
  a wrong scale? It moves every weight by about lr per step, so it can rewrite the weights in |w| / lr steps. By then it
  has made up for what it can, or the net has lost what tells its inputs apart (`harm.steps_to_tell_apart`). Where
  weight decay is added to a gradient and outweighs it, the race takes longer: either the net learns in time, or the
  decay shrinks the weights and they the gradient, until only the decay moves them (`harm.decay_has_won`).
- Does SGD leave a plateau? Its small steps grow there. If it may leave soon (`harm.steps_to_escape`), they are tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .._check import VALUE_LOSSES
from .._status import Progress
from . import causes
from . import measure as measuring
from .arithmetic import harmless, root_mean_square
from .case import Case
from .doubt import Doubt, is_large_shift, learned, no_lower, outpaced, steps_in_doubt
from .harm import decay_has_won, harm_of_vanishing, may_leave_plateau, rescaled
from .measure import Outlook
from .propagation import difference
from .rehearsal import MOST_REHEARSED, first_shift, rehearsal_steps, rehearse
from .slope import beyond_band, estimate
from .steps import error_of_scale
from .subject import Subject
from .weights import rescale

# A large rate that finds flatter ground has found it, or is on its way, after this many times the rehearsed steps.
RECOVERY = 8
# Lower rates at which steps are tried, as shares of the rate in use. The first is always tried; the others are for deep
# nets, for which a tenth of a rate may still be too large.
SLOWER = (0.1, 0.01, 0.001)
# The most steps that are tried. A rate so small that rewriting the weights takes more is left undecided.
MOST_STEPS = RECOVERY * MOST_REHEARSED


@harmless
def look_ahead(subject: Subject, progress: Progress | None = None, most: float = MOST_STEPS) -> Outlook | None:
    """The outlook of a net; None without an optimizer, at a rate of 0, or if the verdict does not depend on it.

    The verdict depends on more steps in four cases, here in the order of precedence: the rehearsed steps are in doubt;
    SGD may leave a plateau; the optimizer may undo a wrong scale or, if it is adaptive, a vanishing gradient; a doubt
    is `passing`. In the third case there is no outlook if the optimizer needs more than MOST_STEPS, and that of the
    fourth is taken if the gradient turns out to be no harm although nothing was learned.

    most: go on beyond the fewest steps that may decide only up to this number in all.
    """
    case = subject.case
    if case.optimizer is None or case.step_size == 0.0:
        return None
    several = RECOVERY * rehearsal_steps(case)
    doubt = steps_in_doubt(subject)
    until = round(min(subject.limits.plateau_steps, MOST_STEPS)) if may_leave_plateau(subject) else 0
    if doubt is not None and not doubt.passing:
        return _of_doubt(subject, doubt, several, progress, most, until)
    if until:
        return _outlook(subject, several, progress, most, until=until)
    wrong_scale = bool(error_of_scale(subject))
    if wrong_scale or (rescaled(subject) and beyond_band(subject.slope) < 0):
        steps = _rewriting_steps(case)
        if not 0.0 < steps <= MOST_STEPS:
            return None
        # Weights that have to grow or to shrink need more steps than rewriting them at their present size takes.
        steps = max(math.ceil(steps), several if wrong_scale else 0)
        found = _outlook(subject, steps, progress, most, patient=wrong_scale)
        if doubt is not None and not wrong_scale and not _explains(subject, found):
            return _of_doubt(subject, doubt, several, progress, most)
        if not decay_has_won(subject, found):
            return found
        # Chance may have decided the race: it is lost only if it is lost on other batches, too.
        again = _outlook(subject, steps, progress, most, patient=wrong_scale, draw=1)
        return found if decay_has_won(subject, again) else again
    return None if doubt is None else _of_doubt(subject, doubt, several, progress, most)


def _explains(subject: Subject, found: Outlook) -> bool:
    """Whether a gradient that vanishes for an adaptive optimizer accounts for what the net learns: it does harm."""
    after = replace(subject, measurement=replace(subject.measurement, outlook=found))
    return learned(subject, found.losses) or bool(harm_of_vanishing(after))


def _of_doubt(
    subject: Subject, doubt: Doubt, steps: int, progress: Progress | None, most: float, until: int = 0
) -> Outlook:
    """The outlook of steps that look too large.

    It includes as many steps at a lower rate if the doubt is `rising` or `falling`, so that only more steps can tell.
    until: as in `_outlook`.
    """
    found = _outlook(subject, steps, progress, most, patient=True, until=until, calmed_by=_calmed_by(subject))
    return _beside_lower_rate(subject, found, progress) if doubt.rising or doubt.falling else found


def _beside_lower_rate(subject: Subject, found: Outlook, progress: Progress | None) -> Outlook:
    """The outlook `found`, with the losses of as many steps at a lower rate.

    This is a tenth of the rate in use. A rate that is far too large for the depth may be so at a tenth, too. If neither
    learns, it is therefore the first rate of SLOWER at which the first step changes little (or else the last of them),
    provided that it outpaces the rate in use.
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
    """The scales that make the steps too large: without them, the same steps raise no doubt. () if there are none.

    Tried in turn: the scale of the inputs, of the targets, of both (listed with the larger first), and of weights that
    are larger than critical ones ("weight_scale").
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
    """The case with its inputs or targets divided by their root mean square. scales: by cause."""
    names = {"input_scale": "x", "target_scale": "target"}
    values = {names[cause]: getattr(case, names[cause]) for cause in scales}
    sizes = {names[cause]: scale for cause, scale in scales.items()}
    return replace(case, **{name: (values[name] / sizes[name]).astype(values[name].dtype) for name in values})


def _calm(subject: Subject, case: Case) -> bool:
    """Whether the rehearsed steps of a changed case raise no doubt, or one that is `passing`."""
    net = case.net.copy()
    measurement = measuring.measure(case, net)
    if not np.isfinite(measurement.losses).all():
        return False
    measurement = replace(measurement, rehearsal=rehearse(case, net, measurement.losses))
    doubt = steps_in_doubt(replace(subject, case=case, measurement=measurement))
    return doubt is None or doubt.passing


def _rewriting_steps(case: Case) -> float:
    """The number of steps of size lr (with momentum lr / (1 - momentum)) that add up to a typical weight.

    The typical weight is the median over the layers of the root mean square of their weights. At a step size of 0, the
    number is infinite.
    """
    sizes = [root_mean_square(case.net.parameters[f"dense{layer}.weight"]) for layer in range(case.net.depth)]
    step = case.step_size * case.memory
    return float(np.median(sizes)) / step if step > 0.0 else math.inf


def _outlook(
    subject: Subject,
    steps: int,
    progress: Progress | None,
    most: float,
    *,
    patient: bool = False,
    until: int = 0,
    draw: int = 0,
    calmed_by: tuple[str, ...] = (),
) -> Outlook:
    """Take `steps` steps on a copy of the net, then as many again, time after time, while it has not learned.

    patient: go on while the loss falls, up to MOST_STEPS in all. until: go on up to this number in all, whatever the
    loss does, as on a plateau. If neither is given, go on only while weight decay may win (`_decay_may_win`), up to
    MOST_STEPS. most: a further limit, once the first `steps` are taken. draw: number of the choice of batches.
    calmed_by: a field of the outlook.
    """
    case, net = subject.case, subject.case.net.copy()
    optimizer = case.optimizer_for(net)
    rng = _batches(case, draw)
    taken = _train(case, net, optimizer, rng, steps, progress)
    losses, cut_short = _levelled(case, taken), False
    while np.isfinite(losses).all() and not learned(subject, losses):
        more = min(len(losses), until - len(losses))
        if patient and 2 * len(losses) <= MOST_STEPS and not no_lower(losses):
            more = len(losses)
        if more <= 0 and _decay_may_win(_after(subject, net)):
            more = min(len(losses), MOST_STEPS - len(losses))
        cut_short = more > 0 and len(losses) + more > most
        if more <= 0 or cut_short:
            break
        taken = np.concatenate((taken, _train(case, net, optimizer, rng, more, progress)), axis=1)
        losses = _levelled(case, taken)
    if not np.isfinite(losses).all():
        return Outlook(losses, None, math.nan, math.nan, calmed_by)
    after, apart = _after(subject, net), difference(net, case.x[case.rows[0]])
    return Outlook(losses, after.slope, apart, after.smallest_adaptive_step, calmed_by, cut_short=cut_short)


def _after(subject: Subject, net: Any) -> Subject:
    """The subject with the measurement and the slope of a net that has taken steps; its records are the old ones."""
    measurement = measuring.measure(subject.case, net.copy())
    slope = estimate(measurement, subject.limits.norm_ratio, trained=True)
    return replace(subject, measurement=measurement, slope=slope)


def _decay_may_win(subject: Subject) -> bool:
    """Whether weight decay outweighs the gradient that it is added to, in some layer of a net whose gradient vanishes.

    It need not have the last word: layers above may learn faster than this one shrinks. `harm.decay_has_won` tells when
    it has.
    """
    outweighed = subject.decay_elements[:-1] > subject.gradient_elements[:-1]
    return bool(outweighed.any()) and rescaled(subject) and beyond_band(subject.slope) < 0


def _batches(case: Case, draw: int = 0) -> np.random.Generator:
    """The generator that draws the batches of trial steps."""
    return np.random.default_rng((case.seed, 3) if draw == 0 else (case.seed, 3, draw))


def _at_share(case: Case, share: float) -> Case:
    """The case with a share of its learning rate."""
    return replace(case, training={**case.training, "lr": share * case.step_size})


def _losses_at(share: float, case: Case, steps: int, progress: Progress | None) -> np.ndarray:
    """Losses of the steps of `_outlook`, on the same batches, at a share of the learning rate."""
    case = _at_share(case, share)
    net = case.net.copy()
    optimizer = case.optimizer_for(net)
    return _levelled(case, _train(case, net, optimizer, _batches(case), steps, progress))


def _train(
    case: Case, net: Any, optimizer: Any, rng: np.random.Generator, steps: int, progress: Progress | None
) -> np.ndarray:
    """Losses of steps on random batches, and of a constant guess on them, [2, steps]; ends where one is not finite."""
    losses: list[tuple[float, float]] = []
    for done in range(steps):
        if progress is not None:
            progress(done, steps, "trying steps")
        rows = case.random_rows(rng)
        guess = float(case.constant_losses[rows].mean()) if case.loss in VALUE_LOSSES else 0.0
        losses.append((case.step(net, optimizer, case.batch_of(net, rows)), guess))
        if not math.isfinite(losses[-1][0]):
            break
    return np.array(losses).T


def _levelled(case: Case, taken: np.ndarray) -> np.ndarray:
    """The losses without what the choice of rows adds to them, as far as the constant guess shows it, [steps].

    Of targets with outliers, one batch has many times the loss of another for any net. What the two losses share is
    taken away (a control variate), in each half of the steps for itself: a net that has learned the outliers shares
    nothing.
    """
    losses: np.ndarray
    losses, guesses = taken
    away = guesses - case.constant_loss
    if case.loss not in VALUE_LOSSES or not np.isfinite(losses).all() or not away.any():
        return losses
    halves = [slice(None, len(losses) // 2), slice(len(losses) // 2, None)]
    return np.concatenate([losses[half] - _share(losses[half], away[half]) * away[half] for half in halves])


def _share(losses: np.ndarray, away: np.ndarray) -> float:
    """Slope of the losses over the difficulty of their batches, in [0, 1]."""
    if len(losses) < 2 or not np.ptp(away):
        return 0.0
    spread = away - away.mean()
    return float(np.clip(np.mean(spread * losses) / np.mean(spread**2), 0.0, 1.0))
