"""Change the weights of a net that exists: give them critical size, keep fewer layers, scale residual branches down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..init import CRITICAL_GAIN_SQUARED
from ..mlp import skip_connections
from .arithmetic import root_mean_square


def rescale(net: Any) -> None:
    """Scale the weights of every layer to their critical size, in place, and set the biases to zero.

    The directions of the weights are kept. Weights that are all zero, or not finite, stay as they are.
    """
    gains = [CRITICAL_GAIN_SQUARED[name] for name in net.activations] + [1.0]
    for layer, gain_squared in enumerate(gains):
        weight = net.parameters[f"dense{layer}.weight"]
        size = root_mean_square(weight) * math.sqrt(weight.shape[1])
        if 0.0 < size < math.inf:
            weight *= math.sqrt(gain_squared) / size
        if net.bias:
            net.parameters[f"dense{layer}.bias"][...] = 0.0


def shortened(net: Any, config: Mapping[str, Any]) -> Any:
    """A net of the first hidden layers of `net`, as many as `config` has, and its output layer, with their weights."""
    short = type(net)._without_weights(config)
    ends = [f"dense{each.depth - 1}." for each in (short, net)]
    for target, source in ((short.parameters, net.parameters), (short.buffers, net.buffers)):
        for name, values in target.items():
            values[...] = source[name.replace(*ends)]
    return short


def scale_branches(net: Any) -> None:
    """Divide every residual branch by the square root of their number n, in place.

    If a branch alone would keep the mean square of its input, that of the stream now grows by (1 + 1 / n)^n in total,
    which is less than e.
    """
    blocks = np.flatnonzero(skip_connections(net.config))
    for layer in blocks:
        name = f"dense{layer}.weight" if net.normalization is None else f"norm{layer}.weight"
        net.parameters[name][...] /= math.sqrt(len(blocks))
