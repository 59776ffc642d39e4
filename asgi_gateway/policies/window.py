"""Windows: what a rate limit says of one key at one moment, and the three ways of counting.

Each counter counts one key. It takes the time and the limit as arguments, never reads a clock, and
costs O(1) a hit. A hit that is refused is not counted.

What a hit costs may be known only later. Then a cost is reserved by the hit, and settled when it is known:
what is missing counts from then on, whatever the limit; what was too much is given back to the window that
it was taken from, if that still counts, and to no other.

- `FixedWindow`: a window begins with the first hit and ends a period later. Two numbers a key; twice the
  limit may pass around the border of two windows.
- `SlidingWindow`: the count of the window before, weighted by how much of it still overlaps the last
  period, plus the count of this one. Three numbers a key; an approximation that spreads the border.
- `MovingWindow`: the times of the hits themselves. Never more than the limit in any period; memory grows
  with the hits.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

_STRICTLY_AFTER: Final = 1e-6
"""Seconds. A sliding window has room after a moment, not at it: a microsecond is after it for every clock."""


@dataclass(slots=True)
class Window:
    """The outcome of one look at a limit. Durations are seconds from now."""

    limit: int
    remaining: int
    reset_after: float
    """Until the whole limit is free again if nothing more comes."""
    retry_after: float = 0.0
    """Until the same request would pass; 0 where it passed."""

    @property
    def allowed(self) -> bool:
        """Whether the request passed."""
        return not self.retry_after

    def settle(self, difference: int) -> None:
        """Have it say what it would have if the request had cost `difference` more."""
        self.remaining = max(0, self.remaining - difference)


def tightest(first: Window, second: Window) -> Window:
    """The window that binds: the longer wait of two refusals, a refusal, or the one with less left."""
    if first.retry_after or second.retry_after:
        return first if first.retry_after >= second.retry_after else second
    if first.remaining != second.remaining:
        return first if first.remaining < second.remaining else second
    return first if first.reset_after >= second.reset_after else second


class FixedWindow:
    """Counts hits from the first one until `period` seconds later."""

    __slots__ = ("_count", "_ends_at", "_period")

    def __init__(self, period: float) -> None:
        self._period = period
        self._count = 0
        self._ends_at = -math.inf

    def fits(self, now: float, limit: int, cost: int = 1) -> bool:
        """Whether the limit allows `cost` more."""
        return self.count(now) + cost <= limit

    def hit(self, now: float, limit: int, cost: int = 1) -> Window:
        """Count `cost` more, if the limit allows."""
        if not self.fits(now, limit, cost):
            return self._report(now, limit, cost, allowed=False)
        count = self.add(now, cost)
        return Window(limit, limit - count, self._ends_at - now)

    def peek(self, now: float, limit: int, cost: int = 1) -> Window:
        """What `hit` would say, nothing counted."""
        return self._report(now, limit, cost, allowed=self.fits(now, limit, cost))

    def count(self, now: float) -> int:
        """Hits in the window of `now`."""
        if now >= self._ends_at:
            self._count = 0
        return self._count

    def add(self, now: float, cost: int) -> int:
        """Count `cost` more whatever the limit; the new count."""
        if not self.count(now):
            self._ends_at = now + self._period
        self._count += cost
        return self._count

    def settle(self, now: float, difference: int, taken_at: float) -> None:
        """Count `difference` more whatever the limit; if negative, less in the window of `taken_at`."""
        if difference > 0:
            self.add(now, difference)
        elif now < self._ends_at <= taken_at + self._period:
            self._count = max(0, self._count + difference)

    def seconds_left(self, now: float) -> float:
        """Until the window ends, 0 where none has begun."""
        return max(0.0, self._ends_at - now)

    def _report(self, now: float, limit: int, cost: int, *, allowed: bool) -> Window:
        left = self.seconds_left(now)
        wait = 0.0 if allowed else left if cost <= limit else math.inf
        return Window(limit, max(0, limit - self._count), left, wait)


class SlidingWindow:
    """Weighs the window before into the count of this one; windows begin at multiples of `period`."""

    __slots__ = ("_current", "_ends_at", "_index", "_period", "_previous")

    def __init__(self, period: float) -> None:
        self._period = period
        self._index = -math.inf
        self._ends_at = -math.inf
        self._previous = 0
        self._current = 0

    def fits(self, now: float, limit: int, cost: int = 1) -> bool:
        """Whether the limit allows `cost` more."""
        self._roll(now)
        return now > self._free_after(limit, cost)

    def hit(self, now: float, limit: int, cost: int = 1) -> Window:
        """Count `cost` more, if the limit allows."""
        if now >= self._ends_at:
            self._roll(now)
        period = self._period
        count = self._current + cost
        remaining = limit - count
        if self._previous:
            remaining -= int(self._previous * (self._ends_at - now) / period)
        # The usual case, without a call: where something remains, the moment to wait for is long past.
        if remaining > 0 and count:
            self._current = count
            return Window(limit, remaining, self._ends_at + period - period / count - now)
        return self._hit_near_limit(now, limit, cost)

    def peek(self, now: float, limit: int, cost: int = 1) -> Window:
        """What `hit` would say, nothing counted."""
        self._roll(now)
        free_after = self._free_after(limit, cost)
        return self._report(now, limit, free_after, allowed=now > free_after)

    def settle(self, now: float, difference: int, taken_at: float) -> None:
        """Count `difference` more whatever the limit; if negative, less in the window of `taken_at`."""
        self._roll(now)
        taken_in = taken_at // self._period
        if difference > 0 or taken_in == self._index:
            self._current = max(0, self._current + difference)
        elif taken_in == self._index - 1:
            self._previous = max(0, self._previous + difference)

    def counts(self, now: float) -> tuple[int, float, int, float]:
        """The count before and the seconds it still weighs, the count now and the seconds it will."""
        self._roll(now)
        left = self._ends_at - now
        return self._previous, left if self._previous else 0.0, self._current, left + self._period

    def _hit_near_limit(self, now: float, limit: int, cost: int) -> Window:
        free_after = self._free_after(limit, cost)
        allowed = now > free_after
        if allowed:
            self._current += cost
        return self._report(now, limit, free_after, allowed=allowed)

    def _roll(self, now: float) -> None:
        index = now // self._period
        if index != self._index:
            self._previous = self._current if index == self._index + 1 else 0
            self._current = 0
            self._index = index
            self._ends_at = (index + 1) * self._period

    def _free_after(self, limit: int, cost: int) -> float:
        """The moment after which `cost` more fits.

        It fits while ``floor(previous * left / period + current) + cost <= limit``, that is while
        ``previous * left / period < limit - cost + 1 - current``, which is solved for the time here.
        """
        if cost > limit:
            return math.inf
        end = self._ends_at
        room = limit - cost + 1 - self._current
        if room > 0:
            return end - self._period * room / self._previous if self._previous else -math.inf
        return end + self._period - self._period * (limit - cost + 1) / self._current

    def _report(self, now: float, limit: int, free_after: float, *, allowed: bool) -> Window:
        left = self._ends_at - now
        weighed = math.floor(self._previous * left / self._period) if self._previous else 0
        used = weighed + self._current
        reset = max(0.0, self._free_after(limit, limit) - now)
        wait = 0.0 if allowed else free_after - now + _STRICTLY_AFTER
        return Window(limit, max(0, limit - used), reset, wait)


class MovingWindow:
    """Remembers when each hit came and what it cost; a hit counts for `period` seconds."""

    __slots__ = ("_count", "_hits", "_period")

    def __init__(self, period: float) -> None:
        self._period = period
        self._count = 0
        self._hits: deque[tuple[float, int]] = deque()

    def fits(self, now: float, limit: int, cost: int = 1) -> bool:
        """Whether the limit allows `cost` more."""
        return self.count(now) + cost <= limit

    def hit(self, now: float, limit: int, cost: int = 1) -> Window:
        """Count `cost` more, if the limit allows."""
        allowed = self.count(now) + cost <= limit
        if allowed:
            self._add(now, cost)
        return self._report(now, limit, cost, allowed=allowed)

    def peek(self, now: float, limit: int, cost: int = 1) -> Window:
        """What `hit` would say, nothing counted."""
        return self._report(now, limit, cost, allowed=self.fits(now, limit, cost))

    def count(self, now: float) -> int:
        """What the hits of the last `period` seconds cost."""
        hits = self._hits
        while hits and now >= hits[0][0] + self._period:
            self._count -= hits.popleft()[1]
        return self._count

    def oldest(self, now: float) -> float:
        """When the oldest hit that still counts came, `now` where there is none."""
        return self._hits[0][0] if self.count(now) else now

    def settle(self, now: float, difference: int, taken_at: float) -> None:
        """Count `difference` more whatever the limit; if negative, less of the hit of `taken_at`."""
        self.count(now)
        if difference > 0:
            self._add(now, difference)
            return
        hits = self._hits
        place = bisect_left(hits, taken_at, key=itemgetter(0))
        if place == len(hits) or hits[place][0] != taken_at:
            return
        left = max(0, hits[place][1] + difference)
        self._count -= hits[place][1] - left
        if left:
            hits[place] = taken_at, left
        else:
            del hits[place]

    def _add(self, now: float, cost: int) -> None:
        hits = self._hits
        self._count += cost
        if hits and hits[-1][0] == now:  # one entry a moment, so that a moment names one
            cost += hits.pop()[1]
        hits.append((now, cost))

    def _report(self, now: float, limit: int, cost: int, *, allowed: bool) -> Window:
        wait = 0.0
        if not allowed:
            wait = self._free_at(limit, cost) - now if cost <= limit else math.inf
        reset = self._hits[-1][0] + self._period - now if self._hits else 0.0
        return Window(limit, max(0, limit - self._count), reset, wait)

    def _free_at(self, limit: int, cost: int) -> float:
        """When so much is over that `cost` more fits."""
        excess = self._count + cost - limit
        for time, much in self._hits:
            excess -= much
            if excess <= 0:
                return time + self._period
        raise AssertionError("what is counted are the hits")
