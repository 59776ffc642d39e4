"""Rate-limit counters in the memory of one process, as a storage of the `limits` package."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from limits.aio.storage import MovingWindowSupport, Storage
from limits.aio.storage.base import SlidingWindowCounterSupport

from asgi_gateway.clock import Clock, SystemClock
from asgi_gateway.policies.limit import Counter, Limit, Settle, hit_all
from asgi_gateway.policies.window import (
    FixedWindow,
    MovingWindow,
    SlidingWindow,
    Window,
)

C = TypeVar("C", bound=Counter)


class BoundedMemoryStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """Counts in memory: O(1) a hit, at most `max_keys` counters, no timer, thread or lock.

    `max_keys` (default 100 000) bounds the memory; past it the counter that was least recently used
    is forgotten. `hit` decides and reports in one synchronous call. Under the strategies of `limits`
    the class works as any other of its storages::

        storage = limits.storage.storage_from_string("async+bounded-memory://", max_keys=10_000)
        limiter = limits.aio.strategies.FixedWindowRateLimiter(storage)
    """

    STORAGE_SCHEME = ["async+bounded-memory"]  # noqa: RUF012 - declared so by the base class

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,  # noqa: FBT001, FBT002 - the signature of limits
        *,
        max_keys: int = 100_000,
        clock: Clock | None = None,
        **options: float | str | bool,
    ) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self.max_keys = max_keys
        self._clock: Clock = clock or SystemClock()
        self._counters: OrderedDict[Hashable, Counter] = OrderedDict()
        self._first: Limit | None = None
        """The first limit asked for. Most storages serve no other, and a key alone is found much faster
        than a pair, so its counters are named by their keys and all others by limit and key."""

    def __len__(self) -> int:
        return len(self._counters)

    def __repr__(self) -> str:
        return f"<BoundedMemoryStorage keys={len(self)} max_keys={self.max_keys}>"

    def hit(self, limits: Sequence[Limit], key: Hashable, cost: int = 1) -> Window:
        """Count `cost` for `key` where all `limits` allow it, else nowhere; the tightest window."""
        return hit_all(self._all(limits, key), self._clock.monotonic(), cost)

    def counting(self, limits: Sequence[Limit], cost: int = 1) -> Callable[[Hashable], Window]:
        """`hit` as a function of the key alone, with all that can be settled beforehand settled."""
        monotonic = self._clock.monotonic
        if len(limits) != 1:
            return lambda key: hit_all(self._all(limits, key), monotonic(), cost)
        limit = limits[0]
        kind, amount, period = limit
        known, move_to_end = self._counters.get, self._counters.move_to_end
        is_first = self._is_first(limit)

        def hit(key: Hashable) -> Window:
            name = key if is_first else (limit, key)
            counter = known(name)
            if counter is None:
                counter = self._counter(kind, name, period)
            else:
                move_to_end(name)
            return counter.hit(monotonic(), amount, cost)

        return hit

    def reserving(
        self, limits: Sequence[Limit], cost: int = 1
    ) -> Callable[[Hashable], tuple[Window, Settle]]:
        """`counting` where `cost` is only reserved, and what it really was is told later."""

        def reserve(key: Hashable) -> tuple[Window, Settle]:
            taken_at = self._clock.monotonic()

            def settle(actual: int) -> None:
                if actual != cost:
                    now = self._clock.monotonic()
                    for counter, _ in self._all(limits, key):
                        counter.settle(now, actual - cost, taken_at)

            return hit_all(self._all(limits, key), taken_at, cost), settle

        return reserve

    def _all(self, limits: Sequence[Limit], key: Hashable) -> list[tuple[Counter, int]]:
        return [
            (self._counter(each.counter, self._name(each, key), each.period), each.amount) for each in limits
        ]

    def _is_first(self, limit: Limit) -> bool:
        if self._first is None:
            self._first = limit
        return limit == self._first

    def _name(self, limit: Limit, key: Hashable) -> Hashable:
        return key if self._is_first(limit) else (limit, key)

    def _counter(self, kind: type[C], name: Hashable, period: float) -> C:
        counters = self._counters
        counter = counters.get(name)
        if isinstance(counter, kind):
            counters.move_to_end(name)
            return counter
        made = counters[name] = kind(period)
        if len(counters) > self.max_keys:
            counters.popitem(last=False)
        return made

    # From here on, what the strategies of limits call. Their times are those of the wall clock.

    @property
    def base_exceptions(self) -> type[Exception]:
        """Nothing here can fail but a wrong argument."""
        return ValueError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count `amount` more in the fixed window of `key`; the new count."""
        return self._counter(FixedWindow, (FixedWindow, key), expiry).add(self._clock.monotonic(), amount)

    async def get(self, key: str) -> int:
        """The count in the fixed window of `key`."""
        counter = self._counters.get((FixedWindow, key))
        return counter.count(self._clock.monotonic()) if isinstance(counter, FixedWindow) else 0

    async def get_expiry(self, key: str) -> float:
        """When the fixed window of `key` ends."""
        counter = self._counters.get((FixedWindow, key))
        left = counter.seconds_left(self._clock.monotonic()) if isinstance(counter, FixedWindow) else 0.0
        return self._clock.wall() + left

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` more in the moving window of `key`, if the limit allows."""
        counter = self._counter(MovingWindow, (MovingWindow, key), expiry)
        return counter.hit(self._clock.monotonic(), limit, amount).allowed

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest hit in the moving window of `key` came, and how many there are."""
        counter = self._counter(MovingWindow, (MovingWindow, key), expiry)
        now = self._clock.monotonic()
        return self._clock.wall() - (now - counter.oldest(now)), counter.count(now)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` more in the sliding window of `key`, if the limit allows."""
        counter = self._counter(SlidingWindow, (SlidingWindow, key), expiry)
        return counter.hit(self._clock.monotonic(), limit, amount).allowed

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Previous count, seconds it still weighs, current count, seconds it will."""
        counter = self._counter(SlidingWindow, (SlidingWindow, key), expiry)
        return counter.counts(self._clock.monotonic())

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the sliding window of `key`."""
        self._counters.pop((SlidingWindow, key), None)

    async def clear(self, key: str) -> None:
        """Forget the fixed and the moving window of `key`."""
        self._counters.pop((FixedWindow, key), None)
        self._counters.pop((MovingWindow, key), None)

    async def check(self) -> bool:
        """Memory is always there."""
        return True

    async def reset(self) -> int:
        """Forget everything; how many counters there were."""
        count = len(self._counters)
        self._counters.clear()
        return count
