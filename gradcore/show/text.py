"""A report as terminal text: verdict, reason, profile over depth, findings, prediction, remedies."""

from __future__ import annotations

import math
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from ..analysis.repair import Repair
from ..analysis.report import LayerRecord, Remedy, Report
from . import remedy_story, story

_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "1;32", "yellow": "1;33", "cyan": "36"}
VERDICT_STYLE = {"healthy": "green", "vanishing": "red", "exploding": "red", "non_finite": "red"}
SEVERITY_STYLE = {"critical": "red", "warning": "yellow", "info": "cyan"}

MIN_WIDTH, MAX_WIDTH = 72, 120  # tables do not fit into less, and wider prose is hard to read
MAX_LAYERS = 24  # longer profiles are elided in the middle
_BAR_WIDTH = 7
_MIN_DECADES = 3.0  # a bar spans at least this many, so that a flat profile looks flat


@dataclass(frozen=True)
class Terminal:
    """The properties of the output: its width, and whether it shows colours and more than ASCII."""

    width: int = 80
    color: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> Terminal:
        """The properties of a stream: colours only on a terminal without NO_COLOR (https://no-color.org)."""
        tty = stream.isatty()
        color = tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        try:
            "\u2588\u2192".encode(stream.encoding or "ascii")
            unicode = True
        except (UnicodeEncodeError, LookupError):
            unicode = False
        width = shutil.get_terminal_size((88, 24)).columns if tty else 100
        return cls(min(max(width, MIN_WIDTH), MAX_WIDTH), color, unicode)

    def style(self, text: str, style: str) -> str:
        """`text` in a style of this module, or as it is on a terminal without colours."""
        return f"\033[{_STYLES[style]}m{text}\033[0m" if self.color else text

    def rule(self, title: str) -> str:
        """A heading that spans the terminal."""
        line = ("\u2500" if self.unicode else "-") * (self.width - len(title) - 1)
        return f"\n{self.style(title, 'bold')} {self.style(line, 'dim')}"

    def wrap(self, *texts: str, indent: str = "", style: str = "") -> list[str]:
        """Texts wrapped to the width, each starting on a new line."""
        broken = (textwrap.wrap(text, self.width, initial_indent=indent, subsequent_indent=indent) for text in texts)
        return [self.style(line, style) if style else line for lines in broken for line in lines]

    def mark(self, good: bool) -> str:
        """A tick or a cross."""
        return ("\u2713" if good else "\u2717") if self.unicode else ("+" if good else "-")

    def bar(self, share: float, width: int = _BAR_WIDTH) -> str:
        """A bar of length `share` times `width` cells; the thinnest one for 0, blank for NaN."""
        if math.isnan(share):
            return " " * width
        eighths = max(1, round(8 * width * share))
        if not self.unicode:
            return ("#" * max(1, round(eighths / 8))).ljust(width)
        full, rest = divmod(eighths, 8)
        return ("\u2588" * full + (chr(0x2590 - rest) if rest else "")).ljust(width)


def render(
    report: Report,
    color: bool | None = False,
    *,
    width: int | None = None,
    unicode: bool | None = None,
    max_layers: int = MAX_LAYERS,
) -> str:
    """The report as text.

    Args:
        report: the result of `gc.analyze`.
        color: ANSI colours; None decides by sys.stdout (a terminal, and NO_COLOR not set).
        width: columns, at least 72; default that of the terminal, up to 120.
        unicode: block characters and arrows instead of ASCII; default whether sys.stdout can encode them.
        max_layers: rows of the profile; a longer one is elided in the middle.
    """
    stdout = Terminal.of(sys.stdout)
    terminal = Terminal(
        width=max(width or stdout.width, MIN_WIDTH),
        color=stdout.color if color is None else color,
        unicode=stdout.unicode if unicode is None else unicode,
    )
    blocks = (
        _head(report, terminal),
        _profile(report, terminal, max_layers),
        _gain(report, terminal),
        _findings(report, terminal),
        _prediction(report, terminal),
        remedies(report, terminal),
    )
    return "\n".join(line for block in blocks for line in block)


def _head(report: Report, terminal: Terminal) -> list[str]:
    title = terminal.style(story.title(report).upper(), VERDICT_STYLE[report.verdict])
    subtitle = terminal.wrap(story.net_words(report.config), story.conditions_line(report), style="dim")
    return [title, *subtitle, "", *terminal.wrap(*story.why(report))]


# ---- profile over depth ----------------------------------------------------------------------


def _profile(report: Report, terminal: Terminal, max_layers: int) -> list[str]:
    values = story.profiles(report)
    columns = [_number_column(name, value, terminal) for name, value in values.items()]
    rows = list(zip(*columns, strict=True))
    lead = 14 + sum(len(cell) + 2 for cell in rows[0])
    extras = _extra_columns(report, terminal.width - lead)
    header = "layer  units  " + "  ".join([*rows[0], *extras])
    lines = [terminal.rule("Profile over depth"), terminal.style(header.rstrip(), "dim")]
    for index in story.elide(len(report.layers), max_layers):
        if index is None:
            hidden = len(report.layers) - max_layers
            words = f"       {hidden} more layers are in the JSON and HTML reports"
            lines.append(terminal.style(words, "dim"))
            continue
        layer = report.layers[index]
        tail = [f"{_extra(layer, name):>{len(name)}}" for name in extras]
        lines.append(f"{index:5}  {layer.out_features:5}  {'  '.join([*rows[index + 1], *tail])}".rstrip())
    spans = [f"{name} {_decades(value)}" for name, value in values.items()]
    note = f"Bars are logarithmic. Decades that each column spans: {', '.join(spans)}."
    return lines + terminal.wrap(note, style="dim")


def _number_column(name: str, values: np.ndarray, terminal: Terminal) -> list[str]:
    """A heading and one cell per layer, with number and bar, all of one width."""
    numbers = [story.number(value) for value in values]
    room = max(7, *map(len, numbers))
    cells = [f"{text:>{room}} {terminal.bar(share)}" for text, share in zip(numbers, bar_shares(values), strict=True)]
    return [name.ljust(len(cells[0])), *cells]


def _extra_columns(report: Report, room: int) -> list[str]:
    """Further columns that are informative, as far as they fit."""
    shares = {"saturated": "saturated_share", "dead": "dead_share"}
    names = [name for name, share in shares.items() if any(getattr(layer, share) > 0 for layer in report.layers)]
    names.append("update")
    while names and sum(len(name) + 2 for name in names) > room + 2:
        names.pop(0)
    return names


def _extra(layer: LayerRecord, name: str) -> str:
    if name == "update":
        return story.number(layer.update_ratio, 1)
    if layer.activation is None:
        return ""
    share = layer.saturated_share if name == "saturated" else layer.dead_share
    return story.percent(share)


def bar_shares(values: np.ndarray) -> np.ndarray:
    """Length of a logarithmic bar for each value: 1 for the largest, 0 for the smallest, NaN for none."""
    log = story.log10(values)
    if np.all(np.isnan(log)):
        return log
    high = np.nanmax(log)
    low = min(float(np.nanmin(log)), high - _MIN_DECADES)
    shares: np.ndarray = (log - low) / (high - low)
    return shares


def _decades(values: np.ndarray) -> str:
    log = story.log10(values)
    return "n/a" if np.all(np.isnan(log)) else f"{np.nanmax(log) - np.nanmin(log):.0f}"


# ---- the gain and its factors ----------------------------------------------------------------


def _gain(report: Report, terminal: Terminal) -> list[str]:
    factors = story.mean_factors(report)
    if not factors:
        return []
    intro = "The factor on |delta|^2 from one layer to the one before it is a product. Geometric means over the layers:"
    lines = [terminal.rule("Parts of the factor per layer"), *terminal.wrap(intro)]
    names = [(story.FACTORS[name], value) for name, value in factors.items()]
    names.append(("together", math.prod(factors.values())))
    for name, value in names:
        style = "bold" if name == "together" else "dim" if abs(math.log(value)) < 0.05 else "yellow"
        lines.append(terminal.style(f"  {name:38} x {story.number(value, 3)}", style))
    return lines


# ---- findings and prediction -----------------------------------------------------------------


def _findings(report: Report, terminal: Terminal, heading: str = "Findings") -> list[str]:
    if not report.findings:
        return []
    lines = [terminal.rule(heading)]
    for finding in report.findings:
        lines.append(terminal.style(f"{finding.severity}: {story.finding_title(finding)}",
                                    SEVERITY_STYLE[finding.severity]))  # fmt: skip
        lines += terminal.wrap(finding.explanation, indent="  ")
    return lines


def _prediction(report: Report, terminal: Terminal) -> list[str]:
    return [terminal.rule("Prediction and measurement"), *terminal.wrap(*story.prediction_lines(report))]


# ---- remedies --------------------------------------------------------------------------------


def remedies(report: Report, terminal: Terminal) -> list[str]:
    """The table of remedies: the original net, those that helped, those that did not."""
    helped, failed = remedy_story.split(report)
    tried = ", tried on this data" if helped or failed else ""
    lines = [terminal.rule(f"Remedies{tried}")] if report.tried else []
    if tried:
        lines += terminal.wrap(remedy_story.note(report))
        lines += _remedy_table(helped, failed, terminal)
    if failed and not helped:
        lines += terminal.wrap("None of the remedies tried helped.")
    return lines + terminal.wrap(remedy_story.untried(report))


def _remedy_table(helped: Sequence[Remedy], failed: Sequence[Remedy], terminal: Terminal) -> list[str]:
    """One row per net; a name that is too long for the table gets its own line."""
    tried = [*helped, *failed]
    rows = remedy_story.table(tried)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    names = ["", "  original", *(f"{terminal.mark(bool(remedy.helps))} {remedy.name}" for remedy in tried)]
    styles = ["dim", "bold", *["green"] * len(helped), *["dim"] * len(failed)]
    notes = ["", "", *(remedy.note for remedy in tried)]
    room = terminal.width - 2 - len(numbers[0])
    room = min(room, max(map(len, names))) if room >= len(names[1]) else 2
    lines = []
    for name, text, style, note in zip(names, numbers, styles, notes, strict=True):
        row = [name, " " * room + "  " + text] if len(name) > room else [name.ljust(room) + "  " + text]
        lines += [terminal.style(line.rstrip(), style) for line in row if line.strip()]
        lines += terminal.wrap(note, indent="    ", style="dim")
    return lines


# ---- a repair --------------------------------------------------------------------------------


def render_repair(repair: Repair) -> str:
    """The text of a repair: what was wrong, what was changed, and the result."""
    terminal = Terminal.of(sys.stdout)
    before, after = repair.before, repair.after
    was = terminal.wrap(f"before: {story.net_words(before.config)}", *story.why(before))
    lines = [*_repair_head(repair, terminal), *was]
    if repair.remedies:
        lines += terminal.wrap(f"after: {story.net_words(after.config)}")
    for remedy in repair.remedies:
        lines += [terminal.rule(f"Applied: {remedy.name}"), *terminal.wrap(f"Why: {remedy.reason}.")]
        lines += terminal.wrap(remedy_story.effect_sentence(remedy, repair.before))
        lines += terminal.wrap(remedy.note[:1].upper() + remedy.note[1:] + ".") if remedy.note else []
    lines += remedies(before, terminal)
    lines += _findings(after, terminal, "What remains" if repair.remedies else "Findings")
    return "\n".join(lines + (remedies(after, terminal) if repair.remedies else []))


def _repair_head(repair: Repair, terminal: Terminal) -> list[str]:
    title = story.title(repair.before)
    if repair.before.verdict == "healthy":
        return [terminal.style(f"{title}: no gradients to repair", "green")]
    if repair.cured:
        return [terminal.style(f"{title}: cured", "green")]
    some = any(remedy.helps is not None for remedy in repair.before.tried)  # an interrupt leaves those not tried yet
    tried = "no remedy tried helped" if some else "no remedy was tried"
    if repair.remedies:
        tried = f"still {repair.after.verdict.replace('_', '-')}"
    return [terminal.style(f"{title}: not cured, {tried}", "red")]
