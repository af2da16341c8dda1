"""The critical line of mean-field theory in the plane of weight and bias variance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..analysis import mean_field as theory
from .grid import Array


def critical_line(activation: str, bias_vars: Iterable[float]) -> Array:
    """weight_var at which chi = 1 in deep layers, for each variance of the biases.

    This line divides the (weight_var, bias_var) plane: gradients vanish to its left and explode to its right
    (Schoenholz et al. 2017, arXiv:1611.01232, figure 1).

    Returns:
        float64, one value per bias_var; NaN if there is no such weight_var.
    """
    return np.array([theory.level_weight_var(activation, bias_var) for bias_var in bias_vars])
