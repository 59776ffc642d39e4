"""Open circuits that processes tell each other of, through a store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from asgi_gateway.clock import Clock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.policies.circuit_breaker import CircuitBreaker

INTERVAL: Final = 0.05
"""Seconds between two looks at what other processes have opened."""

_EARLIER: Final = 0.1
"""Seconds by which a key ends before the time open: so none is read any more when the first probe is out."""


class SharedBreakers:
    """Opens the breakers of this process while one of the same name is open in another.

    An open circuit is a key that expires with it, so clocks need not agree. What is told is only that a
    circuit has opened; each process probes for itself when the time is over. While the store fails, each
    judges alone.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]], clock: Clock, prefix: bytes) -> None:
        self._call = call
        self._clock = clock
        self._prefix = prefix
        self._known: WeakKeyDictionary[CircuitBreaker, tuple[str, Callable[[float], None]]] = (
            WeakKeyDictionary()
        )
        self._following: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._closed = False

    def share(
        self, name: str, breaker: CircuitBreaker, opened: Callable[[float], None]
    ) -> Callable[[float | None], None]:
        """What a breaker's owner calls: with the seconds when it opened, with None when there is an answer.

        `opened` is told the seconds where another process opened it, once where this one has several of the
        name. A breaker is followed for as long as somebody has it, so `opened` must not lead to it.
        """
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        key = f"{self._prefix.decode()}:breaker:{digest}"
        self._known[breaker] = key, opened

        def tell(seconds: float | None) -> None:
            self._begin()
            if seconds is not None and not self._closed:
                task = asyncio.get_running_loop().create_task(self._tell(key, seconds))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

        return tell

    def start(self) -> None:
        """Look at what other processes open from now on, if there is a breaker that wants to know."""
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        if not self._known or self._closed:
            return
        following, loop = self._following, asyncio.get_running_loop()
        # That of another loop went with it; one that an exception of the event sink has ended begins again.
        if following is None or following.done() or following.get_loop() is not loop:
            self._following = loop.create_task(self._follow())

    async def aclose(self) -> None:
        """Follow and tell no more."""
        self._closed = True
        loop = asyncio.get_running_loop()
        tasks = {task for task in (*self._telling, self._following) if task and task.get_loop() is loop}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._following = None

    async def _tell(self, key: str, seconds: float) -> None:
        lasts = max(1, int((seconds - _EARLIER) * 1000))
        try:
            await self._call(key, b"SET", key.encode(), b"1", b"PX", b"%d" % lasts)
        except StoreUnavailable:
            return  # the store has told of itself; this process knows already

    async def _follow(self) -> None:
        while True:
            await self._clock.sleep(INTERVAL)
            keys = {key for key, _ in self._known.values()}
            await asyncio.gather(*map(self._look, keys))

    async def _look(self, key: str) -> None:
        try:
            left = await self._call(key, b"PTTL", key.encode())
        except StoreUnavailable:
            return
        if not isinstance(left, int) or left <= 0:
            return
        now = self._clock.monotonic()
        until = now + left / 1000 + _EARLIER
        told = None
        for breaker, (known, opened) in [*self._known.items()]:
            if known == key and breaker.state(now) != "open":
                breaker.open_until(until, now)
                told = opened
        if told is not None:
            told(until - now)
