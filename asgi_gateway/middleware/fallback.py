"""Try other services when one fails."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.attempt import Gate, refuse_lost_cancellation, settled
from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.replay import ReplayableBody, declared_length
from asgi_gateway.asgi.targets import Target, target_app
from asgi_gateway.context import ATTEMPT, DEADLINE, EXCHANGE, Exchange, join_exchange
from asgi_gateway.errors import ClientDisconnected, Failure, FailureKind, ResponseAborted
from asgi_gateway.options import validated
from asgi_gateway.policies.fallback import DEFAULT_FAILURES, FallbackPolicy
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send, Size, StatusSet

INTERNAL: Final = Failure("internal", "gateway")

_logger: Final = logging.getLogger("asgi_gateway.fallback")


class FallbackMiddleware:
    """Ask other services, one after another, when one fails before its answer begins.

    Each is asked at most once and with the same request. An answer that has begun is the answer: what
    breaks later is passed on as broken. The last answer goes to the client as it is.

        FallbackMiddleware(app, targets=[other, last_resort])
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        targets: Annotated[
            tuple[Target, ...], Field(min_length=1, description="The services to try, in this order.")
        ],
        statuses: Annotated[
            StatusSet, Field(description="Statuses of a service at which the next is tried.")
        ] = frozenset({500, 502, 503, 504}),
        failures: Annotated[
            frozenset[FailureKind], Field(description="Failures at which the next is tried.")
        ] = DEFAULT_FAILURES,
        max_body: Annotated[
            Size, Field(description="Request bodies up to this size are kept for the next, in bytes.")
        ] = 2**20,
        runtime: Runtime | None = None,
    ) -> None:
        runtime = runtime or Runtime()
        self.app = direct(app)
        self.policy = FallbackPolicy(statuses, failures)
        self._apps = (self.app, *(target_app(target, runtime) for target in targets))
        self._max_body = max_body
        self._clock = runtime.clock
        self._fallbacks = runtime.counter("fallbacks_total")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        length = declared_length(scope)
        body: ReplayableBody | None = None
        if length != 0:
            fits = length is None or length <= self._max_body
            body = ReplayableBody(receive, self._max_body if fits else 0)
        task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment] # in a coroutine
        last = len(self._apps) - 1
        outer = exchange.outer
        for number, app in enumerate(self._apps):
            cancelling = task.cancelling()
            gate = _FallbackGate(self, scope, exchange, body, send, last=number == last)
            inner = {**scope, "headers": [*scope["headers"]]} if number < last else scope
            try:
                made = app(inner, body.reader() if body else receive, gate.send)
                del scope, inner  # only the gate keeps the scope, until an answer begins
                await made
            except BaseException as error:
                if not settled(error, gate, task, cancelling) and not gate.survives(error):
                    raise
            if not gate.discarded:
                return
            refuse_lost_cancellation(task, cancelling)
            body = body or ReplayableBody(receive, 0, empty=True)
            scope = {**gate.scope}
            scope.pop(ATTEMPT, None)  # the next one counts its own
            self._fallbacks.add()
            exchange.fallbacks += (exchange.service or "",)
            exchange.tried = ()
            exchange.begin_anew(outer)

    def time_left(self, scope: Scope) -> float | None:
        """Seconds until the deadline in scope; None where there is none."""
        deadline: float | None = scope.get(DEADLINE)
        return None if deadline is None else deadline - self._clock.monotonic()


validated(FallbackMiddleware)


class _FallbackGate(Gate):
    """Lets no answer through after which another service is tried."""

    __slots__ = ("_body", "_exchange", "_fallback", "_last")

    def __init__(
        self,
        fallback: FallbackMiddleware,
        scope: Scope,
        exchange: Exchange,
        body: ReplayableBody | None,
        send: Send,
        *,
        last: bool,
    ) -> None:
        super().__init__(scope, send)
        self._fallback = fallback
        self._exchange = exchange
        self._body = body
        self._last = last

    def discards(self, start: Message) -> bool:
        return self._falls_back(start["status"], self._exchange.failure)

    def opens(self) -> None:
        if self._body is not None:
            self._body.release()

    def survives(self, error: BaseException) -> bool:
        """Whether an exception in place of an answer is a failure after which another is tried."""
        if not self.scope or not isinstance(error, Exception) or isinstance(error, ClientDisconnected):
            return False
        aborted = isinstance(error, ResponseAborted)
        failure = error.failure if isinstance(error, ResponseAborted) else self._exchange.failure or INTERNAL
        self.discarded = self._falls_back(500, failure)
        if self.discarded and not aborted:
            _logger.error("an exception came out of a service, another is tried", exc_info=error)
        return self.discarded

    def _falls_back(self, status: int, failure: Failure | None) -> bool:
        if self._last or (self._body is not None and not self._body.replayable):
            return False
        return self._fallback.policy.falls_back(status, failure, self._fallback.time_left(self.scope))
