"""The content of a sweep's figures and tables: panels of cells, columns, and sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analysis.case import batch_rows
from ..sweeps import AXES, SweepResult, critical_line
from ..sweeps.grid import Row
from . import story

TITLES = {
    "depth": "depth (dense layers)",
    "width": "width",
    "activation": "activation",
    "init": "initialization",
    "weight_var": "variance of weights x fan_in",
    "bias_var": "variance of biases",
    "normalization": "normalization",
    "residual": "residual",
}
_NUMERIC = ("depth", "weight_var", "bias_var", "width")
MAX_PANELS = 24
_MAX_TEXT_CELLS = 16  # in a row; with more, numbers in the cells would overlap
_LINE_POINTS = 60

# A factor of 2 per layer has the full colour: over ten layers it makes 1000.
FULL_COLOUR = math.log(2.0)


@dataclass(frozen=True)
class Panel:
    """One heat map: the designs that agree in all axes but two.

    title: the values in which they agree, of axes that the sweep varies. xs, ys: values of the axes x_name and y_name,
    numbers in rising order and names in that of the grid. cells[y][x]: the design's row of `SweepResult.summary`, None
    if it was not measured. value: the column shown. line: pairs (weight_var, bias_var) where theory has chi = 1; may be
    empty.
    """

    title: str
    x_name: str
    y_name: str | None
    xs: tuple[Any, ...]
    ys: tuple[Any, ...]
    cells: tuple[tuple[Row | None, ...], ...]
    value: str
    line: tuple[tuple[float, float], ...] = ()


def panels(result: SweepResult) -> list[Panel]:
    """The sweep as heat maps: over (weight_var, bias_var) where both vary, else over depth and one more axis."""
    x_name, y_name = _chosen_axes(result)
    rest = [name for name in result.varied if name not in (x_name, y_name, "seed")]
    found = {_place(row): row for row in result.summary()}
    return [
        _panel(result, x_name, y_name, dict(zip(rest, values, strict=True)), found)
        for values in itertools.product(*(result.grid[name] for name in rest))
    ]


def is_phase_diagram(result: SweepResult) -> bool:
    """Whether both variances vary, as in the theory's phase diagram; gains are then those of deep layers."""
    return {"weight_var", "bias_var"} <= set(result.varied)


def _chosen_axes(result: SweepResult) -> tuple[str, str | None]:
    """Names of the x and y axis of all panels; None for y if the sweep varies at most one axis."""
    varied = [name for name in result.varied if name != "seed"]
    if is_phase_diagram(result):
        return "weight_var", "bias_var"
    x_name = next((name for name in _NUMERIC if name in varied), varied[0] if varied else "depth")
    others = [name for name in varied if name != x_name]
    return x_name, max(others, key=lambda name: len(result.grid[name]), default=None)


def _place(point: Row) -> tuple[Any, ...]:
    """A key that is unique to a design: its values on all axes but that of seeds."""
    return tuple(point[name] for name in AXES if name != "seed")


def _panel(
    result: SweepResult, x_name: str, y_name: str | None, fixed: Row, found: dict[tuple[Any, ...], Row]
) -> Panel:
    """The panel of the designs with the values `fixed`. found: all measured designs, by `_place`."""
    base = {name: values[0] for name, values in result.grid.items()} | fixed
    xs, ys = _ordered(result.grid[x_name]), _ordered(result.grid[y_name]) if y_name else (None,)
    cells = tuple(
        tuple(found.get(_place(base | {x_name: x} | ({y_name: y} if y_name else {}))) for x in xs) for y in ys
    )
    title = ", ".join(label(name, value) for name, value in fixed.items())
    if not is_phase_diagram(result):
        return Panel(title, x_name, y_name, xs, ys, cells, "gain")
    return Panel(title, x_name, y_name, xs, ys, cells, "deep_gain", _line(base, ys))


def _ordered(values: Sequence[Any]) -> tuple[Any, ...]:
    """Numbers in rising order, names as they were given."""
    return tuple(values if isinstance(values[0], (str, bool, type(None))) else sorted(values))


def _line(point: Row, bias_vars: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Points of the critical line; none with normalization or skip connections, for which it does not hold."""
    if point["normalization"] is not None or point["residual"]:
        return ()
    dense = np.interp(
        np.linspace(0, len(bias_vars) - 1, _LINE_POINTS), np.arange(len(bias_vars)), np.array(bias_vars, float)
    )
    line = critical_line(point["activation"], dense)
    return tuple((float(w), float(b)) for w, b in zip(line, dense, strict=True) if not math.isnan(w))


def position(values: Sequence[float], value: float) -> float:
    """The position of `value` on an axis whose cells have width 1 and centres 0, 1, ...; NaN outside the cells.

    Between two cells, and half a cell beyond the outer ones, the axis is linear.
    """
    places, known = list(range(len(values))), [float(entry) for entry in values]
    if len(known) > 1:
        known = [1.5 * known[0] - 0.5 * known[1], *known, 1.5 * known[-1] - 0.5 * known[-2]]
        places = [-0.5, *places, len(values) - 0.5]  # type: ignore[list-item]
    return float(np.interp(value, known, places, left=math.nan, right=math.nan))


def colour(gain: float) -> float:
    """-1 (the squared gradient halves in each layer, or worse) to 1 (it doubles or worse); NaN if it is not finite."""
    return math.nan if math.isnan(gain) else min(max(math.log(max(gain, 1e-300)) / FULL_COLOUR, -1.0), 1.0)


def broken(row: Row, value: str) -> bool:
    """Whether a design has no gain because its gradients are zero or not finite, rather than because it is shallow."""
    return math.isnan(row[value]) and row["verdict"] != "healthy"


def has_room(panel: Panel) -> bool:
    """Whether numbers fit into the cells of a panel."""
    return len(panel.xs) <= _MAX_TEXT_CELLS


def ticks(panel: Panel) -> range:
    """Columns of a panel whose values fit below the x axis."""
    return range(0, len(panel.xs), -(-len(panel.xs) // _MAX_TEXT_CELLS))


def shown(gain: float) -> str:
    """A gain as the text of a cell."""
    return f"{gain:.2f}" if 0.095 <= gain < 10.0 else story.number(gain, 1)


# ---- words -----------------------------------------------------------------------------------


def label(name: str, value: Any) -> str:
    """An axis value in words."""
    if name == "normalization":
        return f"{value} norm" if value else "no normalization"
    if name == "residual":
        return "residual" if value else "plain"
    if name == "init":
        return f"{value} initialization"
    if isinstance(value, (int, float)):
        return f"{name} {story.number(value, 3)}"
    return str(value)


def tick(name: str, value: Any) -> str:
    """An axis value as the label of a tick, beside the name of the axis."""
    if isinstance(value, (int, float)) and name != "residual":
        return story.number(value, 3)
    return str(value) if name == "init" else label(name, value)


def heading(result: SweepResult) -> str:
    """A sentence about the axes of the sweep."""
    designs = len(result.summary())
    seeds = len(result.grid["seed"])
    varied = [name for name in result.varied if name != "seed"]
    text = f"Sweep of {story.counted(designs, 'design')}"
    text += f" over {', '.join(TITLES.get(name, name) for name in varied)}" if varied else ""
    return text + (f", {'up to ' if result.interrupted else ''}{seeds} seeds each" if seeds > 1 else "")


def conditions(result: SweepResult) -> str:
    """The settings that all nets share."""
    fixed = [label(name, values[0]) for name, values in result.grid.items()
             if len(values) == 1 and name != "seed" and values[0] not in (None, False, 0.0)]  # fmt: skip
    settings = result.settings
    fixed.append(f"{_batches(result)}, {settings['loss']}, {settings['dtype']}")
    if result.interrupted:
        fixed.append("interrupted: not all points were measured")
    return "; ".join(fixed)


def _batches(result: SweepResult) -> str:
    """The number of batches and their rows. Too few data make batches smaller, except with batch norm."""
    settings = result.settings
    size, count = settings["batch_size"], settings["batches"]
    rows = settings.get("rows", size * count)  # missing in files of earlier versions
    normed = sorted({name == "batch" for name in result.grid["normalization"]})
    drawn = [batch_rows(rows, size, count, 0, keep_size=under) for under in normed]
    texts = [f"{story.counted(len(each), 'batch', 'batches')} of {len(each[0])}" for each in drawn]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} and {texts[1]} under batch norm"


def cell_title(row: Row) -> str:
    """A design and its result, in one line."""
    point = ", ".join(label(name, row[name]) for name in AXES if name != "seed" and row[name] not in (None, False))
    found = f"gain {story.number(row['gain'], 3)} (theory {story.number(row['predicted_gain'], 3)})"
    deep = f"in deep layers {story.number(row['deep_gain'], 3)} (theory {story.number(row['chi_star'], 3)})"
    return f"{point}: {verdict(row)}, {found}, {deep}"


def verdict(row: Row) -> str:
    """The worst verdict of a design, and the number of healthy seeds if they differ."""
    if 0.0 < row["healthy"] < 1.0:
        return f"{row['verdict']} ({round(row['healthy'] * row['seeds'])} of {row['seeds']} healthy)"
    return str(row["verdict"])


COLUMNS = (
    "gradients",
    "gain/layer",
    "over seeds",
    "theory",
    "deep",
    "chi*",
    "first/last",
    "saturated",
    "dead",
    "cause",
)


def terms(result: SweepResult) -> list[tuple[str, str]]:
    """(name, explanation) of the columns that are shown."""
    shown = columns(result)
    return [(name, meaning) for name, meaning in _TERMS if name in shown]


def columns(result: SweepResult) -> list[str]:
    """Headings of the table: the varied axes, then the measurements; columns without information are left out."""
    summary = result.summary()
    idle = {"over seeds"} if len(result.grid["seed"]) == 1 else set()
    idle |= set() if is_phase_diagram(result) else {"deep", "chi*"}
    idle |= {name for name in ("saturated", "dead") if not any(row[f"{name}_share"] > 0 for row in summary)}
    idle |= set() if any(row["cause"] for row in summary) else {"cause"}
    axes = [name for name in result.varied if name != "seed"] or ["depth"]
    return [*axes, *(name for name in COLUMNS if name not in idle)]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """One line of the table: the cells of a row under the headings `names`."""
    special = {
        "gradients": verdict(row),
        "gain/layer": story.number(row["gain"], 3),
        "over seeds": _range(row["gain_low"], row["gain_high"]),
        "theory": story.number(row["predicted_gain"], 3),
        "deep": story.number(row["deep_gain"], 3),
        "chi*": story.number(row["chi_star"], 3),
        "first/last": story.number(row["norm_ratio"]),
        "saturated": story.percent(row["saturated_share"]),
        "dead": story.percent(row["dead_share"]),
        "cause": (row["cause"] or "").replace("_", " "),
    }
    return [special[name] if name in special else tick(name, row[name]) for name in names]


def _range(low: float, high: float) -> str:
    """The lowest and the highest gain over seeds, in words; n/a for nets too shallow for a gain."""
    return story.number(low, 3) if math.isnan(low) else f"{story.number(low, 3)} to {story.number(high, 3)}"


_TERMS = (
    ("gain/layer", "factor on the squared gradient from one layer to the one before it; 1 keeps its size"),
    ("theory", "the same by mean-field theory, for the weights each net has"),
    ("deep", "the gain over the deeper half of the hidden layers"),
    ("chi*", "the same by mean-field theory, at the fixed point of deep layers"),
    ("first/last", "norm of the gradient in the first hidden layer over that in the last one"),
)
