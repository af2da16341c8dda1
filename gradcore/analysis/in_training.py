"""The analysis of a net while it is trained: the same judge, fed with what the training itself records.

A `Group` of recorded steps is judged first; what it shows time and again is confirmed by `confirm`, which
measures further batches at standing parameters; `explain` finds the step and layer where numbers broke.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._tape import ReplayedStep, Snapshot, Tape
from ..training import Rows, Run, extra_growth
from . import causes, wording
from . import measure as measuring
from .analyze import examine, make_case, report_of
from .arithmetic import harmless
from .case import Case
from .judge import judge
from .measure import Rehearsal, mean_square, summarize
from .report import Finding, Report
from .subject import Subject, Thresholds

if TYPE_CHECKING:
    from ..flow import GradientFlow
    from ..mlp import MLP

# Batches of a confirming analysis, as `analyze` takes by default.
_CONFIRMING_BATCHES = 8
# Rows at most that it looks at: enough for the scales of the data, few enough for data of any size.
_MOST_ROWS = 8192


class Group:
    """Recorded steps one after the other, as good as batches at one place of the parameters.

    Batches of any size go together (see `Measurement`), but for those that batch norm makes another net of: so few rows
    that the gradient is more than `norm_ratio` times as large as over those of another batch. They are left out.

    first_step: number of the first. rows: of each step that is not left out.
    """

    def __init__(self, run: Run, first_step: int, norm_ratio: float) -> None:
        self.first_step = first_step
        self.rows: list[Rows] = []
        self.losses: list[float] = []
        self.total_norms: list[float] = []
        self._norm_ratio = norm_ratio
        self._recorded = 0
        self._flows: list[Any] = []
        self._gradient = np.zeros(run.net.gradients.flat.shape)  # sum, by the rows of each over those of the first

    def complete(self, batches: int) -> bool:
        """Whether it holds so many; what is left out is replaced, by as many steps again at most."""
        return len(self._flows) == batches or self._recorded == 2 * batches

    @harmless
    def add(self, run: Run, rows: Rows, loss: float, total_norm: float) -> None:
        """The step just taken, which `net.flow` has recorded."""
        flow = run.net.flow
        self._recorded += 1
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
    def subject(self, run: Run, limits: Thresholds, losses: Sequence[float]) -> Subject:
        """What there is to judge, the training itself in the place of a rehearsal on a copy.

        losses: of the training so far, as far as they matter.
        """
        case, first = _case(run, run.net, self.rows), self._flows[0].batch_size
        mean = run.net.gradients.like(self._gradient / (len(case.x) / first))
        measurement = summarize(run.net, self._flows, self.losses, mean, mean_square(case.x))
        updates = measurement.mean("update_ratio")
        rehearsal = Rehearsal(case.step_size, np.asarray(losses), updates)
        return examine(case, replace(measurement, rehearsal=rehearsal), limits)


def _case(run: Run, net: Any, rows: Sequence[Rows]) -> Case:
    """The batches of these steps as a Case."""
    x, target = _together(run, rows)
    ends = np.cumsum([run.num_rows(part) for part in rows])
    numbers, size = tuple(np.split(np.arange(len(x)), ends[:-1])), round(len(x) / len(rows))
    return Case(net, x, target, run.loss, run.optimizer, size, numbers, seed=0, trained=True)


def _together(run: Run, rows: Sequence[Rows]) -> tuple[Any, Any]:
    """Inputs and targets of these steps."""
    x, target = (np.concatenate(parts) for parts in zip(*(run.batch(part) for part in rows), strict=True))
    return x, target


def confirm(run: Run, recent: Sequence[Rows], rehearsal: Rehearsal, limits: Thresholds, seed: int) -> Report:
    """The net as it is now, analysed on further batches.

    Args:
        run: the training; its data is drawn from where it has any.
        recent: rows of the last steps, for a run without data of its own.
        rehearsal: the training so far.
        limits: of the judgement.
        seed: of the batches.
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


# ---- numbers that are not finite ----


@harmless
def explain(tape: Tape, healthy: Snapshot, limits: Thresholds) -> tuple[ReplayedStep, Subject | None, Finding]:
    """The first step since the tape's snapshot in which a value left the finite range.

    Args:
        tape: the steps up to the one that gave it away.
        healthy: the net when it was last known to be healthy, to tell what training has changed.
        limits: of the judgement.

    Returns:
        (the step, run again; what was judged; the finding). Where the replay shows nothing broken it is the last
        step, and None was judged.
    """
    replayed = None
    scale, scaled_step = 0.0, tape.base.step
    for replayed in tape.replay():
        inputs = math.sqrt(mean_square(tape.run.batch(replayed._rows)[0]))
        if inputs > scale:
            scale, scaled_step = inputs, replayed.step
        passed = _finite_pass(replayed)
        if passed and np.isfinite(replayed._net.parameters.flat).all():
            continue
        net = replayed._net
        if not passed:
            net.parameters.flat[:] = replayed._before  # it broke with these; what came after is a consequence
        case = _case(tape.run, net, [replayed._rows])
        gradients = net.gradients
        measurement = summarize(net, [replayed.flow], [replayed.loss], gradients, mean_square(case.x))
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
    """For a norm alone that overflowed, or something that the training's own steps did not do."""
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
    flow = replayed.flow
    shares = (flow.activation_nonfinite_share, flow.delta_nonfinite_share, flow.weight_grad_nonfinite_share)
    return math.isfinite(replayed.loss) and not any(share.any() for share in shares)


@harmless
def brought_about(
    finding: Finding, flow: GradientFlow, healthy: Snapshot, net: MLP, reach: float | np.ndarray = math.inf
) -> Finding:
    """The finding, with its cause where weights that are too large are the training's doing.

    Args:
        finding: what was found now. flow: a recorded pass of `net` now.
        healthy: the net before the finding's onset.
        reach: logarithm of the growth that the steps since can have brought about, of all or of each layer.
    """
    growth = flow.weight_norm / healthy.weight_norms(net)
    growth = np.where(np.log(growth) <= reach, growth, 1.0)  # more than that was done by something else
    layer = int(np.nanargmax(np.where(np.isfinite(growth), growth, -1.0)))
    largest = float(growth[layer])
    finding = replace(finding, evidence={**finding.evidence, "weight_growth": largest})
    grown = 2.0 * math.log(largest) > causes.LARGE_EXCESS if largest > 0.0 else False
    by_weights = finding.cause in ("weight_scale", "overflow")
    if not grown or not (by_weights or (finding.kind == "non_finite" and finding.cause == "learning_rate")):
        return finding
    text = f"{finding.explanation} {wording.grown_weights(layer, largest, healthy.step)}"
    return replace(finding, cause="learning_rate", explanation=text)
