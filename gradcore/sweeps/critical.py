"""The critical line of mean-field theory in the plane of weight and bias variance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .. import _check
from ..analysis import mean_field as theory
from .grid import Array


def critical_line(activation: str, bias_vars: Iterable[float]) -> Array:
    """weight_var at which chi = 1 in deep layers, for each variance of the biases.

    This line divides the (weight_var, bias_var) plane: gradients vanish to its left and explode to its right
    (Schoenholz et al. 2017, arXiv:1611.01232, figure 1).

    Returns:
        float64, one value per bias_var; NaN if there is no such weight_var.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    _check.choice(activation, "activation", _check.ACTIVATIONS)
    given = _check.items(bias_vars)
    if given is None:
        raise TypeError(f"bias_vars: expected a sequence of numbers, got {_check.described(bias_vars)}")
    variances = [_check.non_negative(value, f"bias_vars[{index}]") for index, value in enumerate(given)]
    return np.array([theory.level_weight_var(activation, variance) for variance in variances])
