"""Mean-field theory of wide random MLPs: how signals and gradients change from layer to layer.

Notation (Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232): the pre-activations of a layer
are Gaussian with variance q; weights have variance weight_var / fan_in, biases bias_var; z, z1, z2 ~ N(0, 1) are
independent.

    q'  = weight_var E[phi(sqrt(q) z)^2] + bias_var                                  (M.1)
    chi = weight_var E[phi'(sqrt(q) z)^2]       factor on |delta|^2 per layer         (M.2)
    c'  = (weight_var E[phi(u1) phi(u2)] + bias_var) / q                             (M.3)
          u1 = sqrt(q) z1,  u2 = sqrt(q) (c z1 + sqrt(1 - c^2) z2)
    batch norm before phi:        chi = E[phi'(z)^2] / Var phi(z)                     (M.4)
    layer or rms norm before phi: chi = E[phi'(z)^2] / E[phi(z)^2]                    (M.5)

(M.4) is Yang et al. 2019, arXiv:1902.08129, for large batches. At width n, each layer adds a random change to
ln |delta|^2, with variance

    v = (3 E[phi'^4] / E[phi'^2]^2 - 1) / n                                          (M.6)

because |delta_l|^2 is a sum of n products phi'_i^2 g_i^2 with Gaussian g_i: 5 / n for ReLU, 2 / n for a linear net
(Hanin & Nica 2018, arXiv:1812.05994). The typical value lies v / 2 below the log of the mean.

An activation is a name from `gc.activations()` or a `Nonlinearity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from .. import ops

# Where phi or phi' jumps; integrals are split there.
_KINKS = {
    "relu": (0.0,),
    "leaky_relu": (0.0,),
    "elu": (0.0,),
    "selu": (0.0,),
    "hard_tanh": (-1.0, 1.0),
}
_TAIL = 12.0  # in standard deviations; the mass beyond is 4e-33
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_TINY_Q, _HUGE_Q = 1e-10, 1e10  # beyond these, a signal has died out or grows without bound


@dataclass(frozen=True)
class Nonlinearity:
    """An activation that is not in gradcore: f and f' for float64 arrays, and the kinks of both."""

    function: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]
    kinks: tuple[float, ...] = ()


@cache
def _named(name: str) -> Nonlinearity:
    return Nonlinearity(
        lambda x: ops.activation(x, name),
        lambda x: ops.activation_backward(np.ones_like(x), x, name),
        _KINKS.get(name, ()),
    )


def nonlinearity(activation: str | Nonlinearity) -> Nonlinearity:
    """The activation as functions; a Nonlinearity is returned as it is."""
    return _named(activation) if isinstance(activation, str) else activation


# ---- expectations ----


@lru_cache(maxsize=32)  # 20 kB each: several moments of one q follow each other, but in a monitored training q changes
def _grid(kinks: tuple[float, ...], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Points scale * z and weights for E f(scale * z).

    Gauss-Legendre panels under the Gaussian density. Gauss-Hermite nodes would lose all accuracy at a kink, and where
    the scale is so large that a smooth sigmoid becomes a step. So panels end at every kink and shrink geometrically
    towards it, down to 1/8 of the unit scale on which activations vary.
    """
    largest = max(1, math.ceil(math.log2(max(_TAIL * scale, 1.0))) + 1)
    marks = {sign * step / scale for step in np.exp2(np.arange(-3, largest)) for sign in (-1.0, 1.0)}
    marks |= {(kink + mark * scale) / scale for kink in kinks for mark in (0.0, *marks)}
    marks |= set(np.arange(-_TAIL, _TAIL + 1.0, 2.0)) | {0.0}
    edges = np.array(sorted(mark for mark in marks if abs(mark) <= _TAIL))
    edges = edges[np.concatenate(([True], np.diff(edges) > 1e-14))]
    half = 0.5 * np.diff(edges)[:, None]
    z = (edges[:-1, None] + half * (1.0 + _NODES)).ravel()
    return scale * z, (half * _WEIGHTS).ravel() * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


def gaussian_mean(function: Callable[[np.ndarray], np.ndarray], q: float, kinks: tuple[float, ...] = ()) -> float:
    """E[function(sqrt(q) z)] by panels of Gauss-Legendre quadrature, to about 1e-13 relative.

    Args:
        function: elementwise on a float64 array, smooth between kinks on a scale of 1.
        q: variance of the argument, > 0 and finite.
        kinks: where function or its derivatives jump.
    """
    points, weights = _grid(kinks, math.sqrt(q))
    return float(weights @ function(points))


@lru_cache(maxsize=16384)
def _moment(activation: str | Nonlinearity, q: float, of: str, power: int) -> float:
    """E[f(sqrt(q) z)^power] for f the activation's "function" or "derivative" (`of`); q is kept in [1e-24, 1e24]."""
    phi = nonlinearity(activation)
    function = getattr(phi, of)
    return gaussian_mean(lambda x: function(x) ** power, min(max(q, 1e-24), 1e24), phi.kinks)


def activation_mean(activation: str | Nonlinearity, q: float) -> float:
    """E[phi(sqrt(q) z)]."""
    return _moment(activation, float(q), "function", 1)


def activation_square(activation: str | Nonlinearity, q: float) -> float:
    """E[phi(sqrt(q) z)^2]."""
    return _moment(activation, float(q), "function", 2)


def derivative_moment(activation: str | Nonlinearity, q: float, power: int = 2) -> float:
    """E[phi'(sqrt(q) z)^power]; at q = 0 the limit from above."""
    return _moment(activation, float(q), "derivative", power)


def largest_derivative(activation: str | Nonlinearity) -> float:
    """max |phi'|, on a grid fine enough for four digits."""
    phi = nonlinearity(activation)
    return float(np.abs(phi.derivative(np.linspace(-8.0, 8.0, 4001))).max())


# ---- maps from layer to layer and where they lead ----


def q_map(activation: str | Nonlinearity, q: float, weight_var: float, bias_var: float = 0.0) -> float:
    """(M.1): the next layer's pre-activation variance."""
    return weight_var * activation_square(activation, q) + bias_var


def chi(activation: str | Nonlinearity, q: float, weight_var: float) -> float:
    """(M.2): factor on the squared gradient per layer at pre-activation variance q."""
    return weight_var * derivative_moment(activation, q)


def fixed_point(activation: str | Nonlinearity, weight_var: float, bias_var: float = 0.0, start: float = 1.0) -> float:
    """q* to which (M.1) converges from `start`: 0 if signals die out, inf if they grow without bound.

    The map is increasing, so its iteration would move monotonically to the next root of q_map(q) - q. That root is
    bracketed and bisected instead, because at a critical point the iteration converges only like 1 / n.
    """

    def growth(q: float) -> float:
        return q_map(activation, q, weight_var, bias_var) / q - 1.0

    first = growth(start)
    if abs(first) < 1e-12:
        return start
    factor = 1.25 if first > 0.0 else 0.8
    here, there = start, start * factor
    while growth(there) * first > 0.0:
        here, there = there, there * factor
        if there < _TINY_Q:
            return 0.0
        if there > _HUGE_Q:
            return math.inf
    return _bisect(lambda log_q: first * growth(math.exp(log_q)), math.log(here), math.log(there))


def _bisect(function: Callable[[float], float], above: float, below: float) -> float:
    """q at the root of a function of ln q between ln q = `above` (function > 0) and `below` (function <= 0)."""
    for _ in range(80):
        middle = 0.5 * (above + below)
        above, below = (middle, below) if function(middle) > 0.0 else (above, middle)
    return math.exp(0.5 * (above + below))


def critical_weight_var(activation: str | Nonlinearity, q: float = 1.0) -> float:
    """weight_var for which chi = 1 at pre-activation variance q."""
    return 1.0 / derivative_moment(activation, q)


def preserving_weight_var(activation: str | Nonlinearity, q: float = 1.0) -> float:
    """weight_var that keeps the pre-activation variance at q without biases."""
    return q / activation_square(activation, q)


def critical_point(activation: str | Nonlinearity, bias_var: float = 0.0) -> tuple[float, float]:
    """(q*, weight_var) for which chi = 1 at the variance q* to which deep layers converge.

    (nan, nan) if there is none: without biases GELU, SiLU and mish have no variance that is both preserved and critical
    (Roberts, Yaida & Hanin 2022, arXiv:2106.10165, section 5.3.4). Scale-free activations (ReLU, identity) preserve
    every variance; q* is then 1. So does hard tanh where it is linear; q* is then about the largest such variance.
    """

    def missing_bias(log_q: float) -> float:
        """Relative change of q in a layer of critical weights; it falls through zero at q*."""
        q = math.exp(log_q)
        kept = bias_var + critical_weight_var(activation, q) * activation_square(activation, q)
        return kept / q - 1.0 - 1e-12  # the margin keeps rounding from making roots at small q

    grid = np.log(np.logspace(-9.0, 9.0, 73))
    values = np.array([missing_bias(log_q) for log_q in grid])
    if np.all(np.abs(values) < 1e-9):
        return 1.0, critical_weight_var(activation, 1.0)
    falls = np.flatnonzero((values[:-1] > 0.0) & (values[1:] <= 0.0))
    if falls.size:
        q = _bisect(missing_bias, grid[falls[0]], grid[falls[0] + 1])
        return q, critical_weight_var(activation, q)
    weight_var = critical_weight_var(activation, 0.0)
    q = fixed_point(activation, weight_var, bias_var)
    settles = values[0] <= 0.0 and abs(chi(activation, q, weight_var) - 1.0) < 1e-9  # at 0, or where it is linear
    return (q, weight_var) if settles else (math.nan, math.nan)


def level_weight_var(activation: str | Nonlinearity, bias_var: float = 0.0) -> float:
    """weight_var for which chi = 1 in deep layers; NaN if there is none.

    It is that of the critical point. If biases make the variance of z grow without bound (ReLU), chi is taken in that
    limit.
    """
    weight_var = critical_point(activation, bias_var)[1]
    if math.isnan(weight_var) and bias_var > 0.0:
        limit = critical_weight_var(activation, 1e20)
        weight_var = limit if math.isinf(fixed_point(activation, limit, bias_var)) else math.nan
    return weight_var


def depth_scale(factor: float) -> float:
    """Layers over which a factor per layer accumulates to e (or 1/e): 1 / |ln factor|."""
    if not 0.0 < factor < math.inf:
        return 0.0
    return 1.0 / abs(math.log(factor)) if abs(factor - 1.0) > 1e-12 else math.inf


def carried_depth(factor: float, ratio: float = 100.0) -> float:
    """Number of dense layers after which gradient norms at the two ends differ by `ratio`.

    factor: on the squared norm, per layer.
    """
    return 1.0 + 2.0 * math.log(ratio) * depth_scale(factor)


# ---- correlation of two inputs ----


def c_map(activation: str | Nonlinearity, c: float, q: float, weight_var: float, bias_var: float = 0.0) -> float:
    """(M.3): the next layer's correlation of two inputs, both at pre-activation variance q."""
    phi = nonlinearity(activation)
    return (weight_var * _pair_mean(phi.function, phi.kinks, c, q) + bias_var) / q


# Number of terms of (M.7). The rest of the series is known at c = 1: for a kink such as ReLU's, at most 0.3 %.
_HERMITE_TERMS = 40


@lru_cache(maxsize=4096)
def _hermite_squares(activation: str | Nonlinearity, q: float) -> np.ndarray:
    """The first coefficients a_k^2 of (M.7), and as the last entry the sum of all others, E[phi^2] minus these."""
    phi = nonlinearity(activation)
    points, weights = _grid(phi.kinks, math.sqrt(q))
    z, values = points / math.sqrt(q), phi.function(points) * weights
    before, here = np.zeros_like(z), np.ones_like(z)
    squares = np.empty(_HERMITE_TERMS + 1)
    for k in range(_HERMITE_TERMS):
        squares[k] = float(values @ here) ** 2
        before, here = here, (z * here - math.sqrt(k) * before) / math.sqrt(k + 1)
    squares[-1] = max(activation_square(activation, q) - float(squares[:-1].sum()), 0.0)
    return squares


def activation_product(activation: str | Nonlinearity, c: float, q: float) -> float:
    """E[phi(u1) phi(u2)] of two inputs with correlation c at pre-activation variance q; NaN for a NaN c.

    By the Hermite coefficients a_k = E[phi(sqrt(q) z) He_k(z)] / sqrt(k!) (Mehler's formula),

        E[phi(u1) phi(u2)] = sum_k a_k^2 c^k                                             (M.7)

    This is much faster than the double integral of (M.3) and accurate to 0.3 %, for use over many layers.
    """
    if math.isnan(c):
        return math.nan
    squares = _hermite_squares(activation, float(min(max(q, 1e-24), 1e24)))
    return float(squares @ np.power(c, np.arange(_HERMITE_TERMS + 1)))


def chi_c(activation: str | Nonlinearity, c: float, q: float, weight_var: float) -> float:
    """Slope of (M.3) at c: weight_var E[phi'(u1) phi'(u2)]."""
    phi = nonlinearity(activation)
    return weight_var * _pair_mean(phi.derivative, phi.kinks, c, q)


def _pair_mean(function: Callable[[np.ndarray], np.ndarray], kinks: tuple[float, ...], c: float, q: float) -> float:
    """E[f(u1) f(u2)] by two nested means, with u2 = c u1 + sqrt(1 - c^2) u', u' like u1 and independent of it."""
    outer, weights = _grid(kinks, math.sqrt(q))
    keep = weights > 1e-18
    outer, weights = outer[keep], weights[keep]
    rest = math.sqrt(max(q * (1.0 - c * c), 1e-300))
    inner = np.array([_shifted_mean(function, kinks, c * u, rest) for u in outer])
    return float(weights @ (function(outer) * inner))


def _shifted_mean(
    function: Callable[[np.ndarray], np.ndarray], kinks: tuple[float, ...], centre: float, scale: float
) -> float:
    """E[f(centre + scale z)] by Gauss-Legendre panels between -8 and 8 standard deviations that end at kinks."""
    inside = [(kink - centre) / scale for kink in kinks if abs(kink - centre) < 8.0 * scale]
    edges = np.array(sorted({*np.linspace(-8.0, 8.0, 9), *inside}))
    half = 0.5 * np.diff(edges)[:, None]
    z = (edges[:-1, None] + half * (1.0 + _NODES)).ravel()
    weights = (half * _WEIGHTS).ravel() * np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return float(weights @ function(centre + scale * z))


def correlation_scale(activation: str | Nonlinearity, q: float, weight_var: float, bias_var: float = 0.0) -> float:
    """xi_c = 1 / |ln chi_c(c*)|: layers over which the correlation of two inputs approaches its limit c*.

    In the ordered phase (chi <= 1) c* = 1 and chi_c = chi; in the chaotic phase c* < 1 is found by bisection.
    """
    at_one = chi(activation, q, weight_var)
    if at_one <= 1.0 + 1e-9 or not 0.0 < q < math.inf:
        return depth_scale(at_one)

    def growth(c: float) -> float:
        return c_map(activation, c, q, weight_var, bias_var) - c

    if growth(0.0) <= 0.0:  # odd activations without biases: inputs become orthogonal
        return depth_scale(chi_c(activation, 0.0, q, weight_var))
    c_star = 0.0
    low, high = 0.0, 1.0 - 1e-6
    for _ in range(25):
        c_star = 0.5 * (low + high)
        low, high = (c_star, high) if growth(c_star) > 0.0 else (low, c_star)
    return depth_scale(chi_c(activation, c_star, q, weight_var))


# Inputs stay distinguishable for about six correlation scales (the experiments of Schoenholz et al. 2017).
TRAINABLE_SCALES = 6.0


# ---- normalization and finite width ----


def batch_norm_growth(activation: str | Nonlinearity, batch_size: int | None = None) -> float:
    """Growth of |delta|^2 per layer towards the input with batch norm before each activation.

    (M.4), multiplied for a finite batch by (B - 2) / (B - 3). This factor is exact for a linear net (Yang et al. 2019)
    and agrees with simulation to 1 % for ReLU and tanh from B = 8 on.
    """
    variance = activation_square(activation, 1.0) - activation_mean(activation, 1.0) ** 2
    growth = derivative_moment(activation, 1.0) / variance
    return growth if batch_size is None else growth * finite_batch_factor(batch_size)


def finite_batch_factor(batch_size: int) -> float:
    """(B - 2) / (B - 3) of a linear net with batch norm; the mean is infinite for B <= 3."""
    return (batch_size - 2.0) / (batch_size - 3.0) if batch_size > 3 else math.inf


def layer_norm_growth(activation: str | Nonlinearity) -> float:
    """(M.5): growth of |delta|^2 per layer towards the input with layer or rms norm, in the limit of large width."""
    return derivative_moment(activation, 1.0) / activation_square(activation, 1.0)


def kurtosis(activation: str | Nonlinearity, q: float) -> float:
    """E[phi'^4] / E[phi'^2]^2: 1 for a linear net, 2 for ReLU."""
    square = derivative_moment(activation, q, 2)
    return derivative_moment(activation, q, 4) / square**2 if square > 0.0 else math.inf


def width_noise(activation: str | Nonlinearity, q: float, width: int) -> float:
    """(M.6): variance of ln |delta|^2 that one layer of finite width adds."""
    return (3.0 * kurtosis(activation, q) - 1.0) / width
