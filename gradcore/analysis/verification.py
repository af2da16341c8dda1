"""Tries one candidate: measures the changed net, then trains it and the sick net for the same budget, seed by seed.

The sick net is the one that was analysed. Several threads may try candidates at once, in any order: a result depends on
the candidate, the seeds and the number of steps, never on what was tried before.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..init import CRITICAL_GAIN_SQUARED
from ..mlp import skip_connections
from . import mean_field as theory
from . import measure as measuring
from . import trials, wording
from .analyze import examine
from .arithmetic import bounded_exp
from .candidates import Candidate, Preparation, around_net, changed_settings, with_learning_rate, yardstick
from .case import Case
from .judge import judge, worst_cause
from .outlook import MOST_STEPS, look_ahead
from .rehearsal import rehearse
from .report import Outcome, Remedy, Report
from .slope import half_interval
from .subject import Thresholds
from .trials import Contestant, Crew, Split, Trial

# A cure must remove at least this share of the sick net's loss; a user would not notice less.
LEAST_EFFECT = 0.05
_MEASURED_BATCHES = 4  # on which a changed net is measured
# A net that diverges at a learning rate is tried at this share of it, and so on, at most this often.
_LOWER_RATE, _RATES_TRIED = 0.125, 5
# The best remedy is also trained for this many times the budget: instability may come late.
_LONGER = 5


class Tried(NamedTuple):
    """The result of trying a candidate.

    candidate: as it was tried in the end, perhaps at a lower learning rate than proposed. runner: its trainings; None
    if the changed net could not be built.
    """

    candidate: Candidate
    remedy: Remedy
    runner: Runner | None

    @property
    def rank(self) -> tuple[bool, bool, float, float]:
        """Key that sorts the best first: those that helped, then healthy nets, then by the effect, then by the loss.

        The effect counts by the lower end of its interval. The loss decides beside a sick net that diverges, where all
        effects are equal.
        """
        after, low = self.remedy.after, self.remedy.confidence[0]
        healthy = after is not None and after.verdict == "healthy"
        loss = math.inf if after is None else after.loss
        return not self.remedy.helps, not healthy, -low if math.isfinite(low) else math.inf, loss


class Effect(NamedTuple):
    """The share of one net's loss that a second net removes: mean and 95 % interval over seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, before: list[Trial], after: list[Trial], loss: str = "loss") -> Effect:
        """The effect of `after` relative to `before`, with the same seeds. loss: "loss" or "fitted", as in Trial."""
        values = trials.effects(before, after, loss)
        mean, half = float(values.mean()), half_interval(values)
        return cls(mean, max(mean - half, -1.0), min(mean + half, 1.0))

    @property
    def sure(self) -> bool:
        """Whether the effect is large enough to be noticed and its interval lies above zero."""
        return self.mean >= LEAST_EFFECT and self.low > 0.0

    @property
    def undecided(self) -> bool:
        """Whether the effect is large enough to be noticed, but its interval reaches zero."""
        return self.mean >= LEAST_EFFECT and self.low <= 0.0

    def beyond(self, part: str) -> str:
        """The effect in words, as that of a whole change relative to a part of it; part: the name of the part."""
        mean, low, high = (100.0 * share for share in self)
        if mean >= 0.0:
            return f"compared with {part} alone, the loss is {mean:.0f} % lower ({low:.0f} to {high:.0f})"
        if mean <= -100.0:  # where effects are clipped
            return f"compared with {part} alone, the loss is at least twice as high"
        return f"compared with {part} alone, the loss is {-mean:.0f} % higher ({-high:.0f} to {-low:.0f})"


def remedy_of(
    candidate: Candidate, case: Case, *, comparison: str = "", after: Outcome | None = None, **results: Any
) -> Remedy:
    """The candidate as the Remedy that a report lists.

    comparison: remarks on its trial, for the note. after, results: fields of Remedy that hold the result of the trial;
    none for a candidate that was not tried.

    `comparison` and the remark on batch norm go into the remedy's note but not into the candidate's, because a pair
    made of this candidate needs remarks of its own.
    """
    norm = _batch_norm_note(candidate, case, None if after is None else after.slope)
    return Remedy(
        name=candidate.name,
        change=candidate.change(),
        reason=candidate.reason,
        after=after,
        note="; ".join(filter(None, (candidate.note, _weights_note(candidate, case), norm, comparison))),
        _apply=partial(candidate.build, case),  # no lambda: reports and remedies are pickled
        _prepare=Preparation.of(candidate, case),
        **results,
    )


def _weights_note(candidate: Candidate, case: Case) -> str:
    """What a change does to the weights beyond what its name tells, in words; "" if there is nothing to add.

    A reader who makes the change by hand, in a PyTorch model for example, needs this to get the net that was tried. How
    new weights are drawn is left out if the weights of the net are already those of `init="auto"`.
    """
    config, names = changed_settings(candidate, case)
    init, notes = candidate.net.get("init"), []
    if names and init in ("auto", "orthogonal") and not case.as_drawn:
        form = "times {}" if init == "orthogonal" else "{} / fan_in"
        kind = "new orthogonal weights" if init == "orthogonal" else "new weights of variance"
        gains = {name: CRITICAL_GAIN_SQUARED[name] ** (0.5 if init == "orthogonal" else 1.0) for name in names}
        sizes = " and ".join(form.format(f"{gain:.3g}") + f" for {name}" for name, gain in sorted(gains.items()))
        notes.append(f"draws {kind} {sizes}; biases are zero")
    if candidate.weights == "rescaled":
        sizes = " and ".join(f"{CRITICAL_GAIN_SQUARED[name]:.3g} / fan_in for {name}" for name in sorted(set(names)))
        notes.append(f"scales each layer's weights to variance {sizes or '1 / fan_in'}, and sets the biases to zero")
    if candidate.weights == "scaled_branches":
        kind = config["normalization"]
        what = "weights" if kind is None else f"{kind} norm weights"
        count = int(np.count_nonzero(skip_connections(config)))
        if count > 1:
            notes.append(f"divides the {what} in {count} branches by {math.sqrt(count):.3g}, the root of their number")
    return "; ".join(notes)


def _batch_norm_note(candidate: Candidate, case: Case, slope: float | None = None) -> str:
    """What batch norm does to the gradient of the changed net, in words, if the change adds batch norm; else "".

    slope: of the changed net, as measured; None for the one that theory expects with its activations. The result is ""
    also where there is no growth over depth: with skip connections, or with fewer than two hidden layers.
    """
    config, names = changed_settings(candidate, case)
    if candidate.net.get("normalization") != "batch" or skip_connections(config).any() or len(names) < 2:
        return ""
    verb = "multiplies" if slope is not None else "should multiply"
    if slope is None:
        slope = float(np.mean([math.log(theory.batch_norm_growth(name, case.batch_size)) for name in names[1:]]))
    if not math.isfinite(slope):
        return ""
    growth, total = math.exp(slope), bounded_exp(0.5 * slope * (len(names) - 1))
    return (
        f"batch norm repairs the forward scale, not the backward one: at the start it {verb} |delta|^2 by "
        f"{growth:.3g} per layer, and the gradient's norm by {wording.significant(total, 2)} over {len(names)} hidden "
        "layers"
    )


def _overfits(before: list[Trial], after: list[Trial]) -> list[str]:
    """A list of one sentence if the changed net overfits, else an empty list. before, after: trials of both nets.

    The caller has found no gain on held-out rows. The net overfits if it clearly gains on the rows trained on.
    """
    if not Effect.of(before, after, "fitted").sure:
        return []
    changed, original = (wording.factor(float(np.mean([trial.fitted for trial in group]))) for group in (after, before))
    return [f"overfits: its training loss is {changed}, that of the original net {original}"]


def _adds(effect: Effect, part: Remedy) -> bool:
    """Whether a change does more than its yardstick: surely if that helps; if not, in the mean."""
    return effect.sure if part.helps else effect.mean > 0.0


class Measured(NamedTuple):
    """What a changed net was found to be: verdict, slope, and the cause of its worst finding.

    The cause is None if all findings are `info`. cut: after how many trial steps of a large net the verdict had to be
    given; 0 if no more would have been tried.
    """

    verdict: str
    slope: float
    cause: str | None
    cut: int


class Runner:
    """The trainings of one contestant, one for each seed, and its measurement; kept for further comparisons.

    If no learning rate is given (there is no optimizer, or its rate is 0), the best of a few is chosen. It is lowered
    if any seed diverges: no net is to be judged by a rate that does not suit it.
    """

    def __init__(self, contestant: Contestant, split: Split, steps: int) -> None:
        self.contestant, self.split, self.steps = contestant, split, steps
        self._lock = threading.Lock()
        self._rates: list[float | None] = []
        self._done: dict[int, list[Trial]] = {}  # index of the rate -> trials of seeds 0, 1, ...
        self._rate = 0
        self._longer: tuple[bool, str] | None = None
        self._measuring = threading.Lock()
        self._measured: Measured | None = None

    def measured(self, measure: Callable[[Contestant], Measured]) -> Measured:
        """What `measure` finds; it is called once."""
        with self._measuring:
            if self._measured is None:
                self._measured = measure(self.contestant)
            return self._measured

    def first(self, count: int) -> list[Trial]:
        """The trials of seeds 0 .. count - 1 at the highest rate at which none diverges (or the lowest tried)."""
        with self._lock:
            if not self._rates:
                rate = trials.best_learning_rate(self.contestant, self.split, self.steps)
                lower = range(_RATES_TRIED + 1) if rate is not None else range(1)
                self._rates = [None if rate is None else rate * _LOWER_RATE**power for power in lower]
            for number in range(len(self._rates)):
                self._rate, done = number, self._at_rate(number, count)
                if not any(trial.diverged for trial in done):
                    break
            return done

    def _at_rate(self, number: int, count: int) -> list[Trial]:
        """The trials of seeds 0 .. count - 1 at rate number `number`; those that are missing are made."""
        known = self._done.setdefault(number, [])
        more = range(len(known), count)
        known += self.contestant.crew.map(lambda seed: self._train(self.steps, seed, self._rates[number]), more)
        return known[:count]

    def _train(self, steps: int, seed: int, lr: float | None) -> Trial:
        return trials.train(self.contestant, self.split, steps=steps, seed=seed, lr=lr)

    def trained_longer(self) -> tuple[bool, str]:
        """Whether a longer training of a fresh net (seed 0) stays stable, and its result in words. Needs `first`."""
        with self._lock:
            if self._longer is None:
                steps = _LONGER * self.steps
                trial = self._train(steps, 0, self._rates[self._rate])
                loss = "loss" if self.split.test is self.split.train else "held-out loss"
                words = f"stays stable when trained for {steps} steps: {loss} {wording.factor(trial.loss)}"
                if trial.diverged:
                    words = f"diverges when trained for {steps} steps"
                elif trial.loss > self._at_rate(self._rate, 1)[0].loss:
                    words += f", training loss {wording.factor(trial.fitted)}"
                self._longer = not trial.diverged, words
            return self._longer


class Verification:
    """The trainings of the sick net and of every candidate tried beside it, on the threads of `crew`."""

    def __init__(
        self,
        report: Report,
        case: Case,
        limits: Thresholds,
        steps: int,
        seeds: int,
        crew: Crew | None = None,
    ) -> None:
        self.report, self.case, self.limits = report, case, limits
        self.steps, self.seeds, self.crew = steps, seeds, Crew() if crew is None else crew
        # The steps that judge a candidate may cost what MOST_STEPS cost for the largest net that can afford more than
        # the fewest steps of a training. What a net learns later than that, such a training cannot show.
        self._most = max(MOST_STEPS * min(1.0, trials.affordable_steps(case) / trials.FEWEST_STEPS), steps)
        self.split = trials.split_rows(len(case.x), case.seed)
        self._lock, self._part_lock = threading.Lock(), threading.RLock()
        self._runners: dict[str, Runner] = {}
        self._yardsticks: dict[str, Tried] = {}
        self.sick = self._runner(None)

    @property
    def yardsticks(self) -> list[Tried]:
        """The parts of changes that were tried alone (`candidates.yardstick`), sorted by name."""
        with self._part_lock:
            return sorted(self._yardsticks.values(), key=lambda each: each.candidate.name)

    def verified(self, candidate: Candidate) -> Tried:
        """The result of trying a candidate; an undecided comparison gets as many seeds again."""
        try:
            return self._tried(self._at_a_rate_that_suits(candidate))
        except ValueError as error:  # LSUV refuses a layer that is constant on this data
            before, why = self._outcome(self.seeds), f"could not be built: {error}"
            return Tried(candidate, remedy_of(candidate, self.case, comparison=why, before=before, helps=False), None)

    def _tried(self, candidate: Candidate) -> Tried:
        """The candidate compared with the sick net.

        A candidate that changes only the data or the learning rate is compared only once: it is a yardstick for others,
        which may ask for it at the same time.
        """
        part = around_net(candidate)
        if part is None or part.change() != candidate.change():
            return self._compared(candidate)
        with self._part_lock:
            key = repr(candidate.change())
            if key not in self._yardsticks:
                self._yardsticks[key] = self._compared(candidate)
            return self._yardsticks[key]

    def _compared(self, candidate: Candidate) -> Tried:
        """The candidate compared with the sick net and, if it has one, with its yardstick.

        It helps if the changed net is healthy and learns, and if its effects are sure (see `_adds` for the yardstick).
        """
        part, count = yardstick(candidate), self.seeds
        beside = None if part is None else self._tried(part).remedy
        others = [self.sick] if part is None else [self.sick, self._runner(part)]
        cured = self._runner(candidate)
        verdict, slope, _, cut = cured.measured(self._measured_again)
        effects = [Effect.of(before.first(count), cured.first(count)) for before in others]
        if verdict == "healthy" and any(effect.undecided for effect in effects):
            count *= 2
            effects = [Effect.of(before.first(count), cured.first(count)) for before in others]
        after = Outcome(verdict, slope, **trials.summary(cured.first(count)))
        gains = effects[0].sure and (beside is None or _adds(effects[1], beside))
        idle = self._learns_nothing(candidate, after, count)
        notes = [] if part is None else [effects[1].beyond(part.name)]
        notes += [f"its verdict was cut short after {cut} trial steps, as the net is large"] if cut else []
        notes += [idle] if idle and gains else []
        if effects[0].mean < LEAST_EFFECT:
            notes += _overfits(self.sick.first(count), cured.first(count))
        remedy = remedy_of(
            candidate,
            self.case,
            comparison="; ".join(notes),
            before=self._outcome(count),
            after=after,
            effect=effects[0].mean,
            confidence=(effects[0].low, effects[0].high),
            helps=verdict == "healthy" and gains and not idle,
            cost=self._cost(cured, cured.first(count)),
        )
        return Tried(candidate, remedy, cured)

    def _learns_nothing(self, candidate: Candidate, after: Outcome, count: int) -> str:
        """That the loss of the changed net does not fall, in words; "" if it does. after: outcome over `count` seeds.

        If the sick net diverges, every effect is sure; the loss must then also fall below that of a constant guess.
        """
        if not after.loss < after.start_loss:
            return f"learns nothing: the loss at the start was {wording.factor(after.start_loss)}"
        guess = candidate.case(self.case).constant_loss
        if any(trial.diverged for trial in self.sick.first(count)) and not after.loss < guess:
            return f"learns nothing: a constant guess has a loss of {wording.factor(guess)}"
        return ""

    def _at_a_rate_that_suits(self, candidate: Candidate) -> Candidate:
        """The candidate, with a lower learning rate if the changed net's steps are too large at that of the optimizer.

        A change is not to be judged by a rate that does not suit the changed net. A candidate that changes the rate or
        clips stays as it is: that is itself an answer to steps that are too large.
        """
        if self.case.optimizer is None or self.case.step_size == 0.0 or candidate.training:
            return candidate
        lr, changed = self.case.step_size, candidate
        for _ in range(_RATES_TRIED):
            runner = self._runner(changed)
            too_large = runner.measured(self._measured_again).cause == "learning_rate"
            if not too_large and not any(trial.diverged for trial in runner.first(self.seeds)):
                break
            lr = float(f"{lr * _LOWER_RATE:.2g}")
            changed = with_learning_rate(candidate, lr)
        return changed

    def _runner(self, candidate: Candidate | None) -> Runner:
        """The trainings of a candidate, or with None those of the sick net; the same object at every call."""
        key = "" if candidate is None else repr(candidate.change())
        with self._lock:
            if key not in self._runners:
                self._runners[key] = Runner(Contestant(self.case, candidate, self.crew), self.split, self.steps)
            return self._runners[key]

    def _outcome(self, count: int) -> Outcome:
        """The outcome of the sick net over `count` seeds."""
        return Outcome(self.report.verdict, self.report.slope.value, **trials.summary(self.sick.first(count)))

    def _measured_again(self, contestant: Contestant) -> Measured:
        """Judge a changed net, as `analyze` does.

        It is built from the seed of the sick net and measured on the first of its batches, standardized if the change
        asks for that.
        """
        case = replace(
            contestant.case,
            net=contestant.net(),
            x=contestant.x,
            target=contestant.target,
            rows=self.case.rows[:_MEASURED_BATCHES],
            trained=self.case.trained and (contestant.candidate.keeps_net or contestant.candidate.weights == "kept"),
        )
        measurement = measuring.measure(case, case.net.copy())
        if np.isfinite(measurement.losses).all():
            measurement = replace(measurement, rehearsal=rehearse(case, case.net.copy(), measurement.losses))
            ahead = look_ahead(examine(case, measurement, self.limits), self._tick, self._most)
            measurement = replace(measurement, outlook=ahead)
        subject = examine(case, measurement, self.limits)
        verdict, findings = judge(subject)
        outlook = measurement.outlook
        cut = len(outlook.losses) if outlook is not None and outlook.cut_short else 0
        return Measured(verdict, subject.slope.value, worst_cause(findings), cut)

    def _tick(self, *_: object) -> None:
        """Called at every trial step: an interrupt need not wait for a thousand of them."""
        self.crew.check()

    def _cost(self, cured: Runner, done: list[Trial]) -> dict[str, float]:
        """Time of a step and number of parameters of the changed net, relative to the sick net. done: its trials."""
        groups = (done, self.sick.first(self.seeds))
        seconds = [min(trial.seconds_per_step for trial in group) for group in groups]
        parameters = [net.parameters.flat.size for net in (cured.contestant.net(), self.case.net)]
        return {"time_per_step": seconds[0] / max(seconds[1], 1e-12), "parameters": parameters[0] / parameters[1]}
