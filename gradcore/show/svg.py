"""Small charts as inline SVG text: lines, bands and bars on a linear x and a linear or log10 y axis, and heat maps.

Colours come from the page (CSS classes), so that a chart follows its light or dark theme.
Coordinates are rounded to a tenth of a pixel, which keeps a chart of 30 layers near 4 kB.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from html import escape

import numpy as np

from ..analysis.wording import significant

_MAX_DOTS = 120  # points beyond which single markers would run into each other


class Chart:
    """One pair of axes over layers. y values are given in axis units (log10 for a log axis).

    Add marks, then call `svg`. NaN in a series makes a gap. x_names: numbers to show in place of x = 0, 1, ...
    """

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        *,
        size: tuple[int, int] = (420, 230),
        log: bool = True,
        x_label: str = "layer",
        x_names: np.ndarray | None = None,
    ) -> None:
        self.width, self.height = size
        self.left, self.right, self.top, self.bottom = 50, 12, 12, 36
        self.x0, self.x1 = x_range
        self.y0, self.y1 = y_range
        self.marks: list[str] = []
        self.log = log
        self._levels: list[float] = []
        self._names = x_names
        self._axes(x_label)

    def x(self, value: float) -> float:
        """Pixel column of an x value."""
        share = (value - self.x0) / ((self.x1 - self.x0) or 1.0)
        return round(self.left + share * (self.width - self.left - self.right), 1)

    def y(self, value: float) -> float:
        """Pixel row of a y value, kept inside the frame."""
        share = min(max((value - self.y0) / ((self.y1 - self.y0) or 1.0), 0.0), 1.0)
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 1)

    def line(self, ys: Sequence[float] | np.ndarray, css: str, dots: bool = False, unit: str = "layer") -> None:
        """A line over x = 0, 1, ...; with `dots`, markers that show `unit`, number and value on hover.

        A line of many points has no markers. A single point between gaps always has one: as a line it is invisible.
        """
        for start, stop in runs(np.asarray(ys)):
            points = " ".join(f"{self.x(i)},{self.y(ys[i])}" for i in range(start, stop))
            self.marks.append(f'<polyline class="{css}" points="{points}"/>')
            if (dots and len(ys) <= _MAX_DOTS) or stop - start == 1:
                self.marks += [self._dot(i, ys[i], css, unit) for i in range(start, stop)]

    def _dot(self, index: int, value: float, css: str, unit: str) -> str:
        shown = significant(value, 3)
        if self.log:
            shown = significant(10.0**value, 2) if abs(value) < 300 else f"1e{value:.0f}"
        title = escape(f"{unit} {self._name(index)}: {shown}")
        place = f'cx="{self.x(index)}" cy="{self.y(value)}" r="2.2"'
        return f'<circle class="{css}" {place}><title>{title}</title></circle>'

    def band(self, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray, css: str) -> None:
        """The area between two lines over x = 0, 1, ..."""
        low, high = np.asarray(low), np.asarray(high)
        for start, stop in runs(low + high):
            forth = [f"{self.x(i)},{self.y(high[i])}" for i in range(start, stop)]
            back = [f"{self.x(i)},{self.y(low[i])}" for i in reversed(range(start, stop))]
            self.marks.append(f'<polygon class="{css}" points="{" ".join(forth + back)}"/>')

    def level(self, value: float, label: str) -> None:
        """A horizontal line with its label, if it lies inside the frame; labels never cover each other."""
        if not self.y0 <= value <= self.y1:
            return
        y = self.y(value)
        x = self.left + 4 + 120 * sum(abs(y - other) < 11 for other in self._levels)
        self._levels.append(y)
        self.marks.append(
            f'<line class="limit" x1="{self.left}" x2="{self.width - self.right}" y1="{y}" y2="{y}"/>'
            f'<text class="small" x="{x}" y="{y - 3}">{escape(label)}</text>'
        )

    def missing(self, values: np.ndarray) -> None:
        """Mark values that a log axis cannot show: NaN and infinity by a cross at the upper edge, 0 at the lower."""
        floor = self.height - self.bottom - 3
        for index in np.flatnonzero(~np.isfinite(values) | (values == 0)):
            mark, y = ("0", floor) if values[index] == 0 else ("&#215;", self.top + 9)
            self.marks.append(
                f'<text class="bad" text-anchor="middle" x="{self.x(float(index))}" y="{y}">{mark}'
                f"<title>layer {index}: {significant(values[index])}</title></text>"
            )

    def svg(self, label: str) -> str:
        """The chart as an <svg> element that a screen reader announces as `label`."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">'
            f"{''.join(self.marks)}</svg>"
        )

    def _name(self, x: int) -> str:
        return str(x) if self._names is None else f"{self._names[x]:.0f}"

    def _axes(self, x_label: str) -> None:
        right, floor = self.width - self.right, self.height - self.bottom
        for value in _whole_ticks(self.y0, self.y1, 6) if self.log else _ticks(self.y0, self.y1, 5):
            y = self.y(value)
            text = _power(round(value)) if self.log else significant(value)
            self.marks.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{y}" y2="{y}"/>')
            self.marks.append(f'<text text-anchor="end" x="{self.left - 6}" y="{y + 4}">{text}</text>')
        for value in _whole_ticks(self.x0, self.x1, 8):
            self.marks.append(
                f'<text text-anchor="middle" x="{self.x(value)}" y="{floor + 15}">{self._name(value)}</text>'
            )
        middle = (self.left + right) / 2
        self.marks.append(f'<text text-anchor="middle" x="{middle}" y="{self.height - 5}">{escape(x_label)}</text>')


# Red, green and blue of each quantity, as in report.css; opacity is the shade, so that maps suit both themes.
_MAP_COLOR, _BAD_COLOR = (29, 95, 196), (187, 43, 51)
_FAINTEST, _MAP_SIZE, _MAP_FRAME = 24, (420, 250), (40, 12, 12, 50)  # frame: left, right, top, bottom


def heat_map(
    values: np.ndarray,
    steps: np.ndarray,
    limits: tuple[float, float],
    label: str,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """An <svg> of values in axis units (log10), [columns, rows], with row 0 at the bottom.

    steps: number of each column, ascending. limits: values of the faintest and the full shade. marks: (step, words),
    drawn as dashed lines.
    """
    (width, height), (left, right, top, bottom) = _MAP_SIZE, _MAP_FRAME
    wide, high, (columns, rows) = width - left - right, height - top - bottom, values.shape
    low, full = limits
    png = base64.b64encode(_png(_shaded(values, low, full).transpose(1, 0, 2)[::-1])).decode("ascii")
    parts = [
        f'<image x="{left}" y="{top}" width="{wide}" height="{high}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{png}"/>'
        f'<rect class="frame" x="{left}" y="{top}" width="{wide}" height="{high}"/>'
    ]
    for row in _whole_ticks(0, rows - 1, 6):
        y = round(top + high * (1.0 - (row + 0.5) / rows) + 4, 1)
        parts.append(f'<text text-anchor="end" x="{left - 6}" y="{y}">{row}</text>')
    for column in sorted({round(share * (columns - 1)) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}):
        x = round(left + wide * (column + 0.5) / columns, 1)
        parts.append(f'<text text-anchor="middle" x="{x}" y="{top + high + 15}">{steps[column]:.0f}</text>')
    for step, words in marks:
        x = round(left + wide * min(int(np.searchsorted(steps, step)), columns - 1) / columns, 1)
        line = f'<line class="limit" x1="{x}" x2="{x}" y1="{top}" y2="{top + high}">'
        parts.append(f"{line}<title>step {step:.0f}: {escape(words)}</title></line>")
    scale = f"step (up: layer); shades from {_power(round(low), ' to ')}{_power(round(full))}"
    parts.append(f'<text text-anchor="middle" x="{left + wide / 2}" y="{height - 8}">{scale}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _shaded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours of a heat map, uint8 [columns, rows, RGBA]; NaN is red."""
    bad = np.isnan(values)
    share = np.clip((np.where(bad, low, values) - low) / (high - low), 0.0, 1.0)
    pixels = np.empty((*values.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _MAP_COLOR
    pixels[..., 3] = np.round(_FAINTEST + (255 - _FAINTEST) * share)
    pixels[bad] = (*_BAD_COLOR, 255)
    return pixels


def _png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 [height, width, RGBA] (ISO/IEC 15948): a header, one compressed block, an end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits, RGBA
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Half-open index ranges of the runs without NaN."""
    padded = np.concatenate(([False], np.isfinite(values), [False])).astype(np.int8)
    edges = np.flatnonzero(np.diff(padded))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def layer_range(count: int) -> tuple[float, float]:
    """x values of a chart over `count` layers; a single one is in the middle."""
    return (0.0, count - 1.0) if count > 1 else (-0.5, 0.5)


def log_range(*series: np.ndarray, least: float = 2.0) -> tuple[float, float]:
    """Whole decades around all finite values, at least `least` decades; (-1, 1) without finite values."""
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


def _power(exponent: int, then: str = "") -> str:
    """A power of ten as SVG text. then: words to follow it, which would otherwise be raised like the exponent."""
    back = f'<tspan dy="4">{then}</tspan>' if then else ""
    return f'10<tspan dy="-4" font-size="8">{exponent}</tspan>{back}'
