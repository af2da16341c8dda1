"""A sweep as one self-contained HTML page: heat maps as inline SVG, and the table behind them."""

from __future__ import annotations

import math
from html import escape

from ..sweeps import SweepResult
from ..sweeps.grid import Row
from . import sweep_story
from .html import article, document, legend
from .sweep_story import Panel

_CELL_WIDTH, _CELL_HEIGHT = 44, 30
_TOP, _BOTTOM, _RIGHT, _LETTER = 8, 40, 10, 6.2  # pixels; _LETTER: width of a letter of an 11 px label
_PANEL_WIDTH = 860


def page(result: SweepResult) -> str:
    """A complete HTML document."""
    return document(sweep_story.heading(result), render(result))


def render(result: SweepResult) -> str:
    """The sweep as a fragment, for a page or a notebook."""
    head = (
        f"<header><h1>{escape(sweep_story.heading(result))}</h1>"
        f'<p class="muted">{escape(sweep_story.conditions(result))}</p></header>'
    )
    return article(head, _maps(result), _table(result))


# ---- heat maps -------------------------------------------------------------------------------


def _maps(result: SweepResult) -> str:
    found = sweep_story.panels(result)
    shown = found[: sweep_story.MAX_PANELS]
    keys = [("cold", "gradients shrink towards the input"), ("hot", "they grow; full colour: a factor of 2 per layer"),
            ("ring", "healthy in every seed")]  # fmt: skip
    if any(panel.line for panel in shown):
        keys.append(("theory", "critical line of mean-field theory"))
    more = f'<p class="muted">{len(found) - len(shown)} more are in the table.</p>' if len(found) > len(shown) else ""
    where = ", over the deeper half of the hidden layers" if sweep_story.is_phase_diagram(result) else ""
    figures = "".join(_figure(panel) for panel in shown)
    return (
        "<section><h2>Gain per layer</h2>"
        f'<p class="muted">The factor on the squared gradient from one layer to the one before it{where}.</p>'
        f'{legend(keys)}<div class="maps">{figures}</div>{more}</section>'
    )


def _figure(panel: Panel) -> str:
    caption = f"<figcaption>{escape(panel.title)}</figcaption>" if panel.title else ""
    return f'<figure class="scroll">{caption}{heat_map(panel)}</figure>'


def heat_map(panel: Panel) -> str:
    """One panel as an <svg> element of fixed size."""
    left = 24 + _LETTER * max(len(_y_tick(panel, y)) for y in panel.ys)
    # with few cells, the titles of the axes need more room than the cells
    width = max(left + _CELL_WIDTH * len(panel.xs) + _RIGHT, _LETTER * len(sweep_story.TITLES[panel.x_name]))
    height: float = _TOP + _CELL_HEIGHT * len(panel.ys) + _BOTTOM
    height = max(height, _LETTER * len(sweep_story.TITLES[panel.y_name])) if panel.y_name else height
    frame = _Frame(left, len(panel.ys))
    marks = [_cell(frame, x, y, row, panel)
             for y, line in enumerate(panel.cells) for x, row in enumerate(line) if row is not None]  # fmt: skip
    marks += _axes(panel, frame, width, height)
    points = [
        f"{frame.x(sweep_story.position(panel.xs, w)):.1f},{frame.y(sweep_story.position(panel.ys, b)):.1f}"
        for w, b in panel.line
        if not math.isnan(sweep_story.position(panel.xs, w))
    ]
    if len(points) > 1:
        marks.append(f'<polyline class="theory" points="{" ".join(points)}"/>')
    title = escape(f"Heat map of the gain per layer over {panel.x_name}, {panel.y_name or ''} {panel.title}".strip())
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" style="width:{min(width, _PANEL_WIDTH):.0f}px"'
    return f'<svg {size} role="img" aria-label="{title}">{"".join(marks)}</svg>'


class _Frame:
    """Pixel coordinates of the cells' centres; the first row is at the bottom."""

    def __init__(self, left: float, rows: int) -> None:
        self.left, self.rows = left, rows

    def x(self, index: float) -> float:
        return self.left + _CELL_WIDTH * (index + 0.5)

    def y(self, index: float) -> float:
        return _TOP + _CELL_HEIGHT * (self.rows - index - 0.5)


def _cell(frame: _Frame, x: int, y: int, row: Row, panel: Panel) -> str:
    shade = sweep_story.colour(row[panel.value])
    broken = sweep_story.broken(row, panel.value)
    css = "bad" if broken else "hot" if shade > 0 else "cold"
    # the root makes small departures from 1 visible; a net too shallow for a gain has no colour
    opacity = 1.0 if broken else 0.0 if math.isnan(shade) else math.sqrt(abs(shade))
    title = f"<title>{escape(sweep_story.cell_title(row))}</title>"
    mark = f'<rect class="{css}" {_box(frame, x, y, 1)} fill-opacity="{opacity:.2f}">{title}</rect>'
    if row["healthy"] == 1.0:
        # many readers cannot tell green from red, so the ring lies on a wider one of the page's colour
        mark += "".join(f'<rect class="{ring}" {_box(frame, x, y, 2)} rx="3"/>' for ring in ("ring halo", "ring"))
    if sweep_story.has_room(panel):
        shown = "&#215;" if broken else sweep_story.shown(row[panel.value])
        place = f'text-anchor="middle" x="{frame.x(x):.1f}" y="{frame.y(y) + 4:.1f}"'
        mark += f'<text class="{"onfull" if opacity > 0.6 else "cell"}" {place}>{shown}</text>'
    return mark


def _box(frame: _Frame, x: int, y: int, margin: int) -> str:
    """Attributes of a <rect> that leaves a margin within a cell."""
    left, top = frame.x(x) - _CELL_WIDTH / 2 + margin, frame.y(y) - _CELL_HEIGHT / 2 + margin
    width, height = _CELL_WIDTH - 2 * margin, _CELL_HEIGHT - 2 * margin
    return f'x="{left:.1f}" y="{top:.1f}" width="{width}" height="{height}"'


def _axes(panel: Panel, frame: _Frame, width: float, height: float) -> list[str]:
    floor = height - _BOTTOM
    marks = [
        f'<text text-anchor="middle" x="{frame.x(i):.1f}" y="{floor + 14}">'
        f"{escape(sweep_story.tick(panel.x_name, panel.xs[i]))}</text>"
        for i in sweep_story.ticks(panel)
    ]
    marks += [
        f'<text text-anchor="end" x="{frame.left - 5:.1f}" y="{frame.y(i) + 4:.1f}">{escape(_y_tick(panel, y))}</text>'
        for i, y in enumerate(panel.ys)
    ]
    title = sweep_story.TITLES[panel.x_name]
    middle = _inside(frame.x((len(panel.xs) - 1) / 2), title, width)
    marks.append(f'<text text-anchor="middle" x="{middle:.1f}" y="{height - 8}">{escape(title)}</text>')
    if panel.y_name:
        name = sweep_story.TITLES[panel.y_name]
        y = _inside(_TOP + _CELL_HEIGHT * len(panel.ys) / 2, name, height)
        marks.append(f'<text text-anchor="middle" transform="translate(11 {y:.1f}) rotate(-90)">{escape(name)}</text>')
    return marks


def _inside(middle: float, title: str, length: float) -> float:
    """The place nearest to `middle` at which the title of an axis fits into `length`."""
    half = _LETTER * len(title) / 2
    return max(half, min(middle, length - half))


def _y_tick(panel: Panel, value: object) -> str:
    return sweep_story.tick(panel.y_name, value) if panel.y_name else ""


# ---- table -----------------------------------------------------------------------------------


def _table(result: SweepResult) -> str:
    if not result.rows:
        return ""
    names = sweep_story.columns(result)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = ""
    for row in result.summary():
        css = ' class="failed"' if row["healthy"] < 1.0 else ""
        body += f"<tr{css}>" + "".join(f"<td>{escape(cell)}</td>" for cell in sweep_story.cells(row, names)) + "</tr>"
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}.</dd>" for name, text in sweep_story.terms(result))
    return (
        "<section><h2>All designs</h2>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<dl class="muted">{terms}</dl></section>'
    )
