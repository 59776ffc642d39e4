"""Try again when a service fails."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from asgi_gateway.asgi.attempt import Gate, refuse_lost_cancellation, settled
from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.headers import get_header
from asgi_gateway.asgi.replay import ReplayableBody, declared_length
from asgi_gateway.asgi.retry_after import parse_retry_after
from asgi_gateway.context import ATTEMPT, DEADLINE, EXCHANGE, Exchange, join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.options import validated
from asgi_gateway.policies.backoff import DEFAULT_BACKOFF, Backoff
from asgi_gateway.policies.retry import IDEMPOTENT_METHODS, RetryPolicy
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, MethodSet, Receive, Scope, Seconds, Send, Size, StatusSet

CLIENT_LEFT: Final = Failure("client_disconnected", "client")


def _server_errors(statuses: frozenset[int]) -> frozenset[int]:
    below = sorted(status for status in statuses if status < 500)
    if below:
        raise ValueError(f"only statuses of 500 and above are retried, not {below[0]}")
    return statuses


class RetryMiddleware:
    """Repeat a request that the service failed, before the client has seen anything of it.

    The decision falls when the answer begins: an answer that is retried is held back and its attempt
    unwound at once, any other is passed on and streams untouched. A refusal by the gateway itself is
    never retried, nor anything past the deadline in scope. The last answer goes to the client as it is.

        RetryMiddleware(app, attempts=3, backoff=Backoff(initial=0.5))
    """

    @validated
    def __init__(
        self,
        app: ASGIApp,
        *,
        attempts: Annotated[
            int, Field(ge=1, le=20, description="How often a request is tried, the first attempt included.")
        ] = 4,
        backoff: Annotated[
            Backoff, Field(description="How long to wait between attempts: initial, factor, max, jitter.")
        ] = DEFAULT_BACKOFF,
        methods: Annotated[
            MethodSet,
            Field(
                description="Methods that are retried. A connection that could not be made is for any method."
            ),
        ] = IDEMPOTENT_METHODS,
        statuses: Annotated[
            StatusSet,
            AfterValidator(_server_errors),
            Field(description="Statuses that are retried, 500 and above only."),
        ] = frozenset({500, 502, 503, 504}),
        max_body: Annotated[
            Size, Field(description="Request bodies up to this size are kept for another attempt, in bytes.")
        ] = 2**20,
        max_retry_after: Annotated[
            Seconds,
            Field(description="A service that asks by Retry-After for a longer wait is not tried again."),
        ] = 30.0,
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        self.policy = RetryPolicy(
            attempts=attempts,
            backoff=backoff,
            methods=methods,
            statuses=statuses,
            max_retry_after=max_retry_after,
        )
        self._max_body = max_body
        self._runtime = runtime or Runtime()

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
        attempt = 1
        while True:
            exchange.attempts = attempt
            exchange.failure = None
            cancelling = task.cancelling()
            gate = _RetryGate(self, scope, exchange, body, send)
            inner = {**scope, ATTEMPT: attempt, "headers": [*scope["headers"]]}
            try:
                made = self.app(inner, body.reader() if body else receive, gate.send)
                del scope, inner  # only the gate keeps the scope, until an answer begins
                await made
            except BaseException as error:
                if not settled(error, gate, task, cancelling):
                    raise
            if not gate.discarded:
                return
            refuse_lost_cancellation(task, cancelling)
            body = body or ReplayableBody(receive, 0, empty=True)
            if not await self._back_off(gate.delay, body):
                exchange.failure = CLIENT_LEFT
                return
            scope = gate.scope
            attempt += 1

    async def _back_off(self, delay: float, body: ReplayableBody) -> bool:
        """Wait; False where the client left meanwhile.

        A client can only be listened to when its body has been read: else the body is what comes next.
        """
        clock = self._runtime.clock
        if delay <= 0 or not body.complete:
            await clock.sleep(delay)
            return True
        try:
            async with clock.timeout(delay):
                await body.disconnected()
        except TimeoutError:
            return True
        return False

    def delay(self, scope: Scope, exchange: Exchange, start: Message) -> float | None:
        """Seconds until the attempt after the one whose answer begins so; None where there is none."""
        clock = self._runtime.clock
        wanted = get_header(start.get("headers", ()), b"retry-after")
        deadline: float | None = scope.get(DEADLINE)
        decision = self.policy.decide(
            attempt=exchange.attempts,
            method=scope["method"],
            status=start["status"],
            failure=exchange.failure,
            retry_after=None if wanted is None else parse_retry_after(wanted, clock.wall()),
            time_left=None if deadline is None else deadline - clock.monotonic(),
            random=self._runtime.random(),
        )
        return None if isinstance(decision, str) else decision


class _RetryGate(Gate):
    """Lets no answer through that is to be followed by another attempt."""

    __slots__ = ("_body", "_exchange", "_retry", "delay")

    def __init__(
        self,
        retry: RetryMiddleware,
        scope: Scope,
        exchange: Exchange,
        body: ReplayableBody | None,
        send: Send,
    ) -> None:
        super().__init__(scope, send)
        self._retry = retry
        self._exchange = exchange
        self._body = body
        self.delay = 0.0
        """Seconds to wait before the next attempt, where there is to be one."""

    def discards(self, start: Message) -> bool:
        if start["status"] < 500 and self._exchange.failure is None:
            return False
        if self._body is not None and not self._body.replayable:
            return False
        delay = self._retry.delay(self.scope, self._exchange, start)
        if delay is None:
            return False
        self.delay = delay
        return True

    def opens(self) -> None:
        if self._body is not None:
            self._body.release()
