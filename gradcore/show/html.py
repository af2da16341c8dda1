"""A report as one self-contained HTML page: hand-written markup and inline SVG.

It loads nothing, runs no script, follows the reader's light or dark theme, and prints. Every text
that could come from a user passes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib import resources

import numpy as np

from ..analysis.report import Finding, LayerRecord, Report
from ..analysis.subject import UNIT_ROUNDOFF
from . import remedy_story, story
from .svg import Chart, layer_range, log_range


def page(report: Report) -> str:
    """A complete HTML document."""
    return document(f"{story.title(report)}: {story.net_words(report.config)}", render(report))


def document(title: str, body: str) -> str:
    """A page around a rendered fragment."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>body{{margin:0}}</style></head>\n<body>{body}</body></html>\n"
    )


def article(*parts: str) -> str:
    """A fragment with its own scoped style, for a page or a notebook."""
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return f'<article class="gradcore"><style>{style}</style>{"".join(parts)}</article>'


def render(report: Report) -> str:
    """The report as a fragment, for a page or a notebook."""
    return article(_head(report), _delta_section(report), _profile_section(report), finding_cards(report.findings),
                   _prediction(report), _remedies(report), _layer_table(report), _terms())  # fmt: skip


# ---- head ------------------------------------------------------------------------------------


def _head(report: Report) -> str:
    sentences = "".join(f"<p>{story.formulas(sentence)}</p>" for sentence in story.why(report))
    return (
        f'<header><p class="verdict {report.verdict}">{escape(story.title(report))}</p>'
        f"<h1>{escape(story.net_words(report.config))}</h1>"
        f'<p class="muted">{escape(story.conditions_line(report))}</p></header>{_tiles(report)}{sentences}'
    )


def _tiles(report: Report) -> str:
    slope = report.slope
    if math.isnan(slope.value):
        return ""
    name = story.formulas(story.traveller(report))
    tiles = [(f"&times; {story.gain(slope.value)}", f"{name}<sup>2</sup> per layer, measured")]
    if report.prediction.valid:
        tiles.append((f"&times; {story.gain(report.prediction.slope)}", "per layer, expected by theory"))
    ratio = story.end_ratio(report)
    if not math.isnan(ratio):
        many, word = story.times(ratio)
        tiles.append((f"{many}&times;", f"{word} {name} at the first than at the last hidden layer"))
    return tile_row(tiles)


def tile_row(tiles: Sequence[tuple[str, str]]) -> str:
    """Large numbers side by side, each with its caption; both are markup."""
    return '<div class="tiles">' + "".join(f"<div><b>{a}</b>{b}</div>" for a, b in tiles) + "</div>"


def legend(keys: Sequence[tuple[str, str]]) -> str:
    """The legend of a chart, from (class, words) pairs."""
    marks = "".join(f'<span><i class="key {css}"></i>{escape(words)}</span>' for css, words in keys)
    return f'<div class="legend">{marks}</div>'


# ---- charts ----------------------------------------------------------------------------------


def _delta_section(report: Report) -> str:
    keys = [("measured", "measured")]
    if np.isfinite(story.healthy_cone(report)[0]).sum() > 1:
        keys.append(("healthy", "healthy at this depth"))
    if report.prediction.valid:
        keys.append(("theory", "mean-field theory, 95% band"))
    return (
        "<section><h2>Gradients over depth</h2>"
        '<p class="muted">&delta; is the gradient of the loss with respect to a layer&rsquo;s '
        "pre-activation. Backpropagation runs from the right (output) to the left (input)."
        f"{_beside_branches(report)}</p>"
        f'{legend(keys)}<div class="scroll wide">{delta_chart(report)}</div></section>'
    )


def _beside_branches(report: Report) -> str:
    """A note that names the gradient whose factor per layer is given, if it is not the one drawn."""
    if not story.has_skips(report):
        return ""
    return (
        " With skip connections, &delta; is the gradient inside the blocks. The factor per layer is that of dL/dh, the "
        "gradient of a layer&rsquo;s output, which also passes around them."
    )


def delta_chart(report: Report) -> str:
    """|delta| over depth, the healthy cone and the band of the theory."""
    measured = story.log10(story.profiles(report)["delta"])
    cone_low, cone_high = story.healthy_cone(report)
    low, high, middle = story.predicted_deltas(report)
    chart = Chart(layer_range(len(measured)), log_range(measured, middle, cone_low, cone_high), size=(860, 300),
                  x_label="layer (0 is at the input)")  # fmt: skip
    chart.band(cone_low, cone_high, "healthy")
    chart.band(low, high, "theory-band")
    chart.line(middle, "theory")
    chart.line(measured, "measured", dots=True)
    chart.missing(story.profiles(report)["delta"])
    return chart.svg(f"Norm of the deltas over depth. {' '.join(story.why(report))}")


def _profile_section(report: Report) -> str:
    profiles = story.profiles(report)
    profiles["update"] = np.array([layer.update_ratio for layer in report.layers])
    titles = {
        "activation": "Activations, root mean square",
        "weight gradient": "Weight gradients, norm",
        "update": "One step of the optimizer, relative to the weights",
    }
    rounding = {"update": UNIT_ROUNDOFF[report.config["dtype"]]}
    figures = [_figure(title, _profile_chart(profiles[name], title, rounding.get(name, 0.0)))
               for name, title in titles.items()]  # fmt: skip
    figures.append(_figure("Size of single deltas, and where low precision loses them", exponent_chart(report)))
    figures.append(_figure("Saturated units (line) and dead units (dashes), share", _unit_chart(report)))
    factors = story.mean_factors(report)
    if factors:
        figures.append(_figure("Parts of the factor on |delta|^2 per layer", factor_chart(factors)))
    return (
        '<section><h2>The other profiles</h2><p class="muted">A weight gradient is the product of a delta and the '
        "activations below it, so it can be flat over depth even if neither of them is.</p>"
        f'<div class="grid">{"".join(figures)}</div></section>'
    )


def _figure(title: str, chart: str) -> str:
    return f"<figure><figcaption>{story.formulas(title)}</figcaption>{chart}</figure>" if chart else ""


def _profile_chart(values: np.ndarray, label: str, rounding: float = 0.0) -> str:
    log = story.log10(values)
    chart = Chart(layer_range(len(log)), log_range(log))
    chart.line(log, "measured", dots=True)
    if rounding:
        chart.level(math.log10(rounding), "below this: lost to rounding")
    chart.missing(values)
    return chart.svg(f"{label}, over the layers")


def _unit_chart(report: Report) -> str:
    hidden = [layer for layer in report.layers if layer.activation]
    saturated = np.array([layer.saturated_share for layer in hidden])
    dead = np.array([layer.dead_share for layer in hidden])
    if not np.any(saturated > 0) and not np.any(dead > 0):
        return ""
    chart = Chart(layer_range(len(report.layers)), (0.0, 1.0), log=False)
    chart.line(saturated, "measured")
    chart.line(dead, "theory")
    return chart.svg("Share of saturated and of dead units, over the layers")


def exponent_chart(report: Report) -> str:
    """The distribution of single deltas, as ribbons over depth, with the flush-to-zero limits of low precision."""
    histogram = story.delta_histogram(report)
    if histogram is None:
        return ""
    exponents, counts = histogram
    scale = math.log10(2.0)
    ribbons = [scale * quantile(exponents, counts, share) for share in (0.05, 0.25, 0.5, 0.75, 0.95)]
    chart = Chart(layer_range(len(counts)), log_range(*ribbons[1:], np.array([-9.0, -1.0])))
    chart.band(ribbons[0], ribbons[4], "spread")
    chart.band(ribbons[1], ribbons[3], "spread")
    chart.line(ribbons[2], "measured")
    for name, exponent in story.FLUSH_EXPONENTS.items():
        chart.level(scale * exponent, f"{name}: zero below")
    return chart.svg("Median, middle half and middle 90% of the single deltas of each layer")


def quantile(exponents: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    """log2 of the size below which `share` of each layer's values lie; NaN for a layer without any.

    Bin i holds sizes from 2^exponents[i] to twice that, taken as evenly spread in the logarithm.
    """
    found = np.full(len(counts), np.nan)
    for layer, bins in enumerate(counts):
        cumulative = np.cumsum(bins)
        if cumulative[-1] > 0:
            wanted = share * cumulative[-1]
            i = int(np.argmax(cumulative >= wanted))
            found[layer] = exponents[i] + 1.0 - (cumulative[i] - wanted) / max(bins[i], 1)
    return found


def factor_chart(factors: dict[str, float]) -> str:
    """Bars to the left (shrinks) or right (grows) of 1 on a log scale, and their product."""
    rows = [*((story.FACTORS[name], value) for name, value in factors.items()),
            ("together", math.prod(factors.values()))]  # fmt: skip
    reach = max(0.3, *(abs(math.log10(value)) for _, value in rows))
    height = 20 + 30 * len(rows)
    marks = [f'<line class="axis" x1="270" x2="270" y1="6" y2="{height - 8}"/>']
    for row, (name, value) in enumerate(rows):
        y, length = 10 + 30 * row, 64 * math.log10(value) / reach
        css = "bar together" if name == "together" else "bar"
        marks.append(f'<text text-anchor="end" x="200" y="{y + 14}">{escape(name)}</text>')
        marks.append(f'<rect class="{css}" x="{270 + min(length, 0):.1f}" y="{y}" height="20" '
                     f'width="{max(abs(length), 1):.1f}"/>')  # fmt: skip
        marks.append(f'<text x="344" y="{y + 14}">&#215; {story.number(value, 3)}</text>')
    label = "; ".join(f"{name} {story.number(value, 3)}" for name, value in rows)
    return f'<svg viewBox="0 0 420 {height}" role="img" aria-label="{escape(label)}">{"".join(marks)}</svg>'


# ---- findings, prediction, remedies ----------------------------------------------------------


def finding_cards(findings: Sequence[Finding], notes: Sequence[str] = ()) -> str:
    """A card for each finding, with a note of its own in front if there is one."""
    if not findings:
        return ""
    cards = "".join(
        f'<div class="card {escape(finding.severity)}"><h3><span>{escape(finding.severity)}</span> '
        f"{escape(story.finding_title(finding))}</h3>{f'<p>{escape(note)}</p>' if note else ''}"
        f"<p>{story.formulas(finding.explanation)}</p>"
        f'<p class="muted">{escape(story.evidence(finding.evidence))}</p></div>'
        for finding, note in zip(findings, notes or [""] * len(findings), strict=True)
    )
    return f"<section><h2>Findings</h2>{cards}</section>"


def _prediction(report: Report) -> str:
    sentences = "".join(f"<p>{story.formulas(sentence)}</p>" for sentence in story.prediction_lines(report))
    return f"<section><h2>Prediction and measurement</h2>{sentences}</section>"


def _remedies(report: Report) -> str:
    helped, failed = remedy_story.split(report)
    tried = [*helped, *failed]
    if not report.tried:
        return ""
    blocks = [f"<section><h2>Remedies{', tried on this data' if tried else ''}</h2>"]
    if tried:
        columns, as_is, *cells = remedy_story.table(tried)
        heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
        rows = _remedy_row("", "original", as_is, "") + "".join(
            _remedy_row("&#10003;" if remedy.helps else "&#10007;", remedy.name, row, remedy.note,
                        "good" if remedy.helps else "failed")
            for remedy, row in zip(tried, cells, strict=True)
        )  # fmt: skip
        blocks.append(
            f'<p class="muted">{escape(remedy_story.note(report))}</p><div class="scroll"><table><thead><tr>'
            f'<th></th><th scope="col" class="name">remedy</th>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    if untried := remedy_story.untried(report):
        blocks.append(f"<p>{escape(untried)}</p>")
    return "".join(blocks) + "</section>"


def _remedy_row(mark: str, name: str, cells: Sequence[str], note: str, css: str = "") -> str:
    small = f'<br><span class="muted">{story.formulas(note)}</span>' if note else ""
    numbers = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr class="{css}"><td>{mark}</td><th scope="row">{escape(name)}{small}</th>{numbers}</tr>'


# ---- tables at the end -----------------------------------------------------------------------


def _layer_table(report: Report) -> str:
    profiles = story.profiles(report).values()
    rows = [[str(layer.out_features), *(story.number(values[layer.index]) for values in profiles), *_shares(layer)]
            for layer in report.layers]  # fmt: skip
    return layer_table(("units", "activation", "delta", "weight gradient", "saturated", "dead", "update"), rows)


def layer_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with one row per layer, folded until the reader opens it."""
    heads = "".join(f'<th scope="col">{story.formulas(name)}</th>' for name in ("layer", *columns))
    lines = "".join(
        f'<tr><th scope="row">{index}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for index, cells in enumerate(rows)
    )
    return (
        "<details><summary>All layers as a table</summary>"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div></details>'
    )


def _shares(layer: LayerRecord) -> tuple[str, str, str]:
    shares = (layer.saturated_share, layer.dead_share) if layer.activation else (math.nan, math.nan)
    saturated, dead = ("" if math.isnan(share) else story.percent(share) for share in shares)
    return saturated, dead, story.number(layer.update_ratio)


def _terms() -> str:
    items = "".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in story.TERMS)
    return f"<details><summary>What the words mean</summary><dl>{items}</dl></details>"
