"""The grid of a sweep: its axes, their values, and the net of each point."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _check
from ..init import check as check_init
from ..mlp import MLP

Array = _check.Array
Row = dict[str, Any]

# The limit on points: a list of as many dictionaries takes about 1 GB, and measuring them takes hours.
_MOST_POINTS = 1_000_000

# Draws of a standard normal stay below this: one beyond has a probability of 1e-57.
_LARGEST_DRAW = 16.0

# Biases are drawn from their own stream, so that weights do not depend on whether there are biases.
_BIAS_STREAM = 2


def _init_name(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a name of gc.initializers(), got {_check.described(value)}")
    check_init(value, name)
    return value


def _activation_name(value: Any, name: str) -> str:
    _check.choice(value, name, _check.ACTIVATIONS)
    return str(value)


def _normalization_name(value: Any, name: str) -> str | None:
    _check.choice(value, name, _check.NORMALIZATIONS)
    return None if value is None else str(value)


# Name -> (default, check of a given value), in the order of rows and tables.
AXES: dict[str, tuple[Any, Callable[[Any, str], Any]]] = {
    "depth": (10, lambda value, name: _check.integer(value, name, 1, _check.MOST_LAYERS)),
    "width": (64, lambda value, name: _check.integer(value, name, 1, _check.MOST_UNITS)),
    "activation": ("relu", _activation_name),
    "init": ("auto", _init_name),
    "weight_var": (None, _check.positive),
    "bias_var": (0.0, _check.non_negative),
    "normalization": (None, _normalization_name),
    "residual": (False, _check.flag),
    "seed": (0, lambda value, name: _check.integer(value, name, 0)),
}


def checked_axes(grid: Mapping[str, Any], dtype: str) -> dict[str, list[Any]]:
    """Every axis with its values, checked; axes that are not given have their default. dtype: name, of the nets."""
    if not isinstance(grid, Mapping):
        raise TypeError(f"grid: expected a mapping from axes to values, got {_check.described(grid)}")
    unknown = [name for name in grid if name not in AXES]
    if unknown:
        raise ValueError(f"grid: expected axes among {', '.join(AXES)}, got {unknown[0]!r}")
    if "init" in grid and "weight_var" in grid:
        raise ValueError("grid: expected init or weight_var, got both: weight_var is an initialization")
    axes = {name: [default] for name, (default, _) in AXES.items()}
    for name, given in grid.items():
        check = AXES[name][1]
        several = _check.items(given)
        values = [check(value, f"grid[{name!r}]") for value in ([given] if several is None else several)]
        if not values or len(set(values)) < len(values):
            raise ValueError(f"grid[{name!r}]: expected one or more different values, got {values}")
        axes[name] = values
    if "weight_var" in grid:
        axes["init"] = [None]
    count = math.prod(len(values) for values in axes.values())
    if count > _MOST_POINTS:
        raise ValueError(f"grid: expected at most {_MOST_POINTS} nets, got {count}")
    _check_variances(axes, dtype)
    return axes


def _check_variances(axes: Mapping[str, list[Any]], dtype: str) -> None:
    """ValueError if weights or biases of these variances may overflow."""
    arrays = "float64" if dtype == "float64" else "float32"
    largest = float(np.finfo(arrays).max) / _LARGEST_DRAW
    for name in ("weight_var", "bias_var"):
        for value in axes[name]:
            if value is not None and math.sqrt(value) > largest:
                expected = f"at most {largest**2:.1e}, beyond which {arrays} numbers overflow"
                raise ValueError(f"grid[{name!r}]: expected {expected}, got {value!r}")


def points(axes: Mapping[str, list[Any]]) -> list[Row]:
    """All points of the grid; the last axis varies fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def key(point: Mapping[str, Any]) -> str:
    """A key that is unique to a point."""
    return json.dumps([point[name] for name in AXES])


@dataclass(frozen=True)
class _Gaussian:
    """An initializer that draws normal weights of variance weight_var / fan_in."""

    weight_var: float

    def __call__(self, shape: tuple[int, int], rng: np.random.Generator) -> Array:
        return math.sqrt(self.weight_var / shape[1]) * rng.standard_normal(shape)


def build(point: Mapping[str, Any], in_features: int, out_features: int, dtype: str = "float32") -> MLP:
    """A fresh net for a point or row of a sweep.

    Args:
        point: a value for each of `AXES`, such as a row.
        in_features, out_features: input and output widths. dtype: dtype of the net.
    """
    net = MLP(
        [in_features, *[point["width"]] * (point["depth"] - 1), out_features],
        activation=point["activation"],
        init=point["init"] if point["weight_var"] is None else _Gaussian(point["weight_var"]),
        normalization=point["normalization"],
        residual=point["residual"],
        dtype=dtype,
        seed=point["seed"],
    )
    if point["bias_var"]:
        rng = np.random.default_rng([point["seed"], _BIAS_STREAM])
        for layer in range(net.depth):
            bias = net.parameters[f"dense{layer}.bias"]
            bias[:] = math.sqrt(point["bias_var"]) * rng.standard_normal(bias.shape)
    return net
