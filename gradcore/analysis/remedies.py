"""The search for cures: the single candidates, then pairs of the best, then a longer training of the best one.

Each candidate is measured with the same seed on the same data as the analysed net, and then trained beside it for the
same short budget, over several seeds (`verification`). Threads try candidates in parallel: native code runs without the
GIL, and a step of a small net uses one thread. The results do not depend on the number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import Future, as_completed
from dataclasses import replace
from itertools import combinations
from typing import Any

from .. import _check
from .._runtime import get_num_threads
from .._status import Progress, shown
from .candidates import Candidate, combined
from .case import Case
from .proposals import propose
from .report import Remedy, Report
from .subject import Thresholds
from .trials import Crew, default_steps
from .verification import Tried, Verification, remedy_of

# Pairs are made of this many of the best candidates.
_PAIRED = 4
# Notes of remedies that are not tried to the end: by what stopped the trials.
_NOT_TRIED = {"end": "", "seconds": "not tried: the time was up", "interrupt": "interrupted before its trials ended"}
_NOT_TRAINED_LONGER = "interrupted before its longer training ended"


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
    progress: bool | Progress | None = True,
) -> list[Remedy]:
    """Remedies for the findings of a report; see `Report.remedies`.

    Args:
        report, case: the findings and what they were found on. The report's `tried` and `trials_stopped_by` are set.
        verify: try each candidate.
        steps: training budget; the default, 60 to 150, is what a fixed amount of arithmetic (10 GFLOP) allows. Nets of
            more than about 200,000 weights, at 128 rows a batch, get 60, and each step then costs in proportion to
            weights and rows. A candidate costs up to `seeds` trainings, twice that if undecided, at up to six learning
            rates, and before that up to 1000 steps that judge the changed net, where its verdict depends on them, three
            times over at most. For large nets, those are fewer, as far as they cost more than for nets of that size; a
            remedy's note says if that left its verdict open. Twelve layers of 512 units take a minute or several:
            `seconds` bounds that.
        seeds: trainings per candidate, >= 2; an undecided comparison gets as many again.
        limit: most candidates to try, the likeliest first. pairs: most pairs of the best candidates to try.
        seconds: start no further candidate after this time; those not tried are listed without a result.
        progress: True shows a line in a terminal or notebook, False nothing; a function is called with (done, total,
            name of a candidate being tried), by the calling thread.

    Raises:
        ValueError, TypeError: naming the argument.

    Returns:
        Remedies that helped, by the lower end of the interval of their effect; then those that did not; then those not
        tried. Some changes also need a lower learning rate than that of the given optimizer, or standardized data. They
        count as helping only if they do better than that rate or that data alone, which is then listed, too (by more
        than chance, if that alone helps). The best remedy has also been trained five times as long, and does not count
        as helping if that diverged.
        An interrupt (KeyboardInterrupt) ends the trials and returns the results so far; the note of each remedy without
        a result says so, and that of the best one if its longer training is missing.
    """
    check_trials(verify=verify, steps=steps, seeds=seeds, limit=limit, pairs=pairs, seconds=seconds, progress=progress)
    with shown(progress) as show:
        limits = Thresholds(**report.conditions["thresholds"])
        candidates = propose(report, case, limits)[:limit]
        if not verify or not candidates:
            found = [remedy_of(candidate, case) for candidate in candidates]
            report.tried, report.trials_stopped_by = tuple(found), None
            return found
        budget = default_steps(case) if steps is None else steps
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        with Crew(max(1, min(get_num_threads(), len(candidates)))) as crew:
            verification = Verification(report, case, limits, budget, seeds, crew)
            search = _Search(verification, candidates, pairs, deadline, show)
            search.run()
    found = search.remedies()
    report.tried, report.trials_stopped_by = tuple(found), search.stopped_by
    return found


def check_trials(
    *,
    verify: bool,
    steps: int | None,
    seeds: int,
    limit: int,
    pairs: int,
    seconds: float | None,
    progress: bool | Progress | None,
) -> None:
    """Check the options of `find_remedies` before anything is measured.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    _check.flag(verify, "verify")
    if steps is not None:
        _check.integer(steps, "steps", 1)
    for value, name, lowest in ((seeds, "seeds", 2), (limit, "limit", 0), (pairs, "pairs", 0)):
        _check.integer(value, name, lowest)
    if seconds is not None:
        _check.number(seconds, "seconds", "a number >= 0 or None", lambda given: given >= 0)
    if not callable(progress):
        _check.progress(progress)


class _Search:
    """The trials of one report: single candidates in parallel, then pairs of the best, then a longer training."""

    def __init__(
        self,
        verification: Verification,
        candidates: list[Candidate],
        pairs: int,
        deadline: float,
        progress: Progress | None,
    ) -> None:
        self._verification, self._crew, self._pairs = verification, verification.crew, pairs
        self._deadline, self._progress = deadline, progress
        self._total = 1 + len(candidates) + pairs
        self.stopped_by = "end"  # or "seconds", "interrupt": `Report.trials_stopped_by`
        self._order = list(candidates)
        self._tried: dict[int, Tried] = {}

    @property
    def done(self) -> list[Tried]:
        """What was tried so far, in the order of the candidates.

        Yardsticks (parts of a change that were tried alone) come last, unless they are candidates themselves.
        """
        listed = {repr(each.candidate.change()) for each in self._tried.values()}
        for each in self._verification.yardsticks:
            if repr(each.candidate.change()) not in listed:
                self._order.append(each.candidate)
                self._tried[len(self._order) - 1] = each
        return [self._tried[index] for index in sorted(self._tried)]

    @property
    def untried(self) -> list[Candidate]:
        """Candidates without a result: not begun, or not finished."""
        return [candidate for index, candidate in enumerate(self._order) if index not in self._tried]

    def run(self) -> None:
        """Run all trials; what is finished at the deadline, or at an interrupt, is in `done`."""
        try:
            self._run()
        except KeyboardInterrupt:
            self.stopped_by = "interrupt"

    def remedies(self) -> list[Remedy]:
        """What was tried, best first, then what was not; the notes say what is missing, and why."""
        tried = [each.remedy for each in _ranked(self.done)]
        if self.stopped_by == "interrupt" and tried and tried[0].helps:
            tried[0] = replace(tried[0], note="; ".join(filter(None, (tried[0].note, _NOT_TRAINED_LONGER))))
        case, why = self._verification.case, _NOT_TRIED[self.stopped_by]
        return tried + [remedy_of(candidate, case, comparison=why) for candidate in self.untried]

    def _run(self) -> None:
        self._show(0, "the original net")
        self._try(range(len(self._order)), self._crew.submit(self._verification.sick.first, self._verification.seeds))
        for _ in range(self._pairs):
            pair = _best_pair(self.done)
            if pair is None or self._late():
                break
            self._train_longer_meanwhile()
            self._order.append(pair)
            self._try([len(self._order) - 1])
        self._last()

    def _try(self, indices: Iterable[int], first: Future[Any] | None = None) -> None:
        """Try the candidates with these indices in parallel, and wait for all of them.

        first: a job that the crew has already begun, the trainings of the original net; its end is waited for first.
        """
        futures = {self._crew.submit(self._verified, self._order[index]): index for index in indices}
        if first is not None:
            first.result()
        self._show_next()
        for future in as_completed(futures):
            tried = future.result()
            if tried is not None:
                self._tried[futures[future]] = tried
            self._show_next()

    def _verified(self, candidate: Candidate) -> Tried | None:
        """The candidate as tried, or None after the deadline."""
        return None if self._late() else self._verification.verified(candidate)

    def _late(self) -> bool:
        """Whether the deadline is over, which ends the trials."""
        late = time.monotonic() > self._deadline
        if late:
            self.stopped_by = "seconds"
        return late

    def _train_longer_meanwhile(self) -> None:
        """Begin the longer training of the best remedy so far while a pair is tried, if a second thread is there.

        That remedy is likely to be the best in the end, too.
        """
        best = _ranked(self.done)[0]
        if self._crew.size > 1 and best.remedy.helps and best.runner is not None:
            self._crew.submit(best.runner.trained_longer)

    def _last(self) -> None:
        """Train the best remedy for longer; if it diverges, it does not count as helping, and the next one follows."""
        for best in _ranked(self.done):
            if not best.remedy.helps or best.runner is None:
                return
            self._show(self._total - 1, f"{best.candidate.name}, trained longer")
            self._crew.threads = 0  # it trains alone
            lasts, words = self._crew.submit(best.runner.trained_longer).result()
            note = "; ".join(filter(None, (best.remedy.note, words)))
            index = next(index for index, each in self._tried.items() if each is best)
            self._tried[index] = best._replace(remedy=replace(best.remedy, helps=lasts, note=note))
            if lasts:
                return

    def _show_next(self) -> None:
        """Report progress, with the name of the first candidate that is not finished."""
        waiting = self.untried
        if waiting:
            self._show(1 + len(self._tried), waiting[0].name)

    def _show(self, done: int, what: str) -> None:
        if self._progress is not None:
            self._progress(done, self._total, what)


def _ranked(done: list[Tried]) -> list[Tried]:
    return sorted(done, key=lambda each: each.rank)


def _best_pair(done: list[Tried]) -> Candidate | None:
    """The best two changes that can be combined and were not tried together yet, as one candidate; None if none are."""
    tried = {repr(each.candidate.change()) for each in done}
    for first, second in combinations(_ranked(done)[:_PAIRED], 2):
        pair = combined(first.candidate, second.candidate)
        if pair is not None and repr(pair.change()) not in tried:
            return pair
    return None
