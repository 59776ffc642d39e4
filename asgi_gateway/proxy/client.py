"""The client's side of an exchange: its upload, and whether it is still there.

A client who leaves is noticed by listening to `receive`: inside the upload by the upload itself,
afterwards by a task. Our own server offers a callback, which an upload that waits for the service needs
too. Either is begun only for an exchange older than `WATCH_AFTER`, so that a short exchange costs
neither a task nor a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from asgi_gateway.context import ON_DISCONNECT, OnDisconnect
from asgi_gateway.errors import ClientDisconnected
from asgi_gateway.proxy.headers import Ended
from asgi_gateway.proxy.transport import MalformedRequest
from asgi_gateway.types import Receive, Scope

WATCH_AFTER: Final = 0.05
"""Seconds after which an exchange begins to watch for its client leaving."""

MAX_DIGITS: Final = 19
"""Of a Content-Length: more than anybody sends, and all that others can hold in 64 bits."""


class Client:
    """One client, for the length of one exchange.

    Nothing but one of these calls `receive` at a time: `upload`, the iterator that it returns, or
    the watcher that follows them.
    """

    # The defaults stand on the class, so that making one costs next to nothing.
    answered: bool = False
    watching: bool = False
    _watcher: asyncio.Task[None] | None = None
    _forget: Callable[[], None] | None = None
    _left: bool = False
    _old: bool = False
    _uploaded: bool = False

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self._on_disconnect: OnDisconnect | None = scope.get(ON_DISCONNECT)
        self._task = task = asyncio.current_task()
        self._cancelling = task.cancelling() if task is not None else 0

    async def upload(
        self, scope: Scope, ended: Ended
    ) -> tuple[bytes | AsyncIterator[bytes] | None, int | None]:
        """The request's body as the transport wants it, and its declared length."""
        chunked = b"transfer-encoding" in ended
        length: int | None = None
        if b"content-length" in ended:
            length = _declared_length(ended[b"content-length"])
            if chunked:
                raise MalformedRequest("it has both a Content-Length and a Transfer-Encoding")
        elif not chunked and scope.get("http_version", "1.1") in ("1.0", "1.1"):
            self.upload_ended()
            return None, None
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        data: bytes = message.get("body", b"")
        # Some servers say only by another, empty message that a body is over; its length says it before.
        if message.get("more_body") and len(data) != length:
            return _Upload(self, data, length), length
        self.upload_ended()
        return (data if data or chunked or length is not None else None), None

    # Watching

    def upload_ended(self) -> None:
        """From now on it is for the watcher to listen, once there is need for one."""
        self._uploaded = True
        if self._old and not self.watching:
            self._watch()

    def __call__(self) -> None:
        """The exchange has lasted `WATCH_AFTER`."""
        self._old = True
        if self._uploaded or self._on_disconnect is not None:
            self._watch()

    def _watch(self) -> None:
        self.watching = True
        if self._on_disconnect is not None:
            self._forget = self._on_disconnect(self._gone)
        else:
            self._watcher = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self._gone()

    def _gone(self) -> None:
        if not self.answered and self._task is not None:
            self._left = True
            self._task.cancel()

    def left(self) -> bool:
        """Whether it was the watcher that cancelled this exchange; if so the cancellation is undone."""
        return self._left and self._task is not None and self._task.uncancel() <= self._cancelling

    async def stop_watching(self) -> None:
        """To be awaited where it is `watching`."""
        if self._forget is not None:
            self._forget()
        watcher = self._watcher
        if watcher is None:
            return
        watcher.cancel()
        await asyncio.wait([watcher])
        if not watcher.cancelled():
            watcher.result()


class _Upload:
    """The upload as it comes in; one that does not keep to its length counts as broken off."""

    def __init__(self, client: Client, first: bytes, length: int | None) -> None:
        self._client = client
        self._first: bytes | None = first
        self._length = length
        self._received = len(first)
        self._more = True

    def __aiter__(self) -> _Upload:
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, None
        if first is not None:
            return first
        if not self._more:
            self._client.upload_ended()
            raise StopAsyncIteration
        message = await self._client.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        data: bytes = message.get("body", b"")
        self._received += len(data)
        self._more = message.get("more_body", False)
        length = self._length
        if length is not None and (self._received > length or (self._received < length and not self._more)):
            raise ClientDisconnected
        return data


def _declared_length(values: list[bytes]) -> int:
    value = values[0]
    if not value.isdigit() or len(value) > MAX_DIGITS or (len(values) > 1 and len(set(values)) > 1):
        raise MalformedRequest("its Content-Length is not one number")
    return int(value)
