"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any


class _ManualTimer:
    __slots__ = ("args", "callback", "cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """A `Clock` for tests: ``await clock.advance(60)`` is a minute, at once.

    `monotonic` starts at `start` seconds and `wall` at `epoch`; both move together, only by
    `advance`. Sleeps and timeouts that fall due are woken in the order of their times.

        clock = ManualClock()
        middleware = CircuitBreakerMiddleware(app, runtime=Runtime(clock=clock))
        await clock.advance(60)
    """

    def __init__(self, start: float = 1000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now = start
        self._offset = epoch - start
        self._timers: list[tuple[float, int, _ManualTimer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        """Seconds, moved only by `advance` and `shift`."""
        return self._now

    def wall(self) -> float:
        """Seconds since the epoch, moved together with `monotonic`."""
        return self._now + self._offset

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> _ManualTimer:
        """Call once when time has been moved on so far."""
        timer = _ManualTimer(callback, args)
        heapq.heappush(self._timers, (self._now + seconds, next(self._order), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Return when time has been moved on so far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Cancel the block and raise `TimeoutError` when time has been moved on so far."""
        async with asyncio.timeout(None) as block:
            timer = self.call_later(seconds, lambda: block.reschedule(0))
            try:
                yield
            finally:
                timer.cancel()

    @property
    def pending(self) -> list[float]:
        """Seconds until each timer that is still to fire, soonest first."""
        return sorted(due - self._now for due, _, timer in self._timers if not timer.cancelled)

    def shift(self, seconds: float) -> None:
        """Move time on for code that only reads it; for synchronous tests."""
        self._now += seconds

    async def advance(self, seconds: float) -> None:
        """Move time on, firing what falls due, and let the woken tasks run."""
        target = self._now + seconds
        await settle()
        while self._timers and self._timers[0][0] <= target:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if not timer.cancelled:
                timer.callback(*timer.args)
                await settle()
        self._now = target
        await settle()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


async def settle() -> None:
    """Let every task that is ready run until it waits for something outside the event loop."""
    for _ in range(20):
        await asyncio.sleep(0)
