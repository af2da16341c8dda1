"""What a net does to small changes of its input: singular values of the Jacobian, correlation of neighbours.

The net is linearized at a few rows, in float64, and only products with the Jacobian J = d output / d input are
taken: forward, J v, and backward, u J, at the cost of a pass each. With few outputs (or inputs) the products with
all unit vectors give every singular value; beyond that Golub-Kahan-Lanczos bidiagonalization (Golub & Kahan 1965,
SIAM J. Numer. Anal. 2, with full reorthogonalization) gives the largest ones and bounds on the others, and the
moments of all of them by Gauss quadrature from its random start (Golub & Meurant 2010, chapter 7).

Batch norm's statistics are held at those of the batch the rows come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..mlp import NORM_EPS, skip_connections
from .arithmetic import TINY, harmless
from .report import Jacobian

# Up to this many outputs (or inputs), products with all unit vectors cost less than bidiagonalization.
_FEW = 64
_LANCZOS_STEPS = 32
# Number of rows at which the net is linearized, and of rows whose neighbours are followed; results are means over them.
JACOBIAN_ROWS, NEIGHBOURS = 4, 32
# Singular values listed at either end.
_LISTED = 5
# Cosine of a row and its neighbour at the input: near, yet far enough to lose a good part of it.
NEIGHBOUR_COSINE = 0.9
# What is left of a vector after a projection is rounding error if it is below this share of its length.
_INSIDE = 1e-12

Floats = np.ndarray
_Product = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Propagation:
    """What a net does to small changes of its input.

    jacobian: singular values of d output / d input. correlation: [depth], cosine between the arguments of each layer's
    activation for a row and for its neighbour, which at the input is NEIGHBOUR_COSINE; for the last layer, of outputs.
    """

    jacobian: Jacobian
    correlation: Floats


@harmless
def propagate(net: Any, x: Floats, seed: int = 0) -> Propagation:
    """Both measurements at the first rows of a batch x [rows, in_features]; batch norm uses the statistics of all x."""
    rng = np.random.default_rng((seed, 2))
    x = np.asarray(x, dtype=np.float64)
    layers = _parameters(net)
    statistics = _Pass(net, layers, x, None).statistics if net.normalization == "batch" else None
    near = x[:NEIGHBOURS]
    own = _Pass(net, layers, near, statistics)
    others = _Pass(net, layers, neighbours(near, rng), statistics)
    correlation = np.array([_cosine(a, b) for a, b in zip(own.arguments, others.arguments, strict=True)])
    return Propagation(_jacobian(_Pass(net, layers, x[:JACOBIAN_ROWS], statistics), rng), correlation)


@harmless
def difference(net: Any, x: Floats) -> float:
    """How much the pre-activations of the last hidden layer (after normalization) differ between the rows of x.

    The result is the root mean square of their deviations from the mean row over their own root mean square: 0 if all
    inputs look alike there, NaN without a hidden layer.
    """
    last = last_hidden(net, x)
    return float(np.sqrt(np.mean((last - last.mean(axis=0)) ** 2) / np.mean(last**2))) if last.size else math.nan


@harmless
def last_hidden(net: Any, x: Floats) -> Floats:
    """Pre-activations of the last hidden layer (after normalization) for rows x, float64; empty if there is none."""
    hidden = _Pass(net, _parameters(net), np.asarray(x, dtype=np.float64), None).arguments[:-1]
    return hidden[-1] if hidden else np.empty((0, 0))


def neighbours(x: Floats, rng: np.random.Generator) -> Floats:
    """Rows as long as those of x that differ from them in random directions, at a cosine of NEIGHBOUR_COSINE."""
    if x.shape[1] == 1:
        return NEIGHBOUR_COSINE * x  # there is no other direction: shorter rows instead
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    safe = np.where(norms > 0.0, norms, 1.0)
    aside = rng.standard_normal(x.shape)
    aside -= np.sum(aside * x, axis=1, keepdims=True) / safe**2 * x
    aside *= norms / np.linalg.norm(aside, axis=1, keepdims=True)
    return NEIGHBOUR_COSINE * x + math.sqrt(1.0 - NEIGHBOUR_COSINE**2) * aside


def _cosine(a: Floats, b: Floats) -> float:
    """One cosine for all pairs of rows together, in which longer rows count more."""
    return float(np.sum(a * b) / math.sqrt(float(np.sum(a * a)) * float(np.sum(b * b))))


# ---- the linearized net ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    """Parameters of a dense layer and its normalization in float64; 0.0 or 1.0 for those that the net lacks."""

    weight: Floats
    bias: Floats | float
    gamma: Floats | float
    beta: Floats | float


def _parameters(net: Any) -> list[_Layer]:
    def exact(name: str, missing: float) -> Floats | float:
        return np.asarray(net.parameters[name], dtype=np.float64) if name in net.parameters else missing

    return [
        _Layer(
            np.asarray(net.parameters[f"dense{layer}.weight"], dtype=np.float64),
            exact(f"dense{layer}.bias", 0.0),
            exact(f"norm{layer}.weight", 1.0),
            exact(f"norm{layer}.bias", 0.0),
        )
        for layer in range(net.depth)
    ]


class _Pass:
    """One forward pass over rows x, and the net linearized there.

    arguments: those of each layer's activation, [rows, units]; for the last layer, the outputs. statistics: (mean,
    inverse deviation) of each batch norm, computed from x if none are given.
    """

    def __init__(self, net: Any, layers: list[_Layer], x: Floats, statistics: list[Any] | None) -> None:
        self.layers, self.normalization = layers, net.normalization
        self.skips = skip_connections(net.config)
        self.arguments: list[Floats] = []
        self.slopes: list[Floats] = []
        self.norms: list[tuple[Floats, Floats]] = []  # normalized z and inverse deviation
        self.statistics: list[Any] = []
        h = x
        for index, layer in enumerate(layers):
            z = h @ layer.weight.T + layer.bias
            if index == net.depth - 1:
                self.arguments.append(z)
                break
            y = self._normalized(z, layer, None if statistics is None else statistics[index])
            act = net.activations[index]
            self.arguments.append(y)
            self.slopes.append(ops.activation_backward(np.ones_like(y), y, act))
            h = ops.activation(y, act) + (h if self.skips[index] else 0.0)

    @property
    def rows(self) -> int:
        return len(self.arguments[0])

    def _normalized(self, z: Floats, layer: _Layer, held: Any) -> Floats:
        """z after the layer's normalization, if any; held: statistics to use instead of those of z, or None."""
        if self.normalization is None:
            self.statistics.append(None)
            return z
        axis = 0 if self.normalization == "batch" else 1
        if held is not None:
            mean, inverse = held
        else:
            mean = z.mean(axis=axis, keepdims=True) if self.normalization != "rms" else np.zeros((1, 1))
            inverse = 1.0 / np.sqrt(np.mean((z - mean) ** 2, axis=axis, keepdims=True) + NORM_EPS)
        self.statistics.append((mean, inverse) if self.normalization == "batch" else None)
        x_hat = (z - mean) * inverse
        self.norms.append((x_hat, inverse))
        return np.asarray(layer.gamma * x_hat + layer.beta)

    def _centred(self, index: int, values: Floats) -> Floats:
        """Derivative of a normalization, before gamma, applied to `values`; being symmetric, it serves both directions.

        Layer and rms norm scale by the inverse deviation and take out the components along x_hat and, for layer norm,
        the mean. Batch norm only scales, because its statistics are held.
        """
        x_hat, inverse = self.norms[index]
        if self.normalization == "batch":
            return np.asarray(inverse * values)
        along = x_hat * np.mean(x_hat * values, axis=-1, keepdims=True)
        mean = values.mean(axis=-1, keepdims=True) if self.normalization == "layer" else 0.0
        return np.asarray(inverse * (values - mean - along))

    def forward(self, values: Floats) -> Floats:
        """J v at every row: [..., rows, in] -> [..., rows, out]."""
        for index, layer in enumerate(self.layers[:-1]):
            through = values @ layer.weight.T
            if self.normalization is not None:
                through = layer.gamma * self._centred(index, through)
            through = through * self.slopes[index]
            values = through + values if self.skips[index] else through
        return np.asarray(values @ self.layers[-1].weight.T)

    def backward(self, values: Floats) -> Floats:
        """u J at every row: [..., rows, out] -> [..., rows, in]."""
        values = values @ self.layers[-1].weight
        for index in range(len(self.layers) - 2, -1, -1):
            layer = self.layers[index]
            through = values * self.slopes[index]
            if self.normalization is not None:
                through = self._centred(index, layer.gamma * through)
            through = through @ layer.weight
            values = through + values if self.skips[index] else through
        return values


# ---- singular values ---------------------------------------------------------------------------


def _jacobian(at: _Pass, rng: np.random.Generator) -> Jacobian:
    """The singular values of the Jacobian, means over the rows of a pass; NaN if any of them is not finite."""
    in_features, out_features = at.layers[0].weight.shape[1], at.layers[-1].weight.shape[0]
    count = min(in_features, out_features)
    exact = count <= _FEW
    if exact:
        product = at.backward if out_features <= in_features else at.forward
        values = _every_singular_value(product, at.rows, count)
        weights = np.full(values.shape, 1.0 / count)
    else:
        steps = min(_LANCZOS_STEPS, count)
        values, weights = _lanczos(at, in_features, steps, rng)
        # The quadrature gives a mean over all input directions; those beyond `count` have the singular value zero.
        weights *= in_features / count
    if not np.isfinite(values).all():
        nan = math.nan
        return Jacobian(np.full(1, nan), np.full(1, nan), nan, nan, count, at.rows, exact)
    mean_square = float(np.mean(np.sum(weights * values**2, axis=1)))
    typical = values.mean(axis=0)
    listed = min(_LISTED, len(typical))
    return Jacobian(
        typical[:listed], typical[-listed:], mean_square, _log_spread(values, weights), count, at.rows, exact
    )


def _log_spread(values: Floats, weights: Floats) -> float:
    """Standard deviation of the logarithm of the singular values, mean over rows, without values that are about zero.

    values: [rows, count], largest first. weights: of the same shape.
    """
    above = values > _INSIDE * values[:, :1]
    logs = np.log(np.where(above, values, 1.0))
    share = weights * above / np.maximum(np.sum(weights * above, axis=1, keepdims=True), TINY)
    centre = np.sum(share * logs, axis=1, keepdims=True)
    return float(np.mean(np.sqrt(np.sum(share * (logs - centre) ** 2, axis=1))))


def _every_singular_value(product: _Product, rows: int, count: int) -> Floats:
    """All singular values from the products with all unit vectors: [rows, count], largest first."""
    units = np.repeat(np.eye(count)[:, None, :], rows, axis=1)
    matrices = np.swapaxes(product(units), 0, 1)
    return _singular_values(matrices)


def _singular_values(matrices: Floats) -> Floats:
    if not np.isfinite(matrices).all():
        return np.full((len(matrices), 1), math.nan)
    return np.asarray(np.linalg.svd(matrices, compute_uv=False))


def _lanczos(at: _Pass, in_features: int, steps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Singular values of the bidiagonal matrix B after some steps, largest first, and their quadrature weights.

    J V = U B, where V and U have orthonormal columns. With a random start, the squared first components of B's right
    singular vectors are the weights of a Gauss quadrature over the spectrum of J^T J. Beyond the rank of J the values
    are zero, and their weights belong to input directions on which the output does not depend.
    """
    left: list[Floats] = []
    right: list[Floats] = []
    band = np.zeros((at.rows, steps, steps))
    start = rng.standard_normal((at.rows, in_features))
    _extend(right, start / np.linalg.norm(start, axis=1, keepdims=True), rng)
    for step in range(steps):
        band[:, step, step] = _extend(left, at.forward(right[-1]), rng)
        if step + 1 < steps:
            band[:, step, step + 1] = _extend(right, at.backward(left[-1]), rng)
    if not np.isfinite(band).all():
        return np.full((at.rows, 1), math.nan), np.ones((at.rows, 1))
    _, values, vectors = np.linalg.svd(band)
    return np.asarray(values), np.asarray(vectors[:, :, 0] ** 2)


def _extend(basis: list[Floats], values: Floats, rng: np.random.Generator) -> Floats:
    """Add to the basis, for each row, the direction of the part of `values` outside it; returns that part's length.

    If nothing but rounding error is outside, the space is exhausted: a random direction is added, with length 0.
    """
    size = np.linalg.norm(values, axis=1, keepdims=True)
    rest = _without(basis, values)
    length = np.linalg.norm(rest, axis=1, keepdims=True)
    inside = length <= _INSIDE * size
    rest = np.where(inside, _without(basis, rng.standard_normal(values.shape)), rest)
    rest = _without(basis, rest / np.linalg.norm(rest, axis=1, keepdims=True))
    basis.append(rest / np.linalg.norm(rest, axis=1, keepdims=True))
    return np.asarray(np.where(inside, 0.0, length)[:, 0])


def _without(basis: list[Floats], values: Floats) -> Floats:
    """`values` without their components in the basis, row by row."""
    for direction in basis:
        values = values - np.sum(direction * values, axis=1, keepdims=True) * direction
    return values
