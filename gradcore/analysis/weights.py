"""Other weights for a net that is there: of critical size, of fewer layers, of residual branches scaled down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..init import CRITICAL_GAIN_SQUARED
from ..mlp import skip_connections


def rescale(net: Any) -> None:
    """Give each hidden layer's weights their critical size and keep their directions; biases become zero."""
    gains = [CRITICAL_GAIN_SQUARED[name] for name in net.activations] + [1.0]
    for layer, gain_squared in enumerate(gains):
        weight = net.parameters[f"dense{layer}.weight"]
        size = float(np.sqrt(np.mean(np.square(weight, dtype=np.float64)) * weight.shape[1]))
        if 0.0 < size < math.inf:
            weight *= math.sqrt(gain_squared) / size
        if net.bias:
            net.parameters[f"dense{layer}.bias"][...] = 0.0


def shortened(net: Any, config: Mapping[str, Any]) -> Any:
    """The first hidden layers of `net`, as many as `config` has, and its output layer, with their weights."""
    short = type(net)._without_weights(config)
    ends = [f"dense{each.depth - 1}." for each in (short, net)]
    for target, source in ((short.parameters, net.parameters), (short.buffers, net.buffers)):
        for name, values in target.items():
            values[...] = source[name.replace(*ends)]
    return short


def scale_branches(net: Any) -> None:
    """Divide every residual branch by the root of their number: the stream then grows by e at most."""
    blocks = np.flatnonzero(skip_connections(net.config))
    for layer in blocks:
        name = f"dense{layer}.weight" if net.normalization is None else f"norm{layer}.weight"
        net.parameters[name][...] /= math.sqrt(len(blocks))
