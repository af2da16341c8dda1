"""Numbers from recorded passes over several batches: nothing here judges.

`measure` runs a `Case` on a copy of its net and returns a `Measurement`; `layer_records` turns that into the records of
a report.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._status import Progress
from ..flow import FORMATS
from ..mlp import skip_connections
from .arithmetic import harmless, root_mean_square
from .case import Case, Floats
from .predict import layer_scales
from .propagation import Propagation
from .report import GainFactors, LayerRecord, Slope

# Activations whose derivative is exactly 0 on a half line, with the field that holds the share of entries there: for
# them, the share of units that pass a gradient can be separated from the slope of these units.
_MASKED = {"relu": "activation_zero_share", "hard_tanh": "saturated_share"}

# The squared norm of a batch of n rows is proportional to n^(1 - power). |h|^2 is a sum over rows (power 0). So is
# |delta|^2, but the loss is a mean over rows, so each row contributes 1 / n^2 of its own square (power 2). Everything
# else is no sum over rows (power 1).
_ROW_POWERS = {"activation_norm": 0, "delta_norm": 2, "grad_output_norm": 2, "grad_preact_norm": 2}


@dataclass(frozen=True)
class Rehearsal:
    """A few steps that were tried on a copy of the net, or that a monitored training has taken.

    lr: of the steps. losses: [steps].
    update_ratio: |dW| / |W| of the first step, [depth]; for a training, the mean over its recorded steps.
    shift: how far the first step moved the pre-activations of the last hidden layer for rows of its batch, relative to
        their size; NaN if not measured.
    before: losses of the same batches before the first step, [steps]. For a training, those in the net when it was last
        healthy: infinite for steps whose batches are gone, and None unless the steps look too large.
    closed: a hidden layer whose units all output zero for every row after the steps, but not before; None without one.
    """

    lr: float
    losses: Floats
    update_ratio: Floats
    shift: float = math.nan
    before: Floats | None = None
    closed: int | None = None


@dataclass(frozen=True)
class Outlook:
    """What many steps of the optimizer in use make of the net (see `outlook`).

    losses: one per step.
    slope: of the net after the steps; None if a loss is not finite.
    difference: share of the last hidden layer's pre-activations that then differs between rows; NaN if a loss is not
        finite.
    adaptive_step: `Subject.smallest_adaptive_step` of the net after the steps; NaN if a loss is not finite.
    calmed_by: what makes steps too large: "input_scale", "target_scale" or both, the larger first, if the same steps
        are fine on data of unit scale; "weight_scale" if they are fine with weights of critical size. Empty otherwise.
    slower: losses of the same steps at a lower rate; None if none was tried. slower_share: that rate as a share of the
        one in use.
    cut_short: whether more steps could have decided, but were more than allowed.
    """

    losses: Floats
    slope: Slope | None
    difference: float
    adaptive_step: float = 1.0
    calmed_by: tuple[str, ...] = ()
    slower: Floats | None = None
    slower_share: float = 0.1
    cut_short: bool = False


@dataclass(frozen=True)
class Measurement:
    """Recorded passes of one net over the batches of a case.

    If batches differ in size, every row counts the same: means are weighted by rows, and norms are those of a batch of
    the mean size n. This is exact for sums over rows. For |dL/dW|^2 it holds in expectation: a batch of n_i rows has
    |G|^2 + trace / n_i, which averages to |G|^2 + trace / n with the weights n_i.

    flows, losses: one per batch.
    mean_gradient_norm: |mean of dL/dW over batches| of each layer.
    weight_var, bias_var: scales of the weights and biases (`predict.layer_scales`). input_rms: root mean square of
        the inputs.
    has_gradient: whether any parameter at all, biases and normalization included, received a gradient.
    finite_parameters: for each layer, whether all parameters are finite. alike: for each layer, whether its units are
        identical, also in their gradients.
    rehearsal, propagation: None if they were not tried. outlook: None if the verdict does not depend on it.
    asleep: the measurement at the start, if layers without a gradient woke up afterwards: everything else is then of
        the net after a few steps. None otherwise.
    interrupted: whether an interrupt left a part unmeasured.
    """

    config: Mapping[str, Any]
    flows: tuple[Any, ...]
    losses: Floats
    mean_gradient_norm: Floats
    weight_var: Floats
    bias_var: Floats
    input_rms: float
    has_gradient: bool
    finite_parameters: Floats
    alike: Floats
    rehearsal: Rehearsal | None = None
    propagation: Propagation | None = None
    outlook: Outlook | None = None
    asleep: Measurement | None = None
    interrupted: bool = False

    @property
    def depth(self) -> int:
        """Number of dense layers."""
        return len(self.weight_var)

    @property
    def input_square(self) -> float:
        """Mean square of the inputs, for the theory; infinite or zero if it leaves float64."""
        return self.input_rms * self.input_rms

    @functools.cached_property
    def mean_rows(self) -> float:
        """Mean number of rows of a batch."""
        return float(np.mean([flow.batch_size for flow in self.flows]))

    @property
    def batch_size(self) -> int:
        """`mean_rows` as a whole number."""
        return round(self.mean_rows)

    @functools.cached_property
    def weights(self) -> Floats:
        """Rows of each batch, relative to their mean, [batches]."""
        return np.array([flow.batch_size for flow in self.flows]) / self.mean_rows

    @property
    def loss(self) -> float:
        """Mean loss over the rows."""
        return float(self.mean_of(self.losses))

    def preact_square(self) -> Floats:
        """Mean square of z that random weights of the measured size make in each dense layer, [depth]."""
        entries = self.mean_rows * np.array(self.config["widths"][1:], dtype=np.float64)
        squares = np.concatenate(([self.input_square], (self.rms("activation_norm") ** 2 / entries)[:-1]))
        return np.asarray(self.weight_var * squares + self.bias_var)

    def stack(self, name: str) -> Floats:
        """A field of the flows of all batches, [batches, depth]."""
        return np.array([getattr(flow, name) for flow in self.flows], dtype=np.float64)

    def mean_of(self, values: Floats, power: int = 1) -> Floats:
        """Mean of values [batches, ...], weighted by the rows of each batch to a power (`_ROW_POWERS`)."""
        weights = self.weights**power
        return np.asarray(np.mean(weights.reshape(-1, *[1] * (values.ndim - 1)) * values, axis=0))

    def mean(self, name: str) -> Floats:
        """Mean of a field over the rows, [depth]."""
        return self.mean_of(self.stack(name))

    def rms(self, name: str) -> Floats:
        """Root mean square of a field, [depth], free of overflow; norms are those of a batch of the mean size."""
        values = self.stack(name)
        scale = np.maximum(np.abs(values).max(axis=0), np.finfo(np.float64).tiny)
        with np.errstate(invalid="ignore"):  # infinity divided by itself
            return np.asarray(scale * np.sqrt(self.mean_of((values / scale) ** 2, _ROW_POWERS.get(name, 1))))


@harmless
def measure(case: Case, net: Any, *, progress: Progress | None = None) -> Measurement:
    """Record every batch of the case on `net`, whose gradients and running statistics change.

    An interrupt after the first batch ends the measurement early.
    """
    flows: list[Any] = []
    losses: list[float] = []
    total = np.zeros(net.gradients.flat.shape, dtype=np.float64)
    interrupted = False
    try:
        for index in range(len(case.rows)):
            if progress is not None:
                progress(index, len(case.rows), "measuring gradients")
            losses.append(float(net.loss_and_gradients(*case.batch(index), loss=case.loss, record=True)))
            flows.append(net.flow)
            total += net.gradients.flat
    except KeyboardInterrupt:
        if not flows:
            raise
        interrupted = True
    return summarize(
        net,
        flows,
        losses[: len(flows)],
        net.gradients.like(total / len(flows)),
        root_mean_square(case.x[np.concatenate(case.rows)]),
        interrupted=interrupted,
    )


@harmless
def summarize(
    net: Any,
    flows: Sequence[Any],
    losses: Sequence[float],
    mean_gradient: Mapping[str, Floats],
    input_rms: float,
    *,
    interrupted: bool = False,
) -> Measurement:
    """Make a Measurement of recorded passes of `net`, whose parameters are read as they are now.

    mean_gradient: of all parameters over the rows, by name. input_rms: root mean square of the inputs of these rows.
    """
    weight_var, bias_var = layer_scales(net)
    names = [f"dense{layer}.weight" for layer in range(net.depth)]
    weights = [mean_gradient[name] for name in names]
    return Measurement(
        config=net.config,
        flows=tuple(flows),
        losses=np.array(losses),
        mean_gradient_norm=np.array([root_mean_square(values) * math.sqrt(values.size) for values in weights]),
        weight_var=weight_var,
        bias_var=bias_var,
        input_rms=input_rms,
        has_gradient=any(values.any() for values in mean_gradient.values()),
        finite_parameters=_finite_layers(net),
        alike=np.array([*(_units_alike(net.parameters[name], mean_gradient[name]) for name in names[:-1]), False]),
        interrupted=interrupted,
    )


def _units_alike(weight: Floats, gradient: Floats) -> bool:
    """Whether a layer's units all have the same weights and the same gradient, bit for bit.

    Bits can be compared because sums run in the same order for all units.
    """
    return bool(len(weight) > 1 and (weight == weight[0]).all() and (gradient == gradient[0]).all())


def _finite_layers(net: Any) -> Floats:
    """For each layer, whether all its parameters ("dense3.bias", "norm3.weight", ...) are finite."""
    finite = np.ones(net.depth, dtype=bool)
    for name, values in net.parameters.items():
        layer = int(name.split(".")[0].removeprefix("dense").removeprefix("norm"))
        finite[layer] &= np.isfinite(values).all()
    return finite


def update_ratio(case: Case, measurement: Measurement) -> Floats:
    """|dW| / |W| of one step, [depth]: as rehearsed with the given optimizer, or lr |dL/dW| / |W| for plain SGD."""
    if measurement.rehearsal is not None and case.optimizer is not None:
        return measurement.rehearsal.update_ratio
    return case.step_size * measurement.rms("weight_grad_norm") / measurement.rms("weight_norm")


def signal_and_noise(measurement: Measurement) -> tuple[Floats, Floats]:
    """Estimates of |E g|^2 and of the variance of g = dL/dW over batches of the mean size, [depth] each.

    They come from the identity E|g_B|^2 = |G|^2 + trace / B for two batch sizes (McCandlish et al. 2018,
    arXiv:1812.06162, appendix A): the single batches are the small size, their mean is the large one. With one batch,
    both are NaN. A negative signal means that there is none above the noise.
    """
    count = len(measurement.flows)
    if count < 2:
        return np.full(measurement.depth, np.nan), np.full(measurement.depth, np.nan)
    single = measurement.rms("weight_grad_norm") ** 2
    mean = measurement.mean_gradient_norm**2
    return (count * mean - single) / (count - 1), (single - mean) * count / (count - 1)


# ---- gains ----


def _ratio_squared(numerator: Floats, denominator: Floats) -> Floats:
    return (numerator / denominator) ** 2


def gain_factors(measurement: Measurement) -> tuple[Floats, list[GainFactors | None]]:
    """Gain |delta_l|^2 / |delta_{l+1}|^2 of each layer, and its factors; NaN and None for the output layer."""
    delta, grad_output = measurement.rms("delta_norm"), measurement.rms("grad_output_norm")
    preact = measurement.rms("grad_preact_norm")
    gains = np.full(measurement.depth, np.nan)
    gains[:-1] = _ratio_squared(delta[:-1], delta[1:])
    weights = _ratio_squared(grad_output[:-1], delta[1:])
    derivative, norm = _ratio_squared(preact, grad_output), _ratio_squared(delta, preact)
    expected = _expected_weight_gain(measurement)
    slopes, masks = measurement.mean("mean_squared_derivative"), mask_shares(measurement)
    factors = (
        GainFactors(
            weight_scale=float(expected[layer]),
            alignment=float(weights[layer] / expected[layer]),
            mask=float(masks[layer]),
            active_slope=float(slopes[layer] / masks[layer]),
            coupling=float(derivative[layer] / slopes[layer]),
            normalization=float(norm[layer]),
        )
        for layer in range(measurement.depth - 1)
    )
    return gains, [*factors, None]


def starved(measurement: Measurement) -> Floats:
    """For each layer, whether its input is smaller than its delta, comparing root mean squares of entries.

    dL/dW is the product of the two. If it is zero, this tells which of them is missing.
    """
    entries = measurement.mean_rows * np.array(measurement.config["widths"][1:], dtype=np.float64)
    outputs = measurement.rms("activation_norm") / np.sqrt(entries)
    entering = np.concatenate(([measurement.input_rms], outputs[:-1]))
    return np.asarray(entering < measurement.rms("delta_norm") / np.sqrt(entries))


def weight_gain(measurement: Measurement) -> Floats:
    """|dL/dh_l|^2 / |delta_{l+1}|^2 for weights of the measured size and random directions, [depth - 1].

    That is |W_{l+1}|_F^2 / out_features. What a skip connection adds is not included.
    """
    out_features = np.array(measurement.config["widths"][2:], dtype=np.float64)
    return np.asarray(measurement.rms("weight_norm")[1:] ** 2 / out_features)


def _expected_weight_gain(measurement: Measurement) -> Floats:
    """`weight_gain`, plus what a skip connection passes on beside the weights, [depth - 1]."""
    skips = skip_connections(measurement.config)[1:]
    skip = _ratio_squared(measurement.rms("grad_output_norm")[1:], measurement.rms("delta_norm")[1:])
    return np.asarray(weight_gain(measurement) + np.where(skips, skip, 0.0))


def travelling_norm(config: Mapping[str, Any]) -> str:
    """Name of the field with the norm of the gradient that travels from layer to layer: that of delta, or of dL/dh.

    With skip connections it is dL/dh: delta is only what enters one branch (zero for a branch that starts at zero),
    while the stream beside it reaches the layers below.
    """
    return "grad_output_norm" if skip_connections(config).any() else "delta_norm"


def mask_shares(measurement: Measurement) -> Floats:
    """Share of the entries that let a gradient through, [depth]; 1 for activations without a mask."""
    shares = np.ones(measurement.depth)
    for layer, name in enumerate(measurement.config["activation"]):
        if name in _MASKED:
            shares[layer] = 1.0 - measurement.mean(_MASKED[name])[layer]
    return shares


# ---- records ----

_MEAN_FIELDS = (
    "activation_mean",
    "activation_var",
    "activation_zero_share",
    "activation_nonfinite_share",
    "saturated_share",
    "dead_share",
    "mean_squared_derivative",
    "delta_zero_share",
    "delta_subnormal_share",
    "delta_nonfinite_share",
    "weight_grad_nonfinite_share",
)
_RMS_FIELDS = (
    "activation_norm",
    "delta_norm",
    "grad_output_norm",
    "weight_norm",
    "weight_grad_norm",
    "bias_grad_norm",
)
# Statistics of a flow are over finite entries. If a layer also has others, they describe only a part of it, or are 0;
# its record then holds NaN in these fields. The keys name the shares of entries that are not finite.
_OF_FINITE = {
    "activation_nonfinite_share": (
        "activation_mean",
        "activation_var",
        "activation_norm",
        "activation_max_abs",
        "mean_squared_derivative",
    ),
    "delta_nonfinite_share": ("delta_norm", "delta_max_abs", "grad_output_norm", "bias_grad_norm"),
    "weight_grad_nonfinite_share": (
        "weight_grad_norm",
        "update_ratio",
        "gradient_signal",
        "gradient_noise",
        "signal_to_noise",
    ),
}


def layer_records(case: Case, measurement: Measurement) -> tuple[LayerRecord, ...]:
    """The records of all dense layers."""
    columns = {name: measurement.mean(name) for name in _MEAN_FIELDS}
    columns |= {name: measurement.rms(name) for name in _RMS_FIELDS}
    columns |= {name: measurement.stack(name).max(axis=0) for name in ("activation_max_abs", "delta_max_abs")}
    signal, noise = signal_and_noise(measurement)
    gains, factors = gain_factors(measurement)
    columns |= {"gradient_signal": signal, "gradient_noise": noise}
    columns["update_ratio"] = update_ratio(case, measurement)
    columns["signal_to_noise"] = signal / noise
    unknown = np.full(measurement.depth, np.nan)
    columns["correlation"] = unknown if measurement.propagation is None else measurement.propagation.correlation
    for share, names in _OF_FINITE.items():
        columns |= {name: np.where(columns[share] > 0.0, np.nan, columns[name]) for name in names}
    broken = columns["delta_nonfinite_share"] > 0.0
    broken[:-1] |= broken[1:]  # a gain also depends on the delta of the layer above
    columns["delta_gain"] = np.where(broken, np.nan, gains)
    dead = measurement.stack("dead_units").min(axis=0)
    flushed = {name: np.array([flow.underflow_share(name) for flow in measurement.flows]) for name in FORMATS}
    underflow = {name: measurement.mean_of(shares) for name, shares in flushed.items()}
    widths, activations = measurement.config["widths"], [*measurement.config["activation"], None]
    return tuple(
        LayerRecord(
            index=layer,
            in_features=int(widths[layer]),
            out_features=int(widths[layer + 1]),
            activation=activations[layer],
            dead_units=int(dead[layer]),
            factors=None if broken[layer] else factors[layer],
            underflow={name: float(shares[layer]) for name, shares in underflow.items()},
            **{name: float(values[layer]) for name, values in columns.items()},
        )
        for layer in range(measurement.depth)
    )
