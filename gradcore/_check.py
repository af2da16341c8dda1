"""Checks of arguments. Their messages name the argument, what was expected and what came.

Wrong types are TypeErrors; wrong values and shapes are ValueErrors. Arrays are converted here, but only if the bindings
could not use them as they were.
"""

from __future__ import annotations

import importlib
import math
import numbers
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core

Array = NDArray[Any]
Choice = TypeVar("Choice")

ACTIVATIONS: dict[Any, int] = {name: code for code, name in enumerate(_core.ACTIVATIONS)}
DTYPES: dict[Any, int] = {name: code for code, name in enumerate(_core.DTYPES)}
LOSSES: dict[Any, int] = {name: code for code, name in enumerate(_core.LOSSES)}
MOST_UNITS = 1 << 24  # of a layer, as in `Network::check_config`
MOST_LAYERS = 100_000  # that a short form may ask for, before memory runs out; far beyond what trains
VALUE_LOSSES = ("mse", "mae", "huber")  # of targets that have a scale
NORMALIZATIONS: dict[Any, int] = {name: code for code, name in enumerate(_core.NORMALIZATIONS)}


# ---- single values -------------------------------------------------------------------------------------


def described(value: object) -> str:
    """A short description of an argument: dtype and shape of an array, else its repr, cut if long."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def listed(names: Sequence[str], most: int) -> str:
    """Names joined by commas. Of more than `most`, only the first ones, "..." and the last are listed."""
    return ", ".join(names if len(names) <= most else [*names[: most - 2], "...", names[-1]])


def number(value: object, name: str, expected: str, accept: Callable[[float], bool]) -> float:
    """A real number for which `accept` holds; NaN never does."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")
    try:
        result = float(value)
    except OverflowError:  # a whole number or a fraction beyond the range of floats
        raise ValueError(f"{name}: expected {expected}, got {described(value)}") from None
    if math.isnan(result) or not accept(result):
        raise ValueError(f"{name}: expected {expected}, got {result!r}")
    return result


def non_negative(value: object, name: str) -> float:
    """A finite number >= 0."""
    return number(value, name, "a finite number >= 0", lambda x: 0 <= x < math.inf)


def positive(value: object, name: str) -> float:
    """A finite number > 0."""
    return number(value, name, "a finite number > 0", lambda x: 0 < x < math.inf)


def share(value: object, name: str) -> float:
    """A number in [0, 1)."""
    return number(value, name, "a number in [0, 1)", lambda x: 0 <= x < 1)


def clip_bound(value: object, name: str) -> float:
    """A bound to clip at, possibly infinite; None becomes 0, which for the library means no clipping."""
    if value is None:
        return 0.0
    if type(value) is float and value > 0:  # the usual case, fast because every step checks it
        return value
    return number(value, name, "None or a number > 0", lambda x: x > 0)


def integer(value: object, name: str, least: int, most: int | None = None) -> int:
    """A whole number >= least, and at most `most`."""
    expected = f"a whole number >= {least}" if most is None else f"a whole number from {least} to {most}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")
    result = int(value)
    if result < least or (most is not None and result > most):
        raise ValueError(f"{name}: expected {expected}, got {described(result)}")
    return result


def flag(value: object, name: str, expected: str = "True or False") -> bool:
    """A bool of Python or NumPy; other values that count as true or false are refused."""
    if value is True or value is False:  # the usual case, fast because every step checks it
        return value
    if not isinstance(value, np.bool_):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")
    return bool(value)


def choice(value: object, name: str, choices: dict[Any, Choice]) -> Choice:
    """The entry of `choices` that `value` names."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        expected = ", ".join(repr(key) for key in choices)
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"{name}: expected one of {expected}, got {described(value)}")


def progress(value: object) -> bool:
    """A `progress` argument that is not a function, as a bool; None counts as False."""
    return value is not None and flag(value, "progress", "True, False or a function")


def instance(value: object, name: str, kind: type | tuple[type, ...], expected: str) -> None:
    """Check that `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")


def items(value: Any) -> list[Any] | None:
    """The items of a sequence or another iterable; None for what is one value: text, or an array without axes."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        entries = iter(value)
    except TypeError:
        return None
    return list(entries)


def path(value: Any) -> str | bytes:
    """The name of a file, given as text, bytes or a path."""
    try:
        name: str | bytes = os.fspath(value)
    except TypeError:
        raise TypeError(f"path: expected the name of a file, got {described(value)}") from None
    if "\0" in os.fsdecode(name):
        raise ValueError(f"path: expected the name of a file, without a null byte, got {described(value)}")
    return name


def file(value: Any) -> Path:
    """As `path`, as a Path."""
    return Path(os.fsdecode(path(value)))


def optional(module: str, extra: str, what: str) -> Any:
    """Import an optional module; if it is missing, the error says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.partition(".")[0]
        raise ModuleNotFoundError(f"{what} need {package}: pip install 'gradcore[{extra}]'") from None


# ---- architectures -------------------------------------------------------------------------------------


def widths(value: object, name: str = "widths", expected: str = "a sequence [in, hidden..., out]") -> list[int]:
    """At least two whole numbers from 1 to MOST_UNITS."""
    given = items(value)
    if given is None:
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")
    result = [integer(width, f"{name}[{index}]", 1, MOST_UNITS) for index, width in enumerate(given)]
    if len(result) < 2:
        raise ValueError(f"{name}: expected at least two, [in, out], got {result}")
    return result


def activations(value: object, num_hidden: int) -> list[str]:
    """One name for each hidden layer."""
    if isinstance(value, str):
        choice(value, "activation", ACTIVATIONS)
        return [value] * num_hidden
    names = items(value)
    if names is None:
        raise TypeError(f"activation: expected a name or one per hidden layer, got {described(value)}")
    for index, name in enumerate(names):
        choice(name, f"activation[{index}]", ACTIVATIONS)
    if len(names) != num_hidden:
        raise ValueError(f"activation: expected one name or {num_hidden}, one per hidden layer, got {len(names)}")
    return names


def dtype_name(value: object) -> str:
    """'float32', 'float64' or 'bfloat16', given as a name, a NumPy dtype or a scalar type."""
    try:
        name = np.dtype(value).name if value is not None else None  # type: ignore[call-overload]
    except TypeError:
        name = value
    choice(name, "dtype", DTYPES)
    return str(name)


def seed(value: object, name: str = "seed") -> int | None:
    """None, or a whole number >= 0."""
    return None if value is None else integer(value, name, 0)


# ---- arrays --------------------------------------------------------------------------------------------


def array(value: object, name: str) -> Array:
    """`value` as an array of real numbers, without a copy if possible.

    Takes NumPy arrays, objects with `__array__`, the buffer protocol (pandas, memoryview, array.array) or `__dlpack__`
    (torch, jax, cupy on the host), and nested sequences of numbers. Missing values of nullable pandas columns become
    NaN.
    """
    if type(value) is np.ndarray:
        values = value
    else:
        _unmasked(value, name)
        try:
            values = _as_array(value)
        except Exception as error:
            kind = ValueError if isinstance(value, (list, tuple)) else TypeError
            reason = str(error).partition("\n")[0]
            raise kind(f"{name}: expected an array of numbers, got {type(value).__name__} ({reason})") from None
        if values.dtype == object and hasattr(value, "dtypes") and hasattr(value, "isna"):
            values = _of_pandas(value, name)
    if values.dtype.kind == "V" and values.dtype.names is None and np.can_cast(values.dtype, np.float32):
        values = values.astype(np.float32)  # bfloat16 and smaller floats, as jax has them
    if values.dtype.kind not in "fiub":
        came = f"dtype {values.dtype}{_encoding(values)}" if values.ndim else described(value)
        dense = f"; make it dense: {name}.toarray()" if hasattr(value, "toarray") else ""
        raise TypeError(f"{name}: expected real numbers, got {came}{dense}")
    return values


def _of_pandas(table: Any, name: str) -> Array:
    """The numbers of a pandas table or column that NumPy would read as objects, as int64 or float64."""
    dtypes = list(table.dtypes) if table.ndim == 2 else [table.dtypes]
    for column, dtype in zip(table.columns if table.ndim == 2 else [table.name], dtypes, strict=True):
        if dtype.kind not in "fiub":
            where = "" if column is None else f" in column {column!r}"
            raise TypeError(f"{name}: expected real numbers, got dtype {dtype}{where}{_encoding(np.asarray(table))}")
    if any(dtype.kind == "f" for dtype in dtypes) or np.asarray(table.isna()).any():
        return np.asarray(table.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(table.to_numpy(dtype=np.int64))


def _encoding(values: Array) -> str:
    """Advice about a column of text, which most likely names classes; "" for others."""
    text = values.dtype.kind in "SU" or any(isinstance(value, str) for value in values.flat[:1])
    column = values.ndim == 1 or values.shape[1:] == (1,)
    return "; encode the classes as 0...k-1 (np.unique(y, return_inverse=True))" if text and column else ""


def _unmasked(value: object, name: str) -> None:
    """Refuse masked entries, because NumPy would use the values under the mask."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        masked = int(np.ma.getmaskarray(value).sum())
        raise ValueError(f"{name}: expected an array without masked entries, got {masked} of {value.size}")


def _as_array(value: Any) -> Array:
    array = np.asarray(memoryview(value) if isinstance(value, bytes) else value)  # NumPy would read bytes as text
    if array.dtype == object and hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return array


def converted(values: Array, dtype: DTypeLike) -> Array:
    """Aligned C-contiguous rows of `dtype`; a value too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return np.require(values, dtype, ["C", "A"])


def _in_range(values: Array, name: str, dtype: np.dtype[Any]) -> Array:
    """As `converted`, for a matrix; finite values too large for `dtype` are refused as they came."""
    result = converted(values, dtype)
    if values.dtype.kind == "f" and values.dtype.itemsize > dtype.itemsize and not np.isfinite(result).all():
        beyond = np.isfinite(values) & np.isinf(result)
        if beyond.any():
            raise ValueError(f"{name}: expected values in the range of {dtype}, got {_first(values, beyond)}")
    return result


def matrix(value: object, name: str, dtype: np.dtype[Any], columns: int) -> Array:
    """A [batch, columns] array with contiguous rows of `dtype`; one with strided rows is not copied."""
    values = array(value, name)
    if values.ndim != 2:
        raise ValueError(f"{name}: expected a 2-D array [batch, {columns}], got shape {values.shape}")
    if values.shape[1] != columns:
        raise ValueError(f"{name}: expected {columns} columns, got shape {values.shape}")
    if values.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one row, got shape {values.shape}")
    row, item = values.strides
    usable = values.dtype == dtype and values.flags.aligned and item == values.itemsize
    if usable and row % item == 0 and row >= columns * item:
        return values
    return _in_range(values, name, dtype)


def target(
    value: object, dtype: np.dtype[Any], loss: str, rows: int, columns: int, names: tuple[str, str] = ("x", "target")
) -> Array:
    """Labels as int64 [rows], values as [rows, columns] of `dtype`. names: of the inputs and of `value`."""
    name = names[1]
    values = array(value, name)
    if values.ndim == 0 or values.shape[0] != rows:
        raise ValueError(f"{name}: expected {rows} rows as in {names[0]}, got shape {values.shape}")
    flat = values.ndim == 1 or values.shape == (rows, 1)
    if loss == "cross_entropy" and flat and values.dtype.kind in "iub" and values.shape != (rows, columns):
        values = values.reshape(rows)
        if values.dtype.kind == "u" and values.dtype.itemsize == 8:
            labels(values, name, columns)  # before numbers above 2^63 turn negative
        return converted(values, np.int64)
    if flat and columns == 1:
        values = values.reshape(rows, 1)
    if values.shape != (rows, columns):
        meant = _meant(values, columns) if loss == "cross_entropy" and flat else ""
        raise ValueError(f"{name}: expected {_target_forms(loss, rows, columns)}, got {described(values)}{meant}")
    return _in_range(values, name, dtype)


def _target_forms(loss: str, rows: int, columns: int) -> str:
    values = f"[{rows}, {columns}]" + (f" or [{rows}]" if columns == 1 else "")
    if loss == "cross_entropy":
        return f"integer labels [{rows}] or probabilities {values} for loss 'cross_entropy'"
    return f"values {values} for loss {loss!r}"


def _meant(values: Array, columns: int) -> str:
    """Advice about a column of floats given as labels: leave rows out, convert them, or use another loss."""
    missing = np.isnan(values.reshape(-1)) if values.dtype.kind == "f" else np.zeros(1, bool)
    if missing.any() and np.isin(values[~missing.reshape(values.shape)], np.arange(columns)).all():
        return f" with NaN, the first in row {int(np.argmax(missing))}; leave such rows out"
    classes = bool(np.isin(values, np.arange(columns)).all())
    return "; as labels: y.astype(int)" if classes else "; real values: mse, mae or huber, and one output"


def data(
    net: Any,
    x: object,
    targets: object,
    loss: str,
    names: tuple[str, str] = ("x", "target"),
    classes: int | None = None,
) -> tuple[Array, Array]:
    """A whole data set, in the form that `net` takes; errors name the row in the caller's own arrays.

    classes: labels must be below this; by default the number of outputs.
    """
    rows = matrix(x, names[0], net.dtype, net.in_features)
    values = target(targets, net.dtype, loss, len(rows), net.out_features, names)
    finite(rows, names[0])
    target_values(values, names[1], loss, net.out_features if classes is None else classes)
    return rows, values


def target_values(values: Array, name: str, loss: str, classes: int) -> None:
    """Check that the loss has a minimum for these targets, as `target` gives them: labels, probabilities or values."""
    if values.dtype == np.int64:
        labels(values, name, classes)
        return
    finite(values, name)
    if loss not in ("cross_entropy", "binary_cross_entropy"):
        return
    bad = (values < 0) | (values > 1)
    if bad.any():
        advice = "; other values: mse, mae or huber"
        raise ValueError(f"{name}: expected probabilities in [0, 1] for {loss}, got {_first(values, bad)}{advice}")


def finite(values: Array, name: str) -> None:
    """Refuse NaN and infinity in a matrix; the error says where the first one is."""
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(f"{name}: expected finite values, got {_first(values, bad)}")


def _first(values: Array, bad: Array) -> str:
    """The first bad element of a matrix and its place, worded as in the library's messages."""
    row, column = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return f"{values[row, column]:g} at row {row}, column {column}"


def labels(values: Array, name: str, classes: int) -> None:
    """Refuse labels outside [0, classes); the error says where the first one is."""
    bad = (values < 0) | (values >= classes)
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(f"{name}[{first}]: expected a label in [0, {classes}), got {values[first]}")


def not_constant(loss: str, outputs: int) -> None:
    """Refuse cross entropy over a single output, whose softmax is always 1."""
    if loss == "cross_entropy" and outputs == 1:
        raise ValueError(
            "loss: expected 'binary_cross_entropy' (two classes) or 'mse' (real values) for one output, or an output "
            "for each class (two for two), got 'cross_entropy', which is constant over one output"
        )


def writable(value: object, name: str) -> Array:
    """A C-contiguous float32 or float64 array that shares the memory of `value`, to be changed in place."""
    _unmasked(value, name)
    if getattr(value, "requires_grad", False) is True:
        what = type(value).__name__
        raise TypeError(f"{name}: expected a gradient, such as p.grad, got a {what} that requires grad")
    try:
        values = _shared(value)
    except Exception as error:
        raise TypeError(f"{name}: expected a writable array, got {type(value).__name__} ({error})") from None
    problem = ""
    if values.dtype not in (np.float32, np.float64) or not values.dtype.isnative:
        problem = f"dtype {values.dtype}"
    elif not values.flags.c_contiguous or not values.flags.aligned:
        problem = f"{values.dtype} with strides {values.strides}"
    elif not values.flags.writeable:
        problem = "a read-only one"
    if problem:
        raise ValueError(f"{name}: expected a writable C-contiguous float32 or float64 array, got {problem}")
    return values


def all_writable(values: list[Any]) -> bool:
    """Whether `writable` would return each value as it is, all of one dtype: a fast check for the usual case.

    A training may pass a hundred arrays in every step, and the full checks would take too long.
    """
    dtype = values[0].dtype if values and type(values[0]) is np.ndarray else None
    return dtype in (np.float32, np.float64) and all(
        type(value) is np.ndarray and value.dtype is dtype and value.flags.carray for value in values
    )


def _shared(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # the memory of a subclass, such as np.memmap
    if hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    return np.asarray(memoryview(value))
