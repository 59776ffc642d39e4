"""How many calls may be in flight, and who waits for a place."""

from __future__ import annotations

from typing import Literal, TypeAlias

QueueOrder: TypeAlias = Literal["fifo", "lifo"]


class ConcurrencyLimit:
    """At most `limit` calls in flight, and at most `queue` that wait for one of their places.

    Whoever waits is any hashable object. `order` says who is next: the first that came (``fifo``), or the
    last (``lifo``), whose client is the least likely to have given up. Every call that was admitted is
    released once.

        if limit.acquire() or (limit.enqueue(waiter) and await ...):
            try: ...
            finally:
                for admitted in limit.release(): ...  # each of them has a place now
    """

    __slots__ = ("_order", "_queue", "_waiting", "in_flight", "limit")

    def __init__(self, limit: int, queue: int = 0, order: QueueOrder = "fifo") -> None:
        self.limit = limit
        """May be changed at any time; what is in flight beyond it runs to its end."""
        self.in_flight = 0
        self._queue = queue
        self._order = order
        self._waiting: dict[object, None] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def acquire(self) -> bool:
        """Take a place if there is one and nobody waits for it."""
        if self.in_flight < self.limit and not self._waiting:
            self.in_flight += 1
            return True
        return False

    def exceed(self) -> bool:
        """Take a place beyond the limit; True where so many have done that the queue could not hold them."""
        self.in_flight += 1
        return self.in_flight > self.limit + self._queue

    def enqueue(self, waiter: object) -> bool:
        """Wait for a place; False where too many do already."""
        if len(self._waiting) >= self._queue:
            return False
        self._waiting[waiter] = None
        return True

    def abandon(self, waiter: object) -> bool:
        """Wait no longer; False where it has a place by now, which is then to be released."""
        if waiter not in self._waiting:
            return False
        del self._waiting[waiter]
        return True

    def release(self) -> list[object]:
        """Give a place back; returns those who waited and have one now."""
        self.in_flight -= 1
        return self.admit() if self._waiting else []

    def admit(self) -> list[object]:
        """Give the places that are free to those who wait."""
        admitted: list[object] = []
        while self._waiting and self.in_flight < self.limit:
            waiter = next(iter(self._waiting)) if self._order == "fifo" else next(reversed(self._waiting))
            del self._waiting[waiter]
            self.in_flight += 1
            admitted.append(waiter)
        return admitted

    def __repr__(self) -> str:
        return f"<ConcurrencyLimit {self.in_flight} of {self.limit}, {len(self._waiting)} waiting>"
