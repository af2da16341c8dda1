"""A sweep as a table for the terminal."""

from __future__ import annotations

import sys

from ..sweeps import SweepResult
from . import story, sweep_story
from .text import Terminal

MAX_ROWS = 60  # longer tables are elided in the middle
_DISPENSABLE = (
    "saturated",
    "dead",
    "over seeds",
    "cause",
    "first/last",
    "theory",
)  # dropped in this order if the columns do not fit
_LEFT = frozenset(("gradients", "cause", "activation", "init", "normalization", "residual"))


def render(result: SweepResult, *, color: bool | None = False, width: int | None = None) -> str:
    """The summary of a sweep, one row per design.

    Args:
        result: what `gc.sweep` returned.
        color: ANSI colours; None decides by sys.stdout.
        width: columns; default that of the terminal.
    """
    stdout = Terminal.of(sys.stdout)
    terminal = Terminal(width or stdout.width, stdout.color if color is None else color, stdout.unicode)
    lines = terminal.wrap(sweep_story.heading(result), style="bold")
    lines += terminal.wrap(sweep_story.conditions(result), style="dim")
    if result.rows:
        lines += ["", *_table(result, terminal), ""]
        terms = (f"{name}: {meaning}." for name, meaning in sweep_story.terms(result))
        lines += terminal.wrap(*terms, style="dim")
    return "\n".join(lines)


def _table(result: SweepResult, terminal: Terminal) -> list[str]:
    names, summary = sweep_story.columns(result), result.summary()
    table = [names, *(sweep_story.cells(row, names) for row in summary)]
    keep = _fitting(table, terminal.width)
    widths = {index: max(len(line[index]) for line in table) for index in keep}
    lines = []
    for line in table:
        parts = [line[i].ljust(widths[i]) if names[i] in _LEFT else line[i].rjust(widths[i]) for i in keep]
        lines.append("  ".join(parts).rstrip())
    styled = [terminal.style(lines[0], "dim")]
    for index in story.elide(len(summary), MAX_ROWS):
        if index is None:
            styled.append(terminal.style(f"  {len(summary) - MAX_ROWS} more designs are in the rows", "dim"))
            continue
        healthy = summary[index]["healthy"]
        style = "green" if healthy == 1.0 else "red" if healthy == 0.0 else "yellow"
        styled.append(terminal.style(lines[index + 1], style))
    return styled


def _fitting(table: list[list[str]], width: int) -> list[int]:
    """Indices of the columns to show: all, but for dispensable ones that do not fit into `width`."""
    keep = list(range(len(table[0])))

    def needed() -> int:
        return sum(max(len(line[index]) for line in table) + 2 for index in keep) - 2

    for name in _DISPENSABLE:
        if needed() > width and name in table[0]:
            keep.remove(table[0].index(name))
    return keep
