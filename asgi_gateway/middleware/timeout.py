"""Bound the time until an answer begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.context import DEADLINE, EXCHANGE, GONE, Exchange, join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.options import validated
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.timers import EqualTimers
from asgi_gateway.types import ASGIApp, Message, PositiveSeconds, Receive, Scope, Send, mypyc_attr

TIMED_OUT: Final = Problem(
    504, Failure("timeout", "upstream", request_sent=True), "No answer began within the time allowed."
)


@mypyc_attr(allow_interpreted_subclasses=True)
class TimeoutMiddleware:
    """Answer 504 where no response has begun in `total` seconds, retries and their waiting included.

    The deadline is told to inner layers in scope, and an earlier one set further out is kept. Once the
    response has begun it may stream for as long as it likes.

        TimeoutMiddleware(app, total=20)
    """

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
        self.app = direct(app)
        self.total = total
        self._timers = EqualTimers((runtime or Runtime()).clock, total)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        limit = _Limit(scope, exchange, send, self._timers)
        due = self._timers.start(limit)
        outer: float | None = scope.get(DEADLINE)  # whoever set it enforces it
        deadline = due if outer is None or outer > due else outer
        try:
            inner = self.app({**scope, DEADLINE: deadline}, receive, limit.send)
            scope = GONE  # the limit has it, for as long as it may be needed
            await inner
        except asyncio.CancelledError:
            if not limit.alone():
                raise
        finally:
            if limit.scope is not None:
                limit.close()
        if limit.expired and limit.scope is not None:
            await TIMED_OUT(limit.scope, receive, send)


validated(TimeoutMiddleware)


class _Limit:
    """Cancels the task it was made in when its time is up, with the care of `asyncio.timeout`.

    It differs in telling the exchange why, before inner layers see the cancellation. It stands before
    ``send`` and is lifted once an answer begins: from then on it holds nothing but that.
    """

    __slots__ = ("_cancelling", "_exchange", "_send", "_task", "_timers", "expired", "scope")

    def __init__(self, scope: Scope, exchange: Exchange, send: Send, timers: EqualTimers) -> None:
        self.scope: Scope | None = scope
        """Of the request, to answer it; None once that is no longer ours to do."""
        self.expired = False
        self._exchange = exchange
        self._send = send
        self._timers = timers
        self._task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment] # in a coroutine
        self._cancelling = self._task.cancelling()

    def __call__(self) -> None:
        self.expired = True
        self._exchange.failure = TIMED_OUT.failure
        self._task.cancel()

    def send(self, message: Message) -> Awaitable[None]:
        if self.scope is not None:
            if self.expired:
                return _dropped()
            if message["type"] == "http.response.start":
                self.scope = None
                self._timers.cancel(self)
        return self._send(message)

    def alone(self) -> bool:
        """Whether nobody but this limit cancelled the task."""
        return self.expired and self._task.cancelling() <= self._cancelling + 1

    def close(self) -> None:
        """End a limit that was not lifted."""
        if self.expired:
            self._task.uncancel()
        else:
            self._timers.cancel(self)


async def _dropped() -> None:
    """What an application sends while it is being cancelled, after its time was up."""
