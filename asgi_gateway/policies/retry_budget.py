"""How many retries a service is given, as a part of its requests.

A fixed number of attempts multiplies the load on a service exactly when it is in trouble. A budget bounds
what retries add, whatever each request would like (Finagle's and Linkerd's retry budgets, gRPC's throttling).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import ClassVar, Final

from asgi_gateway.types import PositiveSeconds

SLICES: Final = 10
"""In how many parts a window moves on."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Retries of a service at most `ratio` of its requests over `window` seconds, and a floor besides.

    Raises `ValueError` for a ratio outside 0 to 1 or a negative floor.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    ratio: float = 0.2
    """Retries for each request, 0 to 1."""
    window: PositiveSeconds = 10.0
    """The time over which both are counted."""
    min_per_second: float = 3.0
    """Retries that are allowed besides, so that a service with few requests has some."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError("ratio must be between 0 and 1")
        if not 0 <= self.min_per_second < inf:
            raise ValueError("min_per_second must be 0 or more")


DEFAULT_BUDGET: Final = Budget()
"""A fifth of the requests of the last 10 seconds, and 3 a second besides."""


class RetryBudget:
    """Counts the requests and retries of one service, and says whether one more retry is within the budget.

    With every retry it allows, those of the `window` that ends there are no more than ``ratio`` times
    its requests plus ``min_per_second * window``. Time is cut into slices. The oldest, which the window
    covers in part, counts for retries and not for requests, so the error is on the side of fewer retries.
    """

    __slots__ = ("_floor", "_past", "_ratio", "_requests", "_retries", "_slice", "_turns_at", "_window")

    def __init__(self, budget: Budget = DEFAULT_BUDGET) -> None:
        self._ratio = budget.ratio
        self._floor = budget.min_per_second * budget.window
        self._window = budget.window
        self._slice = budget.window / SLICES
        self._past: deque[tuple[int, int]] = deque(((0, 0),) * SLICES, maxlen=SLICES)
        """Requests and retries of the slices before the current one, the oldest first."""
        self._requests = 0
        self._retries = 0
        self._turns_at = -inf

    def requested(self, now: float) -> None:
        """A request begins."""
        if now >= self._turns_at:
            self._turn(now)
        self._requests += 1

    def spend(self, now: float) -> bool:
        """Take one retry; False where there is none left."""
        if now >= self._turns_at:
            self._turn(now)
        requests = self._requests + sum(count for count, _ in islice(self._past, 1, None))
        retries = self._retries + sum(count for _, count in self._past)
        if retries + 1 > self._ratio * requests + self._floor:
            return False
        self._retries += 1
        return True

    def _turn(self, now: float) -> None:
        """Begin the slice that `now` lies in."""
        late = now - self._turns_at
        if late >= self._window:  # all that is known is older than the window
            self._past.extend(((0, 0),) * SLICES)
            self._turns_at = now + self._slice
        else:
            empty = int(late / self._slice)
            self._past.append((self._requests, self._retries))
            self._past.extend(((0, 0),) * empty)
            self._turns_at += (1 + empty) * self._slice
        self._requests = self._retries = 0
