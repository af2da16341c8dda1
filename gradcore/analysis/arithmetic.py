"""Arithmetic near the limits of float64, where the analysis often works: without warnings, overflow or ln 0."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

TINY = 1e-300  # replaces 0 under a logarithm
GAUSS_95 = 1.96  # 95 % of a Gaussian lie within this many standard deviations of its mean
P = ParamSpec("P")
R = TypeVar("R")


def harmless(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: let a function compute with zeros, infinities and NaN without NumPy's warnings.

    The analysis looks for such values, so they are no surprise. Each call enters a new `np.errstate`: before NumPy 2,
    one instance does not restore the caller's state if it is nested in itself or used by two threads at once.
    """

    @functools.wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return function(*args, **kwargs)

    return quiet


@harmless
def root_mean_square(values: np.ndarray) -> float:
    """sqrt(mean(values^2)) in float64; squares may leave its range."""
    square = float(np.mean(np.square(values, dtype=np.float64)))
    if TINY < square < math.inf:
        return math.sqrt(square)
    largest = float(np.abs(values).max(initial=0.0))
    if not 0.0 < largest < math.inf:  # or NaN
        return largest
    return largest * math.sqrt(float(np.mean(np.square(values / largest, dtype=np.float64))))


def bounded_exp(value: float) -> float:
    """e^value, but at most e^700, so that it cannot overflow."""
    return math.exp(min(value, 700.0))
