"""The results of monitoring a training: records of plain numbers and their conversions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _check, _files
from .report import Finding, Record, Report

if TYPE_CHECKING:
    from .._tape import ReplayedStep

# Kept of every check, one value per layer. The names are those of LayerRecord.
PROFILES = (
    "activation_norm",
    "delta_norm",
    "weight_grad_norm",
    "weight_norm",
    "update_ratio",
    "saturated_share",
    "dead_share",
    "activation_nonfinite_share",
    "delta_nonfinite_share",
    "weight_grad_nonfinite_share",
)
# Kept of every check, one value for the whole net.
SERIES = ("step", "loss", "total_norm", "lr")


@dataclass(frozen=True)
class TrainingFinding(Finding):
    """A finding during training. Steps count from 0 at the start of monitoring.

    since: first step of the check that first showed it; for `non_finite` the exact step.
    healthy_until: last step known to be free of it; None if it was there from the start.
    onset_layers: the layers concerned when it was first seen. raised: the step after which it was confirmed.
    ended: first step of the checks that no longer showed it; None while it lasts. actions: what was done about it.
    report: the analysis that confirmed it, with remedies to try; None for `non_finite` and for an `info`.
    """

    since: int = 0
    healthy_until: int | None = None
    onset_layers: tuple[int, ...] = ()
    raised: int = 0
    ended: int | None = None
    actions: tuple[str, ...] = ()
    report: Report | None = field(default=None, repr=False)
    _tape: Any = field(default=None, repr=False)

    def replay(self) -> Iterator[ReplayedStep]:
        """Replay the steps of a `non_finite` finding, recorded: from the last snapshot to the step `raised`."""
        if self._tape is None:
            raise ValueError(f"replay: expected a non_finite finding, got {self.kind}")
        return takewhile(lambda step: step.step <= self.raised, self._tape.replay())

    def to_dict(self) -> dict[str, Any]:
        """All fields except the report, which has its own `to_dict`."""
        record = super().to_dict()
        del record["report"]
        return record

    def __str__(self) -> str:
        from ..show import training

        return f"{training.onset(self)} {self.explanation}"


@dataclass(frozen=True, eq=False)
class TrainingReport(Record):
    """The result of monitoring a training.

    verdict: worst of the findings, including those that have ended; as in Report.
    findings: in the order in which they were raised. steps: number of steps monitored.
    history: measurements of each check: arrays [checks] for "step", "loss", "total_norm" and "lr", and [checks, depth]
        for the names in PROFILES of `gradcore.analysis.training_report`, which are fields of LayerRecord. Norms are
        scaled to a batch of the check's mean size. After a non-finite value, a last row holds that step.
    config: the net's settings. conditions: loss, optimizer, and the settings of the monitor.
    cost: checks, recorded_passes, analyses; with a budget also seconds and share of the training time, noting_share
        (cost of logging every step), and owed_steps (further steps that would pay for checks on credit; 0: paid).
    """

    verdict: str
    findings: tuple[TrainingFinding, ...]
    steps: int
    history: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    conditions: Mapping[str, Any]
    cost: Mapping[str, float]

    def to_dataframe(self) -> Any:
        """One row per check and layer, as a pandas DataFrame (pandas must be installed)."""
        pd = _check.optional("pandas", "dataframe", "data frames")
        steps, layers = self.history["delta_norm"].shape
        columns = {"step": np.repeat(self.history["step"], layers), "layer": np.tile(np.arange(layers), steps)}
        return pd.DataFrame(columns | {name: self.history[name].ravel() for name in PROFILES})

    def plot(self) -> Any:
        """A matplotlib Figure: loss, and heat maps of the profiles by layer and step (matplotlib must be installed)."""
        from ..show import plots

        return plots.plot_training(self)

    def save_html(self, path: Any) -> None:
        """Write the report as one self-contained HTML page."""
        from ..show import training

        _files.write_report(_check.file(path), training.page(self))

    def __repr__(self) -> str:
        return f"<TrainingReport: {self.verdict}, {self.cost['checks']} checks, {len(self.findings)} findings>"

    def __str__(self) -> str:
        from ..show import training

        return training.render_text(self)

    def _repr_html_(self) -> str:
        from ..show import training

        return training.render_html(self)
