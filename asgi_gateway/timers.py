"""Timers by the hundred thousand, for less than an event loop asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asgi_gateway.clock import Clock


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
