"""Try again when a service fails.

The middleware and the gate of an attempt are one piece: the gate sees the answer begin, or the time of the
attempt end, and the middleware decides what follows. Most of the rest are the options and their descriptions.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Final, Literal, get_args

from pydantic import AfterValidator, Field

from asgi_gateway.asgi.attempt import Discarded, Gate, refuse_lost_cancellation, settled
from asgi_gateway.asgi.backing_off import backed_off
from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.headers import get_header
from asgi_gateway.asgi.replay import ReplayableBody, declared_length
from asgi_gateway.asgi.retry_after import parse_retry_after
from asgi_gateway.context import ATTEMPT, DEADLINE, EXCHANGE, GONE, RETRY_BUDGET, Exchange, join_exchange
from asgi_gateway.errors import CLIENT_LEFT, Failure
from asgi_gateway.options import validated
from asgi_gateway.policies.backoff import DEFAULT_BACKOFF, Backoff
from asgi_gateway.policies.retry import IDEMPOTENT_METHODS, NoRetry, RetryPolicy
from asgi_gateway.policies.retry_budget import DEFAULT_BUDGET, Budget
from asgi_gateway.problem import Problem, circuit_open
from asgi_gateway.runtime import Runtime
from asgi_gateway.timers import EqualTimers
from asgi_gateway.types import (
    ASGIApp,
    Message,
    MethodSet,
    PositiveSeconds,
    Receive,
    Scope,
    Seconds,
    Send,
    Size,
    StatusSet,
    mypyc_attr,
)

TIMED_OUT: Final = Problem(
    504, Failure("timeout", "upstream", request_sent=True), "No answer began within the time of one attempt."
)


_TRY_LATER: Final = frozenset({408, 425, 429})
"""Below 500, the statuses that ask for the same request once more (RFC 9110, RFC 8470, RFC 6585)."""


def _retryable(statuses: frozenset[int]) -> frozenset[int]:
    wrong = sorted(status for status in statuses - _TRY_LATER if status < 500)
    if wrong:
        raise ValueError(f"only 408, 425, 429 and statuses of 500 and above are retried, not {wrong[0]}")
    return statuses


@mypyc_attr(allow_interpreted_subclasses=True)
class RetryMiddleware:
    """Repeat a request that the service failed, before the client has seen anything of it.

    The decision falls when the answer begins: an answer that is retried is held back and its attempt
    unwound at once, any other is passed on and streams untouched. A refusal by the gateway itself is
    never retried, nor anything past the deadline in scope. The last answer goes to the client as it is.
    Retries of a service are at most a part of its requests, by its `budget`.

        RetryMiddleware(app, attempts=3, backoff=Backoff(initial=0.5))
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        attempts: Annotated[
            int, Field(ge=1, le=20, description="How often a request is tried, the first attempt included.")
        ] = 4,
        backoff: Annotated[
            Backoff,
            Field(description="How long to wait between attempts: kind, initial, factor, max, jitter."),
        ] = DEFAULT_BACKOFF,
        methods: Annotated[
            MethodSet,
            Field(
                description="Methods that are retried. A connection that could not be made is for any method."
            ),
        ] = IDEMPOTENT_METHODS,
        statuses: Annotated[
            StatusSet,
            AfterValidator(_retryable),
            Field(description="Statuses that are retried: 500 and above, and 408, 425 and 429 if listed."),
        ] = frozenset({500, 502, 503, 504}),
        max_body: Annotated[
            Size, Field(description="Request bodies up to this size are kept for another attempt, in bytes.")
        ] = 2**20,
        max_retry_after: Annotated[
            Seconds,
            Field(description="A service that asks by Retry-After for a longer wait is not tried again."),
        ] = 30.0,
        per_attempt_timeout: Annotated[
            PositiveSeconds | None,
            Field(description="Until the answer of one attempt begins; null leaves it to the service's own."),
        ] = None,
        idempotency_key: Annotated[
            bool, Field(description="Retry requests with an Idempotency-Key too, whatever their method.")
        ] = False,
        budget: Annotated[
            Budget | Literal["off"],
            Field(
                description="How many retries the service is given: ratio, window, min_per_second; or off."
            ),
        ] = DEFAULT_BUDGET,
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        self.policy = RetryPolicy(
            attempts=attempts,
            backoff=backoff,
            methods=methods,
            statuses=statuses,
            max_retry_after=max_retry_after,
            idempotency_key=idempotency_key,
        )
        self._max_body = max_body
        self._runtime = runtime = runtime or Runtime()
        self._now = runtime.clock.monotonic
        self._status = runtime.service_status
        self._budget = None if budget == "off" else self._status.retry_budget(budget)
        self._timers = None
        if per_attempt_timeout is not None:
            self._timers = EqualTimers(runtime.clock, per_attempt_timeout)
        self._retries = runtime.counter("retries_total")
        self._skipped = {
            reason: runtime.counter("retry_skipped_total", reason=reason) for reason in get_args(NoRetry)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        self._count(scope, exchange)
        body = self._kept_body(scope, receive)
        task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment] # in a coroutine
        attempt = 1
        delay = 0.0
        outer = exchange.outer
        while True:
            cancelling = task.cancelling()
            gate = _RetryGate(self, scope, exchange, body, send, attempt, delay, self._timers)
            inner: Scope = {
                **scope,
                ATTEMPT: exchange.attempts,
                RETRY_BUDGET: self._budget,
                "headers": [*scope["headers"]],
            }
            try:
                made = self.app(inner, body.reader() if body else receive, gate.send)
                scope = inner = GONE  # only the gate keeps the scope, until an answer begins
                await made
            except BaseException as error:
                if not gate.unwound(error, task, cancelling):
                    raise
            finally:
                gate.end(task, cancelling)
            if gate.expired:
                await gate.answer_timeout(receive)
            if not gate.discarded:
                return
            refuse_lost_cancellation(task, cancelling)
            body = body or ReplayableBody(receive, 0, empty=True)
            delay = gate.delay
            if not await self._back_off(gate, body, receive, send):
                return
            self._retries.add()
            scope = gate.scope
            attempt += 1
            exchange.attempts += 1
            exchange.begin_anew(outer)

    def _count(self, scope: Scope, exchange: Exchange) -> None:
        """Count a request and its first attempt, unless an outer layer has done so."""
        budget = self._budget
        if budget is not None and scope.get(RETRY_BUDGET) is not budget:
            budget.requested(self._now())
        if ATTEMPT not in scope:
            exchange.attempts += 1

    def _kept_body(self, scope: Scope, receive: Receive) -> ReplayableBody | None:
        length = declared_length(scope)
        if length == 0:
            return None
        fits = length is None or length <= self._max_body
        return ReplayableBody(receive, self._max_body if fits else 0)

    async def _back_off(self, gate: _RetryGate, body: ReplayableBody, receive: Receive, send: Send) -> bool:
        """Wait; False where there is no attempt after all, as the client left or the circuit has opened."""
        if not await backed_off(gate.delay, body, self._runtime.clock):
            gate.exchange.failure = CLIENT_LEFT
            return False
        open_for = self._status.open_for(self._now())
        if open_for:
            self._skipped["circuit_open"].add()
            await circuit_open(open_for)(gate.scope, receive, send)
        return not open_for

    def delay(self, gate: _RetryGate, start: Message) -> float | None:
        """Seconds until the attempt after the one whose answer begins so; None where there is none."""
        decision = self._decide(gate, start)
        if isinstance(decision, str):
            self._skipped[decision].add()
            return None
        return decision

    def _decide(self, gate: _RetryGate, start: Message) -> float | NoRetry:
        scope = gate.scope
        wanted = get_header(start.get("headers", ()), b"retry-after")
        deadline: float | None = scope.get(DEADLINE)
        now = self._now()
        decision = self.policy.decide(
            attempt=gate.attempt,
            method=scope["method"],
            status=start["status"],
            failure=gate.exchange.failure,
            retry_after=None if wanted is None else parse_retry_after(wanted, self._runtime.clock.wall()),
            time_left=None if deadline is None else deadline - now,
            random=self._runtime.random(),
            previous=gate.waited,
            keyed=self.policy.idempotency_key
            and get_header(scope["headers"], b"idempotency-key") is not None,
        )
        if isinstance(decision, str):
            return decision
        if gate.body is not None and not gate.body.replayable:
            return "body_too_large"
        if self._status.breaker_state(now) == "open":
            return "circuit_open"
        if self._budget is not None and not self._budget.spend(now):
            return "budget"
        return decision


validated(RetryMiddleware)


class _RetryGate(Gate):
    """Lets no answer through that is to be followed by another attempt, and bounds the wait for one."""

    __slots__ = ("_retry", "_task", "_timers", "attempt", "body", "delay", "exchange", "expired", "waited")

    def __init__(  # noqa: PLR0917 - one caller, on the way of every request
        self,
        retry: RetryMiddleware,
        scope: Scope,
        exchange: Exchange,
        body: ReplayableBody | None,
        send: Send,
        attempt: int,
        waited: float,
        timers: EqualTimers | None,
    ) -> None:
        super().__init__(scope, send)
        self._retry = retry
        self.exchange = exchange
        self.body = body
        self.attempt = attempt
        self.waited = waited
        """Seconds that were waited before this attempt."""
        self.delay = 0.0
        """Seconds to wait before the next attempt, where there is to be one."""
        self.expired = False
        """Whether no answer began in time."""
        self._timers = timers
        if timers is not None:
            self._task = asyncio.current_task()
            timers.start(self.expire)

    def expire(self) -> None:
        """The attempt has had its time: it is cancelled, and inner layers can see why."""
        self._timers = None
        self.expired = self.discarded = True
        self.exchange.failure = TIMED_OUT.failure
        self._task.cancel()  # type: ignore[union-attr] # started in a task

    def discards(self, start: Message) -> bool:
        status = start["status"]
        if status < 500 and self.exchange.failure is None and status not in self._retry.policy.statuses:
            return False
        delay = self._retry.delay(self, start)
        if delay is None:
            return False
        self.delay = delay
        self._stop_timer()  # it has answered, however long it takes to unwind
        return True

    def opens(self) -> None:
        self._stop_timer()
        if self.body is not None:
            self.body.release()

    def unwound(self, error: BaseException, task: asyncio.Task[object], cancelling: int) -> bool:
        """Whether what came out of the attempt is only its being unwound or cancelled by this gate."""
        if not isinstance(error, asyncio.CancelledError):
            return settled(error, self, task, cancelling)
        return self.expired and task.cancelling() <= cancelling + 1

    def end(self, task: asyncio.Task[object], cancelling: int) -> None:
        """The attempt is over: nothing cuts it any more, and a cancellation by this gate is taken back."""
        self._stop_timer()
        if self.expired and task.cancelling() > cancelling:
            task.uncancel()

    async def answer_timeout(self, receive: Receive) -> None:
        """Answer 504 in place of the attempt, unless another one follows."""
        self.discarded = False
        with suppress(Discarded):
            await TIMED_OUT(self.scope, receive, self.send)

    def _stop_timer(self) -> None:
        if self._timers is not None:
            self._timers.cancel(self.expire)
            self._timers = None
