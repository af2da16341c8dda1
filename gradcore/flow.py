"""The measurements of a recorded pass, layer by layer: the three profiles and the statistics that explain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _check, _core

if TYPE_CHECKING:
    import pandas

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# In the order of the library's counts.
FORMATS = ("fp16", "bf16", "e4m3", "e5m2")
_FORMAT_INDEX = {name: index for index, name in enumerate(FORMATS)}
_DELTA, _WEIGHT_GRAD = 0, 1
_ARRAYS = {"delta": _DELTA, "weight_grad": _WEIGHT_GRAD}

_TABLE = (
    ("act var", "activation_var"),
    ("act zero", "activation_zero_share"),
    ("saturated", "saturated_share"),
    ("dead", "dead_share"),
    ("|delta|", "delta_norm"),
    ("max |delta|", "delta_max_abs"),
    ("|W|", "weight_norm"),
    ("|dW|", "weight_grad_norm"),
    ("update/W", "update_ratio"),
)


@dataclass(frozen=True, eq=False, repr=False)
class GradientFlow:
    """Statistics of one forward and backward pass; the value of `net.flow`.

    Every field but the first three is an array with one entry per dense layer, layer 0 at the input: float64
    [num_layers] unless noted otherwise. In each layer

        z = W x + b,   y = norm(z),   h = act(y) (+ x with a residual connection),   delta = dL/dz

    where L is the loss of the whole batch, including its mean reduction. In the last layer h = y = z. Means, variances,
    norms and maxima are over the finite entries; shares are of all entries. Norms are Frobenius norms, over the batch.

    Attributes:
        num_layers, batch_size, dtype: dense layers and dtype of the net; rows of the pass.
        activation_mean, activation_var, activation_max_abs, activation_norm, activation_nonfinite_share: of h.
        activation_zero_share: zeros among the entries of act(y).
        saturated_share: entries with |act'(y)| below 1 % of its maximum.
        dead_units, dead_share: units whose act(y) is zero on every row, int64, and their share; 0 for the last layer.
        mean_squared_derivative: mean of act'(y)^2; 1 for the last layer.
        delta_mean, delta_var, delta_max_abs, delta_norm, delta_zero_share, delta_subnormal_share,
            delta_nonfinite_share: of delta.
        grad_output_norm, grad_preact_norm: |dL/dh| and |dL/dy|.
        weight_norm, bias_grad_norm: |W| and |dL/db|.
        weight_grad_norm, weight_grad_max_abs, weight_grad_zero_share, weight_grad_nonfinite_share: of dL/dW.
        update_ratio: |change of W| / |W| in the recorded step; NaN where none was taken.
        delta_histogram, weight_grad_histogram: int64 [num_layers, bins], the number of entries with
            floor(log2 |x|) == exponents[bin]. exponents: int64 [bins].
    """

    num_layers: int
    batch_size: int
    dtype: str

    activation_mean: Floats
    activation_var: Floats
    activation_max_abs: Floats
    activation_norm: Floats
    activation_nonfinite_share: Floats
    activation_zero_share: Floats
    saturated_share: Floats
    dead_units: Ints
    dead_share: Floats
    mean_squared_derivative: Floats

    delta_mean: Floats
    delta_var: Floats
    delta_max_abs: Floats
    delta_norm: Floats
    delta_zero_share: Floats
    delta_subnormal_share: Floats
    delta_nonfinite_share: Floats
    grad_output_norm: Floats
    grad_preact_norm: Floats

    weight_norm: Floats
    weight_grad_norm: Floats
    weight_grad_max_abs: Floats
    weight_grad_zero_share: Floats
    weight_grad_nonfinite_share: Floats
    bias_grad_norm: Floats
    update_ratio: Floats

    delta_histogram: Ints
    weight_grad_histogram: Ints
    exponents: Ints
    _flushed: Ints  # [2, num_layers, formats]: entries of delta and of the weight gradient
    _overflowed: Ints

    def underflow_share(self, format: str, of: str = "delta") -> Floats:
        """Share of the finite nonzero entries that would round to zero in `format`.

        Args:
            format: "fp16", "bf16", "e4m3" or "e5m2" (round to nearest even, without loss scaling).
            of: "delta" or "weight_grad".

        Returns:
            [num_layers], exact; 0 for a layer without finite nonzero entries.
        """
        return self._range_share(self._flushed, format, of)

    def overflow_share(self, format: str, of: str = "delta") -> Floats:
        """Share of the finite nonzero entries that would overflow in `format`; arguments as in `underflow_share`."""
        return self._range_share(self._overflowed, format, of)

    def _range_share(self, counts: Ints, format: str, of: str) -> Floats:
        index = _check.choice(format, "format", _FORMAT_INDEX)
        which = _check.choice(of, "of", _ARRAYS)
        histogram = self.delta_histogram if which == _DELTA else self.weight_grad_histogram
        shares: Floats = counts[which, :, index] / np.maximum(histogram.sum(axis=1), 1)
        return shares

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, arrays as nested lists. JSON cannot represent the NaN among them."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name[0] != "_"}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per layer, one column per measurement, without histograms. Needs pandas."""
        pd = _check.optional("pandas", "dataframe", "data frames")
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        per_layer = {
            name: value
            for name, value in values.items()
            if isinstance(value, np.ndarray) and value.shape == (self.num_layers,) and name != "exponents"
        }
        return pd.DataFrame(per_layer, index=pd.RangeIndex(self.num_layers, name="layer"))

    def __str__(self) -> str:
        lines = [f"gradient flow: {self.num_layers} layers, batch of {self.batch_size}, {self.dtype}"]
        lines.append("layer" + "".join(f"{title:>12}" for title, _ in _TABLE))
        columns = [getattr(self, name) for _, name in _TABLE]
        for layer in range(self.num_layers):
            lines.append(f"{layer:5d}" + "".join(f"{column[layer]:12.3g}" for column in columns))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<GradientFlow: {self.num_layers} layers, batch of {self.batch_size}, {self.dtype}>"


def recorded(net: _core.Net, widths: Sequence[int], dtype: str) -> GradientFlow:
    """The flow of the net's last recorded pass; ValueError if there is none."""
    layers = net.flow()
    if not layers:
        raise ValueError("flow: expected a pass with record=True before, got none")
    batch_size = layers[0].activation.count // widths[1]
    lowest, num_bins = _core.exponent_bins(_check.DTYPES[dtype])

    def histograms(which: int) -> Ints:
        return np.stack([net.flow_histogram(layer, which) for layer in range(len(layers))])

    def counts(name: str) -> Ints:
        arrays = [[getattr(stats, name) for stats in (layer.delta, layer.weight_grad)] for layer in layers]
        return np.array(arrays, dtype=np.int64).swapaxes(0, 1)

    return GradientFlow(
        num_layers=len(layers),
        batch_size=batch_size,
        dtype=dtype,
        **_fields(layers, np.array(widths[1:])),
        delta_histogram=histograms(_DELTA),
        weight_grad_histogram=histograms(_WEIGHT_GRAD),
        exponents=np.arange(lowest, lowest + num_bins, dtype=np.int64),
        _flushed=counts("flushed"),
        _overflowed=counts("overflowed"),
    )


# Fields of a GradientFlow and their places in the library's LayerFlow: that of a value, or for shares those of the part
# and of the whole.
_VALUES = {
    "activation_mean": "activation.mean",
    "activation_var": "activation.variance",
    "activation_max_abs": "activation.max_abs",
    "activation_norm": "activation.norm",
    "mean_squared_derivative": "mean_squared_derivative",
    "delta_mean": "delta.mean",
    "delta_var": "delta.variance",
    "delta_max_abs": "delta.max_abs",
    "delta_norm": "delta.norm",
    "grad_output_norm": "grad_output_norm",
    "grad_preact_norm": "grad_preact_norm",
    "weight_norm": "weight_norm",
    "weight_grad_norm": "weight_grad.norm",
    "weight_grad_max_abs": "weight_grad.max_abs",
    "bias_grad_norm": "bias_grad_norm",
}
_SHARES = {
    "activation_nonfinite_share": ("activation.nonfinite", "activation.count"),
    "activation_zero_share": ("act_zeros", "activation.count"),
    "saturated_share": ("saturated", "activation.count"),
    "delta_zero_share": ("delta.zeros", "delta.count"),
    "delta_subnormal_share": ("delta.subnormals", "delta.count"),
    "delta_nonfinite_share": ("delta.nonfinite", "delta.count"),
    "weight_grad_zero_share": ("weight_grad.zeros", "weight_grad.count"),
    "weight_grad_nonfinite_share": ("weight_grad.nonfinite", "weight_grad.count"),
    "update_ratio": ("update_norm", "weight_norm"),
}


def _fields(layers: Sequence[_core.LayerFlow], units: Ints) -> dict[str, Any]:
    @cache
    def column(place: str) -> Floats:
        return np.array(list(map(attrgetter(place), layers)), dtype=np.float64)

    dead = np.array([layer.dead_units for layer in layers], dtype=np.int64)
    values = {name: column(place) for name, place in _VALUES.items()}
    with np.errstate(invalid="ignore", divide="ignore"):  # for update_ratio, if all weights are zero
        shares = {name: column(part) / column(whole) for name, (part, whole) in _SHARES.items()}
    return {**values, **shares, "dead_units": dead, "dead_share": dead / units}
