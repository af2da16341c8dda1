"""The results of an analysis: records of plain numbers and their conversions.

Arrays and numbers are float64. NaN means "not measured" or "not defined here" and becomes null in JSON.
`gradcore.show`, imported on first use, renders them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _check, _files

VERDICTS = ("healthy", "vanishing", "exploding", "non_finite")  # from best to worst
SEVERITIES = ("info", "warning", "critical")
KINDS = (
    "vanishing",
    "exploding",
    "non_finite",
    "dead_units",
    "saturation",
    "zero_gradient",
    "loss_output_mismatch",
    "unscaled_input",
    "update_ratio",
    "underflow",
)
CAUSES = (
    "weight_scale",
    "saturating_activation",
    "activation_slope",
    "depth",
    "batch_norm",
    "narrow_layer",
    "input_scale",
    "target_scale",
    "overflow",
    "dead_units",
    "loss_output",
    "learning_rate",
    "precision",
)


class Record:
    """Base of the results: gives a dataclass `to_dict`, which returns plain Python values, and `to_json`."""

    def to_dict(self) -> dict[str, Any]:
        """All public fields as dicts, lists, strings and numbers; a non-finite number becomes None."""
        return {
            entry.name: plain(getattr(self, entry.name))
            for entry in dataclasses.fields(self)  # type: ignore[arg-type]
            if not entry.name.startswith("_")
        }

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as JSON text; non-finite numbers are null."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """`value` in JSON's types: arrays become lists, NaN and infinities None, functions their names."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return getattr(value, "__name__", type(value).__name__) if callable(value) else value


@dataclass(frozen=True)
class Finding(Record):
    """One finding of an analysis.

    kind, severity, cause: one of KINDS, SEVERITIES and CAUSES in `gradcore.analysis.report`; cause may be None. `info`
        findings never change the verdict.
    layers: the dense layers concerned, 0 at the input.
    explanation: sentences for the reader. evidence: the numbers behind them, by name.
    """

    kind: str
    severity: str
    layers: tuple[int, ...]
    cause: str | None
    explanation: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GainFactors(Record):
    """The six factors whose product is delta_gain[l] = |delta_l|^2 / |delta_{l+1}|^2.

    weight_scale: |W_{l+1}|_F^2 / out_features of layer l + 1, the gain for a delta of random direction. For a residual
        block: of branch and skip together.
    alignment: measured gain of the weights over weight_scale; 1 on average for random weights.
    mask: share of entries with a non-zero derivative (ReLU, hard tanh); 1 for other activations.
    active_slope: mean squared derivative of the unmasked entries.
    coupling: measured gain of the activation over mask * active_slope.
    normalization: |dL/dz|^2 / |dL/dy|^2; 1 without normalization.
    """

    weight_scale: float
    alignment: float
    mask: float
    active_slope: float
    coupling: float
    normalization: float

    def product(self) -> float:
        """The product of the factors: the gain."""
        return float(np.prod([getattr(self, entry.name) for entry in dataclasses.fields(self)]))


@dataclass(frozen=True)
class LayerRecord(Record):
    """One dense layer over all measured batches: shares and variances are means, norms are root mean squares.

    The three profiles are separate: activations h, deltas dL/dz, weight gradients dL/dW. Norms are those of
    GradientFlow (over the batch, with the mean reduction of the loss), but NaN if any of their entries is NaN or
    infinite, because the finite rest does not represent the layer. Fields not named here are GradientFlow's.

    index, in_features, out_features: the layer, 0 at the input. activation: None for the output layer.
    delta_gain, factors: from layer l + 1 to layer l; NaN and None for the output layer and next to a non-finite layer.
    gradient_signal: estimate of |E dL/dW|^2, free of batch noise (may be negative: no signal).
    gradient_noise: variance of dL/dW over batches of this size. signal_to_noise: the ratio of the two.
    underflow: share of the non-zero deltas that would flush to zero, by format.
    update_ratio: |dW| / |W| of one step of the optimizer judged.
    correlation: cosine of the pre-activations (after normalization) of two inputs whose own cosine is 0.9; near 1 the
        layer cannot tell them apart. NaN if not measured.
    """

    index: int
    in_features: int
    out_features: int
    activation: str | None
    activation_mean: float
    activation_var: float
    activation_norm: float
    activation_max_abs: float
    activation_zero_share: float
    activation_nonfinite_share: float
    saturated_share: float
    dead_units: int
    dead_share: float
    mean_squared_derivative: float
    delta_norm: float
    delta_max_abs: float
    delta_zero_share: float
    delta_subnormal_share: float
    delta_nonfinite_share: float
    grad_output_norm: float
    weight_norm: float
    weight_grad_norm: float
    bias_grad_norm: float
    weight_grad_nonfinite_share: float
    update_ratio: float
    gradient_signal: float
    gradient_noise: float
    signal_to_noise: float
    delta_gain: float
    factors: GainFactors | None
    underflow: Mapping[str, float] = field(default_factory=dict)
    correlation: float = math.nan


@dataclass(frozen=True)
class Slope(Record):
    """Growth of ln |delta|^2 per layer towards the input; negative if gradients shrink.

    With skip connections, of ln |dL/dh|^2. NaN with fewer than two hidden layers.

    value, low, high: estimate from the measured deltas, and its confidence interval for batch noise (batch_error) and
        the noise of finite width (width_error).
    systematic, systematic_low, systematic_high: the part that a redraw of the weights would not change.
    drift: additional loss per layer of a typical random draw at these widths, at most 0.
    random: whether the weights are random, so that systematic excludes the luck of this draw; else it equals value.
    batch_half: half-width of the interval of value from batch noise alone; 0 with a single batch.
    band_low, band_high: healthy slopes at this depth. steps: number of layers the slope covers.
    total: value * steps, the total change of ln |delta|^2. confidence: level of the intervals.
    """

    value: float
    low: float
    high: float
    systematic: float
    systematic_low: float
    systematic_high: float
    batch_error: float
    width_error: float
    band_low: float
    band_high: float
    steps: int
    drift: float = 0.0
    random: bool = False
    batch_half: float = 0.0
    confidence: float = 0.95

    @property
    def typical(self) -> float:
        """Slope of a shrinking profile on a typical draw; the systematic slope if the weights are not random."""
        return self.systematic + self.drift if self.random else self.systematic

    @property
    def total(self) -> float:
        """Change of ln |delta|^2 from the output to the first layer, at this slope."""
        return self.value * self.steps

    @property
    def norm_ratio(self) -> float:
        """|delta| at the first layer over |delta| at the output; at most e^709."""
        return math.exp(min(0.5 * self.total, 709.0))

    @property
    def inside_band(self) -> bool:
        """Whether the estimate lies in the healthy band."""
        return self.band_low <= self.value <= self.band_high


@dataclass(frozen=True)
class Prediction(Record):
    """Prediction of mean-field theory for this architecture and the weight scales of the net.

    Arrays have one entry per dense layer.

    preact_var: variance q of the pre-activations. chi: factor on the squared gradient from layer l to its input.
    delta_log: typical ln |delta_l|^2 at finite width, relative to the output layer. delta_log_low, delta_log_high: the
        95 % band of single draws. measured_log: ln |delta_l|^2 as measured, relative to the output layer.
    departs: layers outside the band.
    q_star, chi_star: fixed point of the map of the deepest hidden layers. With batch norm chi_star is its growth factor
        at this batch size. depth_scale: layers over which the squared gradient changes by a factor e.
    trainable_depth: layers through which inputs stay distinguishable.
    critical_gain: the gain (std of weights * sqrt(fan_in)) for which chi is 1; NaN if there is none.
    slope: mean change of delta_log per hidden layer, towards the input. valid: False if no theory covers the design;
        note says why.
    correlation: predicted LayerRecord.correlation; NaN with batch norm.
    carried_depth: dense layers after which gradient norms at the two ends differ by a factor of 100.
    config, batch_size: the design predicted.
    """

    preact_var: np.ndarray
    chi: np.ndarray
    delta_log: np.ndarray
    delta_log_low: np.ndarray
    delta_log_high: np.ndarray
    measured_log: np.ndarray
    departs: tuple[int, ...]
    q_star: float
    chi_star: float
    depth_scale: float
    trainable_depth: float
    critical_gain: float
    slope: float
    valid: bool = True
    note: str = ""
    correlation: np.ndarray = field(default_factory=lambda: np.empty(0))
    carried_depth: float = math.nan
    config: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 0

    def plot(self) -> Any:
        """A matplotlib Figure of the predicted profile and its factors (matplotlib must be installed)."""
        from ..show import plots

        return plots.plot_prediction(self)

    def save_html(self, path: Any) -> None:
        """Write the prediction as one self-contained HTML page."""
        from ..show import prediction_html

        _files.write_report(_check.file(path), prediction_html.page(self))

    def __repr__(self) -> str:
        return f"<Prediction: {len(self.chi)} layers, {self.slope:+.3g} on ln |delta|^2 per layer>"

    def __str__(self) -> str:
        from ..show.prediction_text import render

        return render(self)

    def _repr_html_(self) -> str:
        from ..show import prediction_html

        return prediction_html.render(self)


@dataclass(frozen=True)
class Jacobian(Record):
    """Singular values of d output / d input, means over a few rows; largest first.

    largest, smallest: a few at either end of all `count` = min(in, out).
    mean_square: over all of them; with out <= in, the factor on the squared norm of a random gradient.
    log_spread: standard deviation of their logarithm; 0 if all directions are scaled equally (dynamical isometry).
    exact: whether all were computed; else smallest holds upper bounds, and mean_square and log_spread are estimates.
    """

    largest: np.ndarray
    smallest: np.ndarray
    mean_square: float
    log_spread: float
    count: int
    rows: int
    exact: bool


@dataclass(frozen=True)
class DepthLimit(Record):
    """How many dense layers this design can carry, with the same activation, weights, normalization and width.

    measured: layers after which gradient norms at the two ends differ by `norm_ratio`, at the measured slope.
    measured_low, measured_high: the same at the ends of its interval. predicted: the same by mean-field theory.
    chance: layers after which the randomness of finite widths alone typically reaches that factor.
    distinct: layers through which inputs stay distinguishable.
    carried: the minimum of measured and chance, at least 2. depth: dense layers of the net.
    All but depth may be infinite, or NaN if there is no slope.
    """

    measured: float
    measured_low: float
    measured_high: float
    predicted: float
    chance: float
    distinct: float
    carried: float
    depth: int


@dataclass(frozen=True)
class Outcome(Record):
    """Results of measuring a net and training it for a short budget; means over the seeds.

    verdict, slope: of the net at the start. start_loss, loss: on held-out rows, before and after training; of fewer
    than 40 rows, on all, which are then those trained on. accuracy: on the same rows after training; NaN for
    regression. If a training broke off, loss is inf, accuracy NaN.
    """

    verdict: str
    slope: float
    start_loss: float
    loss: float
    accuracy: float = math.nan


@dataclass(frozen=True, eq=False)
class Remedy(Record):
    """One change to the net, its data or its training, and the result of trying it.

    name: a short title. change: the settings it changes, by name. reason: why it was proposed.
    before, after: Outcome of the given and of the changed net (None until verified).
    effect: share of the given net's final loss that the change removes (1: all, 0: none, negative: worse).
    confidence: 95 % interval of the effect over seeds.
    helps: whether the gradients are healthy, the changed net learns, and the effect is at least 5 % with an interval
        above zero; None until verified.
    cost: {"time_per_step": ratio, "parameters": ratio}. note: further remarks, such as limits of the change.
    """

    name: str
    change: Mapping[str, Any]
    reason: str
    before: Outcome | None = None
    after: Outcome | None = None
    effect: float = math.nan
    confidence: tuple[float, float] = (math.nan, math.nan)
    helps: bool | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    _apply: Callable[[], Any] | None = field(default=None, repr=False)
    _prepare: Any = field(default=None, repr=False)

    def apply(self) -> Any:
        """A fresh, untrained MLP with the change made; a copy of the net if only its data or training change.

        Train it on the data that `prepare` returns, with the settings in `change["training"]` if present ("lr",
        "clip_norm").
        """
        if self._apply is None:
            raise ValueError("this remedy was read from a record; run gc.analyze again to apply it")
        return self._apply()

    def prepare(self, x: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets for the cured net: standardized if that is part of the change."""
        x, target = _check.array(x, "x"), _check.array(target, "target")
        return (x, target) if self._prepare is None else self._prepare.apply(x, target)

    def restore(self, output: Any) -> np.ndarray:
        """Outputs of the cured net in the units of the targets given to `prepare`."""
        output = np.asarray(output)
        return output if self._prepare is None else np.asarray(self._prepare.restore(output))


@dataclass(eq=False)
class Report(Record):
    """The result of `gc.analyze`.

    verdict: worst of the findings: "healthy", "vanishing", "exploding" or "non_finite". findings: worst first.
    layers: one LayerRecord per dense layer. slope: Slope of the deltas over depth.
    prediction: the profile that mean-field theory expects. config: the net's settings.
    conditions: loss, optimizer, lr, batches, batch_size, rows, seed, dtype, interrupted, thresholds, seconds.
    loss: mean loss of the measured batches. jacobian: singular values of the input-output Jacobian, or None.
    depth_limit: how many layers the design can carry, or None. tried: remedies of the last `remedies()` call.
    trials_stopped_by: "end" if that call tried all it meant to, "seconds" if its time was up before, "interrupt" after
        Ctrl-C; None if it tried nothing.
    flows: the GradientFlow of each measured batch (not part of to_dict).
    """

    verdict: str
    findings: tuple[Finding, ...]
    layers: tuple[LayerRecord, ...]
    slope: Slope
    prediction: Prediction
    config: Mapping[str, Any]
    conditions: Mapping[str, Any]
    loss: float
    jacobian: Jacobian | None = None
    depth_limit: DepthLimit | None = None
    tried: tuple[Remedy, ...] = ()
    trials_stopped_by: str | None = None
    flows: tuple[Any, ...] = field(default=(), repr=False)
    _case: Any = field(default=None, repr=False)

    def remedies(self, verify: bool = True, **options: Any) -> list[Remedy]:
        """Changes that should help, best first; with `verify`, each is tried on the same data.

        Args:
            verify: re-measure each candidate and train it along with the given net. If False, the candidates are
                returned untried, in the order that theory expects.
            options: keywords of `gradcore.analysis.remedies.find_remedies`, which describes them, with their defaults:
                steps (60 to 150, by the size of the net), seeds (3), limit (8), pairs (1), seconds (None: all the time
                it takes), progress (True).

        Returns:
            First the remedies that helped, then those that did not (`helps` is False), then those not tried.
        """
        if self._case is None:
            raise ValueError("this report was read from a record; run gc.analyze again to try remedies")
        from .remedies import find_remedies

        return find_remedies(self, self._case, verify=verify, **options)

    def to_dict(self) -> dict[str, Any]:
        """Everything except the raw flows, as plain dicts, lists and numbers."""
        record = super().to_dict()
        del record["flows"]
        return record

    def to_dataframe(self) -> Any:
        """One row per layer, as a pandas DataFrame (pandas must be installed)."""
        pd = _check.optional("pandas", "dataframe", "data frames")
        return pd.DataFrame(self.rows()).set_index("index")

    def rows(self) -> list[dict[str, Any]]:
        """The layers as flat dicts of numbers, with separate columns for factors and underflow shares."""
        return [_flat_row(layer) for layer in self.layers]

    def plot(self) -> Any:
        """A matplotlib Figure of the three profiles and the prediction (matplotlib must be installed)."""
        from ..show import plots

        return plots.plot(self)

    def save_html(self, path: Any) -> None:
        """Write the report as one self-contained HTML page."""
        from ..show import html

        _files.write_report(_check.file(path), html.page(self))

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}, {len(self.layers)} layers, {len(self.findings)} findings>"

    def __str__(self) -> str:
        from ..show import text

        return text.render(self)

    def _repr_html_(self) -> str:
        from ..show import html

        return html.render(self)


def _flat_row(layer: LayerRecord) -> dict[str, Any]:
    row = {entry.name: getattr(layer, entry.name) for entry in dataclasses.fields(layer)}
    factors = row.pop("factors")
    underflow = row.pop("underflow")
    for entry in dataclasses.fields(GainFactors):
        row[f"gain_{entry.name}"] = getattr(factors, entry.name) if factors else math.nan
    row.update({f"underflow_{name}": share for name, share in underflow.items()})
    return row
