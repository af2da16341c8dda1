"""The result of a sweep."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check, _files
from ..analysis.report import VERDICTS, plain
from ..mlp import MLP
from .file import SweepFile
from .grid import AXES, Row, build, key, points
from .row import GEOMETRIC, MEAN, as_row

if TYPE_CHECKING:
    import pandas


@dataclass(eq=False)
class SweepResult:
    """The measurements of a sweep.

    Attributes:
        rows: one dict per net: its point (see `AXES`), then
            verdict, cause: from `gc.analyze`; cause is None if healthy.
            gain, gain_low, gain_high: measured factor on the squared gradient per layer towards the input, and its
                95 % interval; predicted_gain: the same by mean-field theory.
            deep_gain: gain over the deeper half of the hidden layers, where signals are near their fixed point;
                comparable with chi_star.
            norm_ratio: |delta| of the first over that of the last hidden layer.
            q_star, chi_star, trainable_depth: see `gradcore.analysis.Prediction`.
            loss, saturated_share, dead_share (means over the hidden layers), num_parameters.
            Undefined and infinite values are NaN.
        grid: every axis with its values. settings: loss, batches, data and others.
        interrupted: whether points are missing, because of Ctrl-C or in a file that is not complete.
    """

    rows: list[Row]
    grid: dict[str, list[Any]]
    settings: dict[str, Any]
    interrupted: bool = False
    _summary: list[Row] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> list[Any]:
        """One column over the rows, such as result["gain"]."""
        return [row[name] for row in self.rows]

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(self.grid[name])}" for name in self.varied)
        return f"<SweepResult of {len(self)} nets{f': {axes}' if axes else ''}>"

    @property
    def varied(self) -> list[str]:
        """The axes with more than one value."""
        return [name for name, values in self.grid.items() if len(values) > 1]

    def net(self, index: int) -> MLP:
        """The net of a row, rebuilt."""
        settings = self.settings
        return build(self.rows[index], settings["in_features"], settings["out_features"], settings["dtype"])

    def summary(self) -> list[Row]:
        """The rows combined over seeds, in the order of the grid.

        Numbers become means (geometric for gains and norm_ratio). gain_low and gain_high are the smallest and largest
        gain of any seed, verdict is the worst, and `healthy` is the share of healthy seeds.
        """
        if not self._summary:
            groups: dict[str, list[Row]] = {}
            for row in self.rows:
                groups.setdefault(key({**row, "seed": 0}), []).append(row)
            self._summary = [_merged(rows) for rows in groups.values()]
        return self._summary

    def to_dict(self) -> dict[str, Any]:
        """Rows, grid, settings and interrupted; numbers may be NaN."""
        return {"rows": self.rows, "grid": self.grid, "settings": self.settings, "interrupted": self.interrupted}

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text; NaN is null."""
        return json.dumps(plain(self.to_dict()), indent=indent, allow_nan=False)

    def to_csv(self) -> str:
        """The rows as CSV text with a header line; empty cells for None and NaN."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]) if self.rows else list(AXES), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: None if value != value else value for name, value in row.items()})
        return text.getvalue()

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per net. Needs pandas."""
        pd = _check.optional("pandas", "dataframe", "data frames")
        return pd.DataFrame(self.rows)

    def plot(self) -> Any:
        """A matplotlib Figure: heat maps of the gain, with the critical line where the theory has one."""
        from ..show import sweep_plots

        return sweep_plots.plot(self)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write the sweep as one self-contained page: heat maps and table."""
        from ..show import sweep_html

        _files.write_report(_check.file(path), sweep_html.page(self))

    def __str__(self) -> str:
        from ..show import sweep_text

        return sweep_text.render(self)

    def _repr_html_(self) -> str:
        from ..show import sweep_html

        return sweep_html.render(self)


def _merged(rows: list[Row]) -> Row:
    """One row for all seeds of a design."""
    gains = np.array([row["gain"] for row in rows])
    causes = [row["cause"] for row in rows if row["cause"]]
    merged = {name: value for name, value in rows[0].items() if name != "seed"}
    merged |= {"seeds": len(rows), "healthy": float(np.mean([row["verdict"] == "healthy" for row in rows]))}
    merged["verdict"] = max((row["verdict"] for row in rows), key=VERDICTS.index)
    merged["cause"] = max(causes, key=causes.count) if causes else None
    with np.errstate(divide="ignore"):  # a gain of 0 makes a mean of 0
        merged |= {name: float(np.exp(np.mean(np.log([row[name] for row in rows])))) for name in GEOMETRIC}
    merged |= {name: float(np.mean([row[name] for row in rows])) for name in MEAN}
    return merged | {"gain_low": float(gains.min()), "gain_high": float(gains.max())}


def load(path: str | PathLike[str]) -> SweepResult:
    """The finished points in the file of a sweep.

    Raises:
        ValueError: the file was not written by `gc.sweep`. OSError: if it cannot be read.
    """
    with SweepFile(path) as file:
        if not file.config:
            raise ValueError(f"{file.path}: expected a file that gc.sweep wrote, got an empty one")
        axes, found = file.config["grid"], {key(point): as_row(point, result) for point, result in file.rows}
        keys = [key(point) for point in points(axes)]
        rows = [found[key] for key in keys if key in found]
        return SweepResult(rows, axes, file.config["settings"], len(rows) < len(keys))
