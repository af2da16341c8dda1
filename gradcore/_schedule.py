"""When a monitor looks: at every k-th step, or as often as a share of the training time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Every:
    """A check at step `first` and every `steps` after it; only a loss that runs away brings one forward."""

    def __init__(self, steps: int, first: int) -> None:
        self._steps, self._next = steps, first

    def due(self, step: int) -> bool:
        """Whether a check begins with this step."""
        return step >= self._next

    def started(self, step: int) -> None:
        """A check has begun."""
        self._next = step + self._steps

    def urgent(self, step: int) -> None:
        """The training may be about to break: look at once."""
        self._next = min(self._next, step)

    def suspect(self, step: int) -> None:
        """Something was found that needs another look."""

    def entered(self) -> None:
        """The monitor's work before a step begins."""

    def before(self) -> None:
        """The step itself begins."""

    def after(self, recorded: bool, rows: int) -> None:
        """It has ended, having taken so many rows, and the monitor's work after it begins."""

    def done(self, worked: bool) -> None:
        """That has ended too."""

    def finished(self, routine: bool) -> None:
        """The check is over; routine: without an analysis to confirm what it showed."""


class _Steps:
    """The time of steps that are not recorded, by their rows: the line of least squares, which never falls."""

    def __init__(self) -> None:
        self._count = self._rows = self._rows_squared = 0
        self._seconds = self._rows_seconds = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """One more."""
        self._count += 1
        self._rows += rows
        self._rows_squared += rows * rows
        self._seconds += seconds
        self._rows_seconds += rows * seconds

    @property
    def mean(self) -> float:
        """Seconds of a step; NaN before the first."""
        return self._seconds / self._count if self._count else math.nan

    def expected(self, rows: int) -> float:
        """Seconds of a step of so many rows: the mean, where all have had as many; NaN before the first."""
        spread = self._count * self._rows_squared - self._rows * self._rows
        together = self._count * self._rows_seconds - self._rows * self._seconds
        slope = max(together / spread, 0.0) if spread else 0.0
        return max(self.mean + slope * (rows - self._rows / self._count), 0.0) if self._count else math.nan


class Budget(Every):
    """Checks whose cost, summed up, stays below `share` of the time that the steps alone take.

    The cost is measured: what a recorded step takes more than others of as many rows, and everything the
    monitor does after it. The first check is taken on credit, and so are those that confirm a suspicion;
    the next one waits until the time trained has paid for them. What noting every step costs, which no check
    more or less would change, is measured beside it.

    Attributes:
        trained, spent, noted: seconds that the steps, the checks and noting the steps took.
    """

    def __init__(self, share: float, first: int, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(0, first)
        self._share, self._clock = share, clock
        self._forced: int | None = first
        self._mark = self._price = self._spent_before = 0.0
        self._plain = _Steps()
        self.trained = self.spent = self.noted = 0.0

    def due(self, step: int) -> bool:
        """Whether the next check is affordable, or asked for."""
        if self._forced is not None:
            return step >= self._forced
        return self.spent + self._price <= self._share * self.trained

    def started(self, step: int) -> None:
        """A check has begun."""
        self._forced, self._spent_before = None, self.spent

    def urgent(self, step: int) -> None:
        """Look at once, whatever it costs."""
        self._forced = step if self._forced is None else min(self._forced, step)

    suspect = urgent

    def entered(self) -> None:
        """The monitor's work before a step begins."""
        self._mark = self._clock()

    def before(self) -> None:
        """The step itself begins."""
        now = self._clock()
        self.noted += now - self._mark
        self._mark = now

    def after(self, recorded: bool, rows: int) -> None:
        """A step has ended."""
        now = self._clock()
        seconds, plain = now - self._mark, self._plain.expected(rows)
        if not recorded or math.isnan(plain):
            self._plain.add(rows, seconds)
            self.trained += seconds
        else:
            self.spent += max(seconds - plain, 0.0)
            self.trained += plain
        self._mark = now

    def done(self, worked: bool) -> None:
        """The monitor's work after a step has ended; worked: it did more than note the step."""
        seconds = self._clock() - self._mark
        if worked:
            self.spent += seconds
        else:
            self.noted += seconds

    def finished(self, routine: bool) -> None:
        """The check is over: what it cost is the price of the next. Called before `done`."""
        if routine:
            self._price = self.spent - self._spent_before + self._clock() - self._mark

    def cost(self) -> dict[str, float]:
        """In seconds and as shares of the steps' own time.

        owed_steps: how many more steps, of the mean time, would pay for the checks taken on credit.
        """
        owed = self.spent - self._share * self.trained
        step = self._plain.mean
        whole = self.trained if self.trained > 0.0 else math.nan
        return {
            "seconds": self.spent,
            "share": self.spent / whole,
            "noting_share": self.noted / whole,
            "owed_steps": max(owed, 0.0) / (self._share * step) if step > 0.0 else math.nan,
        }
