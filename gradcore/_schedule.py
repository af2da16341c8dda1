"""When a monitor checks: at every k-th step, or as often as a share of the training time allows."""

from __future__ import annotations

import math
from time import perf_counter


class Every:
    """A check at step `first` and every `steps` after it; a diverging loss brings the next one forward."""

    def __init__(self, steps: int, first: int) -> None:
        self._steps, self._next = steps, first

    def due(self, step: int) -> bool:
        """Whether a check begins with this step."""
        return step >= self._next

    def started(self, step: int) -> None:
        """Called when a check begins."""
        self._next = step + self._steps

    def urgent(self, step: int) -> None:
        """Called when the training may be about to break: check at once."""
        self._next = min(self._next, step)

    def suspect(self, step: int) -> None:
        """Called when a finding needs another check, at this step."""

    def entered(self) -> None:
        """Called when the monitor's work before a step begins."""

    def before(self) -> None:
        """Called when that work ends and the step itself begins."""

    def after(self, recorded: bool, rows: int) -> None:
        """Called when the step, of `rows` rows, has ended and the monitor's work after it begins."""

    def done(self, worked: bool) -> None:
        """Called when that work has ended. worked: it did more than note the step."""

    def finished(self, routine: bool) -> None:
        """Called when a check is over, before `done`. routine: no analysis had to confirm a finding."""


class _Steps:
    """The time of unrecorded steps as a function of their rows: a least-squares line with slope >= 0."""

    def __init__(self) -> None:
        self._count = self._rows = self._rows_squared = 0
        self._seconds = self._rows_seconds = 0.0

    def add(self, rows: int, seconds: float) -> None:
        """Add a step."""
        self._count += 1
        self._rows += rows
        self._rows_squared += rows * rows
        self._seconds += seconds
        self._rows_seconds += rows * seconds

    @property
    def mean(self) -> float:
        """Mean seconds of a step; NaN before the first."""
        return self._seconds / self._count if self._count else math.nan

    def expected(self, rows: int) -> float:
        """Expected seconds of a step of `rows` rows; the mean if all steps had equal rows; NaN before the first."""
        spread = self._count * self._rows_squared - self._rows * self._rows
        together = self._count * self._rows_seconds - self._rows * self._seconds
        slope = max(together / spread, 0.0) if spread else 0.0
        return max(self.mean + slope * (rows - self._rows / self._count), 0.0) if self._count else math.nan


class Budget(Every):
    """Checks whose total cost stays below `share` of the time that the steps alone take.

    The cost is measured: the extra time of a recorded step over others of as many rows, and everything the monitor does
    after it. The first check and those that confirm a suspicion run on credit; the next one waits until the training
    time has paid for them. The cost of noting every step does not depend on the checks and is measured separately.

    Attributes:
        trained, spent, noted: seconds that the steps, the checks and noting the steps took.
    """

    def __init__(self, share: float, first: int) -> None:
        super().__init__(0, first)
        self._share = share
        self._forced: int | None = first
        self._mark = self._price = self._spent_before = 0.0
        self._plain = _Steps()
        self.trained = self.spent = self.noted = 0.0

    def due(self, step: int) -> bool:
        """Whether the next check is affordable or requested."""
        if self._forced is not None:
            return step >= self._forced
        return self.spent + self._price <= self._share * self.trained

    def started(self, step: int) -> None:
        """Called when a check begins."""
        self._forced, self._spent_before = None, self.spent

    def urgent(self, step: int) -> None:
        """Check at once, at any cost."""
        self._forced = step if self._forced is None else min(self._forced, step)

    suspect = urgent

    def entered(self) -> None:
        """Start the clock for the monitor's work before a step."""
        self._mark = perf_counter()

    def before(self) -> None:
        """Add the time of that work, and start the clock for the step."""
        now = perf_counter()
        self.noted += now - self._mark
        self._mark = now

    def after(self, recorded: bool, rows: int) -> None:
        """Add the time of the step; what recording added to it counts as a check's."""
        now = perf_counter()
        seconds, plain = now - self._mark, self._plain.expected(rows)
        if not recorded or math.isnan(plain):
            self._plain.add(rows, seconds)
            self.trained += seconds
        else:
            self.spent += max(seconds - plain, 0.0)
            self.trained += plain
        self._mark = now

    def done(self, worked: bool) -> None:
        """Add the time of the monitor's work after the step."""
        seconds = perf_counter() - self._mark
        if worked:
            self.spent += seconds
        else:
            self.noted += seconds

    def finished(self, routine: bool) -> None:
        """The cost of a routine check is the expected price of the next one."""
        if routine:
            self._price = self.spent - self._spent_before + perf_counter() - self._mark

    def cost(self) -> dict[str, float]:
        """The cost so far.

        seconds, share: the time of the checks, and the same as a share of the time of the steps. noting_share: the
        share of noting the steps. owed_steps: how many more steps of mean time would pay for the checks on credit.
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
