"""Bound the time until an answer begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.clock import EqualTimers
from asgi_gateway.context import DEADLINE, Exchange, join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.options import validated
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, PositiveSeconds, Receive, Scope, Send

TIMED_OUT: Final = Problem(
    504, Failure("timeout", "upstream", request_sent=True), "No answer began within the time allowed."
)


class TimeoutMiddleware:
    """Answer 504 where no response has begun in `total` seconds, retries and their waiting included.

    The deadline is told to inner layers in scope, and an earlier one set further out is kept. Once the
    response has begun it may stream for as long as it likes.

        TimeoutMiddleware(app, total=20)
    """

    @validated
    def __init__(
        self,
        app: ASGIApp,
        *,
        total: Annotated[
            PositiveSeconds,
            Field(description="Until the response begins, retries and their waiting included."),
        ] = 60.0,
        runtime: Runtime | None = None,
    ) -> None:
        self.app = app
        self.total = total
        self._clock = (runtime or Runtime()).clock
        self._timers = EqualTimers(self._clock, total)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope, exchange = join_exchange(scope)
        ours = self._clock.monotonic() + self.total
        outer: float = scope.get(DEADLINE, ours)  # whoever set it enforces it
        limit = _Limit(exchange)
        self._timers.start(limit)

        def until_begun(message: Message) -> Awaitable[None]:
            if not limit.lifted:
                if limit.expired:
                    return _dropped()
                if message["type"] == "http.response.start":
                    limit.lifted = True
                    self._timers.cancel(limit)
            return send(message)

        try:
            await self.app({**scope, DEADLINE: min(ours, outer)}, receive, until_begun)
        except asyncio.CancelledError:
            if not limit.alone():
                raise
        finally:
            self._timers.cancel(limit)
            limit.close()
        if limit.expired:
            await TIMED_OUT(scope, receive, send)


class _Limit:
    """Cancels the task it was made in when its time is up, with the care of `asyncio.timeout`.

    It differs in telling the exchange why, before inner layers see the cancellation.
    """

    __slots__ = ("_cancelling", "_exchange", "_task", "expired", "lifted")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment] # in a coroutine
        self._cancelling = self._task.cancelling()
        self.expired = False
        self.lifted = False

    def __call__(self) -> None:
        self.expired = True
        self._exchange.failure = TIMED_OUT.failure
        self._task.cancel()

    def alone(self) -> bool:
        """Whether nobody but this limit cancelled the task."""
        return self.expired and self._task.cancelling() <= self._cancelling + 1

    def close(self) -> None:
        if self.expired:
            self._task.uncancel()


async def _dropped() -> None:
    """What an application sends while it is being cancelled, after its time was up."""
