"""Arithmetic at the ends of float64, where the analysis looks: without warnings, overflow or a logarithm of zero."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

TINY = 1e-300  # stands for 0 under a logarithm
GAUSS_95 = 1.96  # standard deviations of a Gaussian to either side that hold 95 % of it
P = ParamSpec("P")
R = TypeVar("R")


def harmless(function: Callable[P, R]) -> Callable[P, R]:
    """Zeros, infinities and NaN are what the analysis looks for: arithmetic on them warns of nothing.

    A state for every call: before NumPy 2 one `np.errstate` used inside itself, or by two threads at once, does not
    restore the caller's.
    """

    @functools.wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return function(*args, **kwargs)

    return quiet


def bounded_exp(value: float) -> float:
    """e^value, at most e^700."""
    return math.exp(min(value, 700.0))
