"""Small charts as inline SVG text: lines, bands and bars on a linear x and a linear or log10 y axis.

Colours come from the page (CSS classes), so that a chart follows its light or dark theme.
Coordinates are rounded to a tenth of a pixel, which keeps a chart of 30 layers near 4 kB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np


class Chart:
    """One pair of axes over layers. y values are given in axis units (log10 for a log axis).

    Add marks, then call `svg`. NaN in a series makes a gap.
    """

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        *,
        size: tuple[int, int] = (420, 230),
        log: bool = True,
        x_label: str = "layer",
    ) -> None:
        self.width, self.height = size
        self.left, self.right, self.top, self.bottom = 50, 12, 12, 36
        self.x0, self.x1 = x_range
        self.y0, self.y1 = y_range
        self.marks: list[str] = []
        self.log = log
        self._levels: list[float] = []
        self._axes(x_label)

    def x(self, value: float) -> float:
        """Pixel column of an x value."""
        share = (value - self.x0) / ((self.x1 - self.x0) or 1.0)
        return round(self.left + share * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        """Pixel row of a y value, kept inside the frame."""
        share = min(max((value - self.y0) / ((self.y1 - self.y0) or 1.0), 0.0), 1.0)
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 1)

    def line(self, ys: Sequence[float] | np.ndarray, css: str, dots: bool = False) -> None:
        """A line over x = 0, 1, ...; with `dots`, markers that show their value when pointed at."""
        for start, stop in runs(np.asarray(ys)):
            points = " ".join(f"{self.x(i)},{self.y(ys[i])}" for i in range(start, stop))
            self.marks.append(f'<polyline class="{css}" points="{points}"/>')
            if dots:
                self.marks += [self._dot(i, ys[i], css) for i in range(start, stop)]

    def _dot(self, index: int, value: float, css: str) -> str:
        shown = f"{value:.3g}"
        if self.log:
            shown = f"{10.0**value:.2g}" if abs(value) < 300 else f"1e{value:.0f}"
        title = escape(f"layer {index}: {shown}")
        place = f'cx="{self.x(index)}" cy="{self.y(value)}" r="2.2"'
        return f'<circle class="{css}" {place}><title>{title}</title></circle>'

    def band(self, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray, css: str) -> None:
        """The area between two lines over x = 0, 1, ..."""
        low, high = np.asarray(low), np.asarray(high)
        for start, stop in runs(low + high):
            forth = [f"{self.x(i)},{self.y(high[i])}" for i in range(start, stop)]
            back = [f"{self.x(i)},{self.y(low[i])}" for i in reversed(range(start, stop))]
            self.marks.append(f'<polygon class="{css}" points="{" ".join(forth + back)}"/>')

    def level(self, value: float, css: str, label: str) -> None:
        """A horizontal line with its label, if it lies inside the frame; labels never cover each other."""
        if not self.y0 <= value <= self.y1:
            return
        y = self.y(value)
        x = self.left + 4 + 120 * sum(abs(y - other) < 11 for other in self._levels)
        self._levels.append(y)
        self.marks.append(
            f'<line class="{css}" x1="{self.left}" x2="{self.width - self.right}" y1="{y}" y2="{y}"/>'
            f'<text class="small" x="{x}" y="{y - 3}">{escape(label)}</text>'
        )

    def cross(self, index: int, css: str, label: str) -> None:
        """A cross on the upper edge: a value that has no place on the axis."""
        self.marks.append(
            f'<text class="{css}" text-anchor="middle" x="{self.x(index)}" y="{self.top + 9}">&#215;'
            f"<title>{escape(label)}</title></text>"
        )

    def svg(self, label: str) -> str:
        """The chart as an <svg> element that a screen reader announces as `label`."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">'
            f"{''.join(self.marks)}</svg>"
        )

    def _axes(self, x_label: str) -> None:
        right, floor = self.width - self.right, self.height - self.bottom
        for value in _whole_ticks(self.y0, self.y1, 6) if self.log else _ticks(self.y0, self.y1, 5):
            y = self.y(value)
            text = _power(round(value)) if self.log else f"{value:g}"
            self.marks.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y}" y2="{y}"/>')
            self.marks.append(f'<text text-anchor="end" x="{self.left - 6}" y="{y + 4}">{text}</text>')
        for value in _whole_ticks(self.x0, self.x1, 8):
            self.marks.append(f'<text text-anchor="middle" x="{self.x(value)}" y="{floor + 15}">{value}</text>')
        middle = (self.left + right) / 2
        self.marks.append(f'<text text-anchor="middle" x="{middle}" y="{self.height - 5}">{escape(x_label)}</text>')


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Half-open index ranges of the stretches without NaN."""
    padded = np.concatenate(([False], np.isfinite(values), [False])).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def log_range(*series: np.ndarray, least: float = 2.0) -> tuple[float, float]:
    """Whole decades around all finite values, at least `least` of them; (-1, 1) when there are none."""
    values = np.concatenate([np.ravel(entry) for entry in series])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return -1.0, 1.0
    low, high = math.floor(values.min()), math.ceil(values.max())
    missing = max(0.0, least - (high - low))
    return low - math.ceil(missing / 2), high + math.floor(missing / 2)


def _whole_ticks(low: float, high: float, most: int) -> list[int]:
    """Whole numbers in [low, high], at most about `most`, at steps of 1, 2, 5, 10, ..."""
    step = 1
    while (high - low) / step > most:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))


def _ticks(low: float, high: float, most: int) -> list[float]:
    scale = 10.0 ** math.floor(math.log10((high - low) / most))
    return [tick * scale for tick in _whole_ticks(low / scale, high / scale, most)]


def _power(exponent: int) -> str:
    return f'10<tspan dy="-4" font-size="8">{exponent}</tspan>'
