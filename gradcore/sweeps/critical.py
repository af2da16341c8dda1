"""The critical line of mean-field theory in the plane of weight and bias variance."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..analysis import mean_field as theory
from .grid import Array


def critical_line(activation: str, bias_vars: Iterable[float]) -> Array:
    """weight_var at which chi = 1 in deep layers, for each variance of the biases.

    It divides the (weight_var, bias_var) plane: gradients vanish to the left of it and explode to the right
    (Schoenholz et al. 2017, arXiv:1611.01232, figure 1). Where the variance of z grows without bound along
    it (ReLU with biases), chi is that of its limit.

    Returns:
        float64, one a bias_var; NaN where no such weight_var exists.
    """
    line = []
    for bias_var in bias_vars:
        weight_var = theory.critical_point(activation, bias_var)[1]
        if math.isnan(weight_var) and bias_var > 0.0:
            limit = theory.critical_weight_var(activation, 1e20)
            weight_var = limit if math.isinf(theory.fixed_point(activation, limit, bias_var)) else math.nan
        line.append(weight_var)
    return np.array(line)
