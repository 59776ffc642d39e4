import asyncio
import uuid

import pytest
from pydantic import ValidationError

from asgi_gateway.asgi.headers import get_all
from asgi_gateway.context import REQUEST_ID, request_id_var
from asgi_gateway.errors import Failure
from asgi_gateway.middleware import RequestIdMiddleware
from asgi_gateway.problem import Problem
from asgi_gateway.testing import Conversation, ScriptedApp, request, websocket_scope
from asgi_gateway.types import Receive, Scope, Send

NAME = b"x-request-id"


def is_uuid4(text: str) -> bool:
    parsed = uuid.UUID(text)
    return str(parsed) == text and parsed.version == 4 and parsed.variant == uuid.RFC_4122


@pytest.mark.parametrize("value", [b"a", b"A-z.0_9", b"x" * 128])
async def test_a_valid_id_is_kept_and_agreed_on_by_all(value: bytes) -> None:
    app = ScriptedApp(200)
    answer = await request(RequestIdMiddleware(app), headers=[(b"X-Request-Id", value)])
    assert answer.all("x-request-id") == [value.decode()]
    assert app.calls[0][REQUEST_ID] == value.decode()
    assert get_all(app.calls[0]["headers"], NAME) == [value]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(NAME, b"")],
        [(NAME, b"x" * 129)],
        [(NAME, b"x" * 10_000)],
        [(NAME, b"a b")],
        [(NAME, b"a\n")],
        [(NAME, b"caf\xe9")],
        [(NAME, b"one"), (b"X-Request-ID", b"two")],
        [(NAME, b"same"), (NAME, b"same")],
        [(b"x_request_id", b"alias")],
        [(NAME, b"real"), (b"X_Request_ID", b"alias")],
    ],
)
async def test_anything_else_is_replaced_by_a_new_uuid(headers: list[tuple[bytes, bytes]]) -> None:
    app = ScriptedApp(200)
    answer = await request(RequestIdMiddleware(app), headers=[(b"a", b"1"), *headers, (b"b", b"2")])
    [new] = answer.all("x-request-id")
    assert is_uuid4(new)
    assert app.calls[0][REQUEST_ID] == new
    assert app.calls[0]["headers"] == [
        (b"host", b"testserver"), (b"a", b"1"), (b"b", b"2"), (NAME, new.encode()),
    ]  # fmt: skip


async def test_no_two_requests_share_an_id() -> None:
    app = RequestIdMiddleware(ScriptedApp(200))
    made = [(await request(app)).header("x-request-id") for _ in range(200)]
    assert len(set(made)) == 200
    assert all(is_uuid4(str(one)) for one in made)


async def test_the_response_carries_it_once_whatever_the_app_says() -> None:
    app = ScriptedApp((503, [(b"X-Request-ID", b"mine"), (b"x-request-id", b"too"), (b"A", b"1")], []))
    answer = await request(RequestIdMiddleware(app), headers=[(NAME, b"kept")])
    assert answer.headers == [(b"A", b"1"), (NAME, b"kept")]


async def test_a_refusal_names_it_too() -> None:
    refusal = Problem(429, Failure("rate_limited", "gateway"), "Later.")
    answer = await request(RequestIdMiddleware(refusal), headers=[(NAME, b"kept")])
    assert answer.header("x-request-id") == "kept"
    assert b'"request_id": "kept"' in answer.body


async def test_the_log_knows_it_during_the_request_and_not_after() -> None:
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(request_id_var.get())
        await ScriptedApp(200)(scope, receive, send)

    async def one(name: str) -> None:
        await RequestIdMiddleware(app)(
            {"type": "http", "headers": [(NAME, name.encode())]}, ScriptedReceive(), ignore
        )
        seen.append(request_id_var.get())

    await one("first")
    await one("second")
    assert seen == ["first", None, "second", None]


async def test_whoever_catches_an_exception_can_still_name_the_request() -> None:
    async def catching() -> str | None:
        with pytest.raises(KeyError):
            await request_in_this_task(RequestIdMiddleware(ScriptedApp(KeyError("bug"))))
        return request_id_var.get()

    assert await asyncio.create_task(catching()) == "kept"
    assert request_id_var.get() is None


async def test_another_header_may_be_named() -> None:
    app = ScriptedApp(200)
    answer = await request(
        RequestIdMiddleware(app, header="Correlation-Id"), headers=[(b"correlation-id", b"c"), (NAME, b"x")]
    )
    assert answer.all("correlation-id") == ["c"]
    assert answer.all("x-request-id") == []
    assert get_all(app.calls[0]["headers"], NAME) == [b"x"]


@pytest.mark.parametrize("header", ["", "a b", "a:b", "a\r\nb", "under_score"])
def test_a_name_that_is_no_header_is_refused(header: str) -> None:
    with pytest.raises(ValidationError):
        RequestIdMiddleware(ScriptedApp(200), header=header)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.accept", "headers": [(b"X-Request-Id", b"theirs")]},
        {"type": "websocket.accept"},
        {"type": "websocket.http.response.start", "status": 403, "headers": []},
    ],
)
async def test_a_handshake_is_answered_with_it(message: dict[str, object]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope[REQUEST_ID] == "ws"
        await send(message)

    async with Conversation(RequestIdMiddleware(app), websocket_scope(headers=[(NAME, b"ws")])) as talk:
        assert get_all((await talk.next())["headers"], NAME) == [b"ws"]
        await talk.finish()


class ScriptedReceive:
    async def __call__(self) -> dict[str, object]:
        return {"type": "http.request"}


async def ignore(message: object) -> None:
    pass


async def request_in_this_task(app: RequestIdMiddleware) -> None:
    await app({"type": "http", "headers": [(NAME, b"kept")]}, ScriptedReceive(), ignore)
