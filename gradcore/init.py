"""Weight initialization: the classic schemes by name, the critical gain, and LSUV on data.

With weights of variance gain^2 / fan_in and no biases, a wide layer changes the mean squared gradient
by the factor chi = gain^2 E[act'(z)^2], where z is its Gaussian pre-activation. `CRITICAL_GAIN_SQUARED`
holds the gain^2 that keeps deep nets at chi = 1 or near it, which `init="auto"` and "orthogonal" use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _core, ops

if TYPE_CHECKING:
    from .mlp import MLP

Array = _check.Array
# A string, because naming np.random imports it, which a fifth of `import gradcore` would be spent on.
Initializer: TypeAlias = "Callable[[tuple[int, int], np.random.Generator], ArrayLike]"

# gain^2 for the weights in front of each activation.
#
#   identity, relu, leaky_relu  exact: chi = 1 and E[h^2] is kept, at every scale of z
#                               (relu: He et al. 2015, arXiv:1502.01852; leaky: 2 / (1 + slope^2))
#   tanh, hard_tanh             slope 1 at 0: chi = 1 in the limit z -> 0, where signals settle
#                               (Schoenholz et al. 2017, arXiv:1611.01232)
#   selu                        1: its fixed point E[h] = 0, E[h^2] = 1 (Klambauer et al. 2017,
#                               arXiv:1706.02515); chi is then 1.07
#   most others                 hold no fixed point with chi = 1 that deep nets stay at, so chi = 1 on
#                               average over 32 layers: sum of ln chi_l = 0 along q_l, the variance of z
#                               in layer l, from inputs of mean square 1 (quadrature, to 4 decimals).
#                               Nets of 10 to 50 layers and width 100 then keep |gradient| within a
#                               factor of 3 (silu: 50).
#   sigmoid                     has no usable critical point: chi = 1 takes a gain^2 of 106, which drives
#                               every unit into saturation. The gain that keeps the variance of z at 1
#                               is used, at which chi is 0.153: deep sigmoid nets lose their gradient
#                               under every scheme, and `gc.analyze` says so.
CRITICAL_GAIN_SQUARED = {
    "identity": 1.0,
    "relu": 2.0,
    "leaky_relu": 2.0 / (1.0 + 0.01**2),
    "elu": 1.4486,
    "selu": 1.0,
    "gelu": 2.1375,
    "gelu_tanh": 2.1374,
    "silu": 2.4230,
    "mish": 2.0706,
    "softplus": 2.3121,
    "tanh": 1.0,
    "hard_tanh": 1.0,
    "sigmoid": 3.4086,
}


def initializers() -> tuple[str, ...]:
    """Names that `init` of an MLP takes."""
    return tuple(_WEIGHTS)


def activations() -> tuple[str, ...]:
    """Names that `activation` of an MLP takes."""
    return tuple(_core.ACTIVATIONS)


def critical_gain(activation: str) -> float:
    """The gain (standard deviation of the weights times the root of fan_in) that `init="auto"` uses."""
    return math.sqrt(_check.choice(activation, "activation", CRITICAL_GAIN_SQUARED))


# ---- schemes: (out_features, in_features), gain, generator -> float64 weights -----------------------------


def _normal(variance: Callable[[int, int, float], float]) -> Callable[..., Array]:
    def weights(shape: tuple[int, int], gain: float, rng: np.random.Generator) -> Array:
        return math.sqrt(variance(shape[1], shape[0], gain)) * rng.standard_normal(shape)

    return weights


def _uniform(variance: Callable[[int, int, float], float]) -> Callable[..., Array]:
    def weights(shape: tuple[int, int], gain: float, rng: np.random.Generator) -> Array:
        bound = math.sqrt(3.0 * variance(shape[1], shape[0], gain))
        return rng.uniform(-bound, bound, shape)

    return weights


def _orthogonal(shape: tuple[int, int], gain: float, rng: np.random.Generator) -> Array:
    """gain * Q with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014, arXiv:1312.6120).

    Q of a Gaussian matrix is uniform over the orthogonal group once the signs of R's diagonal are
    moved into it (Mezzadri 2007, arXiv:math-ph/0609050).
    """
    rows, cols = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return gain * (q if rows >= cols else q.T)


def _glorot(fan_in: int, fan_out: int, gain: float) -> float:
    return 2.0 / (fan_in + fan_out)


def _he(fan_in: int, fan_out: int, gain: float) -> float:
    return 2.0 / fan_in


def _lecun(fan_in: int, fan_out: int, gain: float) -> float:
    return 1.0 / fan_in


def _critical(fan_in: int, fan_out: int, gain: float) -> float:
    return gain * gain / fan_in


_WEIGHTS: dict[str, Callable[[tuple[int, int], float, np.random.Generator], Array]] = {
    "auto": _normal(_critical),
    "glorot_uniform": _uniform(_glorot),
    "glorot_normal": _normal(_glorot),
    "he_uniform": _uniform(_he),
    "he_normal": _normal(_he),
    "lecun_uniform": _uniform(_lecun),
    "lecun_normal": _normal(_lecun),
    "orthogonal": _orthogonal,
}


# ---- whole nets ------------------------------------------------------------------------------------------


def check(init: Any) -> None:
    """TypeError or ValueError unless `init` is a name of `initializers()` or a function."""
    if not callable(init):
        _check.choice(init, "init", dict.fromkeys(_WEIGHTS))


def initialize(net: MLP, init: str | Initializer, seed: int | None) -> None:
    """Fill the weights of every dense layer and set its biases to zero.

    Each layer draws from its own stream of `seed`, so the weights of a layer do not depend on the shapes
    of the others; float32 weights are the float64 ones, rounded.

    Args:
        net: the net; changed only once every layer's weights are known to be good.
        init: a name of `initializers()`, or a function (shape, rng) -> weights [out_features, in_features].
        seed: a whole number, or None for fresh randomness.
    """
    streams = np.random.SeedSequence(seed).spawn(net.depth)
    gains = [critical_gain(name) for name in net.activations] + [1.0]  # the last layer is linear
    weights = []
    for layer, (stream, gain) in enumerate(zip(streams, gains, strict=True)):
        shape, rng = (net.widths[layer + 1], net.widths[layer]), np.random.default_rng(stream)
        if callable(init):
            weights.append(_checked_weights(init(shape, rng), shape, layer))
        else:
            weights.append(_WEIGHTS[init](shape, gain, rng))
    parameters = net.parameters
    for layer, values in enumerate(weights):
        parameters[f"dense{layer}.weight"] = values
        if net.bias:
            parameters[f"dense{layer}.bias"] = 0.0


def _checked_weights(values: ArrayLike, shape: tuple[int, int], layer: int) -> Array:
    name = f"init: weights of layer {layer}"
    weights = _check.array(values, name)
    if weights.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return weights


def lsuv(net: MLP, x: ArrayLike, *, seed: int = 0) -> None:
    """Layer-sequential unit-variance initialization on data (Mishkin & Matas 2016, arXiv:1511.06422).

    Orthonormal weights, zero biases; then, from the input on, each weight matrix is divided by the
    standard deviation of its layer's pre-activations. Without biases these are linear in the weights,
    so that one division a layer is exact.

    Args:
        net: the net; its weights and biases are replaced.
        x: [batch, in_features], a representative batch; with batch norm at least two rows.
        seed: of the orthonormal weights.

    Raises:
        ValueError: for a bad `x`, or one that gives a layer constant pre-activations; the net is then
            as it was.
    """
    h = _check.matrix(x, "x", net.dtype, net.in_features)
    draft = net.copy()
    initialize(draft, lambda shape, rng: _orthogonal(shape, 1.0, rng), _check.seed(seed))
    for layer in range(net.depth):
        weight = draft.parameters[f"dense{layer}.weight"]
        z = ops.dense(h, weight)
        deviation = float(z.std(dtype=np.float64))
        if not 0.0 < deviation < math.inf:
            raise ValueError(
                f"x: expected pre-activations that vary, got standard deviation {deviation:g} in layer {layer}"
            )
        weight /= deviation
        z /= deviation
        if layer + 1 < net.depth:
            h = _hidden_output(draft, layer, h, z)
    net.parameters.flat[:] = draft.parameters.flat


def _hidden_output(net: MLP, layer: int, h: Array, z: Array) -> Array:
    """What hidden layer `layer` makes of its pre-activations `z`, in training mode."""
    y = z
    if net.normalization == "rms":
        y = ops.rms_norm(z, net.parameters[f"norm{layer}.weight"])[0]
    elif net.normalization is not None:
        normalize = ops.batch_norm if net.normalization == "batch" else ops.layer_norm
        y = normalize(z, net.parameters[f"norm{layer}.weight"], net.parameters[f"norm{layer}.bias"])[0]
    output = ops.activation(y, net.activations[layer])
    if net.residual and h.shape == output.shape:
        output += h
    return output
