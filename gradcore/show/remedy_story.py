"""Sentences and table of the remedies, for all forms of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..analysis.report import Outcome, Remedy, Report
from ..analysis.trials import FEWEST_ROWS
from . import story

COLUMNS = ("gradients", "gain/layer", "loss", "accuracy", "loss reduced by", "time", "size")


def note(report: Report) -> str:
    """How the remedies were tried."""
    rate = "" if report.conditions["optimizer"] else ", at the best of three learning rates"
    outcomes = [outcome for remedy in report.tried for outcome in (remedy.before, remedy.after) if outcome is not None]
    classes = any(math.isfinite(outcome.accuracy) for outcome in outcomes)
    shown = "Loss and accuracy are" if classes else "The loss is"
    rows = "held-out rows" if held_out(report) else "the rows trained on, which are too few to hold any out"
    return (
        f"Each net was trained for the same number of steps{rate}, from new weights where the change draws them. "
        f"{shown} on {rows}; intervals are 95% over seeds."
    )


def held_out(report: Report) -> str:
    """What comes before the loss of a trial: "held-out ", or "" if there are too few rows to hold any out."""
    return "held-out " if report.conditions["rows"] >= FEWEST_ROWS else ""


def table(tried: Sequence[Remedy]) -> list[list[str]]:
    """Headings, the row of the original net, and a row for each of `tried`, at least one.

    A column that is empty for all nets, such as the accuracy of a regression, is left out.
    """
    rows = [[*_outcome_cells(tried[0].before), "", "", ""], *map(_cells, tried)]
    used = [any(column) for column in zip(*rows, strict=True)]
    return [[cell for cell, shown in zip(row, used, strict=True) if shown] for row in (COLUMNS, *rows)]


def split(report: Report) -> tuple[list[Remedy], list[Remedy]]:
    """(remedies that helped, remedies that were tried and did not help), in the order of the report."""
    helped = [remedy for remedy in report.tried if remedy.helps]
    return helped, [remedy for remedy in report.tried if remedy.helps is False]


def untried(report: Report) -> str:
    """The remedies that have no result, and what stopped the trials; "" if there is nothing to say."""
    names = "; ".join(remedy.name for remedy in report.tried if remedy.helps is None)  # names may have commas
    interrupted = report.trials_stopped_by == "interrupt"
    sentences = ["The trials were interrupted."] if interrupted else []
    if names and report.trials_stopped_by == "seconds":
        sentences.append("The time for trials was up.")
    if names:
        sentences.append(f"Proposed, not tried{' to the end' if interrupted else ''}: {names}.")
    return " ".join(sentences)


def _cells(remedy: Remedy) -> list[str]:
    """The cells of a remedy's row, one for each of COLUMNS."""
    low, high = remedy.confidence
    effect = "n/a" if math.isnan(remedy.effect) else f"{_whole(remedy.effect)}% ({_whole(low)} to {_whole(high)})"
    prices = [f"{remedy.cost[key]:.2f}x" if key in remedy.cost else "" for key in ("time_per_step", "parameters")]
    return [*_outcome_cells(remedy.after), effect, *prices]


def effect_sentence(remedy: Remedy, report: Report) -> str:
    """The effect of a remedy of a report on the loss and the gradients, and its price, in a sentence."""
    if remedy.before is None or remedy.after is None:
        return "It was not tried."
    cells = dict(zip(COLUMNS, _cells(remedy), strict=True))
    return (
        f"|delta|^2 is now multiplied by {cells['gain/layer']} per layer (before: {story.gain(remedy.before.slope)}). "
        f"After the same short training, the {held_out(report)}loss is {cells['loss']} instead of "
        f"{_outcome_cells(remedy.before)[2]}: lower by {cells['loss reduced by']}, with the 95% interval over seeds in "
        f"brackets. A step takes {cells['time']} the time, with {cells['size']} the parameters."
    )


def _outcome_cells(outcome: Outcome | None) -> list[str]:
    """The first four cells of a row, which tell how one net did; empty for None."""
    if outcome is None:
        return ["", "", "", ""]
    accuracy = "" if math.isnan(outcome.accuracy) else story.percent(outcome.accuracy)
    loss = "diverged" if math.isinf(outcome.loss) else story.number(outcome.loss, 3)
    return [outcome.verdict.replace("_", "-"), story.gain(outcome.slope), loss, accuracy]


def _whole(share: float) -> str:
    return "n/a" if math.isnan(share) else str(round(100 * share))
