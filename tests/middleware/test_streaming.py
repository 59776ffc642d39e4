"""Every middleware: what streams goes on streaming, and what is not its business passes as it was."""

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from options_needed import EVERY

from asgi_gateway.testing import Conversation, ScriptedApp, http_scope, request, settle, websocket_scope
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.usefixtures("access_log_on")


def all_of_them(app: ASGIApp) -> ASGIApp:
    """The whole set, each around the next."""
    for wrap in EVERY:
        app = wrap(app)
    return app


Wrap = Callable[[ASGIApp], ASGIApp]
every_middleware = pytest.mark.parametrize("wrap", [*EVERY, all_of_them])


def start(*headers: tuple[bytes, bytes], **more: Any) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": list(headers), **more}


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


@every_middleware
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_first_chunk_arrives_before_the_last_is_made(wrap: Wrap, method: str) -> None:
    finish = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-type", b"text/event-stream")))
        await send(part(b"data: 1\n\n"))
        await finish.wait()
        await send(part(b"data: 2\n\n", more=False))

    async with Conversation(wrap(app), http_scope(method)) as talk:
        assert (await talk.next())["type"] == "http.response.start"
        assert (await talk.next())["body"] == b"data: 1\n\n"
        assert not talk.done
        finish.set()
        assert (await talk.next())["body"] == b"data: 2\n\n"
        assert (await talk.finish()).complete


@every_middleware
async def test_an_upload_streams_in_while_the_answer_streams_out(wrap: Wrap) -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send(part(message["body"], more=more))

    headers = [(b"transfer-encoding", b"chunked")]
    async with Conversation(wrap(echo), http_scope("POST", headers=headers)) as talk:
        await talk.next()
        for number in range(3):
            talk.body(b"%d" % number, more=number < 2)
            assert (await talk.next())["body"] == b"%d" % number
        await talk.finish()


@every_middleware
async def test_a_slow_reader_holds_the_app_back(wrap: Wrap) -> None:
    made: list[int] = []
    reads = asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for number in range(100):
            made.append(number)
            await send(part(b"x", more=number < 99))

    async def slow(message: Message) -> None:
        await reads.acquire()

    async def receive() -> Message:
        return {"type": "http.request"}

    task = asyncio.ensure_future(wrap(app)(http_scope(), receive, slow))
    for _ in range(4):
        reads.release()
    await settle()
    assert made == [0, 1, 2, 3]
    for _ in range(200):
        reads.release()
    await task
    assert len(made) == 100


FULL_ANSWER: list[Message] = [
    {"type": "http.response.early_hint", "links": [b"</a>"]},
    start((b"Content-Type", b"text/plain"), (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), trailers=True),
    part(b"one"),
    {"type": "http.response.body", "body": b"two", "more_body": False},
    {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False},
    {"type": "http.response.unheard_of", "anything": object()},
]


@every_middleware
async def test_messages_pass_in_order_and_as_they_were(wrap: Wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in FULL_ANSWER:
            await send(message)

    answer = await request(wrap(app))
    begin = answer.messages[1]
    assert begin.keys() == FULL_ANSWER[1].keys()
    assert begin["trailers"] is True
    assert begin["headers"][:3] == FULL_ANSWER[1]["headers"]
    for sent, passed in zip(FULL_ANSWER, answer.messages, strict=True):
        assert sent is passed or sent["type"] == "http.response.start"


@every_middleware
async def test_an_answer_without_headers_is_an_answer(wrap: Wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    assert (await request(wrap(app))).status == 204


@every_middleware
async def test_an_app_may_use_its_start_message_again(wrap: Wrap) -> None:
    shared = start((b"a", b"1"))
    before = copy.deepcopy(shared)
    await request(wrap(lambda scope, receive, send: answer_with(shared, send)))
    assert shared == before


async def answer_with(message: Message, send: Send) -> None:
    await send(message)
    await send(part(b"", more=False))


@every_middleware
async def test_the_requests_bytes_reach_the_app_unchanged(wrap: Wrap) -> None:
    headers = [(b"X-Mixed", b"One"), (b"x-mixed", b"two"), (b"Cookie", b"a=1"), (b"cookie", b"b=2")]
    app = ScriptedApp(200)
    body = [b"first", b"", b"last"]
    await request(
        wrap(app), "PUT", "/a/b", raw_path=b"/a%2Fb", query=b"x=1&x=2&&", headers=headers, body=body
    )
    [scope] = app.calls
    assert (scope["raw_path"], scope["query_string"], scope["path"]) == (b"/a%2Fb", b"x=1&x=2&&", "/a/b")
    assert [pair for pair in scope["headers"] if pair in headers] == headers
    assert app.bodies == [b"firstlast"]


def rich_scope(**extra: Any) -> Scope:
    """A scope with something in every place that a careless layer might write to."""
    headers = [(b"X-Request-ID", b"bad id"), (b"x-forwarded-for", b"1.2.3.4"), (b"Traceparent", b"bad")]
    return http_scope(headers=headers, extensions={"http.response.trailers": {}}, state={"a": [1]}, **extra)


@every_middleware
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_the_servers_scope_is_not_written_to(wrap: Wrap, kind: str) -> None:
    scope = rich_scope(type=kind)
    before = copy.deepcopy(scope)
    headers = scope["headers"]

    async def meddling(inner: Scope, receive: Receive, send: Send) -> None:
        inner["path"] = "/changed"
        await send(start() if kind == "http" else {"type": "websocket.accept"})

    async with Conversation(wrap(_copying(meddling)), scope) as talk:
        talk.body()
        await talk.finish()
    assert scope == before
    assert scope["headers"] is headers


def _copying(app: ASGIApp) -> ASGIApp:
    async def copied(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope}, receive, send)

    return copied


@every_middleware
async def test_what_the_app_is_told_is_shared_with_the_server_where_asgi_says_so(wrap: Wrap) -> None:
    app = ScriptedApp(200)
    scope = rich_scope()
    async with Conversation(wrap(app), scope) as talk:
        talk.body()
        await talk.finish()
    assert app.calls[0]["state"] is scope["state"]
    assert app.calls[0]["extensions"] is scope["extensions"]


@every_middleware
@pytest.mark.parametrize("kind", ["lifespan", "unheard_of"])
async def test_other_scopes_pass_with_everything_that_came_with_them(wrap: Wrap, kind: str) -> None:
    scope: Scope = {"type": kind}
    seen: list[object] = []

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None: ...

    async def app(*given: object) -> None:
        seen.extend(given)

    await wrap(app)(scope, receive, send)
    assert seen[0] is scope
    assert seen[1] is receive
    assert seen[2] is send
    assert scope == {"type": kind}


@every_middleware
async def test_a_lifespan_that_the_app_does_not_know_is_the_servers_business(wrap: Wrap) -> None:
    with pytest.raises(ValueError, match="lifespan"):
        await wrap(ScriptedApp(ValueError("no lifespan")))({"type": "lifespan"}, None, None)  # type: ignore[arg-type]


@every_middleware
async def test_a_websocket_talks_both_ways(wrap: Wrap) -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"A", b"1")]})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close", "code": 1000, "reason": message["reason"]})

    async with Conversation(wrap(echo), websocket_scope(subprotocols=["chat"])) as talk:
        talk.give({"type": "websocket.connect"})
        accept = await talk.next()
        assert (accept["subprotocol"], accept["headers"][0]) == ("chat", (b"A", b"1"))
        for text in ("one", "two"):
            talk.give({"type": "websocket.receive", "text": text})
            assert await talk.next() == {"type": "websocket.send", "text": text}
        talk.give({"type": "websocket.disconnect", "code": 1001, "reason": "bye"})
        assert await talk.next() == {"type": "websocket.close", "code": 1000, "reason": "bye"}
        await talk.finish()


@every_middleware
async def test_the_client_leaving_is_told_once_it_left_and_not_before(wrap: Wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        await send(start())
        kind = (await receive())["type"]
        await send(part(json.dumps(kind).encode(), more=False))

    async with Conversation(wrap(app), http_scope("POST", headers=[(b"content-length", b"1")])) as talk:
        talk.body(b"x")
        await talk.next()
        await settle()
        assert not talk.done
        talk.disconnect()
        assert (await talk.next())["body"] == b'"http.disconnect"'
        await talk.finish()


@every_middleware
async def test_one_instance_serves_many_requests_at_once(wrap: Wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for _ in range(5):
            await asyncio.sleep(0)
            await send(part(scope["path"].encode()))
        await send(part(b"", more=False))

    stack = wrap(app)
    answers = await asyncio.gather(*(request(stack, path=f"/{number}") for number in range(20)))
    assert [answer.body for answer in answers] == [b"/%d" % number * 5 for number in range(20)]
