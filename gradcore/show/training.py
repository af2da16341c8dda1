"""The report of a monitored training as text and as a self-contained HTML page."""

from __future__ import annotations

import math
import sys
from html import escape

import numpy as np

from ..analysis.training_report import TrainingFinding, TrainingReport
from ..analysis.wording import layers as layer_names
from . import story
from .html import article, document, finding_cards
from .svg import Chart, heat_map, log_range
from .text import SEVERITY_STYLE, VERDICT_STYLE, Terminal

# The profiles that are shown as maps, with their titles.
MAPS = {
    "delta_norm": "deltas, norm",
    "weight_grad_norm": "weight gradients, norm",
    "activation_norm": "activations, norm",
    "update_ratio": "weight change of one step, relative to the weights",
}
_MAP_CELLS = 56  # width of a map as text, without its axis
_SHADES, _ASCII_SHADES = " \u2591\u2592\u2593\u2588", " .:*#"
_MAX_LAYERS = 16


# ---- sentences -------------------------------------------------------------------------------


def onset(finding: TrainingFinding) -> str:
    """Kind, cause, onset and layers of a finding."""
    return f"{finding.severity}: {story.finding_title(finding)}. {times(finding)}"


def times(finding: TrainingFinding) -> str:
    """When a finding began, whether it has ended, and what was done about it."""
    if finding.healthy_until is None:
        text = f"Present from the start (seen since step {finding.since})"
    elif finding.healthy_until == finding.since - 1:
        text = f"It began in step {finding.since}"
    else:
        text = f"It began between steps {finding.healthy_until} and {finding.since}"
    if finding.onset_layers and finding.onset_layers != finding.layers:
        text += f", at first in {layer_names(finding.onset_layers)}"
    if finding.ended is not None:
        text += f", and had ended by step {finding.ended}"
    done = [action for action in finding.actions if action != "warned"]
    return f"{text}." + (f" Actions: {', '.join(done)}." if done else "")


def cost_line(report: TrainingReport) -> str:
    """The cost of the monitor."""
    cost = report.cost
    checks = int(cost["checks"])
    text = f"{report.steps} steps watched, {checks} check{'s' * (checks != 1)}, {int(cost['recorded_passes'])} of the "
    text += "steps recorded"
    if cost["analyses"]:
        text += f", {int(cost['analyses'])} confirming analys{'es' if cost['analyses'] > 1 else 'is'}"
    if "share" in cost and not math.isnan(cost["share"]):
        text += f", {story.percent(cost['share'])} of the training time and {story.percent(cost['noting_share'])} "
        text += f"for logging steps{_on_credit(report)}"
    return text + "."


def _on_credit(report: TrainingReport) -> str:
    """A note on a training that was too short for its budget."""
    owed, budget = report.cost["owed_steps"], report.conditions["budget"]
    if not report.cost["share"] > budget:
        return ""
    wait = f"{float(f'{owed:.2g}'):.0f}"
    return (
        f"; that exceeds the budget of {story.percent(budget)}, because the first check and those that confirm a "
        f"finding run on credit: about {wait} more steps would pay for them"
    )


def title(report: TrainingReport) -> str:
    """The verdict of the run."""
    if report.verdict == "healthy":
        if not report.findings and not report.cost["checks"]:
            return "No check completed yet"
        return "Healthy training" if not report.findings else "Healthy gradients, with findings"
    return f"{story.TITLES[report.verdict]} while training"


def map_values(report: TrainingReport, name: str) -> np.ndarray:
    """log10 of a profile, [checks, depth]; NaN where it is zero, or where a value of the layer is not finite."""
    return story.log10(report.history[name])


def map_range(values: np.ndarray) -> tuple[float, float]:
    """The decades that the shades of a map cover; checks with non-finite values do not count."""
    whole = values[~np.isnan(values).any(axis=1)]
    return log_range(whole if len(whole) else values)


# ---- text ------------------------------------------------------------------------------------


def render_text(report: TrainingReport) -> str:
    """The run as terminal text: verdict, findings with their onset, and a map of the deltas."""
    terminal = Terminal.of(sys.stdout)
    lines = [terminal.style(title(report).upper(), VERDICT_STYLE[report.verdict]), *terminal.wrap(cost_line(report))]
    for finding in report.findings:
        lines += ["", terminal.style(f"{finding.severity}: {story.finding_title(finding)}",
                                     SEVERITY_STYLE[finding.severity])]  # fmt: skip
        lines += terminal.wrap(times(finding), finding.explanation, indent="  ")
    return "\n".join([*lines, *_text_map(report, terminal)])


def _text_map(report: TrainingReport, terminal: Terminal) -> list[str]:
    """|delta| of layer (down) and check (across), darker for larger, each shade a fifth of the decades."""
    values = map_values(report, "delta_norm")
    if not len(values) or np.all(np.isnan(values)):
        return []
    low, high = map_range(values)
    columns = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MAP_CELLS)).round().astype(int))
    shades = _SHADES if terminal.unicode else _ASCII_SHADES
    lines = [terminal.rule("|delta| by layer and step")]
    for layer in story.elide(values.shape[1], _MAX_LAYERS):
        if layer is None:
            lines.append("    .")
            continue
        cells = "".join(_shade(values[column, layer], low, high, shades) for column in columns)
        lines.append(f"{layer:5} {cells}|")
    steps = report.history["step"][columns]
    last = f" {steps[-1]:.0f}" if len(steps) > 1 else ""
    lines.append(f"      {f'step {steps[0]:.0f}':{max(len(columns) - 6, 0)}}{last}".rstrip())
    ends = f"{story.number(10**low)} to {story.number(10**high)}"
    scale = f"From blank to full: {ends}, on a logarithmic scale; x: not finite, or exactly zero."
    return lines + terminal.wrap(scale, style="dim")


def _shade(value: float, low: float, high: float, shades: str) -> str:
    if math.isnan(value):
        return "x"
    return shades[min(max(int(len(shades) * (value - low) / (high - low)), 0), len(shades) - 1)]


# ---- HTML ------------------------------------------------------------------------------------


def page(report: TrainingReport) -> str:
    """A complete HTML document."""
    return document(f"{title(report)}: {story.net_words(report.config)}", render_html(report))


def render_html(report: TrainingReport) -> str:
    """The run as a fragment, for a page or a notebook."""
    head = (
        f'<header><p class="verdict {report.verdict}">{escape(title(report))}</p>'
        f"<h1>{escape(story.net_words(report.config))}</h1>"
        f'<p class="muted">{escape(str(report.conditions["loss"]))}, {escape(str(report.conditions["optimizer"]))}. '
        f"{escape(cost_line(report))}</p></header>"
    )
    cards = finding_cards(report.findings, [times(finding) for finding in report.findings])
    return article(head, cards, _maps(report), _loss(report))


def _maps(report: TrainingReport) -> str:
    if not len(report.history["step"]):
        return '<p class="muted">No check has completed yet.</p>'
    figures = "".join(_map(report, name, words) for name, words in MAPS.items())
    return (
        '<section><h2>The profiles during training</h2><p class="muted">Each column is a check, each row a layer '
        "(0, at the bottom, is at the input), darker for larger, on a logarithmic scale. Red: not finite or exactly "
        f'zero. Dashed: where a finding began.</p><div class="grid">{figures}</div></section>'
    )


def _map(report: TrainingReport, name: str, words: str) -> str:
    values = map_values(report, name)
    label = f"{words}, by layer and step"
    svg = heat_map(values, report.history["step"], map_range(values), label, marks=_marks(report))
    return f"<figure><figcaption>{escape(words)}</figcaption>{svg}</figure>"


def _marks(report: TrainingReport) -> list[tuple[float, str]]:
    return [(finding.since, story.finding_title(finding)) for finding in report.findings]


def _loss(report: TrainingReport) -> str:
    log = story.log10(report.history["loss"])
    if len(log) < 2 or np.all(np.isnan(log)):
        return ""
    steps = report.history["step"]
    chart = Chart((0, len(log) - 1), log_range(log), size=(860, 240), x_label="step of the check", x_names=steps)
    chart.line(log, "measured", dots=True, unit="step")
    svg = chart.svg("Loss over the checks")
    return f'<section><h2>Loss at the checks</h2><div class="scroll wide">{svg}</div></section>'
