"""Columns at mean 0 and variance 1, for tables that are read and for data that a remedy prepares."""

from __future__ import annotations

import numpy as np


def standard_scaling(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of each column: (values - shift) / scale has mean 0 and variance 1, or is 0 in constant columns.

    Float64 [columns]; constant is what varies no more than rounding does.
    """
    exact = np.asarray(values, dtype=np.float64)
    mean, deviation = exact.mean(axis=0), exact.std(axis=0)
    constant = deviation <= 1e-12 * np.abs(exact).max(axis=0)
    return np.where(constant, exact[0], mean), np.where(constant, 1.0, deviation)
