"""A row of a sweep: a point of the grid and what was measured there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..analysis.report import VERDICTS, plain
from .grid import AXES, Row

GEOMETRIC = ("gain", "deep_gain", "predicted_gain", "norm_ratio")
MEAN = ("q_star", "chi_star", "trainable_depth", "loss", "saturated_share", "dead_share")
_NUMBERS = {*GEOMETRIC, *MEAN, "gain_low", "gain_high"}


def as_row(point: Row, result: Row) -> Row:
    """A point and its result as one flat dict; None, which stands for NaN or infinity in a file, becomes NaN."""
    return {**point, **{name: math.nan if value is None and name in _NUMBERS else value
                        for name, value in plain(result).items()}}  # fmt: skip


def is_measured(point: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Whether these are all axes of a point, and a verdict and all numbers of a result."""
    numbers = [result.get(name, "") for name in _NUMBERS]
    plain_numbers = all(value is None or type(value) in (int, float) for value in numbers)
    return set(point) == set(AXES) and result.get("verdict") in VERDICTS and "cause" in result and plain_numbers
