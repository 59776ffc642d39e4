"""Retries as the service, the client and the clock see them. Time is moved by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from asgi_gateway.context import ATTEMPT, DEADLINE, EXCHANGE, Exchange
from asgi_gateway.errors import Failure
from asgi_gateway.middleware.retry import RetryMiddleware
from asgi_gateway.policies.backoff import Backoff
from asgi_gateway.policies.circuit_breaker import CircuitBreaker, Permit
from asgi_gateway.policies.retry_budget import Budget
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Answer,
    Conversation,
    ManualClock,
    ScriptedApp,
    http_scope,
    read_body,
    request,
    settle,
)
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

EXACT = Backoff(jitter=0)
AT_ONCE = Backoff(initial=0)
UNREACHABLE = Problem(502, Failure("connect", "upstream", request_sent=False), "no connection")
RESET = Problem(502, Failure("reset", "upstream", request_sent=True), "reset")


def retrying(app: ASGIApp, clock: ManualClock | None = None, **options: Any) -> RetryMiddleware:
    """A retry that does not wait, or waits exactly 1, 2, 4 seconds of the given clock."""
    if clock is None:
        return RetryMiddleware(app, **{"backoff": AT_ONCE, **options})
    return RetryMiddleware(app, **{"backoff": EXACT, "runtime": Runtime(clock=clock), **options})


def unread(status: int, **extra: Any) -> ASGIApp:
    """An app that answers without reading the request's body."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [], **extra})
        await send({"type": "http.response.body", "body": b"unread"})

    return app


@contextlib.asynccontextmanager
async def asking(
    app: ASGIApp, method: str = "GET", *, body: bytes | None = b"", **scope: Any
) -> AsyncIterator[Conversation]:
    """A request under way, its whole body sent."""
    async with Conversation(app, http_scope(method, **scope)) as talk:
        if body is not None:
            talk.body(body)
        await settle()
        yield talk


def with_length(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", str(len(body)).encode())]


# What is retried


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_error_is_followed_by_another_attempt(status: int):
    app = ScriptedApp(status, 200)
    answer = await request(retrying(app))
    assert (answer.status, answer.body, len(app.calls)) == (200, b"ok", 2)


async def test_attempts_are_the_total():
    app = ScriptedApp(503)
    assert (await request(retrying(app, attempts=3))).status == 503
    assert len(app.calls) == 3


async def test_the_last_answer_is_passed_on_unchanged():
    last = (503, [(b"X-Cause", b"disk"), (b"set-cookie", b"a"), (b"set-cookie", b"b")], [b"still ", b"down"])
    answer = await request(retrying(ScriptedApp(500, 502, last), attempts=3))
    assert (answer.status, answer.headers, answer.chunks) == last


@pytest.mark.parametrize("status", [200, 304, 400, 404, 408, 409, 425, 429, 501])
async def test_anything_else_is_the_answer(status: int):
    app = ScriptedApp(status)
    assert (await request(retrying(app))).status == status
    assert len(app.calls) == 1


@pytest.mark.parametrize(("method", "attempts"), [("GET", 4), ("PUT", 4), ("POST", 1), ("PATCH", 1)])
async def test_only_idempotent_methods_are_repeated(method: str, attempts: int):
    for failing in (503, RESET):
        app = ScriptedApp(failing)
        await request(retrying(app), method)
        assert len(app.calls) == attempts


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_a_connection_that_was_refused_is_retried_for_any_method(method: str):
    app = ScriptedApp(UNREACHABLE, 200)
    assert (await request(retrying(app), method)).status == 200


async def test_post_is_retried_where_it_is_listed():
    app = ScriptedApp(503, 200)
    assert (await request(retrying(app, methods=["GET", "POST"]), "POST")).status == 200


@pytest.mark.parametrize(
    "refusal",
    [
        Problem(503, Failure("circuit_open", "gateway"), "open"),
        Problem(503, Failure("overloaded", "gateway"), "busy"),
        Problem(429, Failure("rate_limited", "gateway"), "slower"),
        Problem(502, Failure("client_disconnected", "client"), "gone"),
    ],
    ids=lambda refusal: refusal.failure.kind,
)
async def test_a_refusal_of_our_own_is_the_answer(refusal: Problem):
    app = ScriptedApp(refusal)
    await request(retrying(app))
    assert len(app.calls) == 1


async def test_the_failure_of_an_earlier_attempt_says_nothing_of_the_next():
    exchange = Exchange()
    answer = await request(retrying(ScriptedApp(UNREACHABLE, 200)), **{EXCHANGE: exchange})
    assert answer.status == 200
    assert exchange.failure is None
    assert exchange.attempts == 2


async def test_each_attempt_has_a_scope_and_headers_of_its_own():
    async def meddling(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"].append((b"x-meddled", b"1"))
        scope["path"] = "/elsewhere"
        await unread(503)(scope, receive, send)

    app = ScriptedApp(meddling, 200)
    await request(retrying(app), path="/here", headers=[(b"host", b"a")])
    assert [call[ATTEMPT] for call in app.calls] == [1, 2]
    assert app.calls[1]["headers"] == [(b"host", b"a")]
    assert app.calls[1]["path"] == "/here"


async def test_an_exception_is_not_retried():
    app = ScriptedApp(KeyError("bug"))
    with pytest.raises(KeyError):
        await request(retrying(app))
    assert len(app.calls) == 1


# When


async def test_delays_are_one_two_four_seconds(clock: ManualClock):
    app = ScriptedApp(503)
    async with asking(retrying(app, clock)) as talk:
        for delay, calls in ((1, 2), (2, 3), (4, 4)):
            assert clock.pending == [delay]
            await clock.advance(delay)
            assert len(app.calls) == calls
        assert (await talk.finish()).status == 503


async def test_jitter_comes_from_the_runtime(clock: ManualClock):
    runtime = Runtime(clock=clock, random=lambda: 0.0)
    async with asking(RetryMiddleware(ScriptedApp(503), backoff=Backoff(jitter=0.5), runtime=runtime)):
        assert clock.pending == [0.5]


async def test_retry_after_in_seconds_is_obeyed(clock: ManualClock):
    busy = (503, [(b"Retry-After", b"7")], [])
    async with asking(retrying(ScriptedApp(busy), clock)):
        assert clock.pending == [7]


async def test_retry_after_as_a_date_is_obeyed(clock: ManualClock):
    busy = (503, [(b"retry-after", b"Tue, 14 Nov 2023 22:13:25 GMT")], [])
    async with asking(retrying(ScriptedApp(busy), clock)):
        assert clock.pending == [5]


async def test_a_service_that_asks_for_too_long_a_wait_has_answered(clock: ManualClock):
    busy = (503, [(b"retry-after", b"31")], [b"come back later"])
    answer = await request(retrying(ScriptedApp(busy), clock))
    assert (answer.status, answer.header("retry-after"), answer.body) == (503, "31", b"come back later")


async def test_a_wait_past_the_deadline_is_not_begun(clock: ManualClock):
    app = ScriptedApp(503)
    scope = {DEADLINE: clock.monotonic() + 2.5}
    async with asking(retrying(app, clock), **scope) as talk:
        await clock.advance(1)
        assert (await talk.finish()).status == 503
    assert len(app.calls) == 2


# Streaming


async def test_the_answer_streams_as_it_is_made():
    more = asyncio.Event()

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await more.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with asking(retrying(ScriptedApp(503, streaming))) as talk:
        assert (await talk.next())["type"] == "http.response.start"
        assert (await talk.next())["body"] == b"first"
        more.set()
        assert (await talk.next())["body"] == b"last"


async def test_nothing_is_retried_after_the_answer_began():
    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ConnectionResetError

    app = ScriptedApp(breaking)
    with pytest.raises(ConnectionResetError):
        await request(retrying(app))
    assert len(app.calls) == 1


async def test_a_second_answer_of_a_muddled_app_is_not_retried():
    async def muddled(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.start", "status": 503, "headers": []})

    app = ScriptedApp(muddled)
    with pytest.raises(RuntimeError, match=r"http\.response\.start was sent twice"):
        await request(retrying(app))
    assert len(app.calls) == 1


async def test_what_precedes_an_answer_is_passed_on():
    async def hinting(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": []})
        await unread(200)(scope, receive, send)

    answer = await request(retrying(hinting))
    assert answer.messages[0]["type"] == "http.response.early_hint"


async def test_a_discarded_attempt_is_unwound_at_once(clock: ManualClock):
    closed: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unread(503)(scope, receive, send)
        finally:
            closed.append(clock.monotonic())

    async with asking(retrying(app, clock)):
        assert closed == [clock.monotonic()]


# Applications that do not let themselves be unwound politely


async def in_a_task_group(scope: Scope, receive: Receive, send: Send) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(unread(503)(scope, receive, send))  # type: ignore[arg-type]
        group.create_task(receive())  # type: ignore[arg-type]


async def as_another_error(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await unread(503)(scope, receive, send)
    except BaseException as error:
        raise RuntimeError("sending failed") from error


async def swallowed(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await unread(503)(scope, receive, send)
    except BaseException:
        return


async def answered_again(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await unread(503)(scope, receive, send)
    except BaseException:
        await unread(500)(scope, receive, send)


async def sent_regardless(scope: Scope, receive: Receive, send: Send) -> None:
    with contextlib.suppress(BaseException):
        await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b"down"})


@pytest.mark.parametrize(
    "app", [in_a_task_group, as_another_error, swallowed, answered_again, sent_regardless]
)
async def test_an_attempt_is_discarded_however_the_app_takes_it(app: ASGIApp):
    answer = await request(retrying(ScriptedApp(app, (200, [], []))))
    assert [message["type"] for message in answer.messages] == ["http.response.start", "http.response.body"]
    assert answer.status == 200


async def test_a_task_group_that_was_unwound_leaves_no_cancellation_behind():
    pending: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        pending.append(task.cancelling() if task else -1)
        await unread(200)(scope, receive, send)

    await request(retrying(ScriptedApp(in_a_task_group, app)))
    assert pending == [0]


async def test_an_error_of_an_app_that_was_not_unwound_is_kept():
    async def group(scope: Scope, receive: Receive, send: Send) -> None:
        raise BaseExceptionGroup("mixed", [KeyError("bug")])

    with pytest.raises(BaseExceptionGroup):
        await request(retrying(group))


async def test_a_cancellation_while_an_attempt_unwinds_is_kept(clock: ManualClock):
    unwinding = asyncio.Event()

    async def slow_to_close(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unread(503)(scope, receive, send)
        finally:
            unwinding.set()
            await asyncio.Event().wait()

    app = ScriptedApp(slow_to_close, 200)
    async with asking(retrying(app)) as talk:
        await unwinding.wait()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert len(app.calls) == 1


async def test_a_cancellation_that_the_app_turned_into_an_error_is_kept():
    unwinding = asyncio.Event()

    async def slow_to_close(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unread(503)(scope, receive, send)
        except BaseException as error:
            try:
                unwinding.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RuntimeError("sending failed") from error

    app = ScriptedApp(slow_to_close, 200)
    async with asking(retrying(app)) as talk:
        await unwinding.wait()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert len(app.calls) == 1


async def test_a_cancellation_while_a_task_group_unwinds_is_kept():
    unwinding = asyncio.Event()

    async def slow_to_close() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            unwinding.set()
            await settle()

    async def grouped(scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(slow_to_close())
            group.create_task(unread(503)(scope, receive, send))  # type: ignore[arg-type]

    app = ScriptedApp(grouped, 200)
    async with Conversation(retrying(app), http_scope()) as talk:
        talk.body()
        await unwinding.wait()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert len(app.calls) == 1


@pytest.mark.parametrize("where", ["app", "backoff", "send"])
async def test_a_cancelled_request_makes_no_further_attempt(where: str, clock: ManualClock):
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    steps: dict[str, ASGIApp | int] = {"app": endless, "backoff": 503, "send": unread(200)}
    app = ScriptedApp(steps[where], 200)

    async def stuck(message: Message) -> None:
        await asyncio.Event().wait()

    talk = Conversation(retrying(app, clock), http_scope())
    task = asyncio.ensure_future(talk.app(talk.scope, talk._receive, stuck))
    talk.body()
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(app.calls) == 1
    assert clock.pending == []


# The request's body


@pytest.mark.parametrize("size", [0, 1, 100, 2**20])
async def test_every_attempt_gets_the_identical_body(size: int):
    body = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    chunks = [body[at : at + 65536] for at in range(0, size, 65536)] or [b""]
    app = ScriptedApp(503, 503, 200)
    answer = await request(retrying(app), "PUT", body=chunks, headers=with_length(body))
    assert answer.status == 200
    assert app.bodies == [body] * 3


async def test_an_attempt_that_answers_before_it_reads_gets_the_whole_body():
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": await read_body(receive)})

    app = retrying(ScriptedApp(503, echo))
    assert (await request(app, "PUT", body=[b"ab", b"cd"], headers=with_length(b"abcd"))).body == b"abcd"


async def test_a_chunked_body_is_replayed():
    app = ScriptedApp(503, 200)
    await request(retrying(app), "PUT", body=[b"one ", b"two"], headers=[(b"transfer-encoding", b"chunked")])
    assert app.bodies == [b"one two"] * 2


async def test_the_body_of_a_refused_post_is_replayed():
    async def after_reading(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await UNREACHABLE(scope, receive, send)

    app = ScriptedApp(after_reading, 200)
    answer = await request(retrying(app), "POST", body=[b"one ", b"two"], headers=with_length(b"one two"))
    assert answer.status == 200
    assert app.bodies == [b"one two"]


@pytest.mark.parametrize("headers", [with_length(bytes(12)), [(b"transfer-encoding", b"chunked")]])
async def test_a_body_past_the_cap_goes_through_once(headers: list[tuple[bytes, bytes]]):
    app = ScriptedApp(503, 200)
    answer = await request(retrying(app, max_body=10), "PUT", body=[b"abcdef", b"ghijkl"], headers=headers)
    assert answer.status == 503
    assert app.bodies == [b"abcdefghijkl"]


async def test_a_body_that_announces_itself_past_the_cap_is_not_kept_at_all():
    async def after_one_chunk(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await unread(503)(scope, receive, send)

    app = ScriptedApp(after_one_chunk, 200)
    chunks = [b"abcdef", b"ghijkl"]
    answer = await request(
        retrying(app, max_body=10), "PUT", body=chunks, headers=with_length(b"".join(chunks))
    )
    assert answer.status == 503


async def test_a_body_past_the_cap_of_which_nothing_was_read_can_be_retried():
    app = ScriptedApp(UNREACHABLE, 200)
    body = bytes(100)
    answer = await request(retrying(app, max_body=10), "POST", body=body, headers=with_length(body))
    assert answer.status == 200
    assert app.bodies == [body]


async def test_the_body_is_read_no_faster_than_the_attempt_reads_it():
    reads: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reads.append((await receive())["body"])
        await asyncio.Event().wait()

    async with Conversation(retrying(app), http_scope("PUT", headers=with_length(b"ab"))) as talk:
        talk.body(b"a", more=True)
        talk.body(b"b")
        await settle()
        assert reads == [b"a"]
        assert talk._to_app.qsize() == 1


async def test_a_request_without_a_body_is_given_the_servers_own_receive():
    given: list[Receive] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.append(receive)
        await unread(200)(scope, receive, send)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    await retrying(app)(http_scope(), receive, send)
    assert given == [receive]


@pytest.mark.parametrize("first", [503, unread(503)], ids=["read", "unread"])
async def test_a_request_without_a_body_has_none_in_the_second_attempt_either(first: Any):
    app = ScriptedApp(first, 200)
    answer = await request(retrying(app))
    assert answer.status == 200
    assert app.bodies[-1] == b""


async def test_a_client_that_leaves_inside_the_body_ends_it():
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        seen.append(message["type"])
        await unread(503)(scope, receive, send)

    async with Conversation(retrying(app), http_scope("PUT", headers=with_length(b"ab"))) as talk:
        talk.body(b"a", more=True)
        talk.disconnect()
        assert (await talk.finish()).status == 503
    assert seen == ["http.disconnect"]


@pytest.mark.parametrize("headers", [[], with_length(b"ab")], ids=["no body", "body read"])
async def test_a_client_that_leaves_during_the_wait_ends_it_at_once(
    headers: list[tuple[bytes, bytes]], clock: ManualClock
):
    app = ScriptedApp(503, 200)
    exchange = Exchange()
    scope = {EXCHANGE: exchange, "headers": headers}
    async with asking(retrying(app, clock), "PUT", body=b"ab" if headers else b"", **scope) as talk:
        talk.disconnect()
        answer: Answer = await talk.finish()
    assert answer.messages == []
    assert exchange.failure == Failure("client_disconnected", "client")
    assert len(app.calls) == 1
    assert clock.pending == []


async def test_with_its_body_unread_the_wait_is_waited_out(clock: ManualClock):
    app = ScriptedApp(unread(503), 200)
    async with asking(retrying(app, clock), "PUT", body=b"ab", headers=with_length(b"ab")) as talk:
        assert talk._to_app.qsize() == 1
        await clock.advance(1)
        assert (await talk.finish()).status == 200
    assert app.bodies == [b"ab"]


async def test_after_the_body_an_app_hears_the_client_leave():
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        heard.append((await receive())["type"])

    async with asking(retrying(ScriptedApp(503, app)), "PUT", body=b"ab", headers=with_length(b"ab")) as talk:
        assert heard == []
        talk.disconnect()
        await talk.finish()
    assert heard == ["http.disconnect"]


# The rest


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "something.new"])
async def test_other_scopes_pass_through(kind: str):
    given: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.extend([scope, receive, send])

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None: ...

    scope: Scope = {"type": kind}
    await RetryMiddleware(app)(scope, receive, send)
    assert all(got is handed for got, handed in zip(given, (scope, receive, send), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "greater than or equal to 1"),
        (
            {"statuses": [404, 429, 503]},
            "only 408, 425, 429 and statuses of 500 and above are retried, not 404",
        ),
        ({"methods": ["get"]}, "upper case"),
        ({"backoff": {"initial": "1 fortnight"}}, "expected a duration"),
        ({"backoff": {"factr": 2}}, "factr"),
        ({"max_body": "1 lump"}, "expected a size"),
        ({"max_retries": 3}, "max_retries"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        RetryMiddleware(ScriptedApp(200), **options)


def test_options_are_written_as_in_yaml():
    make: Callable[..., RetryMiddleware] = RetryMiddleware
    retry = make(
        ScriptedApp(200),
        backoff={"initial": "250ms", "factor": 3},
        statuses=["502-504"],
        methods=["GET"],
        max_body="64KiB",
        max_retry_after="1m",
    )
    assert retry.policy.backoff == Backoff(initial=0.25, factor=3)
    assert retry.policy.statuses == {502, 503, 504}
    assert retry.policy.max_retry_after == 60.0


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in BaseHTTPMiddleware"])
async def test_a_starlette_app_that_streams_can_be_unwound(wrapped: bool):
    chunks_made: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b"):
            chunks_made.append(chunk)
            yield chunk

    async def endpoint(received: Request) -> StreamingResponse:
        bodies.append(await received.body())
        return StreamingResponse(chunks(), 503 if len(bodies) == 1 else 200)

    async def dispatch(received: Request, call_next: Any) -> Any:
        return await call_next(received)

    bodies: list[bytes] = []
    app = Starlette(routes=[Route("/", endpoint, methods=["PUT"])])
    if wrapped:
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    answer = await request(retrying(app), "PUT", body=[b"one ", b"two"], headers=with_length(b"one two"))
    assert (answer.status, answer.body) == (200, b"ab")
    assert bodies == [b"one two"] * 2
    assert chunks_made.count(b"b") == 1


# Statuses that ask for another attempt


@pytest.mark.parametrize("status", [408, 425, 429])
async def test_a_status_that_asks_to_try_later_is_retried_if_listed(status: int, clock: ManualClock):
    busy = (status, [(b"Retry-After", b"3")], [])
    app = ScriptedApp(busy, 200)
    async with asking(retrying(app, clock, statuses=[status])) as talk:
        assert clock.pending == [3]
        await clock.advance(3)
        assert (await talk.finish()).status == 200


async def test_the_gateways_own_429_is_not_retried_even_if_listed():
    app = ScriptedApp(Problem(429, Failure("rate_limited", "gateway"), "slower"))
    await request(retrying(app, statuses=[429]))
    assert len(app.calls) == 1


@pytest.mark.parametrize(("allowed", "attempts"), [(True, 2), (False, 1)])
async def test_a_post_with_an_idempotency_key_is_retried_where_that_is_allowed(allowed: bool, attempts: int):
    app = ScriptedApp(503, 200)
    headers = [(b"Idempotency-Key", b"one")]
    await request(retrying(app, idempotency_key=allowed), "POST", headers=headers)
    assert len(app.calls) == attempts


async def test_a_post_without_the_key_is_not():
    app = ScriptedApp(503, 200)
    await request(retrying(app, idempotency_key=True), "POST")
    assert len(app.calls) == 1


# The budget


def skipped(runtime: Runtime) -> dict[str, int]:
    """How many retries were skipped, by reason."""
    return {
        dict(counter.labels)["reason"]: counter.value
        for counter in runtime.metrics.counters
        if counter.name == "retry_skipped_total" and counter.value
    }


async def test_a_service_that_is_dead_sees_a_fifth_more_requests_and_the_floor(clock: ManualClock):
    runtime = Runtime(clock=clock)
    app = ScriptedApp(unread(503))
    retry = RetryMiddleware(app, backoff=AT_ONCE, runtime=runtime)
    for _ in range(1000):
        assert (await request(retry)).status == 503
    assert len(app.calls) <= 1000 + 200 + 30
    assert len(app.calls) >= 1200
    assert runtime.counter("retries_total").value == len(app.calls) - 1000
    assert skipped(runtime)["budget"] > 900


async def test_without_a_budget_every_request_has_all_its_attempts():
    app = ScriptedApp(unread(503))
    retry = retrying(app, budget="off")
    for _ in range(100):
        await request(retry)
    assert len(app.calls) == 400


async def test_one_service_has_one_budget_and_another_its_own(clock: ManualClock):
    runtime = Runtime(clock=clock)
    budget = Budget(ratio=0, min_per_second=0.1)
    apps = [ScriptedApp(503) for _ in range(3)]
    for app, service in zip(apps, ("a", "a", "b"), strict=True):
        await request(
            RetryMiddleware(app, backoff=AT_ONCE, budget=budget, runtime=runtime.scoped_to(service))
        )
    assert [len(app.calls) for app in apps] == [2, 1, 2]


async def test_an_outer_and_an_inner_retry_count_a_request_once(clock: ManualClock):
    runtime = Runtime(clock=clock).scoped_to("a")
    budget = Budget(ratio=1, min_per_second=0)
    app = ScriptedApp(unread(503))
    inner = RetryMiddleware(app, backoff=AT_ONCE, budget=budget, runtime=runtime)
    exchange = Exchange()
    outer = RetryMiddleware(inner, backoff=AT_ONCE, budget=budget, runtime=runtime)
    await request(outer, **{EXCHANGE: exchange})
    assert len(app.calls) == 2
    assert exchange.attempts == 2


@pytest.mark.parametrize(
    ("answer", "options", "reason"),
    [
        (503, {"attempts": 1}, "attempts"),
        (503, {"methods": ["PUT"]}, "method"),
        (507, {}, "outcome"),
        ((503, [(b"retry-after", b"99")], []), {}, "retry_after"),
        (Problem(503, Failure("overloaded", "gateway"), "busy"), {}, "not_upstream"),
        (503, {"budget": {"ratio": 0, "min_per_second": 0}}, "budget"),
    ],
)
async def test_what_keeps_a_retry_from_being_made_is_counted(
    answer: Any, options: dict[str, Any], reason: str, clock: ManualClock
):
    runtime = Runtime(clock=clock)
    await request(RetryMiddleware(ScriptedApp(answer), runtime=runtime, **options))
    assert skipped(runtime) == {reason: 1}


async def test_a_deadline_and_a_body_that_keep_it_from_being_made_are_counted(clock: ManualClock):
    runtime = Runtime(clock=clock)
    retry = RetryMiddleware(ScriptedApp(503), max_body=1, runtime=runtime)
    await request(retry, **{DEADLINE: clock.monotonic() + 0.1})
    await request(retry, "PUT", body=b"ab", headers=with_length(b"ab"))
    assert skipped(runtime) == {"deadline": 1, "body_too_large": 1}


async def test_success_skips_nothing(clock: ManualClock):
    runtime = Runtime(clock=clock)
    for status in (200, 404, 429):
        await request(RetryMiddleware(ScriptedApp(status), runtime=runtime))
    assert skipped(runtime) == {}


async def test_a_breaker_of_the_service_that_has_opened_ends_it(clock: ManualClock):
    runtime = Runtime(clock=clock).scoped_to("a")
    app = ScriptedApp(503)
    breaker = CircuitBreaker(1, 60.0, 1)
    retry = RetryMiddleware(app, backoff=AT_ONCE, runtime=runtime)
    runtime.services["a"].breakers.append(breaker)
    permit = breaker.acquire(clock.monotonic())
    assert isinstance(permit, Permit)
    breaker.failed(permit, clock.monotonic())
    assert (await request(retry)).status == 503
    assert len(app.calls) == 1
    assert skipped(runtime) == {"circuit_open": 1}


async def test_a_breaker_that_opens_during_the_wait_ends_it(clock: ManualClock):
    runtime = Runtime(clock=clock).scoped_to("a")
    app = ScriptedApp(503)
    breaker = CircuitBreaker(1, 60.0, 1)
    exchange = Exchange()
    retry = RetryMiddleware(app, backoff=EXACT, runtime=runtime)
    runtime.services["a"].breakers.append(breaker)
    async with asking(retry, **{EXCHANGE: exchange}) as talk:
        breaker.open_until(clock.monotonic() + 31, clock.monotonic())
        await clock.advance(1)
        answer = await talk.finish()
    assert (answer.status, answer.header("x-gateway-error")) == (503, "circuit_open")
    assert answer.header("retry-after") == "30"
    assert (len(app.calls), exchange.attempts) == (1, 1)
    assert skipped(runtime) == {"circuit_open": 1}
    assert runtime.counter("retries_total").value == 0


async def test_a_breaker_that_asks_again_does_not_end_it(clock: ManualClock):
    runtime = Runtime(clock=clock).scoped_to("a")
    app = ScriptedApp(503, 200)
    retry = RetryMiddleware(app, backoff=EXACT, runtime=runtime)
    breaker = CircuitBreaker(1, 60.0, 1)
    runtime.services["a"].breakers.append(breaker)
    async with asking(retry) as talk:
        breaker.open_until(clock.monotonic() + 1, clock.monotonic())
        await clock.advance(1)
        assert (await talk.finish()).status == 200


# The time of one attempt


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def test_an_attempt_that_has_had_its_time_is_followed_by_another(clock: ManualClock):
    app = ScriptedApp(never, 200)
    exchange = Exchange()
    retry = retrying(app, clock, per_attempt_timeout=5, backoff=AT_ONCE)
    async with asking(retry, **{EXCHANGE: exchange}) as talk:
        await clock.advance(4.9)
        assert len(app.calls) == 1
        await clock.advance(0.1)
        assert (await talk.finish()).status == 200
    assert exchange.failure is None
    assert exchange.attempts == 2


async def test_the_last_attempt_that_has_had_its_time_is_a_504(clock: ManualClock):
    exchange = Exchange()
    retry = retrying(ScriptedApp(never), clock, attempts=2, per_attempt_timeout=5, backoff=AT_ONCE)
    async with asking(retry, **{EXCHANGE: exchange}) as talk:
        await clock.advance(5)
        await clock.advance(5)
        answer = await talk.finish()
    assert (answer.status, answer.header("x-gateway-error")) == (504, "upstream_timeout")
    assert exchange.failure == Failure("timeout", "upstream", request_sent=True)


async def test_a_post_that_has_had_its_time_is_not_repeated(clock: ManualClock):
    app = ScriptedApp(never)
    async with asking(retrying(app, clock, per_attempt_timeout=5), "POST") as talk:
        await clock.advance(5)
        assert (await talk.finish()).status == 504
    assert len(app.calls) == 1


async def test_an_answer_that_has_begun_is_never_cut(clock: ManualClock):
    more = asyncio.Event()

    async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await more.wait()
        await send({"type": "http.response.body", "body": b"late"})

    async with asking(retrying(streaming, clock, per_attempt_timeout=5)) as talk:
        await clock.advance(500)
        more.set()
        assert (await talk.finish()).body == b"late"


@pytest.mark.parametrize("statuses", [[503], [503, 504]])
async def test_the_unwinding_of_an_attempt_that_is_retried_is_not_cut(
    statuses: list[int], clock: ManualClock
):
    async def slow_to_close(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            start = {"type": "http.response.start", "status": 503, "headers": [(b"retry-after", b"7")]}
            await send(start)
        finally:
            await clock.sleep(6)

    app = ScriptedApp(slow_to_close, 200)
    budget = Budget(ratio=0, min_per_second=0.1, window=10)
    retry = retrying(app, clock, per_attempt_timeout=5, statuses=statuses, budget=budget)
    async with asking(retry) as talk:
        await clock.advance(6)
        assert clock.pending == [7]
        await clock.advance(7)
        assert (await talk.finish()).status == 200
    assert len(app.calls) == 2


async def test_inner_layers_see_why_the_attempt_was_cancelled(clock: ManualClock):
    seen: list[Failure | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(scope[EXCHANGE].failure)

    async with asking(retrying(app, clock, attempts=1, per_attempt_timeout=5)) as talk:
        await clock.advance(5)
        await talk.finish()
    assert seen == [Failure("timeout", "upstream", request_sent=True)]


@pytest.mark.parametrize("late", ["answers", "returns", "raises"])
async def test_an_app_that_does_not_end_when_its_time_is_over_is_not_heard(late: str, clock: ManualClock):
    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if late == "answers":
            await unread(200)(scope, receive, send)
        elif late == "raises":
            raise RuntimeError("cancelled")

    pending: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        pending.append(task.cancelling() if task else -1)
        await unread(204)(scope, receive, send)

    retry = retrying(ScriptedApp(stubborn, app), clock, per_attempt_timeout=5, backoff=AT_ONCE)
    async with asking(retry) as talk:
        await clock.advance(5)
        assert (await talk.finish()).status == 204
    assert pending == [0]


async def test_a_cancellation_from_outside_while_its_time_runs_out_is_kept(clock: ManualClock):
    unwinding = asyncio.Event()

    async def slow_to_close(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            unwinding.set()
            await asyncio.Event().wait()

    app = ScriptedApp(slow_to_close, 200)
    async with asking(retrying(app, clock, per_attempt_timeout=5)) as talk:
        await clock.advance(5)
        await unwinding.wait()
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert len(app.calls) == 1
