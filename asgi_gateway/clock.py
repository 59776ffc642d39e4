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
