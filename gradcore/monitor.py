"""Monitors a training run: when gradients go wrong, in which layers, why, and what to do about it.

    monitor = gc.Monitor(action=("restore", "lower_lr"))
    net.fit(x, target, epochs=50, batch_size=64, optimizer=optimizer, callbacks=[monitor])
    print(monitor.report)

or in your own loop:

    monitor = gc.Monitor().watch(net, optimizer, loss="mse", clip_norm=1.0)
    for x, target in batches:
        monitor.train_step(x, target)          # instead of net.train_step(x, target, optimizer, ...)
        if monitor.stopped:
            break

A check records a few training steps and judges them as `gc.analyze` does. If several consecutive checks show a finding,
an analysis of further batches, with fixed parameters, must confirm it before it is raised, so that a healthy training
is not disturbed. Findings that leave the verdict healthy (units that die or saturate, unscaled data) are raised only
once the loss has stopped falling, and not if it is close to zero.

The monitor also looks at the loss and norm of every step. When one of them is not finite, it replays the steps since
the last check on a copy and records them, to find the step and layer of the first non-finite value.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import _actions, _check, _progress
from ._schedule import Budget, Every
from ._tape import Snapshot, Taken, Tape, kept
from .analysis import in_training
from .analysis.analyze import WAKING_STEPS
from .analysis.judge import judge, verdict_of
from .analysis.report import Finding, Report
from .analysis.subject import Subject, Thresholds, checked_limits
from .analysis.training_report import PROFILES, SERIES, TrainingFinding, TrainingReport
from .mlp import MLP, Step
from .optim import Optimizer, check_step
from .training import Callback, Logs, Rows, Run, TrainingWarning

# Layers that start at zero on purpose have woken up by then; see `analyze`.
_FIRST_CHECK = WAKING_STEPS
# Steps from a suspicious check to the next, doubled each time: transients of the first steps pass.
_SECOND_LOOK = 8
# A tape starts anew when the data of its steps, which a replay needs, exceeds this many bytes.
_TAPE_BYTES = 64 << 20
# Losses remembered since the last healthy check.
_MOST_LOSSES = 10_000
# A finding about the data is raised once: batches with and without outliers would otherwise raise it repeatedly.
_OF_DATA = "unscaled_input"
# Batches kept for an analysis in the user's own loop: as many as it uses.
_RECENT = 8

Action = str | Iterable[str] | Callable[[TrainingFinding], Any]


@dataclass
class _Suspicion:
    """A kind of finding that checks show, and since when.

    loss_before: loss at the last check without it. healthy: snapshot of the net when it was last healthy.
    seen: number of checks in a row that show it doing harm: it changes the verdict, or the loss has not fallen since.
    """

    since: int
    healthy_until: int | None
    layers: tuple[int, ...]
    loss_before: float
    healthy: Snapshot
    seen: int = 0
    absent_since: list[int] = field(default_factory=list)  # first steps of the checks that no longer showed it
    raised: int | None = None  # index among the findings


class Monitor(Callback):
    """Monitors a training run, as a callback of `fit` or in your own loop.

    Unless an action changes something, the training is bit for bit the same as without the monitor. The monitor holds a
    few copies of the parameters and the optimizer state, and up to 64 MB of the steps since the last check.

    Args:
        every: steps from the start of one check to the start of the next, >= `batches`. The first check is at step 2,
            when layers that start at zero have woken up. None: as often as `budget` allows, by measured times.
        budget: share of the training time, in (0, 1), that checks may take if `every` is None. The first check and
            those that confirm a suspicion run on credit, and later checks wait until it is paid. A short training may
            end before that; the report says so. The report also gives the cost of logging each step: about 10
            microseconds and, in your own loop, a copy of the batch.
        action: what to do about a finding, one or several of
            "warn": issue a TrainingWarning (the other names do so as well);
            "stop": end the training;
            "clip": clip from now on at the largest norm of the last healthy check;
            "lower_lr": multiply learning rate or schedule by `lr_factor`;
            "restore": restore parameters, statistics and optimizer state of the last healthy check, or of the start;
            or a function of the TrainingFinding that returns such a name, several, or None. The last three names
            apply to what steps cause: non-finite numbers, exploding gradients, and units that die or saturate during
            training; other findings only warn. () only collects. An `info` finding (all rows of the data of a `fit`
            have the same target) never ends the training.
        batches: recorded steps per check, >= 1. Batches may differ in size, and every row counts equally. With batch
            norm, batches of too few rows are skipped, and up to `batches` further steps are recorded.
        confirm: consecutive checks that must show a finding before it is analysed and raised, >= 1.
        thresholds: limits of the judgement, a `gc.analysis.Thresholds`. lr_factor: in (0, 1); see "lower_lr".
        max_actions: after this many findings that changed something, the next such finding ends the training.

    Attributes:
        findings: list of TrainingFinding, in the order in which they were raised.
        report: TrainingReport of everything so far. stopped: whether the training should end. step: steps so far.

    Raises:
        ValueError, TypeError: naming the argument.
    """

    def __init__(
        self,
        every: int | None = None,
        *,
        budget: float = 0.01,
        action: Action = "warn",
        batches: int = 4,
        confirm: int = 3,
        thresholds: Thresholds | None = None,
        lr_factor: float = 0.1,
        max_actions: int = 3,
    ) -> None:
        self.batches = _check.integer(batches, "batches", 1)
        self.every = None if every is None else _check.integer(every, "every", self.batches)
        self.budget = _check.number(budget, "budget", "a number in (0, 1)", lambda x: 0 < x < 1)
        self.action = action if callable(action) else _actions.names(action, "action")
        self.confirm = _check.integer(confirm, "confirm", 1)
        self.thresholds = checked_limits(thresholds)
        self.lr_factor = _check.number(lr_factor, "lr_factor", "a number in (0, 1)", lambda x: 0 < x < 1)
        self.max_actions = _check.integer(max_actions, "max_actions", 0)
        self._run: Run | None = None
        self._forget()

    def _forget(self) -> None:
        """The state before the first step."""
        self.findings: list[TrainingFinding] = []
        self.step, self.stopped = 0, False
        self._schedule = Budget(self.budget, _FIRST_CHECK) if self.every is None else Every(self.every, _FIRST_CHECK)
        self._group: in_training.Group | None = None
        self._suspicions: dict[str, _Suspicion] = {}
        self._rows_of_history: list[dict[str, Any]] = []
        self._losses: deque[float] = deque(maxlen=_MOST_LOSSES)
        self._recent: deque[Rows] = deque(maxlen=_RECENT)
        self._limit, self._hardest, self._highest_lr, self._highest_norm = math.inf, 0.0, 0.0, 0.0
        self._checked_until: int | None = None
        self._checked_loss = math.inf
        self._broken = False
        self._counts = {"checks": 0, "recorded_passes": 0, "analyses": 0}
        self._num_actions = 0

    # ---- in fit --------------------------------------------------------------------------------------------

    def on_run(self, run: Run) -> None:
        """Start anew with this run."""
        self._run = run
        self._forget()
        self._tape = Tape(run, 0)
        self._healthy = self._tape.base

    def before_step(self, rows: Rows) -> bool:
        """Whether to record the coming step. rows: its rows; in your own loop the pair (x, target)."""
        run = self._running()
        self._schedule.entered()
        self._rows = kept(run, *rows) if isinstance(rows, tuple) else rows
        self._lr = run.optimizer.lr
        self._highest_lr = max(self._highest_lr, self._lr)
        # At its end, a schedule may make steps so small that nothing changes, by intention; checks would misjudge that.
        asleep = self._lr * self.thresholds.norm_ratio < self._highest_lr
        if self._group is None and not self._broken and not asleep and self._schedule.due(self.step):
            self._schedule.started(self.step)
            self._group = in_training.Group(run, self.step, self.thresholds.norm_ratio)
        self._schedule.before()
        return self._group is not None

    def on_step(self, logs: Logs) -> bool:
        """Look at the step just taken; True ends the training."""
        return self.after_step(logs["loss"], logs["total_norm"])

    def after_step(self, loss: float, total_norm: float = 0.0) -> bool:
        """As `on_step`, for your own loop; True if the training should end."""
        run, worked = self._running(), self._group is not None
        self._schedule.after(worked, run.num_rows(self._rows))
        self._note(loss, total_norm)
        if not math.isfinite(loss) or not math.isfinite(total_norm):
            self._on_broken(None)
        else:
            self._broken, self._tape = False, Tape(run, self.step) if self._broken else self._tape
            if self._group is not None:
                self._group.add(run, self._rows, loss, total_norm)
                self._counts["recorded_passes"] += 1
                if self._group.complete(self.batches):
                    self._check()
            elif loss > self._limit:
                worked = True
                if self._alarming(loss):
                    self._schedule.urgent(self.step)
        if self._tape.nbytes > _TAPE_BYTES:
            self._tape = Tape(run, self.step)
        self._schedule.done(worked)
        return self.stopped

    def on_error(self, error: FloatingPointError) -> bool | None:
        """Explain gradients that clipping refused; the error is raised unless an action deals with it."""
        self._schedule.after(self._group is not None, self._running().num_rows(self._rows))
        self._note(None, math.nan)
        acted = self._num_actions
        self._on_broken(error)
        self._schedule.done(True)
        return True if self.stopped else False if self._num_actions > acted else None

    def on_fit_end(self, history: Any) -> None:
        """Discard an unfinished check."""
        self._group = None

    # ---- in your own loop --------------------------------------------------------------------------------------

    def watch(
        self,
        net: MLP,
        optimizer: Optimizer,
        loss: str = "cross_entropy",
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> Monitor:
        """Start monitoring a loop that calls `train_step`; arguments as for `MLP.train_step`. Returns itself."""
        _check.instance(net, "net", MLP, "a gradcore.MLP")
        check_step(net, optimizer, clip_norm, clip_value)
        _check.choice(loss, "loss", _check.LOSSES)
        self.on_run(Run(net, optimizer, loss, clip_norm, clip_value))
        return self

    def train_step(self, x: ArrayLike, target: ArrayLike) -> Step:
        """One monitored step, as `MLP.train_step`; check `stopped` after it.

        Returns:
            Step(loss, total_norm); NaN for a step that clipping refused and an action dealt with.

        Raises:
            ValueError, TypeError: as `MLP.train_step`, or no `watch` before.
            FloatingPointError: as `MLP.train_step`, unless an action deals with it.
        """
        record = self.before_step((x, target))
        try:
            step = Step(*self._running().step(x, target, record))
        except FloatingPointError as error:
            if self.on_error(error) is None:
                raise
            return Step(math.nan, math.nan)
        self.after_step(*step)
        return step

    def _running(self) -> Run:
        if self._run is None:
            raise ValueError("monitor: expected watch(net, optimizer) or a fit before the first step")
        return self._run

    # ---- checks ------------------------------------------------------------------------------------------------

    def _note(self, loss: float | None, total_norm: float) -> None:
        run = self._running()
        self._tape.add(Taken(self._rows, self._lr, run.clip_norm, run.clip_value, loss, total_norm))
        self._losses.append(math.nan if loss is None else loss)
        self._recent.append(self._rows)
        self.step += 1

    def _check(self) -> None:
        """Judge the group just completed."""
        group, self._group = self._group, None
        assert group is not None
        run = self._running()
        self._counts["checks"] += 1
        # those since the last healthy check count while the loss stays high; a peak that has passed does not
        earlier = list(self._losses)[: -group.recorded] if min(group.losses) > self._limit else []
        subject = group.subject(run, self.thresholds, earlier, self._healthy)
        verdict, findings = judge(subject)
        loss, no_skill = subject.measurement.loss, subject.case.constant_loss
        self._remember(subject, self.step - 1, loss, group.total_norms[-1])
        if verdict == "non_finite":  # in hidden layers: an activation that saturates can hide it from the loss
            if not any(finding.kind == "non_finite" and finding.ended is None for finding in self.findings):
                self._on_broken(None)
            return
        self._remark(findings, group)
        learned = loss * self.thresholds.norm_ratio < no_skill
        serious = [finding for finding in findings if finding.severity != "info"]
        counted = [finding for finding in serious if not learned or verdict_of([finding]) != "healthy"]
        ready, acted = self._suspected(counted, group, loss), self._num_actions
        if ready:
            self._confirmed(ready, subject)
        if self._num_actions > acted:
            return
        self._checked_until, self._checked_loss = self.step - 1, loss
        if verdict == "healthy":
            self._healthy = Snapshot.of(run, self.step)
            self._highest_norm = max(group.total_norms)
            self._losses = deque(group.losses, maxlen=_MOST_LOSSES)
            self._end_treated(group.first_step)
        self._limit = self._loss_limit(no_skill, max(group.losses))
        self._tape = Tape(run, self.step)
        pending = [known.seen for known in self._suspicions.values() if known.raised is None and known.seen]
        if pending and min(pending) < self.confirm:
            self._schedule.suspect(self.step + (_SECOND_LOOK << (min(pending) - 1)))
        self._schedule.finished(routine=not ready)

    def _remark(self, findings: Iterable[Finding], group: in_training.Group) -> None:
        """Raise, once and without actions, that all rows of the data of a fit have the same target."""
        if not any(known.kind == _OF_DATA and known.severity == "info" for known in self.findings):
            for finding in in_training.one_target(self._running(), findings):
                self._raise(finding, _Suspicion(group.first_step, None, (), math.nan, self._healthy), None)

    def _alarming(self, loss: float) -> bool:
        """Whether a loss beyond the limit calls for a check: it lasts, or it is far above its batch's when healthy."""
        if min(islice(reversed(self._losses), self.batches)) > self._limit:
            return True
        if loss <= self._hardest:
            return False
        self._hardest = 2.0 * loss  # of hard batches, few are looked at
        (own,) = in_training.losses_of(self._running(), self._healthy, [self._rows])
        return bool(loss > self.thresholds.diverged * own)

    def _loss_limit(self, no_skill: float, highest: float) -> float:
        """The loss beyond which the judge calls a training diverged; a peak it has seen does not count again."""
        limit = self.thresholds.diverged * max(self._losses[0], no_skill)
        return limit if highest <= limit else max(limit, 2.0 * highest)

    def _suspected(self, findings: Iterable[Finding], group: in_training.Group, loss: float) -> list[str]:
        """Count what a check shows; returns the kinds shown often enough in a row and not raised yet.

        Units that die or saturate, and the like, do not count as long as the loss falls. loss: of the group.
        """
        run, first_step = self._running(), group.first_step
        shown = {finding.kind: finding for finding in findings}
        if any(finding.kind == _OF_DATA and finding.severity != "info" for finding in self.findings):
            shown.pop(_OF_DATA, None)
        for kind, finding in shown.items():
            known = self._suspicions.get(kind)
            if known is None:
                before = loss if self._checked_until is None else self._checked_loss
                known = _Suspicion(first_step, self._checked_until, finding.layers, before, self._healthy)
                self._suspicions[kind] = known
            # rows of a wrong scale have a higher loss in any net; theirs is compared with that of the rows before them
            harmful = verdict_of([finding]) != "healthy" or loss >= (
                known.loss_before if kind == _OF_DATA else group.loss_in(run, known.healthy)
            )
            known.seen, known.absent_since = known.seen + 1 if harmful else 0, []
        for kind in [kind for kind in self._suspicions if kind not in shown]:
            known = self._suspicions[kind]
            known.absent_since.append(first_step)
            if known.raised is None or kind == _OF_DATA:
                del self._suspicions[kind]
            elif len(known.absent_since) >= self.confirm:
                self.findings[known.raised] = replace(self.findings[known.raised], ended=known.absent_since[0])
                del self._suspicions[kind]
        return [kind for kind, known in self._suspicions.items() if known.raised is None and known.seen >= self.confirm]

    def _end_treated(self, first_step: int) -> None:
        """End findings that an action has dealt with at the first healthy check after it."""
        for index, finding in enumerate(self.findings):
            if finding.ended is None and finding.kind not in (_OF_DATA, *self._suspicions):
                self.findings[index] = replace(finding, ended=first_step)

    def _confirmed(self, kinds: list[str], subject: Subject) -> None:
        """Raise those of the kinds that an analysis finds as well. subject: where they were found."""
        run, rehearsal = self._running(), subject.measurement.rehearsal
        assert rehearsal is not None
        self._counts["analyses"] += 1
        report = in_training.confirm(run, list(self._recent), rehearsal, self.thresholds, seed=self.step)
        found = {finding.kind: finding for finding in report.findings if finding.severity != "info"}
        for kind in kinds:
            suspicion = self._suspicions.pop(kind, None)  # gone where an action on another kind began anew
            if suspicion is not None and kind in found:
                suspicion.raised = len(self.findings)
                self._suspicions[kind] = suspicion
                finding = found[kind]
                if suspicion.healthy_until is not None:
                    reach = (self.step - suspicion.healthy.step) * np.log1p(rehearsal.update_ratio)
                    finding = in_training.brought_about(finding, report.flows[0], suspicion.healthy, run.net, reach)
                self._raise(finding, suspicion, report)

    def _remember(self, subject: Subject, step: int, loss: float, total_norm: float) -> None:
        row = {"step": step, "loss": loss, "total_norm": total_norm, "lr": self._lr}
        profiles = {name: np.array([getattr(record, name) for record in subject.records]) for name in PROFILES}
        self._rows_of_history.append({**row, **profiles})

    # ---- numbers that are not finite -----------------------------------------------------------------------------

    def _on_broken(self, error: FloatingPointError | None) -> None:
        """Explain the first non-finite value, once, and act."""
        if self._broken:
            return
        self._broken, self._group = True, None
        replayed, subject, finding = in_training.explain(self._tape, self._healthy, self.thresholds)
        step = replayed.step
        if subject is not None:
            self._remember(subject, step, replayed.loss, replayed.total_norm)
        before = step - 1 if step > 0 else None
        self._raise(finding, _Suspicion(step, before, finding.layers, math.nan, self._healthy), None)
        if error is not None:
            error.add_note(str(self.findings[-1]))

    # ---- actions ---------------------------------------------------------------------------------------------------

    def _raise(self, finding: Finding, suspicion: _Suspicion, report: Report | None) -> None:
        raised = TrainingFinding(
            **{name: getattr(finding, name) for name in finding.__dataclass_fields__},
            since=suspicion.since,
            healthy_until=suspicion.healthy_until,
            onset_layers=suspicion.layers,
            raised=self.step - 1,
            report=report,
            _tape=self._tape if finding.kind == "non_finite" else None,
        )
        self.findings.append(raised)
        wanted = self.action
        if callable(wanted):
            answer = wanted(raised)
            wanted = () if answer is None else _actions.names(answer, "action: what the function returns")
        done = self._act(raised, wanted, suspicion.healthy)
        self.findings[-1] = raised = replace(raised, actions=done)
        if done:
            _progress.warn(str(raised), TrainingWarning)

    def _act(self, finding: TrainingFinding, wanted: tuple[str, ...], healthy: Snapshot) -> tuple[str, ...]:
        """Do what is wanted and applies; returns what was done, in words. healthy: the snapshot for "restore"."""
        changes = _actions.changes_for(finding, finding.healthy_until is not None, wanted)
        stop = "stop" in wanted and finding.severity != "info"
        lost = bool(changes) and "restore" not in changes and not np.isfinite(self._running().net.parameters.flat).all()
        if changes and (lost or self._num_actions >= self.max_actions):
            changes, stop = [], True
        done = [self._change(name, healthy) for name in changes]
        if changes:
            self._num_actions += 1
            self._begin_again()
        if stop:
            self.stopped = True
            why = ", as its weights are no longer finite, which only the action 'restore' undoes" if lost else ""
            done.append(f"ended the training{why}")
        return tuple(done) if done or not wanted else ("warned",)

    def _change(self, name: str, healthy: Snapshot) -> str:
        run = self._running()
        if name == "restore":
            self._healthy = healthy
            return _actions.restore(run, healthy)
        if name == "clip":
            return _actions.clip(run, self._highest_norm, [taken.total_norm for taken in self._tape.taken])
        self._highest_lr = 0.0
        return _actions.lower_lr(run, self.lr_factor)

    def _begin_again(self) -> None:
        """Forget what was suspected under the old settings."""
        self._suspicions.clear()
        self._group, self._broken = None, False
        self._tape = Tape(self._running(), self.step)
        self._losses.clear()
        self._limit, self._hardest = math.inf, 0.0
        self._schedule.suspect(self.step + _FIRST_CHECK)

    # ---- what was seen -----------------------------------------------------------------------------------------------

    @property
    def report(self) -> TrainingReport:
        """The report of everything so far."""
        run = self._running()
        history = {
            name: np.array([row[name] for row in self._rows_of_history]).reshape(len(self._rows_of_history), *shape)
            for names, shape in ((SERIES, ()), (PROFILES, (run.net.depth,)))
            for name in names
        }
        cost: dict[str, float] = dict(self._counts)
        if isinstance(self._schedule, Budget):
            cost |= self._schedule.cost()
        conditions = {
            "loss": run.loss,
            "optimizer": repr(run.optimizer),
            "clip_norm": run.clip_norm,
            "batch_size": run.batch_size or None,
            "every": self.every,
            "budget": None if self.every is not None else self.budget,
            "batches": self.batches,
            "confirm": self.confirm,
            "thresholds": self.thresholds.to_dict(),
        }
        findings = tuple(self.findings)
        return TrainingReport(verdict_of(findings), findings, self.step, history, run.net.config, conditions, cost)

    def __repr__(self) -> str:
        if self._run is None:
            return "<Monitor: nothing watched yet>"
        kinds = ", ".join(f"{finding.kind} since step {finding.since}" for finding in self.findings) or "no findings"
        return f"<Monitor: {self.step} steps, {self._counts['checks']} checks, {kinds}>"
