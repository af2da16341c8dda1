"""Standardization of columns, for tables from files and for data that a remedy prepares."""

from __future__ import annotations

import numpy as np


def standard_scaling(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of each column: (values - shift) / scale has mean 0 and variance 1, or is 0 in constant columns.

    Both are float64 [columns], computed without over- or underflow. A column that varies no more than by rounding
    counts as constant.
    """
    exact = np.asarray(values, dtype=np.float64)
    exponent = np.frexp(np.abs(exact).max(axis=0))[1]
    near_one = np.ldexp(exact, -exponent)
    deviation = near_one.std(axis=0)
    constant = deviation <= 1e-12
    mean = np.ldexp(near_one.mean(axis=0), exponent)
    return np.where(constant, exact[0], mean), np.where(constant, 1.0, np.ldexp(deviation, exponent))
