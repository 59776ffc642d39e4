"""Fallback by raw ASGI."""

import asyncio
import logging

import pytest

from asgi_gateway.context import ATTEMPT, DEADLINE, EXCHANGE, Exchange
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.middleware import (
    CircuitBreakerMiddleware,
    FallbackMiddleware,
    RateLimitMiddleware,
    RetryMiddleware,
)
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
from asgi_gateway.types import Receive, Scope, Send

LENGTH = [(b"content-length", b"4")]


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    raise ResponseAborted(Failure("reset", "upstream"))


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_failure_leads_to_the_next_with_the_same_body(status: int) -> None:
    first, second = ScriptedApp(status), ScriptedApp(200)
    app = FallbackMiddleware(first, targets=[second])
    answer = await request(app, "POST", body=[b"ab", b"cd"], headers=LENGTH)
    assert (answer.status, first.bodies, second.bodies) == (200, [b"abcd"], [b"abcd"])


async def test_a_target_that_answers_before_it_reads_gets_the_same_body() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": await read_body(receive)})

    app = FallbackMiddleware(ScriptedApp(503), targets=[echo])
    assert (await request(app, "POST", body=[b"ab", b"cd"], headers=LENGTH)).body == b"abcd"


@pytest.mark.parametrize("status", [200, 404, 429, 501])
async def test_any_other_answer_is_the_answer(status: int) -> None:
    second = ScriptedApp(200)
    assert (await request(FallbackMiddleware(ScriptedApp(status), targets=[second]))).status == status
    assert second.calls == []


async def test_each_is_asked_once_and_the_last_answer_stands() -> None:
    apps = [ScriptedApp((status, [(b"x", b"%d" % status)], [b"own"])) for status in (500, 502, 503)]
    exchange = Exchange()
    answer = await request(FallbackMiddleware(apps[0], targets=apps[1:]), **{EXCHANGE: exchange})
    assert (answer.status, answer.header("x"), answer.body) == (503, "503", b"own")
    assert [len(app.calls) for app in apps] == [1, 1, 1]
    assert len(exchange.fallbacks) == 2


@pytest.mark.parametrize("outer", [{}, {ATTEMPT: 1}])
async def test_attempts_are_those_at_all_services_together(outer: dict[str, int]) -> None:
    first, second = (
        RetryMiddleware(ScriptedApp(503), attempts=attempts, backoff={"initial": 0}) for attempts in (2, 3)
    )
    exchange = Exchange()
    exchange.attempts = len(outer)  # an outer layer that makes attempts has counted this one
    app = FallbackMiddleware(first, targets=[second])
    assert (await request(app, **{EXCHANGE: exchange}, **outer)).status == 503
    assert exchange.attempts == 5


async def test_what_breaks_after_the_answer_began_stays_broken() -> None:
    second = ScriptedApp(200)
    async with Conversation(FallbackMiddleware(broken, targets=[second]), http_scope()) as talk:
        talk.body()
        with pytest.raises(ResponseAborted):
            await talk.finish()
        assert (talk.answer.status, talk.answer.body, talk.answer.complete) == (200, b"part", False)
    assert second.calls == []


async def test_an_open_breaker_falls_back_and_a_limit_does_not() -> None:
    open_one = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1)
    assert (await request(open_one)).status == 500
    assert (await request(FallbackMiddleware(open_one, targets=[ScriptedApp(200)]))).status == 200
    limited = FallbackMiddleware(
        RateLimitMiddleware(ScriptedApp(200), limit="1/minute"), targets=[ScriptedApp(201)]
    )
    assert [(await request(limited)).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("kind", ["overloaded", "no_endpoint"])
async def test_other_refusals_of_what_guards_the_service_fall_back(kind: str) -> None:
    refusing = Problem(503, Failure(kind, "gateway"), "No.")  # type: ignore[arg-type]
    assert (await request(FallbackMiddleware(refusing, targets=[ScriptedApp(200)]))).status == 200


async def test_a_connection_broken_before_the_answer_falls_back() -> None:
    broken_off = ScriptedApp(ResponseAborted(Failure("reset", "upstream", request_sent=True)))
    assert (await request(FallbackMiddleware(broken_off, targets=[ScriptedApp(201)]))).status == 201


async def test_a_client_that_left_is_not_served_again() -> None:
    second = ScriptedApp(200)
    left = Problem(503, Failure("client_disconnected", "client"), "Gone.")
    assert (await request(FallbackMiddleware(left, targets=[second]))).status == 503
    with pytest.raises(ClientDisconnected):
        await request(FallbackMiddleware(ScriptedApp(ClientDisconnected()), targets=[second]))
    assert second.calls == []


async def test_a_body_too_large_to_keep_is_sent_once() -> None:
    first, second = ScriptedApp(503), ScriptedApp(200)
    app = FallbackMiddleware(first, targets=[second], max_body=3)
    answer = await request(app, "POST", body=[b"ab", b"cd"], headers=[(b"transfer-encoding", b"chunked")])
    assert (answer.status, first.bodies, second.calls) == (503, [b"abcd"], [])


async def test_no_other_is_tried_past_the_deadline() -> None:
    clock = ManualClock()
    second = ScriptedApp(200)
    app = FallbackMiddleware(ScriptedApp(503), targets=[second], runtime=Runtime(clock=clock))
    assert (await request(app, **{DEADLINE: clock.monotonic()})).status == 503
    assert second.calls == []
    assert (await request(app, **{DEADLINE: clock.monotonic() + 1})).status == 200


async def test_an_exception_in_place_of_an_answer_is_logged_and_falls_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FallbackMiddleware(ScriptedApp(ValueError("bug")), targets=[ScriptedApp(200)])
    with caplog.at_level(logging.ERROR, "asgi_gateway.fallback"):
        assert (await request(app)).status == 200
    assert len(caplog.records) == 1
    with pytest.raises(ValueError, match="last"):
        await request(FallbackMiddleware(ScriptedApp(500), targets=[ScriptedApp(ValueError("last"))]))


async def test_an_answer_that_is_held_back_is_unwound_at_once() -> None:
    unwound = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await asyncio.Event().wait()
        finally:
            unwound.set()

    async def second(scope: Scope, receive: Receive, send: Send) -> None:
        assert unwound.is_set()
        await ScriptedApp(200)(scope, receive, send)

    assert (await request(FallbackMiddleware(endless, targets=[second]))).status == 200


async def test_a_cancellation_is_no_failure() -> None:
    second = ScriptedApp(200)

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async with Conversation(FallbackMiddleware(waiting, targets=[second]), http_scope()) as talk:
        await settle()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert second.calls == []
