"""Fail fast while a service is failing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.retry_after import retry_after_header
from asgi_gateway.context import EXCHANGE, Exchange, join_exchange
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.events import CircuitClosed, CircuitHalfOpened, CircuitOpened
from asgi_gateway.options import validated
from asgi_gateway.policies.circuit_breaker import BreakerState, CircuitBreaker, Permit, Rejected
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime, ServiceStatus
from asgi_gateway.types import ASGIApp, Message, PositiveSeconds, Receive, Scope, Send, StatusSet

CIRCUIT_OPEN: Final = Failure("circuit_open", "gateway")


class CircuitBreakerMiddleware:
    """Answer 503 at once, in place of the inner app, after it has failed too often in a row.

    A failure is a status in `failure_statuses`, a failure of the service that the exchange knows of (no
    connection, no answer in time), an exception, or an answer that breaks off. A client that left and a
    refusal of the gateway's own are neither success nor failure. After `break_duration` seconds exactly
    `probes` requests are let through; if they succeed the circuit closes.

        CircuitBreakerMiddleware(app, failure_threshold=5, break_duration=30)
    """

    @validated
    def __init__(
        self,
        app: ASGIApp,
        *,
        failure_threshold: Annotated[
            int, Field(ge=1, description="Failures in a row that open the circuit.")
        ] = 5,
        break_duration: Annotated[PositiveSeconds, Field(description="How long it stays open.")] = 60.0,
        probes: Annotated[
            int, Field(ge=1, description="Requests let through when that time is over; all must succeed.")
        ] = 1,
        failure_statuses: Annotated[
            StatusSet, Field(description="Statuses that count as failures.")
        ] = frozenset(range(500, 600)),
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        self.policy = CircuitBreaker(failure_threshold, break_duration, probes)
        self._failure_statuses = failure_statuses
        self._runtime = runtime = runtime or Runtime()
        self._clock = runtime.clock
        if runtime.service is not None:
            status = runtime.services.setdefault(runtime.service, ServiceStatus(runtime.service))
            status.breakers.append(self.policy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        policy = self.policy
        permit = policy.untroubled
        if permit is None:
            admission = policy.acquire(self._clock.monotonic())
            exchange.breaker_state = admission.state
            if isinstance(admission, Rejected):
                await _refusal(admission)(scope, receive, send)
                return
            permit = admission
            self._announce(permit.transition)
        else:
            exchange.breaker_state = "closed"
        begun: bool | None = None  # True once a good response streams, False once there is nothing to learn

        def observing(message: Message) -> Awaitable[None]:
            nonlocal begun
            if begun is None:
                begun = self._begins(message, exchange, permit)
            return send(message)

        try:
            inner = self.app(scope, receive, observing)
            del scope
            await inner
            if begun and permit is not policy.untroubled and exchange.failure is None:
                policy.completed(permit)
        except BaseException as error:
            self._breaks(error, exchange, permit, begun)
            raise
        finally:
            if permit.state != "closed":  # a closed breaker keeps no account of its permits
                policy.release(permit)

    def _begins(self, message: Message, exchange: Exchange, permit: Permit) -> bool | None:
        """Report how an answer begins, None where it does not yet.

        True where a good one begins that may still break off, False where nothing more is to be learnt.
        """
        streams: bool = message["type"] == "http.response.start"
        status = message["status"] if streams else _handshake_status(message)
        if status is None:
            return None
        policy = self.policy
        failure = exchange.failure
        if failure is None and status not in self._failure_statuses:
            if permit is not policy.untroubled:
                self._announce(policy.succeeded(permit, self._clock.monotonic()))
            return streams
        if failure is None or failure.source == "upstream":
            self._announce(policy.failed(permit, self._clock.monotonic()))
        return False

    def _breaks(self, error: BaseException, exchange: Exchange, permit: Permit, begun: bool | None) -> None:  # noqa: FBT001 - not a switch
        """Report what ended the call, unless there was nothing to learn any more."""
        if isinstance(error, asyncio.CancelledError):
            # A time limit further out says so on the exchange before it cancels; nobody else does.
            failure = exchange.failure
            failed = begun is None and failure is not None and failure.source == "upstream"
        else:
            failed = begun is not False and isinstance(error, Exception) and _is_services(error, exchange)
        if failed:
            report = self.policy.broken if begun else self.policy.failed
            self._announce(report(permit, self._clock.monotonic()))

    def _announce(self, transition: BreakerState | None) -> None:
        if transition is None:
            return
        service = self._runtime.service
        if transition == "open":
            self._runtime.emit(CircuitOpened(service, self.policy.break_duration))
        elif transition == "half_open":
            self._runtime.emit(CircuitHalfOpened(service))
        else:
            self._runtime.emit(CircuitClosed(service))


def _handshake_status(message: Message) -> int | None:
    """The status that a message answers a WebSocket's handshake with, None where it does not."""
    kind = message["type"]
    if kind == "websocket.http.response.start":
        status: int = message["status"]
        return status
    if kind == "websocket.accept":
        return 101
    return 403 if kind == "websocket.close" else None


def _is_services(error: Exception, exchange: Exchange) -> bool:
    failure = error.failure if isinstance(error, ResponseAborted) else exchange.failure
    if failure is not None:
        return failure.source == "upstream"
    return not isinstance(error, ClientDisconnected)


def _refusal(rejected: Rejected) -> Problem:
    return Problem(
        503,
        CIRCUIT_OPEN,
        "The service has failed repeatedly and is not called for a while.",
        headers=[retry_after_header(rejected.retry_after)],
    )
