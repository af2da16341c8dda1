"""The analysis of a net while it is trained: the same judge as for `analyze`, given what training steps record.

A check judges a `Group` of recorded steps. What several checks in a row show, `confirm` verifies by measuring further
batches at fixed parameters. `explain` finds the step and the layer in which a value became non-finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._tape import ReplayedStep, Snapshot, Tape
from ..training import Rows, Run
from . import causes, checks, wording
from . import measure as measuring
from .analyze import examine, make_case, report_of
from .arithmetic import harmless, root_mean_square
from .case import Case, loss_in_training
from .doubt import steps_in_doubt
from .judge import judge
from .measure import Rehearsal, summarize
from .predict import extra_growth
from .report import Finding, Report
from .subject import Subject, Thresholds

if TYPE_CHECKING:
    from ..flow import GradientFlow
    from ..mlp import MLP

# Number of batches of a confirming analysis, the default of `analyze`.
_CONFIRMING_BATCHES = 8
# A confirming analysis takes this many random rows of the data, or as many as its batches need: enough to tell the
# scale of the data, few enough for data of any size.
_MOST_ROWS = 8192


class Group:
    """Consecutive recorded steps, which are judged together like batches measured at the same parameters.

    Batches may differ in size (see `Measurement`), with one exception: under batch norm, the gradient over very few
    rows is much larger. A batch whose gradient is for this reason more than `norm_ratio` times that of a larger one is
    left out.

    first_step: number of the first step. recorded: how many steps there have been.
    rows, losses, total_norms: of each step that is not left out.
    """

    def __init__(self, run: Run, first_step: int, norm_ratio: float) -> None:
        self.first_step = first_step
        self.rows: list[Rows] = []
        self.losses: list[float] = []
        self.total_norms: list[float] = []
        self._norm_ratio = norm_ratio
        self.recorded = 0
        self._flows: list[Any] = []
        # sum over the batches kept, each weighted by its rows relative to those of the first
        self._gradient = np.zeros(run.net.gradients.flat.shape)

    def complete(self, batches: int) -> bool:
        """Whether the group holds this many batches, or has recorded twice as many steps without getting there."""
        return len(self._flows) == batches or self.recorded == 2 * batches

    @harmless
    def add(self, run: Run, rows: Rows, loss: float, total_norm: float) -> None:
        """Add the step just taken, which `run.net.flow` has recorded; see the class for batches that are left out."""
        flow = run.net.flow
        self.recorded += 1
        sizes = [kept.batch_size for kept in self._flows] or [flow.batch_size]
        if extra_growth(run.net, flow.batch_size, max(sizes)) > self._norm_ratio:
            return
        if extra_growth(run.net, min(sizes), flow.batch_size) > self._norm_ratio:
            for kept in (self._flows, self.rows, self.losses, self.total_norms):
                kept.clear()
            self._gradient[:] = 0.0
        self._flows.append(flow)
        self._gradient += np.multiply(
            run.net.gradients.flat, flow.batch_size / self._flows[0].batch_size, dtype=np.float64
        )
        self.rows.append(rows)
        self.losses.append(loss)
        self.total_norms.append(total_norm)

    @harmless
    def subject(self, run: Run, limits: Thresholds, earlier: Sequence[float], healthy: Snapshot) -> Subject:
        """The group as a Subject; steps of the training take the place of those that `analyze` rehearses on a copy.

        earlier: losses of steps before the group that are to be judged with it.
        healthy: the net when it was last healthy. Steps in doubt are compared with it on their own batches: of data
            with outliers, one batch has many times the loss of another.
        """
        case, first = _case(run, run.net, self.rows), self._flows[0].batch_size
        mean = run.net.gradients.like(self._gradient / (len(case.x) / first))
        measurement = summarize(run.net, self._flows, self.losses, mean, root_mean_square(case.x))
        updates = measurement.mean("update_ratio")
        rehearsal = Rehearsal(case.step_size, np.array([*earlier, *self.losses]), updates)
        subject = examine(case, replace(measurement, rehearsal=rehearsal), limits)
        if steps_in_doubt(subject) is None:
            return subject
        # the batches of earlier steps are gone: their losses are compared with nothing
        before = np.array([*(math.inf for _ in earlier), *losses_of(run, healthy, self.rows)])
        measurement = replace(measurement, rehearsal=replace(rehearsal, before=before))
        return replace(subject, measurement=measurement)

    def loss_in(self, run: Run, snapshot: Snapshot) -> float:
        """Mean loss over the rows of the group in the net of a snapshot."""
        losses = losses_of(run, snapshot, self.rows)
        return float(np.average(losses, weights=[run.num_rows(part) for part in self.rows]))


def losses_of(run: Run, snapshot: Snapshot, rows: Sequence[Rows]) -> np.ndarray:
    """Losses of the batches of some steps, as steps from a snapshot would give them, [steps]. rows: of each step."""
    net = run.net.copy()
    net.parameters.flat[:] = snapshot.parameters
    return np.array([loss_in_training(net, run.batch(part), run.loss) for part in rows])


def _case(run: Run, net: Any, rows: Sequence[Rows]) -> Case:
    """The batches of some steps as a Case. rows: of each step."""
    x, target = _together(run, rows)
    ends = np.cumsum([run.num_rows(part) for part in rows])
    numbers, size = tuple(np.split(np.arange(len(x)), ends[:-1])), round(len(x) / len(rows))
    return Case(net, x, target, run.loss, run.optimizer, size, numbers, seed=0, trained=True)


def _together(run: Run, rows: Sequence[Rows]) -> tuple[Any, Any]:
    """Inputs and targets of some steps, one after the other. rows: of each step."""
    x, target = (np.concatenate(parts) for parts in zip(*(run.batch(part) for part in rows), strict=True))
    return x, target


def confirm(run: Run, recent: Sequence[Rows], rehearsal: Rehearsal, limits: Thresholds, seed: int) -> Report:
    """The report of an analysis of the net as it is now, on further batches.

    Args:
        run: the training. The batches are drawn from its data, if it has any.
        recent: rows of the last steps, which are used if the run has no data of its own.
        rehearsal: the steps of the training, in the place of rehearsed ones.
        limits: limits of the judgement.
        seed: seed of the choice of batches.
    """
    start = time.perf_counter()
    if run.x is None or run.target is None:
        x, target = _together(run, recent)
        size = round(len(x) / len(recent))
    else:
        count = min(len(run.x), max(_MOST_ROWS, _CONFIRMING_BATCHES * run.batch_size))
        rows = np.random.default_rng(seed).permutation(len(run.x))[:count]
        (x, target), size = run.batch(rows), run.batch_size
    net = run.net.copy()
    optimizer = run.optimizer._made_for(net, run.optimizer.lr, keep_state=True)
    case = make_case(net, x, target, run.loss, optimizer, size, _CONFIRMING_BATCHES, seed)
    measurement = replace(measuring.measure(case, case.net.copy()), rehearsal=rehearsal)
    if measurement.interrupted:
        raise KeyboardInterrupt
    return report_of(case, measurement, limits, start)


def one_target(run: Run, findings: Iterable[Finding]) -> list[Finding]:
    """The remark that all rows of the data of a `fit` have the same target, which `analyze` makes, too; or nothing.

    findings: of a check; unless its own rows have the same target, those of the data are not looked at. In the user's
    own loop the data is unknown: of a rare class, many batches have no row.
    """
    remarked = any(finding.kind == "unscaled_input" and finding.severity == "info" for finding in findings)
    return checks.one_target(run.target, run.net.depth) if remarked and run.target is not None else []


# ---- numbers that are not finite ----


@harmless
def explain(tape: Tape, healthy: Snapshot, limits: Thresholds) -> tuple[ReplayedStep, Subject | None, Finding]:
    """The first step since the tape's snapshot in which a value left the finite range.

    Args:
        tape: the steps up to the one at which the non-finite value was noticed.
        healthy: the net when it was last known to be healthy, to tell what training has changed.
        limits: limits of the judgement.

    Returns:
        (replayed step, what was judged, finding). If every value of the replay is finite, they are the last step, None
        and a finding that says so.
    """
    replayed = None
    scale, scaled_step = 0.0, tape.base.step
    for replayed in tape.replay():
        inputs = root_mean_square(tape.run.batch(replayed._rows)[0])
        if inputs > scale:
            scale, scaled_step = inputs, replayed.step
        passed = _finite_pass(replayed)
        if passed and np.isfinite(replayed._net.parameters.flat).all():
            continue
        net = replayed._net
        if not passed:
            net.parameters.flat[:] = replayed._before  # the pass broke with these; the update is only a consequence
        case = _case(tape.run, net, [replayed._rows])
        measurement = summarize(net, [replayed.flow], [replayed.loss], net.gradients, root_mean_square(case.x))
        subject = examine(case, measurement, limits)
        finding = next((entry for entry in judge(subject)[1] if entry.kind == "non_finite"), None)
        if finding is None:
            continue
        evidence = {**finding.evidence, "step": replayed.step, "same_bits": replayed.same_bits}
        text = f"In step {replayed.step}: {finding.explanation}"
        finding = replace(finding, explanation=text, evidence=evidence)
        finding = brought_about(finding, replayed.flow, healthy, replayed._net)
        if finding.cause == "learning_rate" and scale > limits.input_scale:
            text = f"{finding.explanation} {wording.input_of_step(scaled_step, scale)}"
            evidence = {**finding.evidence, "input_rms": scale}
            finding = replace(finding, cause="input_scale", explanation=text, evidence=evidence)
        return replayed, subject, finding
    if replayed is None:
        raise ValueError("tape: expected at least one step")
    return replayed, None, _unexplained(replayed)


def _unexplained(last: ReplayedStep) -> Finding:
    """The finding if a replay stays finite.

    Either only the gradient norm overflowed, or something other than the steps has changed the training.
    """
    text = f"In step {last.step}: The loss or the gradient norm is not finite, "
    evidence = {"step": last.step, "same_bits": last.same_bits}
    if last.same_bits:
        text += "but every number in the net is: the norm itself overflowed."
        return Finding("non_finite", "critical", (), "overflow", text, evidence)
    text += (
        "but a replay of the steps since the last check stays finite: something between these steps has changed the "
        "net, its optimizer or the data, such as a callback or an assignment in the loop."
    )
    return Finding("non_finite", "critical", (), None, text, evidence)


def _finite_pass(replayed: ReplayedStep) -> bool:
    """Whether the loss, activations, deltas and weight gradients of a step are finite."""
    flow = replayed.flow
    shares = (flow.activation_nonfinite_share, flow.delta_nonfinite_share, flow.weight_grad_nonfinite_share)
    return math.isfinite(replayed.loss) and not any(share.any() for share in shares)


@harmless
def brought_about(
    finding: Finding, flow: GradientFlow, healthy: Snapshot, net: MLP, reach: float | np.ndarray = math.inf
) -> Finding:
    """The finding; with the learning rate as its cause, if steps of the training have made the weights too large.

    Args:
        finding: what was found. flow: a recorded pass of `net` as it is now.
        healthy: the net before the onset of the finding.
        reach: logarithm of the largest growth of the weight norms that the steps since then can have caused, for all
            layers or for each.
    """
    growth = flow.weight_norm / healthy.weight_norms(net)
    growth = np.where(np.log(growth) <= reach, growth, 1.0)  # something else than steps caused any larger growth
    layer = int(np.nanargmax(np.where(np.isfinite(growth), growth, -1.0)))
    largest = float(growth[layer])
    finding = replace(finding, evidence={**finding.evidence, "weight_growth": largest})
    grown = 2.0 * math.log(largest) > causes.LARGE_EXCESS if largest > 0.0 else False
    by_weights = finding.cause in ("weight_scale", "overflow")
    if not grown or not (by_weights or (finding.kind == "non_finite" and finding.cause == "learning_rate")):
        return finding
    text = f"{finding.explanation} {wording.grown_weights(layer, largest, healthy.step)}"
    return replace(finding, cause="learning_rate", explanation=text)
