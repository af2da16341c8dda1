"""Tries cures.

Each candidate is measured again from the same seed on the same data, then trained beside the sick net for
the same short budget, over several seeds.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np

from . import measure as measuring
from . import trials
from .candidates import Candidate, Preparation, combined, propose, with_learning_rate
from .measure import Case, Progress
from .report import Outcome, Remedy, Report
from .slope import half_interval
from .subject import Thresholds
from .trials import Contestant, Split, Trial

# A cure must take away at least this share of the sick net's loss: less is no difference a user would see.
LEAST_EFFECT = 0.05
_MEASURED_BATCHES = 4
# A net whose training diverges at the rate of its optimizer is tried at this share of it, this often.
_LOWER_RATE, _RATES_TRIED = 0.125, 5
# The best remedy is trained on for this many times the budget: instability may come late.
_LONGER = 5
# Pairs are made of this many of the best single changes.
_PAIRED = 4


def find_remedies(
    report: Report,
    case: Case,
    *,
    verify: bool = True,
    steps: int | None = None,
    seeds: int = 3,
    limit: int = 8,
    pairs: int = 1,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> list[Remedy]:
    """Remedies for the findings of a report; see `Report.remedies`.

    Args:
        report, case: what was found, and on what.
        verify: try each one.
        steps: budget of each training; by default as many as a fixed amount of arithmetic allows, 60 to 150.
        seeds: trainings of each, >= 2; an undecided comparison gets as many again.
        limit: most candidates to try, the likeliest first. pairs: most pairs to try of those that came out best.
        seconds: start no further candidate after this time.
        progress: called with (done, total, name of the candidate).

    Returns:
        Those that helped, by the lower end of their effect; then those that did not; then those not tried.
        The best has been trained five times as long on top, and does not count as helping where that diverged.
        An interrupt (KeyboardInterrupt) ends the trials and gives what is there.
    """
    limits = Thresholds(**report.conditions["thresholds"])
    candidates = propose(report, case, limits)[:limit]
    if not verify or not candidates:
        return [_remedy(candidate, case) for candidate in candidates]
    budget = default_steps(case) if steps is None else steps
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    done: list[_Tried] = []
    queue, pairs_left, tried = list(candidates), pairs, 0
    try:
        _report_progress(progress, 0, len(candidates) + pairs, "the net as it is")
        trial = _Verification(report, case, limits, budget, seeds)
        while queue and time.monotonic() <= deadline:
            tried += 1
            _report_progress(progress, tried, len(candidates) + pairs + 1, queue[0].name)
            done.append(trial.verified(queue[0]))
            queue.pop(0)
            if not queue and pairs_left > 0:
                queue, pairs_left = _best_pair(done), pairs_left - 1
        _lasting(done)
    except KeyboardInterrupt:
        pass
    return [each.remedy for each in _ranked(done)] + [_remedy(candidate, case) for candidate in queue]


class _Tried(NamedTuple):
    """A candidate as it was tried in the end, what came of it, and its trainings (None where it could not be made)."""

    candidate: Candidate
    remedy: Remedy
    runner: _Runner | None

    @property
    def healthy(self) -> bool:
        """Whether the changed net's gradients were healthy."""
        return self.remedy.after is not None and self.remedy.after.verdict == "healthy"


def _ranked(done: list[_Tried]) -> list[_Tried]:
    """Those that helped, by the lower end of their effect, then those with healthy gradients, then the others."""
    return sorted(done, key=lambda each: (not each.remedy.helps, not each.healthy, -_lower_end(each.remedy)))


def _best_pair(done: list[_Tried]) -> list[Candidate]:
    """The two best changes that go together and were not tried together yet, as one; empty if there are none."""
    tried = {repr(each.candidate.change()) for each in done}
    for first, second in combinations(_ranked(done)[:_PAIRED], 2):
        pair = combined(first.candidate, second.candidate)
        if pair is not None and repr(pair.change()) not in tried:
            return [pair]
    return []


def _lasting(done: list[_Tried]) -> None:
    """Train the best remedy on; where it diverges after all it no longer helps, and the next best is tried."""
    for best in _ranked(done):
        if not best.remedy.helps or best.runner is None:
            return
        lasts, words = best.runner.trained_on()
        note = "; ".join(filter(None, (best.remedy.note, words)))
        done[done.index(best)] = best._replace(remedy=replace(best.remedy, helps=lasts, note=note))
        if lasts:
            return


def default_steps(case: Case) -> int:
    """Steps that take about 10 GFLOP, at least 60 and at most 150: a second or two for each candidate."""
    weights = sum(low * high for low, high in pairwise(case.net.config["widths"]))
    return int(min(max(1e10 / (6.0 * weights * case.batch_size), 60), 150))


def _report_progress(progress: Progress | None, done: int, total: int, what: str) -> None:
    if progress is not None:
        progress(done, total, what)


def _lower_end(remedy: Remedy) -> float:
    low = remedy.confidence[0]
    return low if math.isfinite(low) else -math.inf


def _remedy(candidate: Candidate, case: Case, **results: Any) -> Remedy:
    preparation = Preparation.of(candidate, case)
    return Remedy(
        name=candidate.name,
        change=candidate.change(),
        reason=candidate.reason,
        note=candidate.note,
        _apply=lambda: candidate.build(case),
        _prepare=preparation,
        **results,
    )


class _Runner:
    """The trainings of one contestant, seed by seed, at the learning rate chosen for it.

    Where no optimizer is given, a rate at which any seed diverges is given up for a lower one: no net is
    judged by a rate that does not suit it.
    """

    def __init__(self, contestant: Contestant, split: Split, steps: int) -> None:
        self.contestant, self.split, self.steps = contestant, split, steps
        self.lr = trials.best_learning_rate(contestant, split, steps)
        self.done: list[Trial] = []
        self._rates_left = 0 if self.lr is None else _RATES_TRIED

    def first(self, count: int) -> list[Trial]:
        """The trials of seeds 0 .. count - 1, run when first asked for."""
        while len(self.done) < count:
            trial = trials.train(self.contestant, self.split, steps=self.steps, seed=len(self.done), lr=self.lr)
            if trial.diverged and self.lr is not None and self._rates_left:
                self.lr, self.done, self._rates_left = self.lr * _LOWER_RATE, [], self._rates_left - 1
            else:
                self.done.append(trial)
        return self.done[:count]

    def trained_on(self) -> tuple[bool, str]:
        """Whether a longer training stays stable, and what came of it in words."""
        steps = _LONGER * self.steps
        trial = trials.train(self.contestant, self.split, steps=steps, seed=0, lr=self.lr)
        if trial.diverged:
            return False, f"diverges when trained on for {steps} steps"
        return True, f"trained on for {steps} steps it stays stable: loss {trial.loss:.3g}"


class _Verification:
    """The sick net's trials, and every candidate's beside them."""

    def __init__(self, report: Report, case: Case, limits: Thresholds, steps: int, seeds: int) -> None:
        self.report, self.case, self.limits = report, case, limits
        self.steps, self.seeds = steps, seeds
        self.split = trials.split_rows(len(case.x), case.seed)
        self.sick = _Runner(Contestant(case), self.split, steps)

    def verified(self, candidate: Candidate) -> _Tried:
        """The candidate with what came of it; an undecided comparison gets as many seeds again."""
        try:
            cured, verdict, slope = self._at_a_rate_that_suits(candidate)
        except ValueError as error:  # LSUV refuses a layer that is constant on this data
            impossible = replace(candidate, note=f"could not be made: {error}")
            return _Tried(
                impossible, _remedy(impossible, self.case, before=self._outcome(self.seeds), helps=False), None
            )
        contestant, candidate, count = cured.contestant, cured.contestant.candidate, self.seeds
        effect, low, high = self._compared(cured, count)
        if verdict == "healthy" and effect >= LEAST_EFFECT and low <= 0.0:
            count *= 2
            effect, low, high = self._compared(cured, count)
        remedy = _remedy(
            candidate,
            self.case,
            before=self._outcome(count),
            after=Outcome(verdict, slope, **trials.summary(cured.first(count))),
            effect=effect,
            confidence=(low, high),
            helps=verdict == "healthy" and low > 0.0 and effect >= LEAST_EFFECT,
            cost=self._cost(contestant, cured.first(count)),
        )
        return _Tried(candidate, remedy, cured)

    def _at_a_rate_that_suits(self, candidate: Candidate) -> tuple[_Runner, str, float]:
        """The trainings of a candidate, its verdict and its slope.

        At a lower rate where that of the given optimizer makes the changed net diverge: the change is not
        to be judged by that. Clipping stays as it is, being itself an answer to steps that are too large.
        """
        lr, changed = self.case.step_size, candidate
        for _ in range(_RATES_TRIED):
            contestant = Contestant(self.case, changed)
            verdict, slope, cause = self._measured_again(contestant)
            runner = _Runner(contestant, self.split, self.steps)
            if self.case.optimizer is None or candidate.training:
                break
            if cause != "learning_rate" and not any(trial.diverged for trial in runner.first(self.seeds)):
                break
            lr = float(f"{lr * _LOWER_RATE:.2g}")
            changed = with_learning_rate(candidate, lr)
        return runner, verdict, slope

    def _compared(self, cured: _Runner, count: int) -> tuple[float, float, float]:
        """Mean effect over `count` seeds and its 95 % interval."""
        effects = trials.effects(self.sick.first(count), cured.first(count))
        effect, half = float(effects.mean()), half_interval(effects)
        return effect, max(effect - half, -1.0), min(effect + half, 1.0)

    def _outcome(self, count: int) -> Outcome:
        return Outcome(self.report.verdict, self.report.slope.value, **trials.summary(self.sick.first(count)))

    def _measured_again(self, contestant: Contestant) -> tuple[str, float, str | None]:
        """Verdict, slope and worst cause of the changed net, from the same seed on the same (prepared) data."""
        from .analyze import examine
        from .judge import judge

        case = replace(
            contestant.case,
            net=contestant.net(),
            x=contestant.x,
            target=contestant.target,
            rows=self.case.rows[:_MEASURED_BATCHES],
            training=contestant.candidate.training,
        )
        measurement = measuring.measure(case, case.net.copy())
        if np.isfinite(measurement.losses).all():
            rehearsal = measuring.rehearse(case, case.net.copy(), keep_state=contestant.candidate.keeps_net)
            measurement = replace(measurement, rehearsal=rehearsal)
        subject = examine(case, measurement, self.limits)
        verdict, findings = judge(subject)
        serious = [finding.cause for finding in findings if finding.severity != "info"]
        return verdict, subject.slope.value, serious[0] if serious else None

    def _cost(self, contestant: Contestant, cured: list[Trial]) -> dict[str, float]:
        seconds = [min(trial.seconds_per_step for trial in group) for group in (cured, self.sick.done)]
        parameters = [net.parameters.flat.size for net in (contestant.net(), self.case.net)]
        return {"time_per_step": seconds[0] / max(seconds[1], 1e-12), "parameters": parameters[0] / parameters[1]}
