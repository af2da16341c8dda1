"""Single kernels on plain arrays: forward and backward of each building block.

The first argument decides the dtype, float32 or float64; any other dtype becomes float64. Outputs are new arrays;
nothing is changed in place. Each backward function takes the gradient of the output first, then the arguments of its
forward function that it needs, and then what that function saved; only `loss_backward` takes the arguments of `loss`.
A ValueError or TypeError names a wrong argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _core
from .flow import FORMATS

Array = _check.Array


def _first(value: ArrayLike, name: str) -> Array:
    """The argument that decides the dtype, C-contiguous."""
    array = _check.array(value, name)
    return _check.converted(array, array.dtype if array.dtype in (np.float32, np.float64) else np.float64)


def _matrix(value: ArrayLike, name: str) -> Array:
    array = _first(value, name)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: expected a 2-D array with at least one row and column, got {array.shape}")
    return array


def _like(value: ArrayLike, name: str, first: Array, shape: tuple[int, ...]) -> Array:
    """A further argument: of the first one's dtype, and of this shape."""
    array = _check.array(value, name)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {list(shape)}, got {array.shape}")
    return _check.converted(array, first.dtype)


# ---- dense ------------------------------------------------------------------------------------------------


def dense(input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """input weight^T + bias.

    Args:
        input: [batch, in_features].
        weight: [out_features, in_features].
        bias: [out_features], or None for zeros.

    Returns:
        [batch, out_features].
    """
    x = _matrix(input, "input")
    w = _check.array(weight, "weight")
    w = _like(w, "weight", x, (w.shape[0] if w.ndim else 0, x.shape[1]))
    return _core.op_dense(x, w, None if bias is None else _like(bias, "bias", x, w.shape[:1]))


def dense_backward(grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike) -> tuple[Array, Array, Array]:
    """Gradients of `dense`.

    Returns:
        grad_input [batch, in_features], grad_weight [out_features, in_features], grad_bias
        [out_features]; the last two summed over the batch.
    """
    dy = _matrix(grad_output, "grad_output")
    x = _check.array(input, "input")
    x = _like(x, "input", dy, (dy.shape[0], x.shape[1] if x.ndim == 2 else 0))
    return _core.op_dense_backward(dy, x, _like(weight, "weight", dy, (dy.shape[1], x.shape[1])))


# ---- activations ------------------------------------------------------------------------------------------


def activation(input: ArrayLike, activation: str) -> Array:
    """act(input), elementwise, for an array of any shape; `activation` is a name from `gc.activations()`."""
    code = _check.choice(activation, "activation", _check.ACTIVATIONS)
    return _core.op_activation(code, _first(input, "input"))


def activation_backward(grad_output: ArrayLike, input: ArrayLike, activation: str) -> Array:
    """grad_output * act'(input), with PyTorch's derivatives at the kinks.

    At 0, relu, leaky_relu and selu have their left derivatives (0, 0.01 and 1.758); at -1 and 1, hard_tanh has 0.
    """
    code = _check.choice(activation, "activation", _check.ACTIVATIONS)
    dy = _first(grad_output, "grad_output")
    return _core.op_activation_backward(code, dy, _like(input, "input", dy, dy.shape))


# ---- normalization ----------------------------------------------------------------------------------------


def batch_norm(input: ArrayLike, weight: ArrayLike, bias: ArrayLike, eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """Batch normalization with the statistics of this batch (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Args:
        input: [batch, features], at least two rows.
        weight, bias: [features].
        eps: added to the biased variance; > 0, and not subnormal in the dtype.

    Returns:
        output [batch, features], save_mean [features] and save_invstd [features], 1 / sqrt(var + eps).
    """
    x = _matrix(input, "input")
    features = x.shape[1:]
    return _core.op_batch_norm(
        x, _like(weight, "weight", x, features), _like(bias, "bias", x, features), _check.positive(eps, "eps")
    )


def batch_norm_backward(
    grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, save_mean: ArrayLike, save_invstd: ArrayLike
) -> tuple[Array, Array, Array]:
    """Gradients of `batch_norm`: grad_input [batch, features], grad_weight and grad_bias [features]."""
    dy = _matrix(grad_output, "grad_output")
    x, gamma, mean, invstd = _norm_arguments(dy, input, weight, save_mean, save_invstd, dy.shape[1:])
    return _core.op_batch_norm_backward(dy, x, gamma, mean, invstd)


def layer_norm(input: ArrayLike, weight: ArrayLike, bias: ArrayLike, eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """Layer normalization of each row (Ba et al. 2016, arXiv:1607.06450).

    Args:
        input: [batch, features].
        weight, bias: [features].
        eps: added to the biased variance; > 0, and not subnormal in the dtype.

    Returns:
        output [batch, features], save_mean [batch] and save_invstd [batch], 1 / sqrt(var + eps).
    """
    x = _matrix(input, "input")
    features = x.shape[1:]
    gamma, beta = _like(weight, "weight", x, features), _like(bias, "bias", x, features)
    return _core.op_layer_norm(x, gamma, beta, False, _check.positive(eps, "eps"))


def layer_norm_backward(
    grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, save_mean: ArrayLike, save_invstd: ArrayLike
) -> tuple[Array, Array, Array]:
    """Gradients of `layer_norm`: grad_input [batch, features], grad_weight and grad_bias [features]."""
    dy = _matrix(grad_output, "grad_output")
    x, gamma, mean, invstd = _norm_arguments(dy, input, weight, save_mean, save_invstd, dy.shape[:1])
    return _core.op_layer_norm_backward(dy, x, gamma, mean, invstd, False)


def rms_norm(input: ArrayLike, weight: ArrayLike, eps: float = 1e-5) -> tuple[Array, Array]:
    """Root-mean-square normalization of each row (Zhang & Sennrich 2019, arXiv:1910.07467).

    Args:
        input: [batch, features].
        weight: [features].
        eps: added to the mean square; > 0, and not subnormal in the dtype.

    Returns:
        output [batch, features] and save_invstd [batch], 1 / sqrt(mean(input^2) + eps).
    """
    x = _matrix(input, "input")
    gamma = _like(weight, "weight", x, x.shape[1:])
    output, _, save_invstd = _core.op_layer_norm(x, gamma, None, True, _check.positive(eps, "eps"))
    return output, save_invstd


def rms_norm_backward(
    grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, save_invstd: ArrayLike
) -> tuple[Array, Array]:
    """Gradients of `rms_norm`: grad_input [batch, features] and grad_weight [features]."""
    dy = _matrix(grad_output, "grad_output")
    zeros = np.zeros(dy.shape[0])
    x, gamma, mean, invstd = _norm_arguments(dy, input, weight, zeros, save_invstd, dy.shape[:1])
    return _core.op_layer_norm_backward(dy, x, gamma, mean, invstd, True)[:2]


def _norm_arguments(
    dy: Array, input: Any, weight: Any, save_mean: Any, save_invstd: Any, saved: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    return (
        _like(input, "input", dy, dy.shape),
        _like(weight, "weight", dy, dy.shape[1:]),
        _like(save_mean, "save_mean", dy, saved),
        _like(save_invstd, "save_invstd", dy, saved),
    )


# ---- losses -----------------------------------------------------------------------------------------------


def loss(output: ArrayLike, target: ArrayLike, loss: str = "cross_entropy") -> float:
    """The mean loss of net outputs, with PyTorch's reductions.

    Args:
        output: [batch, features]; logits for the two cross entropies.
        target: values [batch, features], or [batch] if there is one feature; for "cross_entropy", probabilities
            [batch, features] or labels [batch].
        loss: "cross_entropy", "binary_cross_entropy", "mse", "mae" or "huber" (delta 1).
    """
    return _core.op_loss(*_loss_arguments(output, target, loss), False)[0]


def loss_backward(output: ArrayLike, target: ArrayLike, loss: str = "cross_entropy") -> Array:
    """The gradient of `loss` with respect to `output`, [batch, features]."""
    grad_output: Array = _core.op_loss(*_loss_arguments(output, target, loss), True)[1]
    return grad_output


def _loss_arguments(output: Any, target: Any, loss: str) -> tuple[int, Array, Array]:
    code = _check.choice(loss, "loss", _check.LOSSES)
    y = _matrix(output, "output")
    return code, y, _check.target(target, y.dtype, loss, *y.shape)


# ---- statistics -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ArrayStats:
    """Statistics of one array; mean, variance, norm and max_abs are over its finite elements.

    Attributes:
        count, zeros, subnormals, nonfinite: numbers of elements.
        mean, variance, norm, max_abs: with the biased variance and the L2 norm, without overflow.
        underflow: number of finite nonzero elements that become 0 in "fp16", "bf16", "e4m3" and "e5m2".
        overflow: number of finite elements that exceed the largest finite value of each of these formats.
        histogram: int64 [bins], the number of elements with floor(log2 |x|) == exponents[bin]. exponents: int64 [bins].
    """

    count: int
    zeros: int
    subnormals: int
    nonfinite: int
    mean: float
    variance: float
    norm: float
    max_abs: float
    underflow: Mapping[str, int]
    overflow: Mapping[str, int]
    histogram: NDArray[np.int64]
    exponents: NDArray[np.int64]


def array_stats(array: ArrayLike) -> ArrayStats:
    """Counts, moments, norm, exponent histogram, underflow and overflow of an array of any shape, in one pass."""
    values = _first(array, "array")
    stats, histogram = _core.op_array_stats(values)
    lowest, num_bins = _core.exponent_bins(_check.DTYPES[values.dtype.name])
    return ArrayStats(
        count=stats.count,
        zeros=stats.zeros,
        subnormals=stats.subnormals,
        nonfinite=stats.nonfinite,
        mean=stats.mean,
        variance=stats.variance,
        norm=stats.norm,
        max_abs=stats.max_abs,
        underflow=MappingProxyType(dict(zip(FORMATS, stats.flushed, strict=True))),
        overflow=MappingProxyType(dict(zip(FORMATS, stats.overflowed, strict=True))),
        histogram=histogram,
        exponents=np.arange(lowest, lowest + num_bins, dtype=np.int64),
    )
