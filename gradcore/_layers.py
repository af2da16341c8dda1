"""A hidden layer from single ops, in training mode, for what works layer by layer: LSUV and feedback alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _check, ops

if TYPE_CHECKING:
    from .mlp import MLP

Array = _check.Array


def hidden(net: MLP, layer: int, x: Array, z: Array) -> tuple[Array, Array, list[Array]]:
    """h and y of a hidden layer for its input x and pre-activations z, and what the backward of y = norm(z) needs."""
    y = z
    saved: list[Array] = []
    if net.normalization is not None:
        weight = net.parameters[f"norm{layer}.weight"]
        if net.normalization == "rms":
            y, *saved = ops.rms_norm(z, weight)
        else:
            normalize = ops.batch_norm if net.normalization == "batch" else ops.layer_norm
            y, *saved = normalize(z, weight, net.parameters[f"norm{layer}.bias"])
    h = ops.activation(y, net.activations[layer])
    if net.residual and h.shape == x.shape:
        h += x
    return h, y, saved
