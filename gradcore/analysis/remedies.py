"""Tries cures: each candidate is measured again from the same seed on the same data, then trained beside the
sick net for the same short budget, over several seeds."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np

from . import trials
from .candidates import Candidate, Preparation, propose
from .measure import Case, Progress
from .measure import measure as measure_case
from .measure import rehearse
from .report import Outcome, Remedy, Report
from .slope import student_95
from .subject import Thresholds
from .trials import Contestant, Trial

# A cure must take away at least this share of the sick net's loss: less is no difference a user would see.
LEAST_EFFECT = 0.05
_MEASURED_BATCHES = 4


def find_remedies(
    report: Report,
    case: Case,
    *,
    verify: bool = True,
    steps: int = 60,
    seeds: int = 3,
    limit: int = 10,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> list[Remedy]:
    """Remedies for the findings of a report; see `Report.remedies`.

    Args:
        report, case: what was found, and on what.
        verify: try each one.
        steps, seeds: the budget of each training, and how many are run.
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
    trial = _Verification(report, case, limits, steps, seeds)
    done: list[Remedy] = []
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    try:
        _report_progress(progress, 0, len(candidates), "the net as it is")
        trial.train_sick()
        for index, candidate in enumerate(candidates):
            if time.monotonic() > deadline:
                break
            _report_progress(progress, index + 1, len(candidates) + 1, candidate.name)
            done.append(trial.verified(candidate))
    except KeyboardInterrupt:
        pass
    untried = [_remedy(candidate, case) for candidate in candidates[len(done) :]]
    return sorted(done, key=lambda remedy: (not remedy.helps, -_lower_end(remedy))) + untried


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


class _Verification:
    """The sick net's trials, and every candidate's beside them."""

    def __init__(self, report: Report, case: Case, limits: Thresholds, steps: int, seeds: int) -> None:
        self.report, self.case, self.limits = report, case, limits
        self.steps, self.seeds = steps, seeds
        self.split = trials.split_rows(len(case.x), case.seed)
        self.sick: list[Trial] = []
        self.before: Outcome | None = None

    def train_sick(self) -> None:
        self.sick = self._train(Contestant(self.case))
        self.before = Outcome(self.report.verdict, self.report.slope.value, **trials.summary(self.sick))

    def _train(self, contestant: Contestant) -> list[Trial]:
        lr = trials.best_learning_rate(contestant, self.split, self.steps)
        return [
            trials.train(contestant, self.split, steps=self.steps, seed=seed, lr=lr) for seed in range(self.seeds)
        ]

    def verified(self, candidate: Candidate) -> Remedy:
        """The candidate with what came of it."""
        contestant = Contestant(self.case, candidate)
        try:
            verdict, slope = self._measured_again(contestant)
        except ValueError as error:  # LSUV refuses a layer that is constant on this data
            impossible = replace(candidate, note=f"could not be made: {error}")
            return _remedy(impossible, self.case, before=self.before, helps=False)
        cured = self._train(contestant)
        after = Outcome(verdict, slope, **trials.summary(cured))
        effects = trials.effects(self.sick, cured)
        half = float(effects.std(ddof=1)) / math.sqrt(len(effects)) * student_95(len(effects) - 1) if self.seeds > 1 else 0.0
        effect = float(effects.mean())
        confidence = (max(effect - half, -1.0), min(effect + half, 1.0))
        return _remedy(
            candidate,
            self.case,
            before=self.before,
            after=after,
            effect=effect,
            confidence=confidence,
            helps=verdict == "healthy" and confidence[0] > 0.0 and effect >= LEAST_EFFECT,
            cost=self._cost(contestant, cured),
        )

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
        measurement = measure_case(case, case.net.copy())
        if np.isfinite(measurement.losses).all():
            rehearsal = rehearse(case, case.net.copy(), keep_state=contestant.candidate.keeps_net)
            measurement = replace(measurement, rehearsal=rehearsal)
        subject = examine(case, measurement, self.limits)
        return judge(subject)[0], subject.slope.value

    def _cost(self, contestant: Contestant, cured: list[Trial]) -> dict[str, float]:
        seconds = [min(trial.seconds_per_step for trial in group) for group in (cured, self.sick)]
        parameters = [net.parameters.flat.size for net in (contestant.net(), self.case.net)]
        return {"time_per_step": seconds[0] / max(seconds[1], 1e-12), "parameters": parameters[0] / parameters[1]}
