"""Hedged requests as the service, the client and the clock see them. Time is moved by hand."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from asgi_gateway.context import ATTEMPT, EXCHANGE, Exchange
from asgi_gateway.errors import Failure
from asgi_gateway.middleware.hedge import HedgeMiddleware
from asgi_gateway.middleware.retry import RetryMiddleware
from asgi_gateway.policies.backoff import Backoff
from asgi_gateway.policies.circuit_breaker import CircuitBreaker, Permit
from asgi_gateway.policies.retry_budget import Budget
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    ScriptedApp,
    http_scope,
    read_body,
    request,
    settle,
)
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

UNREACHABLE = Problem(502, Failure("connect", "upstream", request_sent=False), "no connection")
AT_ONCE = Backoff(initial=0)


class Attempts:
    """An app whose attempts answer when the test lets them, and that notes how each ended."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: dict[int, bytes] = {}
        self.ended: dict[int, str] = {}
        self.heard: dict[int, str] = {}
        self._answers: list[asyncio.Future[ASGIApp]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number = len(self.scopes)
        self.scopes.append(scope)
        self._answers.append(asyncio.get_running_loop().create_future())
        try:
            self.bodies[number] = await read_body(receive)
            listening = asyncio.ensure_future(receive())
            await asyncio.wait([self._answers[number], listening], return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                self.heard[number] = listening.result()["type"]
                return
            listening.cancel()
            await (await self._answers[number])(scope, receive, send)
        except asyncio.CancelledError:
            self.ended[number] = "cancelled"
            raise
        except BaseException as error:
            self.ended[number] = type(error).__name__
            raise
        else:
            self.ended[number] = "returned"
        finally:
            listening.cancel()

    def answer(self, number: int, with_: int | ASGIApp = 200) -> None:
        """Let an attempt answer."""
        self._answers[number].set_result(answering(with_, number) if isinstance(with_, int) else with_)


def answering(status: int, number: int = 0) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope.get(EXCHANGE) or Exchange()
        exchange.upstream_status = status
        exchange.endpoint = f"endpoint {number}"
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"answer %d" % number})

    return app


@pytest.fixture
def app() -> Attempts:
    return Attempts()


@pytest.fixture
def runtime(clock: ManualClock) -> Runtime:
    return Runtime(clock=clock)


def hedging(app: ASGIApp, runtime: Runtime, **options: Any) -> HedgeMiddleware:
    return HedgeMiddleware(app, runtime=runtime, **options)


@contextlib.asynccontextmanager
async def asking(
    app: ASGIApp, method: str = "GET", *, body: bytes = b"", **scope: Any
) -> AsyncIterator[Conversation]:
    """A request under way, its whole body sent; afterwards no task is left of it."""
    before = asyncio.all_tasks()
    headers = [(b"content-length", b"%d" % len(body))] if body else []
    async with Conversation(app, http_scope(method, **{"headers": headers, **scope})) as talk:
        talk.body(body)
        await settle()
        yield talk
    await settle()
    assert asyncio.all_tasks() == before


def counted(runtime: Runtime) -> dict[str, int]:
    return {
        ".".join((counter.name, *(value for _, value in counter.labels))): counter.value
        for counter in runtime.metrics.counters
        if counter.value
    }


# When there is a second attempt


async def test_a_quick_answer_is_the_only_one(app: Attempts, clock: ManualClock, runtime: Runtime):
    async with asking(hedging(app, runtime)) as talk:
        await clock.advance(0.9)
        app.answer(0)
        assert (await talk.finish()).body == b"answer 0"
    await clock.advance(10)
    assert len(app.scopes) == 1
    assert counted(runtime) == {}


async def test_after_the_delay_there_is_a_second_attempt_and_no_third(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    async with asking(hedging(app, runtime, delay=0.2)):
        await clock.advance(0.1)
        assert len(app.scopes) == 1
        await clock.advance(0.1)
        assert len(app.scopes) == 2
        await clock.advance(100)
        assert [scope[ATTEMPT] for scope in app.scopes] == [1, 2]
    assert app.ended == {0: "cancelled", 1: "cancelled"}


async def test_with_a_percentile_the_delay_follows_the_answers(clock: ManualClock, runtime: Runtime):
    app = Attempts()
    hedge = hedging(app, runtime, percentile=90)
    for number in range(100):
        async with asking(hedge) as talk:
            await clock.advance(0.1 if number < 90 else 0.5)
            app.answer(number)
            await talk.finish()
    async with asking(hedge):
        assert clock.pending == [pytest.approx(0.1)]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_method_that_may_act_twice_is_not_hedged(
    method: str, app: Attempts, clock: ManualClock, runtime: Runtime
):
    async with asking(hedging(app, runtime), method) as talk:
        assert clock.pending == []
        app.answer(0)
        assert (await talk.finish()).status == 200


async def test_a_listed_one_is(app: Attempts, clock: ManualClock, runtime: Runtime):
    async with asking(hedging(app, runtime, methods=["POST"]), "POST", body=b"ab"):
        await clock.advance(1)
        assert len(app.scopes) == 2


# Who wins


async def test_the_second_answer_wins_if_it_is_first(app: Attempts, clock: ManualClock, runtime: Runtime):
    exchange = Exchange()
    async with asking(hedging(app, runtime), **{EXCHANGE: exchange}) as talk:
        await clock.advance(1)
        app.answer(1)
        answer = await talk.finish()
    assert (answer.status, answer.body) == (200, b"answer 1")
    assert app.ended == {0: "cancelled", 1: "returned"}
    assert (exchange.endpoint, exchange.upstream_status, exchange.attempts) == ("endpoint 1", 200, 2)
    assert counted(runtime) == {"hedges_total": 1, "hedges_won_total": 1}


async def test_the_first_answer_wins_if_it_is_first(app: Attempts, clock: ManualClock, runtime: Runtime):
    exchange = Exchange()
    async with asking(hedging(app, runtime), **{EXCHANGE: exchange}) as talk:
        await clock.advance(1)
        app.answer(0)
        assert (await talk.finish()).body == b"answer 0"
    assert app.ended == {0: "returned", 1: "cancelled"}
    assert (exchange.endpoint, exchange.attempts) == ("endpoint 0", 2)
    assert counted(runtime) == {"hedges_total": 1}


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_loser_is_ended_when_the_winner_begins_and_not_when_it_ends(
    winner: int, app: Attempts, clock: ManualClock, runtime: Runtime
):
    more = asyncio.Event()

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await more.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with asking(hedging(app, runtime)) as talk:
        await clock.advance(1)
        app.answer(winner, streaming)
        assert (await talk.next())["type"] == "http.response.start"
        assert (await talk.next())["body"] == b"first"
        await settle()
        assert app.ended == {1 - winner: "cancelled"}
        more.set()
        assert (await talk.finish()).body == b"firstlast"


async def test_both_at_the_same_moment_give_one_answer(app: Attempts, clock: ManualClock, runtime: Runtime):
    for order in ((0, 1), (1, 0)):
        app.__init__()  # type: ignore[misc]
        async with asking(hedging(app, runtime)) as talk:
            await clock.advance(1)
            for number in order:
                app.answer(number)
            assert (await talk.finish()).body == b"answer %d" % order[0]


@pytest.mark.parametrize("failing", [503, UNREACHABLE])
@pytest.mark.parametrize("first", [0, 1])
async def test_a_failure_loses_to_an_attempt_that_still_runs(
    first: int, failing: Any, app: Attempts, clock: ManualClock, runtime: Runtime
):
    exchange = Exchange()
    async with asking(hedging(app, runtime), **{EXCHANGE: exchange}) as talk:
        await clock.advance(1)
        app.answer(first, failing)
        await settle()
        assert app.ended == {first: "Discarded"}
        assert not talk.done
        app.answer(1 - first)
        answer = await talk.finish()
    assert (answer.status, answer.body) == (200, b"answer %d" % (1 - first))
    assert exchange.failure is None
    assert exchange.upstream_status == 200


@pytest.mark.parametrize("first", [0, 1])
async def test_where_both_fail_the_later_one_is_the_answer(
    first: int, app: Attempts, clock: ManualClock, runtime: Runtime
):
    exchange = Exchange()
    async with asking(hedging(app, runtime), **{EXCHANGE: exchange}) as talk:
        await clock.advance(1)
        app.answer(first, 503)
        await settle()
        app.answer(1 - first, UNREACHABLE)
        assert (await talk.finish()).status == 502
    assert exchange.failure == UNREACHABLE.failure
    assert "hedges_won_total" not in counted(runtime)


async def test_a_failure_before_the_delay_is_the_answer(app: Attempts, clock: ManualClock, runtime: Runtime):
    async with asking(hedging(app, runtime)) as talk:
        app.answer(0, 503)
        assert (await talk.finish()).status == 503
    assert len(app.scopes) == 1


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    raise KeyError("bug")


async def test_an_exception_of_the_first_ends_the_request(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    async with asking(hedging(app, runtime)) as talk:
        await clock.advance(1)
        app.answer(0, raising)
        with pytest.raises(KeyError):
            await talk.finish()
    assert app.ended[1] == "cancelled"


@pytest.mark.parametrize("ending", ["an exception", "a cancellation"])
async def test_a_second_attempt_that_answers_when_the_request_is_over_is_not_heard(
    ending: str, app: Attempts, clock: ManualClock, runtime: Runtime
):
    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await answering(200)(scope, receive, send)

    async with asking(hedging(app, runtime)) as talk:
        await clock.advance(1)
        app.answer(1, stubborn)
        await settle()
        if ending == "an exception":
            app.answer(0, raising)
        else:
            talk.cancel()
        with pytest.raises(KeyError if ending == "an exception" else asyncio.CancelledError):
            await talk.finish()
        assert talk.answer.messages == []


async def test_an_exception_of_the_second_loses(
    app: Attempts, clock: ManualClock, runtime: Runtime, caplog: pytest.LogCaptureFixture
):
    async with asking(hedging(app, runtime)) as talk:
        await clock.advance(1)
        app.answer(1, raising)
        await settle()
        app.answer(0)
        assert (await talk.finish()).body == b"answer 0"
    gc.collect()
    assert caplog.records == []


async def test_an_exception_of_the_second_is_the_end_where_the_first_failed(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    async with asking(hedging(app, runtime)) as talk:
        await clock.advance(1)
        app.answer(0, 503)
        await settle()
        app.answer(1, raising)
        with pytest.raises(KeyError):
            await talk.finish()


# The exchange


async def test_what_the_loser_says_while_it_unwinds_is_not_told(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await settle()
            seen.append(scope[EXCHANGE].upstream_status)
            scope[EXCHANGE].failure = Failure("reset", "upstream", request_sent=True)

    seen: list[int | None] = []
    exchange = Exchange()
    async with asking(hedging(app, runtime), **{EXCHANGE: exchange}) as talk:
        app.answer(0, slow)
        await clock.advance(1)
        app.answer(1)
        await talk.finish()
    assert seen == [None]
    assert exchange.failure is None


@pytest.mark.parametrize("first", [0, 1])
async def test_endpoints_that_either_has_tried_are_known_afterwards(
    first: int, app: Attempts, clock: ManualClock, runtime: Runtime
):
    def failing(number: int) -> ASGIApp:
        async def attempt(scope: Scope, receive: Receive, send: Send) -> None:
            scope[EXCHANGE].tried += (number,)
            await answering(503)(scope, receive, send)

        return attempt

    retry = RetryMiddleware(hedging(app, runtime), backoff=AT_ONCE, runtime=runtime)
    async with asking(retry):
        await clock.advance(1)
        app.answer(first, failing(first))
        await settle()
        app.answer(1 - first, failing(1 - first))
        await settle()
        assert len(app.scopes) == 3
        assert sorted(app.scopes[2][EXCHANGE].tried) == [0, 1]


async def test_what_an_outer_layer_says_when_it_cancels_is_kept(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    exchange = Exchange()
    async with asking(hedging(app, runtime), **{EXCHANGE: exchange}) as talk:
        await clock.advance(1)
        app.answer(0, 503)
        await settle()
        exchange.failure = Failure("timeout", "upstream", request_sent=True)
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert exchange.failure == Failure("timeout", "upstream", request_sent=True)


async def test_a_failure_that_breaks_the_winners_answer_is_told(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    reset = Failure("reset", "upstream", request_sent=True)

    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope[EXCHANGE].failure = reset
        raise ConnectionResetError

    exchange = Exchange()
    async with asking(hedging(app, runtime), **{EXCHANGE: exchange}) as talk:
        await clock.advance(1)
        app.answer(1, breaking)
        with pytest.raises(ConnectionResetError):
            await talk.finish()
    assert exchange.failure == reset


async def test_the_second_attempt_runs_in_the_requests_own_context(clock: ManualClock, runtime: Runtime):
    name: ContextVar[str] = ContextVar("name")
    seen: list[str] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(name.get())
        await asyncio.Event().wait()

    hedge = hedging(inner, runtime)

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        name.set(scope["path"])
        await hedge(scope, receive, send)

    async with (
        Conversation(named, http_scope(path="/one")),
        Conversation(named, http_scope(path="/two")),
    ):
        await clock.advance(1)
    assert sorted(seen) == ["/one", "/one", "/two", "/two"]


async def test_each_attempt_has_headers_of_its_own(app: Attempts, clock: ManualClock, runtime: Runtime):
    async with asking(hedging(app, runtime), headers=[(b"host", b"a")]):
        app.scopes[0]["headers"].append((b"x-meddled", b"1"))
        await clock.advance(1)
        assert app.scopes[1]["headers"] == [(b"host", b"a")]


# The request's body


async def test_both_attempts_get_the_identical_body(app: Attempts, clock: ManualClock, runtime: Runtime):
    async with asking(hedging(app, runtime), "PUT", body=b"one two"):
        await clock.advance(1)
        assert app.bodies == {0: b"one two", 1: b"one two"}


async def test_a_second_attempt_that_answers_before_it_reads_gets_the_whole_body(
    clock: ManualClock, runtime: Runtime
):
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await asyncio.Event().wait()

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": await read_body(receive)})

    async with asking(hedging(ScriptedApp(late, echo), runtime), "PUT", body=b"ab") as talk:
        await clock.advance(1)
        assert (await talk.finish()).body == b"ab"


async def test_a_body_that_is_still_coming_is_not_hedged(app: Attempts, clock: ManualClock, runtime: Runtime):
    scope = http_scope("PUT", headers=[(b"content-length", b"4")])
    async with Conversation(hedging(app, runtime), scope) as talk:
        talk.body(b"ab", more=True)
        await clock.advance(1)
        assert len(app.scopes) == 1
        talk.body(b"cd")
        await settle()
        app.answer(0)
        assert (await talk.finish()).status == 200
    assert app.bodies == {0: b"abcd"}
    assert counted(runtime) == {"hedge_skipped_total.body": 1}


async def test_a_body_past_the_cap_is_not_hedged(app: Attempts, clock: ManualClock, runtime: Runtime):
    async with asking(hedging(app, runtime, max_body=3), "PUT", body=b"abcd") as talk:
        await clock.advance(1)
        app.answer(0)
        assert (await talk.finish()).status == 200
    assert app.bodies == {0: b"abcd"}


# The budget


async def test_hedges_are_within_the_retry_budget(clock: ManualClock, runtime: Runtime):
    app = Attempts()
    hedge = hedging(app, runtime, budget={"ratio": 0.2, "min_per_second": 0, "window": "1h"})
    for _ in range(50):
        async with asking(hedge) as talk:
            await clock.advance(1)
            app.answer(len(app.scopes) - 1)
            await talk.finish()
    assert len(app.scopes) == 60
    assert counted(runtime) == {
        "hedges_total": 10,
        "hedges_won_total": 10,
        "hedge_skipped_total.budget": 40,
    }


async def test_a_retry_and_a_hedge_of_one_service_share_it(clock: ManualClock, runtime: Runtime):
    app = Attempts()
    runtime = runtime.scoped_to("a")
    options: dict[str, Any] = {"budget": Budget(ratio=1, min_per_second=0), "runtime": runtime}
    stack = RetryMiddleware(HedgeMiddleware(app, **options), backoff=AT_ONCE, **options)
    async with asking(stack) as talk:
        await clock.advance(1)
        app.answer(0, 503)
        await settle()
        app.answer(1, 503)
        assert (await talk.finish()).status == 503
    assert len(app.scopes) == 2
    assert counted(runtime)["retry_skipped_total.budget.a"] == 1


async def test_while_the_breaker_is_open_nothing_is_hedged(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    runtime = runtime.scoped_to("a")
    hedge = hedging(app, runtime)
    breaker = CircuitBreaker(1, 60.0, 1)
    runtime.services["a"].breakers.append(breaker)
    permit = breaker.acquire(clock.monotonic())
    assert isinstance(permit, Permit)
    breaker.failed(permit, clock.monotonic())
    async with asking(hedge):
        await clock.advance(1)
        assert len(app.scopes) == 1


# The client


@pytest.mark.parametrize("body", [b"", b"ab"], ids=["no body", "body"])
async def test_both_attempts_hear_the_client_leave(
    body: bytes, app: Attempts, clock: ManualClock, runtime: Runtime
):
    async with asking(hedging(app, runtime), "PUT", body=body) as talk:
        await clock.advance(1)
        talk.disconnect()
        assert (await talk.finish()).messages == []
    assert app.heard == {0: "http.disconnect", 1: "http.disconnect"}


@pytest.mark.parametrize("winner", [0, 1])
async def test_a_winner_hears_the_client_leave_its_stream(
    winner: int, app: Attempts, clock: ManualClock, runtime: Runtime
):
    heard: list[str] = []

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        heard.append((await receive())["type"])

    async with asking(hedging(app, runtime)) as talk:
        await clock.advance(1)
        app.answer(winner, streaming)
        await settle()
        talk.disconnect()
        await talk.finish()
    assert heard == ["http.disconnect"]


@pytest.mark.parametrize("when", ["one runs", "both run", "the first streams", "the second streams"])
async def test_a_cancellation_ends_all_of_it(when: str, app: Attempts, clock: ManualClock, runtime: Runtime):
    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async with asking(hedging(app, runtime)) as talk:
        if when != "one runs":
            await clock.advance(1)
        if "streams" in when:
            app.answer(0 if "first" in when else 1, streaming)
            await settle()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
        await settle()
        assert set(app.ended.values()) == {"cancelled"}
    attempts = len(app.scopes)
    await clock.advance(10)
    assert len(app.scopes) == attempts


async def test_a_cancellation_while_the_loser_unwinds_is_kept(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    unwinding = asyncio.Event()

    async def slow_to_close(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            unwinding.set()
            await asyncio.Event().wait()

    async with asking(hedging(app, runtime)) as talk:
        app.answer(0, slow_to_close)
        await clock.advance(1)
        app.answer(1)
        await unwinding.wait()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()


async def test_a_first_attempt_that_lost_leaves_no_cancellation_behind(
    app: Attempts, clock: ManualClock, runtime: Runtime
):
    left: list[int] = []
    hedge = hedging(app, runtime)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await hedge(scope, receive, send)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        left.append(task.cancelling() if task else -1)

    async with asking(outer) as talk:
        await clock.advance(1)
        app.answer(1)
        await talk.finish()
    assert left == [0]


@pytest.mark.parametrize("swallows", ["returns", "answers", "raises"])
async def test_a_first_attempt_that_takes_its_end_badly_is_not_heard(
    swallows: str, app: Attempts, clock: ManualClock, runtime: Runtime
):
    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if swallows == "answers":
            await answering(500)(scope, receive, send)
        elif swallows == "raises":
            raise RuntimeError("cancelled")

    async with asking(hedging(app, runtime)) as talk:
        app.answer(0, stubborn)
        await clock.advance(1)
        app.answer(1)
        assert (await talk.finish()).body == b"answer 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 0}, "greater than 0"),
        ({"percentile": 100}, "less than 100"),
        ({"budget": "none"}, "'off'"),
        ({"dealy": 1}, "dealy"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        HedgeMiddleware(ScriptedApp(), **options)


async def test_it_works_alone_and_without_an_exchange():
    assert (await request(HedgeMiddleware(ScriptedApp(200)))).status == 200


# Any history


MOMENT = st.sampled_from([0.5, 0.9, 1.0, 1.1, 1.5, 2.0, 2.1])
PLAN = st.tuples(MOMENT, st.sampled_from([200, 404, 503]), st.sampled_from(["answers", "hangs", "raises"]))


class Planned:
    """An app whose attempts answer, hang or raise, each at its own time, unless the client leaves before."""

    def __init__(self, clock: ManualClock, *plans: tuple[float, int, str]) -> None:
        self.clock = clock
        self.plans = plans
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        moment, status, way = self.plans[scope[ATTEMPT] - 1]
        waiting = [
            asyncio.ensure_future(_left(receive)),
            asyncio.ensure_future(self.clock.sleep(moment if way != "hangs" else 1e9)),
        ]
        self.running += 1
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if waiting[0].done():
                return
            if way == "raises":
                raise KeyError("bug")
            await answering(status, scope[ATTEMPT])(scope, receive, send)
        finally:
            self.running -= 1
            for task in waiting:
                task.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@given(first=PLAN, second=PLAN, leaves=st.none() | MOMENT, cancelled=st.none() | MOMENT)
@settings(deadline=None)
def test_whatever_happens_there_is_at_most_one_answer_and_nothing_is_left(
    first: tuple[float, int, str],
    second: tuple[float, int, str],
    leaves: float | None,
    cancelled: float | None,
) -> None:
    async def history() -> None:
        clock = ManualClock()
        app = Planned(clock, first, second)
        exchange = Exchange()
        before = asyncio.all_tasks()
        async with Conversation(
            hedging(app, Runtime(clock=clock)), http_scope(**{EXCHANGE: exchange})
        ) as talk:
            talk.body()
            for moment, happens in sorted(
                ((leaves or 99, talk.disconnect), (cancelled or 99, talk.cancel)), key=lambda event: event[0]
            ):
                await clock.advance(1000 + moment - clock.monotonic())
                happens()
            await settle()
        await settle()
        assert (app.running, asyncio.all_tasks()) == (0, before)
        with contextlib.suppress(KeyError, asyncio.CancelledError):
            await talk.finish()
        answer = talk.answer  # whose own checks refuse a second one
        if answer.status:
            assert answer.body == b"answer %d" % int((exchange.endpoint or "").split()[1])
            assert exchange.upstream_status == answer.status

    asyncio.run(history())
