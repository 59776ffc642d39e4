"""Time, as something handed in: every decision that waits asks a `Clock`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the gateway knows of time. `asgi_gateway.testing.ManualClock` is the other implementation."""

    def monotonic(self) -> float:
        """Seconds that never run backwards: the base of every decision."""

    def wall(self) -> float:
        """Seconds since the epoch, for dates only."""

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call once, that many seconds from now, on the running event loop."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Cancel the block after that many seconds and raise `TimeoutError` from it."""


class SystemClock:
    """The machine's own clocks and the running event loop."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)
    sleep = staticmethod(asyncio.sleep)
    timeout = staticmethod(asyncio.timeout)

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback, *args)


class EqualTimers:
    """Timers that all run for the same time, made and cancelled far more often than they fire.

    As they fall due in the order in which they were started, one timer of the clock serves them all:
    starting and cancelling one costs a place in a list.
    """

    __slots__ = ("_clock", "_loop", "_running", "_seconds")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._running: dict[Callable[[], object], float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the one timer runs; None while there is none."""

    def start(self, callback: Callable[[], object]) -> float:
        """Call `callback` when the time is over and say when that is; it is also the timer's name."""
        if self._loop is None or self._loop.is_closed():  # a closed loop has taken its timer with it
            self._loop = asyncio.get_running_loop()
            self._clock.call_later(self._seconds, self._fire)
        self._running[callback] = due = self._clock.monotonic() + self._seconds
        return due

    def cancel(self, callback: Callable[[], object]) -> None:
        """Never call it, if that has not happened yet."""
        self._running.pop(callback, None)

    def _fire(self) -> None:
        loop, self._loop = self._loop, None
        now = self._clock.monotonic()
        while self._running:
            callback, due = next(iter(self._running.items()))
            if due > now:
                self._loop = loop
                self._clock.call_later(due - now, self._fire)
                return
            del self._running[callback]
            callback()
