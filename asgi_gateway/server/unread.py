"""What was written for a client and waits to be taken: who waits for that, and how long it may take."""

from __future__ import annotations

import asyncio

from asgi_gateway.server.bounds import Bounds


class Unread:
    """The unread end of an answer, from when it is too long to go on writing, or nothing is to follow.

    A connection makes one when that first happens, which on most it never does. While it is watched, the
    client must take `bounds.write_minimum` of it in each `bounds.write_interval`, else the connection is cut:
    an answer that is not over holds on to much, a connection to the service among it.
    """

    __slots__ = ("_bounds", "_due", "_loop", "_paused", "_size", "_timer", "_transport", "_waiters")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, bounds: Bounds) -> None:
        self._transport = transport
        self._loop = loop
        self._bounds = bounds
        self._paused = False
        self._size = 0
        """How much it was when the interval began that ends when it is `_due`."""
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def pause(self) -> None:
        """It is too much to add to it."""
        self._paused = True
        self.watch()

    def resume(self) -> None:
        """It is little again, or nobody is there any more."""
        self._paused = False
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def taken(self) -> None:
        """Return when it is little again."""
        waiter = self._loop.create_future()
        self._waiters += (waiter,)
        await waiter

    def watch(self) -> None:
        """See to it from now on that the client takes of it."""
        interval = self._bounds.write_interval
        self._size = self._transport.get_write_buffer_size()
        self._due = self._loop.time() + interval
        if self._timer is None:
            self._timer = self._loop.call_later(interval, self._judge)

    def forget(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _judge(self) -> None:
        self._timer = None
        transport, left = self._transport, self._due - self._loop.time()
        size = transport.get_write_buffer_size()
        if left > 0:
            self._timer = self._loop.call_later(left, self._judge)
        elif size == 0 or not (self._paused or transport.is_closing()):
            return
        elif self._size - size < self._bounds.write_minimum:
            transport.abort()
        else:
            self.watch()
