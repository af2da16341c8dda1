"""Gradient clipping, in place, on a net, a mapping or a sequence of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _check, _core

if TYPE_CHECKING:
    from .mlp import MLP

Gradients = Any  # an MLP, a mapping to arrays, a sequence of arrays, or one array


def clip_grad_norm_(
    grads: Gradients, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale gradients in place so that their total norm is at most `max_norm`.

    The norm is that of all arrays concatenated (Pascanu et al. 2013, arXiv:1211.5063). It is correct even where a
    float32 sum of squares would overflow. All arrays are multiplied by min(1, max_norm / (total_norm + 1e-6)), as
    PyTorch does.

    Args:
        grads: a net, whose gradients are clipped; or one array, or a mapping or sequence of arrays. Arrays are
            writable, C-contiguous, float32 or float64, of any shapes and one dtype. None in place of an array, the
            gradient of an unused parameter, is skipped as in PyTorch.
        max_norm: bound >= 0; with infinity the norm is only measured.
        norm_type: 2.0, any other p > 0, or infinity for the largest absolute value.
        error_if_nonfinite: raise FloatingPointError if the total norm is NaN or infinite, and leave all arrays
            unchanged. Without it the arrays are scaled as in PyTorch: an infinite norm makes finite elements 0, and a
            NaN norm makes all elements NaN.

    Returns:
        The total norm before clipping.

    Raises:
        ValueError, TypeError: naming the offending array or argument; nothing has changed.
        FloatingPointError: see `error_if_nonfinite`.
    """
    max_norm = _check.number(max_norm, "max_norm", "a number >= 0", lambda x: x >= 0)
    norm_type = _check.number(norm_type, "norm_type", "a number > 0 or infinity", lambda x: x > 0)
    error_if_nonfinite = _check.flag(error_if_nonfinite, "error_if_nonfinite")
    return _core.clip_grad_norm(_arrays(grads), max_norm, norm_type, error_if_nonfinite)


def clip_grad_value_(grads: Gradients, clip_value: float) -> None:
    """Clamp every element of the gradients to [-clip_value, clip_value], in place.

    NaN stays NaN. `grads` as for `clip_grad_norm_`.
    """
    clip_value = _check.number(clip_value, "clip_value", "a number >= 0", lambda x: x >= 0)
    _core.clip_grad_value(_arrays(grads), clip_value)


def clip_grad_adaptive_(net: MLP, clipping: float = 0.01, eps: float = 1e-3) -> None:
    """Adaptive gradient clipping, in place (Brock et al. 2021, arXiv:2102.06171).

    For each output unit of each dense layer, a row of the weight gradient whose norm exceeds
    clipping * max(|row of the weights|, eps) is scaled to that norm. Biases and normalization parameters are not
    clipped.

    Args:
        net: the net whose gradients are clipped.
        clipping: largest ratio of gradient to weights, > 0.
        eps: lower bound for the norm of the weights, >= 0, so that units that start at zero can grow.
    """
    from .mlp import MLP

    _check.instance(net, "net", MLP, "a gradcore.MLP")
    net._core.clip_grad_adaptive(_check.positive(clipping, "clipping"), _check.non_negative(eps, "eps"))


def _arrays(grads: Gradients) -> list[_check.Array]:
    """The arrays to change, checked to be writable and of one dtype."""
    from .mlp import MLP

    if isinstance(grads, MLP):
        # Not `.flat`: a NaN norm would reach the padding between the tensors, until the next pass.
        return list(grads.gradients.values())
    keys: Iterable[Any]
    if isinstance(grads, Mapping):
        keys, values = list(grads), list(grads.values())
    elif hasattr(grads, "__array__") or hasattr(grads, "__dlpack__"):
        return [_check.writable(grads, "grads")]
    elif isinstance(grads, Iterable) and not isinstance(grads, (str, bytes)):
        values = list(grads)
        keys = range(len(values))
    else:
        raise TypeError(f"grads: expected a net, a mapping or a sequence of arrays, got {_check.described(grads)}")
    if _check.all_writable(values):
        return values
    arrays: list[_check.Array] = []
    for key, value in zip(keys, values, strict=True):
        if value is None:
            continue
        arrays.append(_check.writable(value, f"grads[{key!r}]"))
        if arrays[-1].dtype != arrays[0].dtype:
            raise ValueError(f"grads[{key!r}]: expected {arrays[0].dtype} as the first array, got {arrays[-1].dtype}")
    if not arrays:
        raise ValueError(f"grads: expected at least one array, got {'only None' if values else 'none'}")
    return arrays
