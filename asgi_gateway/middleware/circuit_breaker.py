"""Fail fast while a service is failing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.retry_after import retry_after_header
from asgi_gateway.context import Exchange, join_exchange
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
        scope, exchange = join_exchange(scope)
        policy = self.policy
        admission = policy.acquire(self._clock.monotonic())
        exchange.breaker_state = admission.state
        if isinstance(admission, Rejected):
            await _refusal(admission)(scope, receive, send)
            return
        permit = admission
        self._announce(permit.transition)
        begun: bool | None = None  # True once a good response streams, False once there is nothing to learn

        def observing(message: Message) -> Awaitable[None]:
            nonlocal begun
            if begun is None and (status := _status(message)) is not None:
                good = self._judge(status, exchange, permit)
                begun = good and scope["type"] == "http"
            return send(message)

        try:
            await self.app(scope, receive, observing)
            if begun and exchange.failure is None:
                policy.completed(permit)
        except asyncio.CancelledError:
            # A time limit further out says so on the exchange before it cancels; nobody else does.
            if begun is None and exchange.failure is not None and exchange.failure.source == "upstream":
                self._announce(policy.failed(permit, self._clock.monotonic()))
            raise
        except Exception as error:
            if begun is not False and _is_services_doing(error, exchange):
                report = policy.broken if begun else policy.failed
                self._announce(report(permit, self._clock.monotonic()))
            raise
        finally:
            policy.release(permit)

    def _judge(self, status: int, exchange: Exchange, permit: Permit) -> bool:
        """Report how an answer begins; True where it is a success."""
        failure = exchange.failure
        now = self._clock.monotonic()
        if failure is None and status not in self._failure_statuses:
            self._announce(self.policy.succeeded(permit, now))
            return True
        if failure is None or failure.source == "upstream":
            self._announce(self.policy.failed(permit, now))
        return False

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


def _status(message: Message) -> int | None:
    """The status that a message answers with; None where it is not the answer's first."""
    kind = message["type"]
    if kind in ("http.response.start", "websocket.http.response.start"):
        status: int = message["status"]
        return status
    if kind == "websocket.accept":
        return 101
    return 403 if kind == "websocket.close" else None


def _is_services_doing(error: Exception, exchange: Exchange) -> bool:
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
