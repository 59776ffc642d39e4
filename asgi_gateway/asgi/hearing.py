"""What the client says, for several attempts that run at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asgi_gateway.context import OnDisconnect
from asgi_gateway.types import Message, Receive


class Hearing:
    """The ``receive`` of a request with more than one attempt: each of them hears the client leave.

    ASGI servers need not serve two calls of ``receive`` at once, and one that is cancelled may take a message
    with it. So what comes after the body is waited for by one task, from when somebody first asks for it;
    who made the hearing ends the `task`. A server that calls back instead keeps one callback alone: that is
    the hearing's, and those of the attempts are kept here.
    """

    __slots__ = ("_callbacks", "_forget", "_on_disconnect", "_over", "_receive", "task")

    def __init__(self, receive: Receive, on_disconnect: OnDisconnect | None = None) -> None:
        self._receive = receive
        self._on_disconnect = on_disconnect
        self._callbacks: list[Callable[[], None]] = []
        self._forget: Callable[[], None] | None = None
        self._over = False
        self.task: asyncio.Task[Message] | None = None
        """Listens, from when an attempt first does after the body."""

    async def __call__(self) -> Message:
        """The next message: of the body, which one attempt alone reads, then what comes after it."""
        if self._over:
            return await self.after_body()
        if self.task is not None:  # another attempt listens already, so there is no body
            self._over = True
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self._receive()
        self._over = message["type"] != "http.request" or not message.get("more_body")
        return message

    async def after_body(self) -> Message:
        """What comes after the body: that the client left."""
        if self.task is None:
            self.task = asyncio.ensure_future(self._next())
        await asyncio.wait([self.task])
        return self.task.result()

    @property
    def on_disconnect(self) -> OnDisconnect | None:
        """What the attempts register with in place of the server's own; None where that has none."""
        return None if self._on_disconnect is None else self._call_back

    def _call_back(self, callback: Callable[[], None]) -> Callable[[], None]:
        callbacks = self._callbacks
        callbacks.append(callback)
        if self._on_disconnect is not None:
            # Again for each, as it is the server that knows whether the client is gone already.
            self._forget = self._on_disconnect(self._left)

        def forget() -> None:
            if callback in callbacks:
                callbacks.remove(callback)
            if not callbacks and self._forget is not None:
                self._forget()

        return forget

    def _left(self) -> None:
        told = [*self._callbacks]
        self._callbacks.clear()
        for callback in told:
            callback()

    async def _next(self) -> Message:
        """An empty body that nobody read may still lie before it."""
        while (message := await self._receive())["type"] == "http.request":
            pass
        return message
