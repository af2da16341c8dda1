"""Tries cures.

Each candidate is measured again from the same seed on the same data, then trained beside the sick net for
the same short budget, over several seeds.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from . import measure as measuring
from . import trials
from .candidates import Candidate, Preparation, propose
from .measure import Case, Progress
from .report import Outcome, Remedy, Report
from .slope import half_interval
from .subject import Thresholds
from .trials import Contestant, Split, Trial

# A cure must take away at least this share of the sick net's loss: less is no difference a user would see.
LEAST_EFFECT = 0.05
_MEASURED_BATCHES = 4


def find_remedies(
    report: Report,
    case: Case,
    *,
    verify: bool = True,
    steps: int | None = None,
    seeds: int = 3,
    limit: int = 8,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> list[Remedy]:
    """Remedies for the findings of a report; see `Report.remedies`.

    Args:
        report, case: what was found, and on what.
        verify: try each one.
        steps: budget of each training; by default as many as a fixed amount of arithmetic allows, 60 to 150.
        seeds: trainings of each, >= 2; an undecided comparison gets as many again.
        limit: most candidates to try, the likeliest first.
        seconds: start no further candidate after this time.
        progress: called with (done, total, name of the candidate).

    Returns:
        Those that helped, by the lower end of their effect; then those that did not; then those not tried.
        An interrupt (KeyboardInterrupt) ends the trials and gives what is there.
    """
    limits = Thresholds(**report.conditions["thresholds"])
    candidates = propose(report, case, limits)[:limit]
    if not verify or not candidates:
        return [_remedy(candidate, case) for candidate in candidates]
    budget = default_steps(case) if steps is None else steps
    done: list[Remedy] = []
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    try:
        _report_progress(progress, 0, len(candidates), "the net as it is")
        trial = _Verification(report, case, limits, budget, seeds)
        for index, candidate in enumerate(candidates):
            if time.monotonic() > deadline:
                break
            _report_progress(progress, index + 1, len(candidates) + 1, candidate.name)
            done.append(trial.verified(candidate))
    except KeyboardInterrupt:
        pass
    untried = [_remedy(candidate, case) for candidate in candidates[len(done) :]]
    return sorted(done, key=lambda remedy: (not remedy.helps, -_lower_end(remedy))) + untried


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
    """The trainings of one contestant, seed by seed, at the learning rate chosen for it."""

    def __init__(self, contestant: Contestant, split: Split, steps: int) -> None:
        self.contestant, self.split, self.steps = contestant, split, steps
        self.lr = trials.best_learning_rate(contestant, split, steps)
        self.done: list[Trial] = []

    def first(self, count: int) -> list[Trial]:
        """The trials of seeds 0 .. count - 1, run when first asked for."""
        for seed in range(len(self.done), count):
            self.done.append(trials.train(self.contestant, self.split, steps=self.steps, seed=seed, lr=self.lr))
        return self.done[:count]


class _Verification:
    """The sick net's trials, and every candidate's beside them."""

    def __init__(self, report: Report, case: Case, limits: Thresholds, steps: int, seeds: int) -> None:
        self.report, self.case, self.limits = report, case, limits
        self.steps, self.seeds = steps, seeds
        self.split = trials.split_rows(len(case.x), case.seed)
        self.sick = _Runner(Contestant(case), self.split, steps)

    def verified(self, candidate: Candidate) -> Remedy:
        """The candidate with what came of it; an undecided comparison gets as many seeds again."""
        contestant = Contestant(self.case, candidate)
        try:
            verdict, slope = self._measured_again(contestant)
        except ValueError as error:  # LSUV refuses a layer that is constant on this data
            impossible = replace(candidate, note=f"could not be made: {error}")
            return _remedy(impossible, self.case, before=self._outcome(self.seeds), helps=False)
        cured = _Runner(contestant, self.split, self.steps)
        count = self.seeds
        effect, low, high = self._compared(cured, count)
        if verdict == "healthy" and effect >= LEAST_EFFECT and low <= 0.0:
            count *= 2
            effect, low, high = self._compared(cured, count)
        return _remedy(
            candidate,
            self.case,
            before=self._outcome(count),
            after=Outcome(verdict, slope, **trials.summary(cured.first(count))),
            effect=effect,
            confidence=(low, high),
            helps=verdict == "healthy" and low > 0.0 and effect >= LEAST_EFFECT,
            cost=self._cost(contestant, cured.first(count)),
        )

    def _compared(self, cured: _Runner, count: int) -> tuple[float, float, float]:
        """Mean effect over `count` seeds and its 95 % interval."""
        effects = trials.effects(self.sick.first(count), cured.first(count))
        effect, half = float(effects.mean()), half_interval(effects)
        return effect, max(effect - half, -1.0), min(effect + half, 1.0)

    def _outcome(self, count: int) -> Outcome:
        return Outcome(self.report.verdict, self.report.slope.value, **trials.summary(self.sick.first(count)))

    def _measured_again(self, contestant: Contestant) -> tuple[str, float]:
        """Verdict and slope of the changed net, from the same seed on the same (prepared) data."""
        from .analyze import examine
        from .judge import judge

        case = replace(
            self.case,
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
        return judge(subject)[0], subject.slope.value

    def _cost(self, contestant: Contestant, cured: list[Trial]) -> dict[str, float]:
        seconds = [min(trial.seconds_per_step for trial in group) for group in (cured, self.sick.done)]
        parameters = [net.parameters.flat.size for net in (contestant.net(), self.case.net)]
        return {"time_per_step": seconds[0] / max(seconds[1], 1e-12), "parameters": parameters[0] / parameters[1]}
