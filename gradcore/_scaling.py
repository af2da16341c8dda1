"""Standardization of columns, for tables from files and for data that a remedy prepares."""

from __future__ import annotations

import numpy as np


def column_deviations(values: np.ndarray) -> np.ndarray:
    """Standard deviation of each column in float64, computed without over- or underflow.

    It is 0 for a column that varies no more than by rounding.
    """
    near_one, exponent = _near_one(np.asarray(values, dtype=np.float64))
    deviation = near_one.std(axis=0)
    return np.where(deviation <= 1e-12, 0.0, np.ldexp(deviation, exponent))


def _near_one(exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns divided by a power of two, and its exponent: their largest magnitudes are in [0.5, 1), or 0."""
    exponent = np.frexp(np.abs(exact).max(axis=0))[1]
    return np.ldexp(exact, -exponent), exponent


def standard_scaling(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of each column: (values - shift) / scale has mean 0 and variance 1, or is 0 in constant columns.

    Both are float64 [columns], computed without over- or underflow.
    """
    exact, deviation = np.asarray(values, dtype=np.float64), column_deviations(values)
    near_one, exponent = _near_one(exact)
    constant, mean = deviation == 0.0, np.ldexp(near_one.mean(axis=0), exponent)
    return np.where(constant, exact[0], mean), np.where(constant, 1.0, deviation)


def standardized(values: np.ndarray, shift: np.ndarray, scale: np.ndarray, name: str) -> np.ndarray:
    """(values - shift) / scale in the dtype of `values`; whole numbers become floats.

    If every shift is 0 and every scale 1, `values` itself is returned.

    Args:
        values: [rows, columns], or [rows] of one column.
        shift, scale: [columns].
        name: what errors call `values`.

    Raises:
        ValueError: `values` has another number of columns.
    """
    if not shift.any() and (scale == 1.0).all():
        return values
    columns = values.shape[1] if values.ndim == 2 else 1
    if columns != len(shift) or values.ndim not in (1, 2):
        raise ValueError(f"{name}: expected {len(shift)} columns as in the data analysed, got shape {values.shape}")
    dtype = values.dtype if values.dtype.kind == "f" else np.result_type(values.dtype, np.float32)
    return np.asarray((values - shift) / scale, dtype)
