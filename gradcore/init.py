"""Weight initialization: the classic schemes by name, the critical gain, and LSUV on data.

With weights of variance gain^2 / fan_in and no biases, a wide layer multiplies the mean squared gradient by
chi = gain^2 E[act'(z)^2], where z is its Gaussian pre-activation. `CRITICAL_GAIN_SQUARED` holds the gain^2 that keeps
deep nets at or near chi = 1; `init="auto"` and "orthogonal" use it. The sigmoid has none that does not saturate its
units; chi is 0.15 with the gain^2 given here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _core, _layers, ops

if TYPE_CHECKING:
    from .mlp import MLP

Array = _check.Array
# A string, because naming np.random would import it, and that would take a fifth of the time of `import gradcore`.
Initializer: TypeAlias = "Callable[[tuple[int, int], np.random.Generator], ArrayLike]"

# gain^2 for the weights in front of each activation; csrc/init/initialize.cpp says where each comes from.
CRITICAL_GAIN_SQUARED = {name: _core.critical_gain_squared(code) for code, name in enumerate(_core.ACTIVATIONS)}
_INITIALIZERS = {name: code for code, name in enumerate(_core.INITIALIZERS)}


def initializers() -> tuple[str, ...]:
    """Names of the initializers, for `init` of an MLP: "auto" draws normal weights of the critical gain."""
    return tuple(_INITIALIZERS)


def activations() -> tuple[str, ...]:
    """Names of the activations, for `activation` of an MLP.

    leaky_relu has slope 0.01 and elu alpha 1; gelu is exact, gelu_tanh its approximation by tanh.
    """
    return tuple(_core.ACTIVATIONS)


def critical_gain(activation: str) -> float:
    """The gain, std(weights) * sqrt(fan_in), that `init="auto"` uses."""
    return math.sqrt(_check.choice(activation, "activation", CRITICAL_GAIN_SQUARED))


# ---- whole nets ------------------------------------------------------------------------------------------


def check(init: Any, name: str = "init") -> None:
    """TypeError or ValueError unless `init` is a name from `initializers()` or a function."""
    if not callable(init):
        _check.choice(init, name, _INITIALIZERS)


def initialize(net: MLP, init: str | Initializer, seed: int | None) -> None:
    """Draw the weights of every dense layer and set its biases to zero.

    Each layer draws from its own stream, so its weights do not depend on the shapes of other layers; float32 weights
    are the rounded float64 ones. The streams are those of `np.random.SeedSequence(seed).spawn(depth)`. Functions get
    them as NumPy generators; for named schemes the native library draws from the same streams, so C and Python start
    alike.

    Args:
        net: the net; unchanged if the weights of any layer are invalid.
        init: a name from `initializers()`, or a function (shape, rng) -> weights [out_features, in_features].
        seed: a whole number >= 0, or None for fresh randomness.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    from .mlp import MLP

    _check.instance(net, "net", MLP, "a gradcore.MLP")
    check(init)
    seed = _check.seed(seed)
    if callable(init):
        _initialize_with(net, init, seed)
    else:
        net._core.initialize(_INITIALIZERS[init], _words(seed))


def _words(seed: int | None) -> list[int]:
    """The seed in 32-bit words, the least significant first."""
    entropy = int.from_bytes(os.urandom(16), "little") if seed is None else seed
    return [entropy >> shift & 0xFFFFFFFF for shift in range(0, max(entropy.bit_length(), 1), 32)]


def _initialize_with(net: MLP, function: Initializer, seed: int | None) -> None:
    weights = []
    for layer, stream in enumerate(np.random.SeedSequence(seed).spawn(net.depth)):
        shape = (net.widths[layer + 1], net.widths[layer])
        weights.append(_checked_weights(function(shape, np.random.default_rng(stream)), shape, net.dtype, layer))
    parameters = net.parameters
    for layer, values in enumerate(weights):
        parameters[f"dense{layer}.weight"] = values
        if net.bias:
            parameters[f"dense{layer}.bias"] = 0.0


def _checked_weights(values: ArrayLike, shape: tuple[int, int], dtype: np.dtype[Any], layer: int) -> Array:
    name = f"init: weights of layer {layer}"
    weights = _check.array(values, name)
    if weights.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {weights.shape}")
    weights = _check.converted(weights, dtype)
    if not np.isfinite(weights).all():
        raise ValueError(f"{name}: expected finite {dtype} values, got NaN or infinity")
    return weights


def lsuv(net: MLP, x: ArrayLike, *, seed: int = 0) -> None:
    """Layer-sequential unit-variance initialization on data (Mishkin & Matas 2016, arXiv:1511.06422).

    Starts from orthogonal weights and zero biases. Then, from the input on, divides each weight matrix by the standard
    deviation of its layer's pre-activations. Without biases these are linear in the weights, so one division per layer
    is exact.

    Args:
        net: the net; the weights and biases of its dense layers are replaced.
        x: [batch, in_features], a representative batch; with batch norm at least two rows.
        seed: seed of the orthogonal weights.

    Raises:
        ValueError: a bad `x`, or one whose pre-activations in some layer are constant or vary by less than the smallest
            normal number of the dtype. The net is then unchanged.
    """
    from .mlp import MLP

    _check.instance(net, "net", MLP, "a gradcore.MLP")
    h = _check.matrix(x, "x", net.dtype, net.in_features)
    _check.finite(h, "x")
    draft = net.copy()
    initialize(draft, "orthogonal", _check.seed(seed))
    for layer in range(net.depth):
        weight = draft.parameters[f"dense{layer}.weight"]
        z = ops.dense(h, weight)
        deviation = _deviation(z)
        # Below the normal numbers, the deviation has lost digits, and a division by it may overflow.
        if not float(np.finfo(h.dtype.type).tiny) <= deviation < math.inf:
            raise ValueError(
                f"x: expected pre-activations that vary, got standard deviation {deviation:g} in layer {layer}"
            )
        weight /= deviation
        z /= deviation
        if layer + 1 < net.depth:
            h = _layers.hidden(draft, layer, h, z)[0]
    net.parameters.flat[:] = draft.parameters.flat


def _deviation(values: Array) -> float:
    """Standard deviation, without overflow or underflow of the squares."""
    exponent = math.frexp(float(np.abs(values).max()))[1]
    with np.errstate(invalid="ignore"):  # infinity - infinity, if there are infinite values
        return float(np.ldexp(float(np.ldexp(values.astype(np.float64), -exponent).std()), exponent))
