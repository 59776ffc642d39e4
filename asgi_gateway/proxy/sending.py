"""A request on its way through httpx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx

from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import Failure
from asgi_gateway.proxy.transport import Timeouts, UpstreamError

PIECE: Final = 64 * 1024
"""Bytes of an upload that the service has `timeouts.idle` to take."""


class Sending(httpx.AsyncByteStream):
    """Its body, how far it has come, and how long the service may take now.

    Whoever makes it is the task that sends, and is cancelled when the time is over.
    """

    def __init__(self, body: bytes | AsyncIterator[bytes] | None, timeouts: Timeouts, clock: Clock) -> None:
        self.begun = False
        self._body = body
        self._timeouts = timeouts
        self._clock = clock
        self._streamed = False
        self._late = False
        self._timer: Timer | None = None
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        if isinstance(self._body, bytes):
            for piece in _pieces(self._body):
                self.expect_within(self._timeouts.idle)
                yield piece
        elif self._body is not None:
            self._streamed = True
            async for chunk in self._body:
                for piece in _pieces(chunk):
                    self.expect_within(self._timeouts.idle)
                    yield piece
                self.stop()

    async def trace(self, event: str, _: dict[str, Any]) -> None:
        """Called by httpcore as it goes on.

        It begins anew where an HTTP/2 service closes its connection and says that it left the request
        out (RFC 9113 section 6.8). An upload is gone by then, so not even the head may go out again.
        """
        if event.endswith("send_request_headers.started"):
            self.stop()
            if self._streamed:
                raise UpstreamError(Failure("reset", "upstream"), "the service closed the connection unused")
            self.begun = True
        elif event.endswith("receive_response_headers.started"):
            self.expect_within(self._timeouts.first_byte)

    def expect_within(self, seconds: float) -> None:
        """The service has this long, from now on, for what it is to do."""
        self.stop()
        self._timer = self._clock.call_later(seconds, self._too_late)

    def stop(self) -> None:
        """It need do nothing for now."""
        if self._timer is not None:
            self._timer.cancel()

    def _too_late(self) -> None:
        if self._task is not None:
            self._late = True
            self._task.cancel()

    def was_late(self) -> bool:
        """Whether that is why the task was cancelled; if so the cancellation is undone."""
        self.stop()
        return self._late and self._task is not None and self._task.uncancel() <= self._cancelling


def _pieces(data: bytes) -> Iterator[bytes]:
    """What is sent under one limit of time."""
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]
