"""Ask a second time where the first answer is late, and take whichever comes first.

The middleware, the race that it begins for a request, and the gates of that race's two attempts are one
piece: who wins is decided in a gate, ends the other attempt, and settles what the exchange tells.
"""

from __future__ import annotations

import asyncio
from contextvars import Context, copy_context
from typing import Annotated, Final, Literal

from pydantic import Field

from asgi_gateway.asgi.attempt import Gate, refuse_lost_cancellation, settled
from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.hearing import Hearing
from asgi_gateway.asgi.replay import ReplayableBody, declared_length
from asgi_gateway.clock import Timer
from asgi_gateway.context import ATTEMPT, EXCHANGE, ON_DISCONNECT, RETRY_BUDGET, Exchange, join_exchange
from asgi_gateway.options import validated
from asgi_gateway.policies.hedge import HedgeDelay
from asgi_gateway.policies.retry import IDEMPOTENT_METHODS
from asgi_gateway.policies.retry_budget import DEFAULT_BUDGET, Budget
from asgi_gateway.runtime import Runtime
from asgi_gateway.timers import EqualTimers
from asgi_gateway.types import ASGIApp, Message, MethodSet, PositiveSeconds, Receive, Scope, Send, Size

SKIPPED: Final = ("budget", "circuit_open", "body")


class HedgeMiddleware:
    """Make a second attempt beside a first one that is late; the first good answer wins.

    The other attempt is cancelled at once, so that its connection closes. An answer that is a failure loses
    to an attempt that still runs; where both fail, the later one is passed on. Only idempotent requests
    are hedged, only once, and only within the retry budget of the service.

        HedgeMiddleware(app, delay=0.2)
        HedgeMiddleware(app, percentile=95)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        delay: Annotated[
            PositiveSeconds,
            Field(description="How long the first attempt is waited for before there is a second."),
        ] = 1.0,
        percentile: Annotated[
            float | None,
            Field(
                gt=0,
                lt=100,
                description="In place of `delay`: as long as this percentage of the latest 1000 answers took"
                " to begin. Until 100 are known `delay` holds.",
            ),
        ] = None,
        methods: Annotated[MethodSet, Field(description="Methods that are hedged.")] = IDEMPOTENT_METHODS,
        max_body: Annotated[
            Size, Field(description="Requests with bodies up to this size are hedged, in bytes.")
        ] = 2**20,
        budget: Annotated[
            Budget | Literal["off"],
            Field(
                description="The retry budget of the service, shared with a retry that has the same; or off."
            ),
        ] = DEFAULT_BUDGET,
        runtime: Runtime | None = None,
    ) -> None:
        runtime = runtime or Runtime()
        self.app = direct(app)
        self.delay = HedgeDelay(delay, percentile)
        self.timers = EqualTimers(runtime.clock, delay) if percentile is None else None
        self.methods = methods
        self.max_body = max_body
        self.runtime = runtime
        self.now = runtime.clock.monotonic
        self.status = runtime.service_status
        self.budget = None if budget == "off" else self.status.retry_budget(budget)
        self.hedges = runtime.counter("hedges_total")
        self.won = runtime.counter("hedges_won_total")
        self._skipped = {reason: runtime.counter("hedge_skipped_total", reason=reason) for reason in SKIPPED}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        now = self.now()
        budget = self.budget
        if budget is not None and scope.get(RETRY_BUDGET) is not budget:
            budget.requested(now)
        length = declared_length(scope)
        if scope["method"] not in self.methods or (length is not None and length > self.max_body):
            made = self.app({**scope, RETRY_BUDGET: budget}, receive, send)
            del scope
            await made
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        if ATTEMPT not in scope:  # else an outer layer has counted the first one
            exchange.attempts += 1
        hearing = Hearing(receive, scope.get(ON_DISCONNECT))
        body = None if length == 0 else ReplayableBody(hearing, self.max_body)
        race = _Race(self, scope, exchange, hearing, body, send, now)
        del scope
        try:
            await race.run()
        finally:
            race.stop_timer()
            if race.second_task is not None or hearing.task is not None:
                await race.end()

    def may_hedge(self, body: ReplayableBody | None) -> bool:
        """Whether there may be a second attempt now; takes it from the budget."""
        now = self.now()
        reason = None
        if body is not None and not (body.complete and body.replayable):
            reason = "body"
        elif self.status.breaker_state(now) == "open":
            reason = "circuit_open"
        elif self.budget is not None and not self.budget.spend(now):
            reason = "budget"
        if reason is not None:
            self._skipped[reason].add()
        return reason is None


validated(HedgeMiddleware)


class _Race:
    """One request and its attempts: the first runs in the request's own task, the second in one beside it.

    The first has the request's `Exchange`, the second a copy, so that neither reads what the other wrote.
    Where the second wins, the exchange becomes that copy once the first is unwound.
    """

    __slots__ = (
        "_body",
        "_cancelling",
        "_context",
        "_cut",
        "_exchange",
        "_hearing",
        "_hedge",
        "_outer",
        "_send",
        "_started",
        "_task",
        "_timer",
        "first",
        "first_over",
        "second",
        "second_exchange",
        "second_task",
        "settled_by",
    )

    def __init__(  # noqa: PLR0917 - one caller, on the way of every request
        self,
        hedge: HedgeMiddleware,
        scope: Scope,
        exchange: Exchange,
        hearing: Hearing,
        body: ReplayableBody | None,
        send: Send,
        started: float,
    ) -> None:
        self._hedge = hedge
        self._exchange = exchange
        self._outer = exchange.outer
        self._hearing = hearing
        self._body = body
        self._send = send
        self._started = started
        self._task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment] # in a coroutine
        self._cancelling = self._task.cancelling()
        self._cut = False
        """Whether the first attempt was cancelled, because the second has won."""
        self._context: Context = copy_context()
        self.first = _HedgeGate(scope, send, self)
        self.first_over: asyncio.Event | None = None
        """Set when the first attempt is unwound; None where there is no second one."""
        self.second: _HedgeGate | None = None
        self.second_exchange = exchange
        self.second_task: asyncio.Task[None] | None = None
        self.settled_by: _HedgeGate | None = None
        """The gate whose answer the client sees."""
        self._timer: Timer | None = None
        if hedge.timers is not None:
            hedge.timers.start(self)
        else:
            self._timer = hedge.runtime.clock.call_later(hedge.delay.seconds, self)

    async def run(self) -> None:
        """Make the first attempt, and wait for the second one where it is that which answers."""
        first, task = self.first, self._task
        scope, exchange = first.scope, self._exchange
        try:
            made = self._hedge.app(
                {
                    **scope,
                    ATTEMPT: exchange.attempts,
                    RETRY_BUDGET: self._hedge.budget,
                    ON_DISCONNECT: self._hearing.on_disconnect,
                    "headers": [*scope["headers"]],
                },
                self._hearing if self._body is None else self._body.reader(),
                first.send,
            )
            del scope
            await made
        except BaseException as error:
            cut = self._cut and isinstance(error, asyncio.CancelledError)
            alone = task.cancelling() <= self._cancelling + 1
            if not (cut and alone) and not settled(error, first, task, self._cancelling):
                raise
        finally:
            if self._cut and task.cancelling() > self._cancelling:
                task.uncancel()
            if self.first_over is not None:
                self.first_over.set()
        if self.second_task is not None and self.settled_by is not first:
            refuse_lost_cancellation(task, self._cancelling)
            await asyncio.wait([self.second_task])
            self.second_task.result()

    def __call__(self) -> None:
        """The first attempt is late: make the second one."""
        hedge, scope, exchange = self._hedge, self.first.scope, self._exchange
        if not hedge.may_hedge(self._body):
            return
        hedge.hedges.add()
        exchange.attempts += 1
        self.second_exchange = copy = exchange.copy()
        copy.begin_anew(self._outer)
        self.first_over = asyncio.Event()
        self.second = _HedgeGate(scope, self._send_second, self)
        inner = {
            **scope,
            EXCHANGE: copy,
            RETRY_BUDGET: hedge.budget,
            ATTEMPT: exchange.attempts,
            ON_DISCONNECT: self._hearing.on_disconnect,
            "headers": [*scope["headers"]],
        }
        body = self._body or ReplayableBody(self._hearing.after_body, 0, empty=True)
        making = self._make_second(inner, body.reader(), self.second)
        self.second_task = asyncio.get_running_loop().create_task(making, context=self._context)

    async def _make_second(self, scope: Scope, receive: Receive, gate: _HedgeGate) -> None:
        task: asyncio.Task[object] = asyncio.current_task()  # type: ignore[assignment] # in a coroutine
        try:
            made = self._hedge.app(scope, receive, gate.send)
            del scope
            await made
        except BaseException as error:
            if not settled(error, gate, task, 0):
                raise

    async def _send_second(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.first_over is not None:
                await self.first_over.wait()
            self._exchange.failure = None
            self._become_second()
        await self._send(message)

    def loses(self, gate: _HedgeGate, *, failed: bool) -> bool:
        """Whether an answer that begins is not for the client, because another attempt may do better."""
        return failed and self._other_runs(gate)

    def wins(self, gate: _HedgeGate) -> None:
        """The client is to see the answer of this gate's attempt, and nothing of the other."""
        self.settled_by = gate
        other_runs = self._other_runs(gate)
        if self._body is not None:
            self._body.release()
        self.stop_timer()
        if gate is self.first:
            self._exchange.tried = _all_tried(self._exchange, self.second_exchange)
        if not other_runs:
            return
        if gate is self.second:
            self.first.discarded = self._cut = True
            self._task.cancel()
        elif self.second is not None and self.second_task is not None:
            self.second.discarded = True
            self.second_task.cancel()

    def answered(self, gate: _HedgeGate, *, failed: bool) -> None:
        """Learn from an answer that is passed on."""
        if not failed:
            self._hedge.delay.answered(self._hedge.now() - self._started)
            if gate is self.second:
                self._hedge.won.add()

    def failed(self, gate: _HedgeGate, start: Message) -> bool:
        """Whether an answer that begins so is a failure."""
        exchange = self._exchange if gate is self.first else self.second_exchange
        return start["status"] >= 500 or exchange.failure is not None

    async def end(self) -> None:
        """Leave no task behind, whatever ended the request."""
        if self.second is not None:
            self.second.discarded = True  # nor an answer that it has for its cancellation
        second, listening = self.second_task, self._hearing.task
        left = [task for task in (second, listening) if task is not None and not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for done in (second, listening):
            if done is not None and done.done() and not done.cancelled():
                done.exception()  # that of a loser is nobody's
        if self.settled_by is not self.first and (self.settled_by is not None or self.first.discarded):
            self._become_second()

    def _become_second(self) -> None:
        exchange, copy = self._exchange, self.second_exchange
        failure = copy.failure or exchange.failure  # an outer layer says why it cancels to the latter
        tried, attempts = _all_tried(exchange, copy), max(exchange.attempts, copy.attempts)
        exchange.become(copy)
        exchange.failure, exchange.tried, exchange.attempts = failure, tried, attempts

    def _other_runs(self, gate: _HedgeGate) -> bool:
        if gate is self.first:
            task = self.second_task
            return (
                task is not None and not task.done() and self.second is not None and not self.second.discarded
            )
        return self.first_over is not None and not self.first_over.is_set() and not self.first.discarded

    def stop_timer(self) -> None:
        """From now on there is no second attempt, if there was none yet."""
        if self._hedge.timers is not None:
            self._hedge.timers.cancel(self)
        elif self._timer is not None:
            self._timer.cancel()


class _HedgeGate(Gate):
    """Lets through the answer that wins."""

    __slots__ = ("_failed", "_race")

    def __init__(self, scope: Scope, send: Send, race: _Race) -> None:
        super().__init__(scope, send)
        self._race = race
        self._failed = False

    def discards(self, start: Message) -> bool:
        self._failed = self._race.failed(self, start)
        return self._race.loses(self, failed=self._failed)

    def opens(self) -> None:
        self._race.wins(self)
        self._race.answered(self, failed=self._failed)


def _all_tried(one: Exchange, other: Exchange) -> tuple[object, ...]:
    return (*one.tried, *(endpoint for endpoint in other.tried if endpoint not in one.tried))
