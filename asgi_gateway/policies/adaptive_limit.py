"""A limit that finds out by itself how many calls at once a service can take.

Additive increase, multiplicative decrease, as TCP does it (RFC 5681), one step a round:

1. A round is as many calls as the limit, all begun after the last step: what began before it says nothing of
   the limit that came after it. So a step is never taken twice for the same trouble.
2. If more than a tenth of a round's calls failed or were late, the limit loses a part. A single one says
   nothing: the larger the limit, the surer one of a round is slow by nature.
3. Otherwise it grows by one, if it was used up; unused it could grow without meaning.
4. What is late is said by who knows the service. To learn it from the quickest answers fails as soon as
   answers differ: after one quick 404 all others are late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from asgi_gateway.types import PositiveSeconds

_BORNE: Final = 0.1
"""The part of a round's calls that may be bad."""

_INITIAL: Final = 20


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Between which bounds a limit moves, and what moves it down. `ValueError` if they cannot hold."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    latency: PositiveSeconds
    """From when on an answer that has not begun is late; well above what answers take at quiet times."""
    min: int = 1
    """The limit is never below this."""
    max: int = 1000
    """The limit is never above this."""
    initial: int | None = None
    """The limit to begin with; 20 where nothing is said, or the nearest that min and max allow."""
    decrease: float = 0.9
    """What the limit is multiplied by after a round in which more than a tenth failed or were late."""

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.first <= self.max:
            raise ValueError("initial must lie between min and max, and min be at least 1")
        if not 0 < self.decrease < 1:
            raise ValueError("decrease must lie between 0 and 1")

    @property
    def first(self) -> int:
        """The limit to begin with, as a number."""
        return min(max(_INITIAL, self.min), self.max) if self.initial is None else self.initial


class AdaptiveLimit:
    """Moves a limit by how calls went; `limit` is what holds now."""

    __slots__ = ("_bad", "_bounds", "_calls", "_exact", "_since", "_used_up")

    def __init__(self, bounds: Adaptive) -> None:
        self._bounds = bounds
        self._exact = float(bounds.first)
        self._since = float("-inf")
        self._calls = self._bad = 0
        self._used_up = False

    @property
    def limit(self) -> int:
        """How many calls may be in flight."""
        return int(self._exact)

    def answered(self, *, began_at: float, now: float, failed: bool, in_flight: int) -> int:
        """An answer began, or will never begin; returns the limit from now on.

        `in_flight` is how many calls were under way, this one included.
        """
        if began_at < self._since:
            return self.limit
        bounds = self._bounds
        self._calls += 1
        self._bad += failed or now - began_at > bounds.latency
        self._used_up = self._used_up or in_flight >= self.limit
        if self._calls >= self.limit:
            if self._bad > self._calls * _BORNE:
                self._exact = max(float(bounds.min), self._exact * bounds.decrease)
            elif self._used_up:
                self._exact = min(float(bounds.max), self._exact + 1.0)
            self._since = now
            self._calls = self._bad = 0
            self._used_up = False
        return self.limit

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.limit} calls={self._calls} bad={self._bad}>"
