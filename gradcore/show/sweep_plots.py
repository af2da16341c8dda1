"""A sweep as a matplotlib figure (extra `plot`). matplotlib is imported when a figure is drawn."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np

from ..sweeps import SweepResult
from . import sweep_story
from .plots import GREEN, RED, new_figure
from .sweep_story import Panel

_TITLE_LETTERS = 9  # letters per inch in a figure's bold title
_THEORY = "critical line of mean-field theory"


def plot(result: SweepResult) -> Any:
    """A matplotlib Figure: one heat map of the gain per layer for each combination of the other axes.

    Blue: the gradient shrinks towards the input; red: it grows. Green frames are designs that are healthy in
    every seed; the dashed line is where mean-field theory has chi = 1. It is attached to no window.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    panels = sweep_story.panels(result)[: sweep_story.MAX_PANELS]
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    size = (1.8 + 0.5 * len(panels[0].xs), 1.4 + 0.4 * len(panels[0].ys))
    width = max(columns * size[0] + 1.2, 5.0)
    figure = new_figure(width, max(rows * size[1] + 0.6, 3.8))
    figure.suptitle(textwrap.fill(sweep_story.heading(result), int(width * _TITLE_LETTERS)), fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False)
    images = [_heat_map(ax, panel) for ax, panel in zip(axes.flat, panels, strict=False)]
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    lines = [line for ax in axes.flat for line in ax.get_lines() if line.get_label() == _THEORY]
    if lines:
        figure.legend(handles=lines[:1], loc="outside lower center", frameon=False)
    where = ",\ndeeper half of the layers" if sweep_story.is_phase_diagram(result) else ""
    bar = figure.colorbar(images[0], ax=axes, label=f"gain of |gradient|$^2$ per layer{where}", pad=0.01)
    bar.set_ticks([-1.0, -0.5, 0.0, 0.5, 1.0], labels=["0.5", "0.71", "1", "1.4", "2"])
    return figure


def _heat_map(ax: Any, panel: Panel) -> Any:
    shades = np.array(
        [[math.nan if row is None else sweep_story.colour(row[panel.value]) for row in line] for line in panel.cells]
    )
    image = ax.imshow(shades, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-1.0, vmax=1.0)
    for y, line in enumerate(panel.cells):
        for x, row in enumerate(line):
            if row is None:
                continue
            shade = sweep_story.colour(row[panel.value])
            if row["healthy"] == 1.0:
                frame = np.array([-1, 1, 1, -1, -1]) * 0.44 + x, np.array([-1, -1, 1, 1, -1]) * 0.42 + y
                ax.plot(*frame, color="white", lw=3)  # many readers cannot tell green from red
                ax.plot(*frame, color=GREEN, lw=1)
            if sweep_story.broken(row, panel.value):
                ax.plot(x, y, "x", color=RED)
            elif sweep_story.has_room(panel):
                tone = "white" if abs(shade) > 0.7 else "black"
                ax.text(x, y, sweep_story.shown(row[panel.value]), ha="center", va="center", fontsize=7, color=tone)
    _ticks(ax, panel)
    if panel.line:
        places = np.array(
            [(sweep_story.position(panel.xs, w), sweep_story.position(panel.ys, b)) for w, b in panel.line]
        )
        ax.plot(*places.T, "--", color="black", lw=1.6, label=_THEORY)
    ax.set_title(panel.title, fontsize=10)
    return image


def _ticks(ax: Any, panel: Panel) -> None:
    places = sweep_story.ticks(panel)
    ax.set_xticks(places, [sweep_story.tick(panel.x_name, panel.xs[i]) for i in places], fontsize=8)
    ax.set_xlabel(sweep_story.TITLES[panel.x_name])
    if panel.y_name is None:
        ax.set_yticks([])
        return
    ax.set_yticks(range(len(panel.ys)), [sweep_story.tick(panel.y_name, y) for y in panel.ys], fontsize=8)
    ax.set_ylabel(sweep_story.TITLES[panel.y_name])
