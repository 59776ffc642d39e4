"""How long the first attempt is waited for before there is a second beside it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil
from typing import Final

WINDOW: Final = 1000
"""How many of the latest answers a percentile is of."""
ENOUGH: Final = 100
"""How many it takes until their percentile means something."""


class Percentile:
    """A percentile of the latest `size` values, by nearest rank: always one of them.

    The values are kept in the order of their coming and in that of their size. With a thousand of them a new
    one costs about a microsecond.
    """

    __slots__ = ("_latest", "_part", "_size", "_sorted")

    def __init__(self, percentile: float, size: int = WINDOW) -> None:
        self._part = percentile / 100
        self._size = size
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take in one more value and forget the oldest beyond the size."""
        if len(self._latest) == self._size:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(value)
        insort(self._sorted, value)

    @property
    def value(self) -> float:
        """The percentile; raises `IndexError` where there is no value yet."""
        return self._sorted[max(0, ceil(self._part * len(self._sorted)) - 1)]

    def __len__(self) -> int:
        return len(self._sorted)


class HedgeDelay:
    """Seconds until a second attempt: a fixed time, or a percentile of how long answers took to begin.

    The fixed time holds until a hundred answers are known (`ENOUGH`).
    """

    __slots__ = ("_fixed", "_percentile")

    def __init__(self, fixed: float, percentile: float | None = None) -> None:
        self._fixed = fixed
        self._percentile = None if percentile is None else Percentile(percentile)

    def answered(self, seconds: float) -> None:
        """An answer began, so long after its request."""
        if self._percentile is not None:
            self._percentile.add(seconds)

    @property
    def seconds(self) -> float:
        """How long to wait now."""
        percentile = self._percentile
        return self._fixed if percentile is None or len(percentile) < ENOUGH else percentile.value
