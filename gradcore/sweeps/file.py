"""The file of a sweep: JSON lines, first the configuration, then one line per measured net.

Each line is written whole and flushed as soon as its net is measured, so a crash costs at most one line: an incomplete
last line is dropped and measured again. The file is locked while a sweep runs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from .. import _check
from ..analysis.report import plain
from .grid import AXES
from .row import is_measured

FORMAT = 1
SETTINGS = ("loss", "batch_size", "batches", "seed", "dtype", "out_features")  # and what describes the data
_MARK = b'{"gradcore_sweep": '


class SweepFile:
    """An open file of finished points; a context manager.

    Args:
        path: created if it does not exist.
        config: {"grid": ..., "settings": ...} of the coming sweep; None to read an existing file.

    Attributes:
        config: as stored in the file. rows: (point, result) of every complete line after the first.

    Raises:
        ValueError: for a file of another configuration, one that is no sweep's, and one in use.
    """

    def __init__(self, path: str | os.PathLike[str], config: dict[str, Any] | None = None) -> None:
        self.path = os.fsdecode(_check.path(path))
        self._file = open(self.path, "rb" if config is None else "a+b")  # noqa: SIM115
        try:
            if config is not None:
                self._lock()
            self._file.seek(0)
            content = self._file.read()
            complete = content[: content.rfind(b"\n") + 1]
            if content and not (content.startswith(_MARK) or _MARK.startswith(content)):
                raise ValueError(f"{self.path}: expected a file that gc.sweep wrote, got another one")
            self.config, self.rows = self._parse(complete)
            if config is not None:
                self._continue(config, len(complete))
        except BaseException:
            self._file.close()
            raise

    def append(self, point: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Write a finished point."""
        self._write({"point": point, "result": result})

    def __enter__(self) -> SweepFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.path}: in use by another sweep") from None

    def _continue(self, config: dict[str, Any], end: int) -> None:
        """Make the file ready for further lines of a sweep with this config.

        The file must be of the same config, or empty; it is cut at `end`, where its last complete line ends.
        """
        config = plain(config)  # as read from a file, where tuples are lists
        if self.config:
            differences = _differences(self.config, config)
            if differences:
                raise ValueError(
                    f"{self.path}: holds a sweep with {'; '.join(differences)}: use the same configuration "
                    "to resume it, or another file"
                )
        self._file.truncate(end)
        if not self.config:
            self.config = config
            self._write({"gradcore_sweep": FORMAT, **config})

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(plain(record), allow_nan=False).encode() + b"\n")
        self._file.flush()

    def _parse(self, content: bytes) -> tuple[dict[str, Any], list[tuple[dict[str, Any], dict[str, Any]]]]:
        """(config, rows) of complete lines; an empty config if there are none."""
        records: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for number, line in enumerate(content.splitlines(), start=1):
            first, second = ("grid", "settings") if number == 1 else ("point", "result")
            try:
                record = json.loads(line)
                records.append((dict(record[first]), dict(record[second])))
                if not (is_measured if number > 1 else _is_complete)(*records[-1]):
                    raise ValueError("not all axes, settings or results")
            except (ValueError, TypeError, KeyError):
                advice = "use another file" if number == 1 else "remove it, and its net is measured again"
                text = f"{self.path} line {number}: expected a line written by gc.sweep, got another one: {advice}"
                raise ValueError(text) from None
            if number == 1 and record["gradcore_sweep"] != FORMAT:
                raise ValueError(f"{self.path}: expected format {FORMAT}, got {record['gradcore_sweep']!r}")
        if not records:
            return {}, []
        return {"grid": records[0][0], "settings": records[0][1]}, records[1:]


def _is_complete(grid: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether these are all axes of a grid, and all settings that files of every version have."""
    return set(grid) == set(AXES) and {*SETTINGS, "in_features", "data"} <= set(settings)


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """One phrase for each entry in which two configs differ."""
    found = []
    for part in ("grid", "settings"):
        for name in dict.fromkeys([*there[part], *here[part]]):
            old, new = there[part].get(name), here[part].get(name)
            if old != new:
                found.append(f"{name} {_short(old)}, not {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
