"""The deadline until a response begins, moved by hand."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from asgi_gateway.context import DEADLINE, EXCHANGE, Exchange
from asgi_gateway.errors import Failure
from asgi_gateway.middleware.retry import RetryMiddleware
from asgi_gateway.middleware.timeout import TimeoutMiddleware
from asgi_gateway.policies.backoff import Backoff
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Conversation, ManualClock, ScriptedApp, http_scope, request, settle
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send


@pytest.fixture
def runtime(clock: ManualClock) -> Runtime:
    return Runtime(clock=clock)


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def test_an_answer_in_time_is_passed_on(runtime: Runtime, clock: ManualClock):
    app = ScriptedApp((201, [(b"A", b"1")], [b"x"]))
    answer = await request(TimeoutMiddleware(app, runtime=runtime))
    assert (answer.status, answer.headers, answer.body) == (201, [(b"A", b"1")], b"x")
    await clock.advance(60)  # nothing is left to fire
    assert clock.pending == []


async def test_without_an_answer_in_time_it_is_504(runtime: Runtime, clock: ManualClock):
    exchange = Exchange()
    scope = http_scope(**{EXCHANGE: exchange})
    async with Conversation(TimeoutMiddleware(endless, total=10, runtime=runtime), scope) as talk:
        await clock.advance(9.9)
        assert not talk.done
        await clock.advance(0.1)
        answer = await talk.finish()
    assert answer.status == 504
    assert answer.header("x-gateway-error") == "upstream_timeout"
    assert exchange.failure == Failure("timeout", "upstream", request_sent=True)


async def test_an_answer_that_has_begun_streams_as_long_as_it_likes(runtime: Runtime, clock: ManualClock):
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await clock.sleep(60)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body"})

    async with Conversation(TimeoutMiddleware(stream, total=10, runtime=runtime), http_scope()) as talk:
        assert (await talk.next())["status"] == 200
        await clock.advance(180)
        assert (await talk.finish()).chunks == [b"x"] * 3


async def test_what_precedes_an_answer_does_not_stop_the_clock(runtime: Runtime, clock: ManualClock):
    async def hinting(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        await asyncio.Event().wait()

    async with Conversation(TimeoutMiddleware(hinting, total=10, runtime=runtime), http_scope()) as talk:
        assert (await talk.next())["type"] == "http.response.early_hint"
        await clock.advance(10)
        assert (await talk.finish()).status == 504


async def test_a_timeout_error_of_the_app_is_its_own(runtime: Runtime):
    with pytest.raises(TimeoutError, match="theirs"):
        await request(TimeoutMiddleware(ScriptedApp(TimeoutError("theirs")), runtime=runtime))


async def test_an_inner_deadline_of_the_app_is_its_own(runtime: Runtime, clock: ManualClock):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with clock.timeout(3):
            await asyncio.Event().wait()

    async with Conversation(TimeoutMiddleware(app, total=10, runtime=runtime), http_scope()) as talk:
        await clock.advance(3)
        with pytest.raises(TimeoutError):
            await talk.finish()


async def test_an_app_that_returns_without_an_answer_gets_none(runtime: Runtime):
    async def silent(scope: Scope, receive: Receive, send: Send) -> None: ...

    assert (await request(TimeoutMiddleware(silent, runtime=runtime))).messages == []


async def test_inner_layers_are_told_the_deadline(runtime: Runtime, clock: ManualClock):
    app = ScriptedApp(200)
    outermost: list[Scope] = []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        outermost.append(scope)
        await TimeoutMiddleware(app, total=10, runtime=runtime)(scope, receive, send)

    await request(outer)
    assert app.calls[0][DEADLINE] == clock.monotonic() + 10
    assert DEADLINE not in outermost[0]


async def discard(message: Message) -> None: ...


@pytest.mark.parametrize(("outer", "kept"), [(5, 5), (20, 10)])
async def test_inner_layers_are_told_the_earlier_deadline(
    outer: float, kept: float, runtime: Runtime, clock: ManualClock
):
    app = ScriptedApp(endless)
    scope = http_scope(**{DEADLINE: clock.monotonic() + outer})
    async with Conversation(TimeoutMiddleware(app, total=10, runtime=runtime), scope) as talk:
        await settle()
        assert app.calls[0][DEADLINE] == clock.monotonic() + kept
        await clock.advance(10)
        assert (await talk.finish()).status == 504


async def test_of_two_limits_the_shorter_answers(runtime: Runtime, clock: ManualClock):
    inner = TimeoutMiddleware(endless, total=10, runtime=runtime)
    async with Conversation(TimeoutMiddleware(inner, total=5, runtime=runtime), http_scope()) as talk:
        await clock.advance(5)
        assert (await talk.finish()).status == 504


async def test_of_two_limits_of_one_length_one_answers(runtime: Runtime, clock: ManualClock):
    inner = TimeoutMiddleware(endless, total=10, runtime=runtime)
    async with Conversation(TimeoutMiddleware(inner, total=10, runtime=runtime), http_scope()) as talk:
        await clock.advance(10)
        answer = await talk.finish()
    assert answer.status == 504
    assert answer.complete


async def test_inside_a_retry_it_bounds_each_attempt(runtime: Runtime, clock: ManualClock):
    app = ScriptedApp(endless, 200)
    limited = TimeoutMiddleware(app, total=10, runtime=runtime)
    retry = RetryMiddleware(limited, backoff=Backoff(initial=0), runtime=runtime)
    async with Conversation(retry, http_scope()) as talk:
        talk.body()
        await clock.advance(10)
        assert (await talk.finish()).status == 200


async def test_around_a_retry_it_bounds_them_all(runtime: Runtime, clock: ManualClock):
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.sleep(4)
        await ScriptedApp(503)(scope, receive, send)

    app = ScriptedApp(slow)
    retry = RetryMiddleware(app, backoff=Backoff(jitter=0), runtime=runtime)
    async with Conversation(TimeoutMiddleware(retry, total=10, runtime=runtime), http_scope()) as talk:
        talk.body()
        await clock.advance(4)
        await clock.advance(5)
        answer = await talk.finish()
    assert answer.status == 503
    assert len(app.calls) == 2


async def swallows(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def answers_late(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"too late"})


@pytest.mark.parametrize("app", [swallows, answers_late])
async def test_what_an_app_does_after_its_time_is_up_does_not_matter(
    app: ASGIApp, runtime: Runtime, clock: ManualClock
):
    pending: list[int] = []

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        await TimeoutMiddleware(app, total=10, runtime=runtime)(scope, receive, send)
        task = asyncio.current_task()
        pending.append(task.cancelling() if task else -1)

    async with Conversation(outermost, http_scope()) as talk:
        await clock.advance(10)
        answer = await talk.finish()
    assert answer.status == 504
    assert b"too late" not in answer.body
    assert pending == [0]


async def test_an_error_while_it_is_cancelled_is_shown(runtime: Runtime, clock: ManualClock):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("a bug in the cleaning up")

    async with Conversation(TimeoutMiddleware(app, total=10, runtime=runtime), http_scope()) as talk:
        await clock.advance(10)
        with pytest.raises(KeyError):
            await talk.finish()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_cancellation_from_outside_is_kept(moment: str, runtime: Runtime, clock: ManualClock):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if moment == "after":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    async with Conversation(TimeoutMiddleware(app, total=10, runtime=runtime), http_scope()) as talk:
        await settle()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    await clock.advance(10)
    assert clock.pending == []
    assert talk.answer.status == (200 if moment == "after" else 0)


async def test_a_cancellation_that_comes_with_the_deadline_is_kept(runtime: Runtime, clock: ManualClock):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            talk.cancel()

    async with Conversation(TimeoutMiddleware(app, total=10, runtime=runtime), http_scope()) as talk:
        await clock.advance(10)
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert talk.answer.messages == []


async def test_a_refusal_of_the_app_itself_is_passed_on(runtime: Runtime):
    own = Problem(504, Failure("timeout", "upstream"), "the transport's own")
    answer = await request(TimeoutMiddleware(ScriptedApp(own), runtime=runtime))
    assert b"the transport's own" in answer.body


async def test_it_keeps_real_time():
    async with Conversation(TimeoutMiddleware(endless, total="10ms"), http_scope()) as talk:  # type: ignore[arg-type]
        assert (await talk.finish()).status == 504


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "something.new"])
async def test_other_scopes_pass_through(kind: str):
    given: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.extend([scope, receive, send])

    async def receive() -> Message:
        return {}

    scope: Scope = {"type": kind}
    await TimeoutMiddleware(app)(scope, receive, discard)
    assert all(got is handed for got, handed in zip(given, (scope, receive, discard), strict=True))


@pytest.mark.parametrize("total", [0, -1, "soon", float("inf")])
def test_impossible_options_are_refused(total: Any):
    with pytest.raises(ValidationError):
        TimeoutMiddleware(ScriptedApp(200), total=total)


def test_it_holds_in_a_loop_after_another() -> None:
    """As with a test client that runs each request in an event loop of its own."""
    limited = TimeoutMiddleware(ScriptedApp(200), total=0.05)
    assert asyncio.run(request(limited)).status == 200
    limited.app = endless
    assert asyncio.run(asyncio.wait_for(request(limited), 5)).status == 504
