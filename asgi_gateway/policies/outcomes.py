"""How the calls of the last seconds went, counted in slices of time."""

from __future__ import annotations

from typing import Final

SLICES: Final = 10
"""Into how many slices a window is cut; it moves on by one of them at a time."""


class Outcomes:
    """Counts calls, failures and slow calls over the last `window` seconds.

    The window moves on by a tenth of itself at a time, so that between nine and ten tenths of it are
    counted. Ten small lists whatever the traffic, and O(1) a call.
    """

    __slots__ = ("_newest", "_slices", "_width", "calls", "failed", "slow")

    def __init__(self, window: float) -> None:
        self._width = window / SLICES
        self._slices = [[0, 0, 0] for _ in range(SLICES)]
        self._newest = 0
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call that ended, or began well, at `now`."""
        self.roll(now)
        current = self._slices[self._newest % SLICES]
        current[0] += 1
        self.calls += 1
        if failed:
            current[1] += 1
            self.failed += 1
        if slow:
            current[2] += 1
            self.slow += 1

    def fail(self, now: float, counted_at: float) -> None:
        """A call that was counted as a good one has failed after all: it is one of `now`, and no second."""
        self.roll(now)
        index = int(counted_at // self._width)
        if index > self._newest - SLICES:
            self._slices[index % SLICES][0] -= 1
            self.calls -= 1
        self.add(now, failed=True, slow=False)

    def roll(self, now: float) -> None:
        """Forget what is older than the window at `now`."""
        index = int(now // self._width)
        for passed in range(max(self._newest + 1, index - SLICES + 1), index + 1):
            oldest = self._slices[passed % SLICES]
            self.calls -= oldest[0]
            self.failed -= oldest[1]
            self.slow -= oldest[2]
            oldest[:] = (0, 0, 0)
        self._newest = max(self._newest, index)

    def clear(self) -> None:
        """Forget everything."""
        self._slices = [[0, 0, 0] for _ in range(SLICES)]
        self.calls = self.failed = self.slow = 0
