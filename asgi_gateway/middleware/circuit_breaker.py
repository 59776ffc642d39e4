"""Fail fast while a service is failing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.fixed_answer import FixedAnswer
from asgi_gateway.asgi.shadow import Shadow
from asgi_gateway.asgi.targets import Target, target_app
from asgi_gateway.context import EXCHANGE, GONE, Exchange, join_exchange
from asgi_gateway.errors import ClientDisconnected, ResponseAborted
from asgi_gateway.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, EventSink
from asgi_gateway.options import validated
from asgi_gateway.policies.break_rules import BreakDurations, BreakRules
from asgi_gateway.policies.circuit_breaker import BreakerState, CircuitBreaker, Permit, Rejected
from asgi_gateway.problem import CIRCUIT_OPEN, circuit_open
from asgi_gateway.runtime import Runtime, ServiceStatus
from asgi_gateway.types import (
    ASGIApp,
    Message,
    Mode,
    PositiveSeconds,
    Ratio,
    Receive,
    Scope,
    Send,
    StatusSet,
    mypyc_attr,
)

_OVER: Final = -1.0
"""When an answer began of which there is nothing more to learn."""

_BODIES: Final = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})

_NUMBERS: Final[Mapping[str | None, int]] = MappingProxyType({"closed": 0, "open": 1, "half_open": 2})
"""What the gauge says for each state."""


@mypyc_attr(allow_interpreted_subclasses=True)
class CircuitBreakerMiddleware:
    """Answer 503 at once, in place of the inner app, after it has failed too often.

    A failure is a status in `failure_statuses`, a failure of the service that the exchange knows of (no
    connection, no answer in time), an exception, or an answer that breaks off. A client that left and a
    refusal of the gateway's own are neither success nor failure. After `break_duration` seconds exactly
    `probes` requests are let through; if they succeed the circuit closes.

        CircuitBreakerMiddleware(app, failure_threshold=5, break_duration=30)
        CircuitBreakerMiddleware(app, failure_threshold=None, failure_ratio=0.5, window=10)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        failure_threshold: Annotated[
            Annotated[int, Field(ge=1)] | None,
            Field(description="Failures in a row that open the circuit; null leaves that to the ratios."),
        ] = 5,
        failure_ratio: Annotated[
            Ratio | None, Field(description="Part of the calls in `window` that may not fail, such as 0.5.")
        ] = None,
        slow_call_ratio: Annotated[
            Ratio | None, Field(description="Part of the calls in `window` that may not be slow.")
        ] = None,
        slow_call_duration: Annotated[
            PositiveSeconds | None, Field(description="From when on an answer that has not begun is slow.")
        ] = None,
        window: Annotated[PositiveSeconds, Field(description="How far back the ratios look.")] = 30.0,
        minimum_calls: Annotated[
            int, Field(ge=1, description="Calls in `window` before a ratio is looked at.")
        ] = 20,
        break_duration: Annotated[PositiveSeconds, Field(description="How long it stays open.")] = 60.0,
        break_growth: Annotated[
            float,
            Field(ge=1, le=10, description="What it is multiplied by at each opening soon after the last."),
        ] = 1.0,
        max_break_duration: Annotated[
            PositiveSeconds, Field(description="The longest that growth makes it, jitter aside.")
        ] = 300.0,
        jitter: Annotated[
            float, Field(ge=0, lt=1, description="How far that time is moved at random, as a part of itself.")
        ] = 0.0,
        probes: Annotated[int, Field(ge=1, description="Requests let through when that time is over.")] = 1,
        probes_to_close: Annotated[
            Annotated[int, Field(ge=1)] | None,
            Field(description="How many of the probes must succeed to close the circuit; all by default."),
        ] = None,
        max_half_open: Annotated[
            PositiveSeconds | None,
            Field(
                description="How long probes that say nothing hold up others; `break_duration` by default."
            ),
        ] = None,
        failure_statuses: Annotated[
            StatusSet, Field(description="Statuses that count as failures.")
        ] = frozenset(range(500, 600)),
        fallback: Annotated[
            FixedAnswer | Target | None,
            Field(description="What answers while it is open: another service, or a fixed answer."),
        ] = None,
        shared: Annotated[
            bool, Field(description="Open it in every process that shares the gateway's state.")
        ] = False,
        mode: Mode = "enforce",
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        self.policy = CircuitBreaker(
            failure_threshold,
            BreakDurations(break_duration, break_growth, max_break_duration, jitter),
            probes,
            rules=BreakRules(failure_ratio, slow_call_ratio, slow_call_duration, window, minimum_calls),
            probes_to_close=probes_to_close,
            max_half_open=max_half_open,
        )
        self._failure_statuses = failure_statuses
        self._runtime = runtime = runtime or Runtime()
        self._clock = runtime.clock
        self._fallback = None if fallback is None else target_app(fallback, runtime)
        self._fixed = isinstance(fallback, FixedAnswer)
        self._shadow = Shadow("circuit_breaker", runtime) if mode == "shadow" else None
        self._rejected = runtime.counter("circuit_breaker_rejected_total")
        self._opened = _telling_of(runtime.emit, runtime.service)
        self._tell: Callable[[float | None], None] | None = None
        if shared and runtime.state is not None:
            name = runtime.shared_name("circuit_breaker")
            self._tell = runtime.state.breaker(name, self.policy, self._opened)
        status = runtime.service_status if self._shadow is None else ServiceStatus("")
        status.breakers.append(self.policy)
        runtime.gauge(
            "circuit_breaker_state",
            lambda: _NUMBERS[status.breaker_state(self._clock.monotonic())],
            mode="shadow" if self._shadow else None,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        policy = self.policy
        permit = policy.untroubled
        asked_at = 0.0  # of no matter where no slow calls are counted, as with such a permit
        if permit is None:
            asked_at = self._clock.monotonic()
            admission = policy.acquire(asked_at)
            exchange.breaker_state = admission.state
            if isinstance(admission, Rejected):
                await self._reject(admission, exchange)(scope, receive, send)
                return
            permit = admission
            self._announce(permit.transition)
        else:
            exchange.breaker_state = "closed"
        began_at: float | None = None  # when a good answer began that may still break off, else `_OVER`
        trailers = False

        def observing(message: Message) -> Awaitable[None]:
            nonlocal began_at, trailers
            if began_at is None:
                began_at = self._begins(message, exchange, permit, asked_at)
                trailers = bool(message.get("trailers"))
            elif began_at != _OVER and _is_last(message, trailers):
                began_at = self._ends(exchange, permit)
            return send(message)

        try:
            inner = self.app(scope, receive, observing)
            scope = GONE
            await inner
        except BaseException as error:
            self._breaks(error, exchange, permit, began_at, asked_at)
            raise
        finally:
            if permit.state != "closed":  # a closed breaker keeps no account of its permits
                policy.release(permit)

    def _reject(self, rejected: Rejected, exchange: Exchange) -> ASGIApp:
        """Who answers in place of the inner app."""
        if self._shadow is not None:
            self._shadow.would_reject(exchange)
            return self.app
        self._rejected.add()
        if self._fallback is None:
            return circuit_open(rejected.retry_after)
        if self._fixed:  # an answer of our own, which no retry further out should repeat
            exchange.failure = CIRCUIT_OPEN
        return self._fallback

    def _begins(self, message: Message, exchange: Exchange, permit: Permit, asked_at: float) -> float | None:
        """Report how an answer begins, None where it does not yet.

        The time where a good one begins that may still break off, `_OVER` where nothing more is to be learnt.
        """
        streams: bool = message["type"] == "http.response.start"
        status = message["status"] if streams else _handshake_status(message)
        if status is None:
            return None
        if self._tell is not None:
            self._tell(None)
        policy = self.policy
        failure = exchange.failure
        if failure is None and status not in self._failure_statuses:
            now = 0.0  # of no matter where no calls are counted
            if permit is not policy.untroubled:
                now = self._clock.monotonic()
                self._announce(policy.succeeded(permit, now, now - asked_at, self._runtime.random()))
            return now if streams else _OVER
        if failure is None or failure.source == "upstream":
            self._fail(permit, asked_at)
        return _OVER

    def _ends(self, exchange: Exchange, permit: Permit) -> float:
        """Report that a good answer is whole: what goes wrong from now on is none of its business."""
        if permit is not self.policy.untroubled and exchange.failure is None:
            self.policy.completed(permit)
        return _OVER

    def _breaks(
        self,
        error: BaseException,
        exchange: Exchange,
        permit: Permit,
        began_at: float | None,
        asked_at: float,
    ) -> None:
        """Report what ended the call, unless there was nothing to learn any more."""
        if isinstance(error, asyncio.CancelledError):
            # A time limit further out says so on the exchange before it cancels; nobody else does.
            failure = exchange.failure
            failed = began_at is None and failure is not None and failure.source == "upstream"
        else:
            failed = began_at != _OVER and isinstance(error, Exception) and _is_services(error, exchange)
        if not failed:
            return
        if began_at is None:
            self._fail(permit, asked_at)
        else:
            now, random = self._clock.monotonic(), self._runtime.random()
            self._announce(self.policy.broken(permit, now, began_at, random))

    def _fail(self, permit: Permit, asked_at: float) -> None:
        now = self._clock.monotonic()
        self._announce(self.policy.failed(permit, now, now - asked_at, self._runtime.random()))

    def _announce(self, transition: BreakerState | None) -> None:
        if transition is None:
            return
        if transition == "open":
            if self._tell is not None:
                self._tell(self.policy.break_duration)
            self._opened(self.policy.break_duration)
        elif transition == "half_open":
            self._runtime.emit(CircuitHalfOpened(self._runtime.service))
        else:
            self._runtime.emit(CircuitClosed(self._runtime.service))


validated(CircuitBreakerMiddleware)


def _telling_of(emit: EventSink, service: str | None) -> Callable[[float], None]:
    """Tells that a circuit has opened, for so many seconds, and keeps nothing of it alive."""
    return lambda seconds: emit(CircuitOpened(service, seconds))


def _handshake_status(message: Message) -> int | None:
    """The status that a message answers a WebSocket's handshake with, None where it does not."""
    kind = message["type"]
    if kind == "websocket.http.response.start":
        status: int = message["status"]
        return status
    if kind == "websocket.accept":
        return 101
    return 403 if kind == "websocket.close" else None


def _is_last(message: Message, trailers: bool) -> bool:  # noqa: FBT001 - for every piece of an answer
    """Whether it ends an answer, which has said whether it ends with trailers."""
    kind = message["type"]
    if kind in _BODIES:
        return not (trailers or message.get("more_body", False))
    return kind == "http.response.trailers" and not message.get("more_trailers", False)


def _is_services(error: Exception, exchange: Exchange) -> bool:
    failure = error.failure if isinstance(error, ResponseAborted) else exchange.failure
    if failure is not None:
        return failure.source == "upstream"
    return not isinstance(error, ClientDisconnected)
