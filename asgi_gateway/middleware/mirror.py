"""Send a copy of requests to another service, whose answers nobody sees."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.headers import replaced
from asgi_gateway.asgi.replay import declared_length
from asgi_gateway.asgi.targets import Target, target_app
from asgi_gateway.context import ATTEMPT, DEADLINE, EXCHANGE, ON_DISCONNECT, Exchange
from asgi_gateway.options import validated
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, PositiveSeconds, Receive, Scope, Send, Size

_LEFT_OUT: Final = (ATTEMPT, DEADLINE, ON_DISCONNECT)
"""What holds for the client's own request alone."""

_logger: Final = logging.getLogger("asgi_gateway.mirror")


class MirrorMiddleware:
    """Copy a share of the requests to another service and throw its answers away.

    The client's request is neither delayed nor changed. Its body is copied as the inner app reads it; the
    copy is sent when the body is complete, or at once where there is none. A copy has the header
    ``X-Gateway-Mirror: true`` and is sent once. One that would be too large or too many is left out.

        MirrorMiddleware(app, target=next_version, share=0.1)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        target: Annotated[Target, Field(description="The service that gets the copies.")],
        share: Annotated[float, Field(ge=0, le=1, description="The part of the requests, 0 to 1.")] = 1.0,
        max_body: Annotated[
            Size, Field(description="Requests with a larger body are not copied, in bytes.")
        ] = 2**20,
        max_in_flight: Annotated[
            int, Field(ge=1, description="Copies on their way at once; past that none is made.")
        ] = 100,
        timeout: Annotated[PositiveSeconds, Field(description="How long a copy may take in all.")] = 60.0,
        runtime: Runtime | None = None,
    ) -> None:
        self._runtime = runtime = runtime or Runtime()
        self.app = direct(app)
        self._target = target_app(target, runtime)
        self._share = share
        self._max_body = max_body
        self._max_in_flight = max_in_flight
        self._timeout = timeout
        self._in_flight: set[asyncio.Task[None]] = set()
        self._sent = runtime.counter("mirrored_total")
        self._failed = runtime.counter("mirror_failures_total")
        self._too_large = runtime.counter("mirror_skipped_total", reason="body_too_large")
        self._too_many = runtime.counter("mirror_skipped_total", reason="in_flight")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The same without a frame of its own; see `asgi_gateway.asgi.calls`."""
        kind = scope["type"]
        if kind != "http" or self._runtime.random() >= self._share:
            enter = self._until_the_end if kind == "lifespan" else self.app
            return enter(scope, receive, send)
        length = declared_length(scope)
        if length == 0:
            self.start(_copied(scope), b"")
        elif length is not None and length > self._max_body:
            self._too_large.add()
        else:
            receive = _Tee(self, _copied(scope), receive, self._max_body).receive
        return self.app(scope, receive, send)

    def start(self, scope: Scope, body: bytes) -> None:
        """Send a copy on its way, unless there are too many."""
        if len(self._in_flight) >= self._max_in_flight:
            self._too_many.add()
            return
        self._sent.add()
        task = asyncio.create_task(self._send(scope, body))
        for running in (self._in_flight, self._runtime.background):
            running.add(task)
            task.add_done_callback(running.discard)

    def too_large(self) -> None:
        """Count a request whose body turned out too large."""
        self._too_large.add()

    async def aclose(self) -> None:
        """Cancel the copies that are on their way."""
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _until_the_end(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            await self.aclose()

    async def _send(self, scope: Scope, body: bytes) -> None:
        exchange: Exchange = scope[EXCHANGE]
        sides = _Sides(body)
        try:
            async with self._runtime.clock.timeout(self._timeout):
                await self._target(scope, sides.receive, sides.send)
        except Exception as error:  # whatever goes wrong with a copy is nothing to the client
            self._failed.add()
            _logger.debug("a mirrored request failed", exc_info=error)
        else:
            if exchange.failure is not None:
                self._failed.add()


validated(MirrorMiddleware)


class _Tee:
    """Copies a body as it is read, and starts the copy of the request when it is complete."""

    __slots__ = ("_chunks", "_left", "_mirror", "_receive", "_scope")

    def __init__(self, mirror: MirrorMiddleware, scope: Scope, receive: Receive, max_body: int) -> None:
        self._mirror = mirror
        self._scope: Scope | None = scope
        self._receive = receive
        self._chunks: list[bytes] = []
        self._left = max_body

    async def receive(self) -> Message:
        message = await self._receive()
        scope = self._scope
        if scope is None:
            return message
        if message["type"] != "http.request":
            self._end()
            return message
        chunk = message.get("body", b"")
        self._left -= len(chunk)
        if self._left < 0:
            self._mirror.too_large()
            self._end()
            return message
        self._chunks.append(chunk)
        if not message.get("more_body"):
            body = b"".join(self._chunks)
            self._end()
            self._mirror.start(scope, body)
        return message

    def _end(self) -> None:
        self._scope = None
        self._chunks.clear()


class _Sides:
    """The client of a copy: it has sent its body, takes every answer, and leaves when that is complete."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self._complete = asyncio.Event()

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self._complete.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._complete.set()


def _copied(scope: Scope) -> Scope:
    """The scope of a copy: with an exchange of its own and without what is the client's."""
    copy = {name: value for name, value in scope.items() if name not in _LEFT_OUT}
    copy["headers"] = replaced(scope["headers"], b"x-gateway-mirror", b"true")
    copy["extensions"] = {}
    exchange: Exchange | None = scope.get(EXCHANGE)
    copy[EXCHANGE] = Exchange(scope["headers"] if exchange is None else exchange.received)
    return copy
