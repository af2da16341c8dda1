"""Tables for the command line: the bundled digits, CSV and NPZ files.

What a file leaves open (header, target column, classes or numbers) is decided here by stated rules. `Table.notes` says
in sentences what was decided, for the user to check. If a file cannot be read as a table, a ValueError names the file
and the place.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .._check import VALUE_LOSSES, converted, listed
from .._scaling import standard_scaling, standardized

CLASS_LOSSES = ("cross_entropy", "binary_cross_entropy")

# Whole numbers with at most this many distinct values are read as classes unless --loss says otherwise.
MAX_CLASSES = 20

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))


@dataclass(frozen=True)
class Table:
    """Data that a net can take.

    x: float32 [rows, features]. target: int64 labels [rows] for cross_entropy, else float32 [rows, outputs]. outputs:
    the output width that the net must have. classes: the names of the labels, in order; empty for regression.
    """

    source: str
    x: np.ndarray
    target: np.ndarray
    loss: str
    outputs: int
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    def standardized(self) -> Table:
        """The table with each feature shifted to mean 0 and scaled to variance 1; constant features become 0."""
        note = "each feature standardized to mean 0 and variance 1"
        return replace(self, x=standardized(self.x, *standard_scaling(self.x), "x"), notes=(*self.notes, note))


def load(source: str, *, target: str | None = None, loss: str | None = None, outputs: int | None = None) -> Table:
    """Read `source`: the word `digits`, a path ending in .csv, .tsv, .txt or .npz, or `-` for CSV from standard input.

    Args:
        source: as above; a text file is split at commas, semicolons, tabs or bars.
        target: target column of a CSV, by name or 0-based index (negative from the end); default the last. Refused for
            other sources.
        loss: name of the loss, which decides whether the target is classes or numbers. Default: classes if the target
            is text or at most `MAX_CLASSES` distinct whole numbers.
        outputs: output width of the user's net. For one output, two classes are binary, and more become a regression.

    Raises:
        ValueError: the file cannot be read as a table; names the place and the reason.
        ModuleNotFoundError: `digits` without scikit-learn.
    """
    standard, suffix = source == "-", Path(source).suffix.lower()
    source = "standard input" if standard else source  # as messages call it
    columns = standard or suffix in (".csv", ".tsv", ".txt")
    if target is not None and not columns:
        raise ValueError(f"--target names a column of a CSV file; {source} has no columns to choose from")
    if source == "digits":
        x, raw, notes = digits()
    elif suffix == ".npz":
        x, raw, notes = read_npz(source)
    elif columns:
        x, raw, notes = read_csv(_standard_input() if standard else source, target, source)
    else:
        raise ValueError(
            f"--data: expected 'digits', a .csv, .tsv, .txt or .npz file, or - for CSV from standard input, "
            f"got {source!r}"
        )
    if len(x) < 2:
        raise ValueError(f"{source}: expected at least 2 rows, got {len(x)}")
    y, loss, count, classes, note = interpret_target(source, raw, loss, outputs)
    return Table(source, x, y, loss, count, classes, (*notes, note))


# ---- sources ---------------------------------------------------------------------------------


def digits() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """scikit-learn's bundled 1797 handwritten digits, 8 x 8 pixels scaled to [-1, 1]."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the handwritten digits come with scikit-learn, which is missing: pip install 'gradcore[demo]'"
        ) from None
    bunch = load_digits()
    note = "handwritten digits of scikit-learn: 1797 images of 8 x 8 pixels, scaled to [-1, 1]"
    return (bunch.data / 8.0 - 1.0).astype(np.float32), bunch.target, [note]


def read_npz(path: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Arrays `x` or `X` [rows, features] and `y` or `target` [rows] or [rows, outputs]."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):  # NumPy's own message would advise how to load a pickle
                raise ValueError("expected a zip archive, as numpy.savez writes")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            x_key, y_key = _pick(archive.files, ("x", "X")), _pick(archive.files, ("y", "target"))
            x, y = _plain(archive, x_key), _plain(archive, y_key)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # zipfile, zlib and NumPy raise different types for a damaged archive
        raise ValueError(f"{path}: not a readable .npz of plain arrays: {error}") from None
    if x.ndim != 2 or x.dtype.kind not in "biuf" or x.shape[1] == 0:
        raise ValueError(f"{path}: {x_key}: expected numbers [rows, features], got {x.dtype} {list(x.shape)}")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(f"{path}: {y_key}: expected [{len(x)}] or [{len(x)}, outputs], got {list(y.shape)}")
    for name, values in ((x_key, x), (y_key, y)):
        _require_finite(path, name, values)
    return x.astype(np.float32), y, [f"{path}: {x_key} {list(x.shape)}, {y_key} {list(y.shape)}"]


def _pick(keys: list[str], wanted: tuple[str, str]) -> str:
    for key in wanted:
        if key in keys:
            return key
    found = ", ".join(keys) or "none"
    raise ValueError(f"expected an array named {wanted[0]!r} or {wanted[1]!r}, found {found}")


def _plain(archive: Any, key: str) -> np.ndarray:
    """An array of the archive. NumPy's message about an array of objects names an option that is missing here."""
    try:
        return np.asarray(archive[key])
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        raise ValueError(f"{key} holds Python objects; save numbers or text, such as {key}.astype(float)") from None


def _require_finite(path: str, name: str, values: np.ndarray) -> None:
    if not np.issubdtype(values.dtype, np.floating):
        return
    bad = np.argwhere(~np.isfinite(converted(values, np.float32)))
    if len(bad):
        place = ", ".join(map(str, bad[0]))
        value = values[tuple(bad[0])]
        raise ValueError(f"{path}: {name}[{place}] is {value}: expected finite float32 values")


# ---- CSV -------------------------------------------------------------------------------------


def _standard_input() -> int:
    """The descriptor of standard input."""
    if sys.stdin is None:
        raise ValueError("--data: - is standard input, which is closed")
    return sys.stdin.fileno()


def read_csv(file: str | int, target: str | None, path: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a delimited text table, UTF-8, with or without a header line.

    file: a path, or a descriptor, which stays open. path: what messages call it.

    The first line is a header if one of its cells is text above a number (or if all of its cells are text and there are
    no numbers below). All columns but the target must be numbers; the target may be text. An unnamed first column that
    counts the rows, as pandas and R write it, is not a feature.
    """
    lines, rows, delimiter = _read_cells(file, path)
    header = rows[0] if _is_header(rows) else None
    if header:
        lines, rows = lines[1:], rows[1:]
    names = [name.strip() for name in header] if header else [f"column {i}" for i in range(len(rows[0]))]
    chosen = _target_column(path, target, names, bool(header))
    counted = bool(header) and chosen != 0 and not names[0] and _counts([cells[0].strip() for cells in rows])
    features = [i for i in range(int(counted), len(names)) if i != chosen]
    if not features:
        raise ValueError(f"{path}: expected features and a target, got one column (delimiter {delimiter!r})")
    x = np.empty((len(rows), len(features)), np.float32)
    for row, (line, cells) in enumerate(zip(lines, rows, strict=True)):
        for column, i in enumerate(features):
            x[row, column] = _number(path, line, names[i], cells[i])
        _require_present(path, line, names[chosen], cells[chosen])
    raw = _target_values(path, lines, names[chosen], [cells[chosen].strip() for cells in rows])
    first = "line 1 read as header" if header else "no header line"
    if counted:
        first += ", without the column that counts the rows"
    return x, raw, [f"{path}: {len(rows)} rows, {len(features)} features, {first}; target {names[chosen]!r}"]


def _read_cells(file: str | int, path: str) -> tuple[list[int], list[list[str]], str]:
    """Line numbers, cells of every non-blank row, and delimiter; all rows have the same length."""
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        with open(file, newline="", encoding="utf-8-sig", closefd=isinstance(file, str)) as source:
            first = source.readline()  # a pipe cannot go back
            delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", first).count)
            text = itertools.chain([first] if first else [], source)
            reader = csv.reader(text, delimiter=delimiter, strict=True, skipinitialspace=True)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if rows and len(cells) != len(rows[0]):
                    raise ValueError(
                        f"{path} line {reader.line_num}: expected {len(rows[0])} columns "
                        f"as in line {lines[0]}, got {len(cells)}"
                    )
                lines.append(reader.line_num)
                rows.append(cells)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: expected a file, got a directory") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#x}") from None
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"{path}: the file is empty")
    return lines, rows, delimiter


def _is_header(rows: list[list[str]]) -> bool:
    text = [not _is_number(cell) and cell.strip().lower() not in _MISSING for cell in rows[0]]
    if len(rows) == 1:
        return all(text)
    numbers_below = [_is_number(cell) for cell in rows[1]]
    if not any(numbers_below):
        return all(text)
    return any(above and below for above, below in zip(text, numbers_below, strict=True))


def _counts(cells: list[str]) -> bool:
    """Whether they are 0, 1, 2, ... or 1, 2, 3, ..."""
    return any(cells == [str(start + row) for row in range(len(cells))] for start in (0, 1))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    # float() also reads "1_000", which is Python syntax, not data
    return cell.strip().lower() not in _MISSING and "_" not in cell


def _require_present(path: str, line: int, name: str, cell: str) -> None:
    if cell.strip().lower() in _MISSING:
        raise ValueError(f"{path} line {line}, {name!r}: missing value; fill it in or drop the row first")


def _number(path: str, line: int, name: str, cell: str) -> float:
    _require_present(path, line, name, cell)
    if not _is_number(cell):
        raise ValueError(f"{path} line {line}, {name!r}: expected a number, got {cell.strip()!r}")
    value = float(cell)
    if not abs(value) <= _FLOAT32_MAX:
        raise ValueError(f"{path} line {line}, {name!r}: expected a finite float32, got {cell.strip()}")
    return value


def _target_column(path: str, target: str | None, names: list[str], header: bool) -> int:
    if target is None:
        return len(names) - 1
    if header and target in names:
        if names.count(target) > 1:
            raise ValueError(f"{path}: --target {target!r} names {names.count(target)} columns: use an index")
        return names.index(target)
    try:
        index = int(target)
    except ValueError:
        known = "columns: " + ", ".join(names[:12]) if header else "the file has no header: use an index"
        raise ValueError(f"{path}: no column {target!r} for --target; {known}") from None
    if not -len(names) <= index < len(names):
        raise ValueError(f"{path}: --target {index} is outside the {len(names)} columns")
    return index % len(names)


def _target_values(path: str, lines: list[int], name: str, cells: list[str]) -> np.ndarray:
    """Numbers if every cell is a number, text if none is; a mixture is an error."""
    numeric = [_is_number(cell) for cell in cells]
    if not any(numeric):
        return np.array(cells)
    if not all(numeric):
        bad = numeric.index(not numeric[0])
        kind = "a number" if numeric[0] else "a class name"
        raise ValueError(
            f"{path} line {lines[bad]}, {name!r}: expected {kind} as in the rows above, got {cells[bad]!r}"
        )
    return np.array([_number(path, line, name, cell) for line, cell in zip(lines, cells, strict=True)])


# ---- what the target means -------------------------------------------------------------------


def interpret_target(
    source: str, raw: np.ndarray, loss: str | None, outputs: int | None
) -> tuple[np.ndarray, str, int, tuple[str, ...], str]:
    """(target, loss, number of outputs, class names, a sentence that says what was decided and why)."""
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    text = raw.dtype.kind not in "biuf"
    if text and (loss in VALUE_LOSSES or raw.ndim == 2):
        raise ValueError(f"{source}: the target is text ({str(raw.flat[0])!r}), not numbers for a regression")
    values = np.unique(raw)
    whole = not text and bool(np.all(values == np.floor(values)))
    labels = raw.ndim == 1 and (text or (whole and len(values) <= MAX_CLASSES))
    if loss in (None, "cross_entropy") and _is_one_hot(raw):
        note = f"target: one-hot rows of {raw.shape[1]} classes, so a classification with cross_entropy"
        names = tuple(map(str, range(raw.shape[1])))
        return raw.argmax(axis=1), "cross_entropy", len(names), names, note
    if loss in VALUE_LOSSES or (loss is None and not labels):
        return _as_numbers(raw, loss or "mse")
    if raw.ndim == 2:
        y, _, count, _, _ = _as_numbers(raw, str(loss))
        return y, str(loss), count, (), f"target: probabilities of {count} classes, for {loss}"
    if not (text or whole):
        raise ValueError(f"{source}: {loss} needs class labels, the target holds numbers ({values[0]:g})")
    if len(values) < 2:
        raise ValueError(f"{source}: expected at least 2 classes in the target, got only {_class_names(values)[0]!r}")
    if loss is None and outputs == 1 and len(values) > 2 and not text:
        return _as_numbers(raw, "mse")
    default = "binary_cross_entropy" if outputs == 1 and len(values) == 2 else "cross_entropy"
    return _as_classes(source, raw, values, loss or default)


def _is_one_hot(raw: np.ndarray) -> bool:
    if raw.ndim != 2 or raw.shape[1] < 2 or raw.dtype.kind not in "biuf":
        return False
    return bool(np.all((raw == 0) | (raw == 1)) and np.all(raw.sum(axis=1) == 1))


def _class_names(values: np.ndarray) -> tuple[str, ...]:
    return tuple(str(int(value)) if values.dtype.kind in "iuf" else str(value) for value in values)


def _as_numbers(raw: np.ndarray, loss: str) -> tuple[np.ndarray, str, int, tuple[str, ...], str]:
    y = raw.astype(np.float32).reshape(len(raw), -1)
    note = f"target: numbers from {raw.min():.4g} to {raw.max():.4g}, so a regression with {loss}"
    return y, loss, y.shape[1], (), note


def _as_classes(
    source: str, raw: np.ndarray, values: np.ndarray, loss: str
) -> tuple[np.ndarray, str, int, tuple[str, ...], str]:
    labels = np.searchsorted(values, raw)
    names = _class_names(values)
    note = f"target: {len(names)} classes ({listed(names, 10)}), so a classification with {loss}"
    if loss == "cross_entropy":
        return labels.astype(np.int64), loss, len(names), names, note
    if len(names) != 2:
        raise ValueError(f"{source}: binary_cross_entropy needs 2 classes, the target has {len(names)}")
    return labels.astype(np.float32)[:, None], loss, 1, names, note


def holdout(table: Table, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row indices (train, held out) of a seeded shuffle; at least one row on each side."""
    order = np.random.default_rng(seed).permutation(len(table.x))
    count = min(max(1, math.floor(share * len(order))), len(order) - 1)
    return order[count:], order[:count]
