"""A limit that finds out by itself how many calls at once a service can take.

Additive increase, multiplicative decrease, as TCP does it (RFC 5681): each round in which the limit was
used up and all went well adds one, each in which a call failed or was late takes a part away. A round is as
long as a call: what began before the last decrease says nothing of the limit that came after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from asgi_gateway.types import PositiveSeconds

_DRIFT: Final = 0.01
"""How far the usual time moves up towards a longer one with each call, as a part of the difference.

Only calls that had company of less than half the limit move it up: the others may have waited for each other.
"""


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Between which bounds a limit moves, and what moves it down.

    A call is late whose answer begins after `latency`, or where that is not given after `tolerance` times as
    long as the quickest ones take. Raises `ValueError` for bounds that cannot hold.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    min: int = 1
    """The limit is never below this."""
    max: int = 1000
    """The limit is never above this."""
    initial: int = 20
    """The limit to begin with."""
    decrease: float = 0.9
    """What the limit is multiplied by when a call failed or was late."""
    latency: PositiveSeconds | None = None
    """From when on an answer that has not begun is late."""
    tolerance: float = 2.0
    """Without `latency`: how many times the usual time is late."""

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.initial <= self.max:
            raise ValueError("initial must lie between min and max, and min be at least 1")
        if not 0 < self.decrease < 1 or not 1 < self.tolerance <= 100:
            raise ValueError("decrease must lie between 0 and 1, tolerance above 1")


class AdaptiveLimit:
    """Moves a limit by how calls went; `limit` is what holds now."""

    __slots__ = ("_bounds", "_decreased_at", "_exact", "_usual")

    def __init__(self, bounds: Adaptive) -> None:
        self._bounds = bounds
        self._exact = float(bounds.initial)
        self._usual = float("inf")
        self._decreased_at = float("-inf")

    @property
    def limit(self) -> int:
        """How many calls may be in flight."""
        return int(self._exact)

    def ended(self, *, began_at: float, now: float, seconds: float, failed: bool, in_flight: int) -> int:
        """A call is over whose answer took `seconds` to begin; returns the limit from now on.

        `in_flight` is how many were under way with it.
        """
        bounds = self._bounds
        late = seconds > (bounds.latency or self._usual * bounds.tolerance)
        if not failed and seconds < self._usual:
            self._usual = seconds
        elif not failed and in_flight * 2 < self._exact:
            self._usual += (seconds - self._usual) * _DRIFT
        if failed or late:
            if began_at >= self._decreased_at:
                self._exact = max(float(bounds.min), self._exact * bounds.decrease)
                self._decreased_at = now
        elif in_flight >= int(self._exact):
            self._exact = min(float(bounds.max), self._exact + 1.0 / self._exact)
        return int(self._exact)
