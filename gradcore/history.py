"""The result of `net.fit`, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import _check

if TYPE_CHECKING:
    import pandas

Logs = dict[str, float]


@dataclass(repr=False)
class History:
    """The logs of each epoch of a `fit`.

    It reads like a pandas table with one row per epoch and one column per quantity: `history["loss"]`,
    `"val_loss" in history`, `list(history)` and `dict(history)` use column names; `len(history)` counts epochs.

    Attributes:
        epochs: the logs of each epoch, in order.
        stopped_by: "epochs" if all epochs ran, "interrupt" after Ctrl-C, "error" in `on_fit_end` after an error, else
            the class name of the callback that stopped the training.
    """

    epochs: list[Logs] = field(default_factory=list)
    stopped_by: str = "epochs"

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, name: str) -> list[float]:
        """One quantity over the epochs, such as history["loss"]; KeyError for an unknown name."""
        if name not in self:
            raise KeyError(f"history: expected one of {', '.join(self.keys()) or 'none'}, got {name!r}")
        return [logs[name] for logs in self.epochs]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Names of the quantities; none before the first epoch has ended."""
        return list(self.epochs[0]) if self.epochs else []

    def __repr__(self) -> str:
        count = f"{len(self)} epoch{'' if len(self) == 1 else 's'}"
        last = self.epochs[-1] if self.epochs else {}
        shown = [f"{name}={value if isinstance(value, int) else format(value, '.4g')}" for name, value in last.items()]
        return f"<History of {count}, ended by {self.stopped_by}; the last: {', '.join(shown) or 'none'}>"

    def to_dict(self) -> dict[str, list[float]]:
        """Every quantity over the epochs."""
        return dict(self)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per epoch. Needs pandas."""
        pd = _check.optional("pandas", "dataframe", "data frames")
        return pd.DataFrame(self.epochs)
