import asyncio

import pytest

from asgi_gateway.testing import (
    Answer,
    Conversation,
    ScriptedApp,
    http_scope,
    read_body,
    record,
    request,
    websocket_scope,
)
from asgi_gateway.types import Message, Receive, Scope, Send

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"Set-Cookie", b"a")]}
LAST: Message = {"type": "http.response.body", "body": b"end"}


async def test_a_request_is_sent_and_its_answer_collected() -> None:
    headers = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]
    app = ScriptedApp((201, headers, [b"one", b"two"]))
    answer = await request(app, "POST", "/x", body=[b"a", b"b"], query=b"q=1", state={"k": 1})
    assert (answer.status, answer.chunks, answer.body, answer.complete) == (
        201,
        [b"one", b"two"],
        b"onetwo",
        True,
    )
    assert answer.all("SET-COOKIE") == ["a=1", "b=2"]
    assert answer.header("set-cookie") == "a=1"
    assert answer.header("absent") is None
    assert app.bodies == [b"ab"]
    [scope] = app.calls
    assert (scope["method"], scope["path"], scope["query_string"], scope["state"]) == (
        "POST",
        "/x",
        b"q=1",
        {"k": 1},
    )


async def test_a_script_is_followed_and_its_last_step_repeated() -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "status": 299})
        await send(LAST)

    app = ScriptedApp(503, inner, KeyError("step"))
    assert [(await request(app)).status for _ in range(2)] == [503, 299]
    for _ in range(2):
        with pytest.raises(KeyError, match="step"):
            await request(app)


async def test_a_conversation_goes_message_by_message() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body"})

    async with Conversation(echo, http_scope("POST")) as talk:
        assert (await talk.next())["status"] == 200
        talk.body(b"one", more=True)
        assert (await talk.next())["body"] == b"one"
        assert not talk.done
        talk.disconnect()
        answer = await talk.finish()
    assert (answer.body, answer.complete) == (b"one", True)


async def test_what_was_given_comes_before_the_disconnect_which_comes_again_and_again() -> None:
    kinds: list[str] = []

    async def listener(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.extend([(await receive())["type"] for _ in range(3)])

    async with Conversation(listener, http_scope()) as talk:
        talk.body(b"", more=True)
        talk.disconnect()
        await talk.finish()
    assert kinds == ["http.request", "http.disconnect", "http.disconnect"]


async def test_an_app_that_raises_or_returns_early_is_not_waited_for() -> None:
    async with Conversation(ScriptedApp(KeyError("early")), http_scope()) as talk:
        with pytest.raises(KeyError, match="early"):
            await talk.next()

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with Conversation(silent, http_scope()) as talk:
        with pytest.raises(AssertionError, match="returned without"):
            await talk.next()


async def test_an_app_that_says_nothing_is_reported_and_cancelled() -> None:
    ended: list[str] = []

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        finally:
            ended.append("cancelled")

    async with Conversation(hang, http_scope()) as talk:
        with pytest.raises(AssertionError, match="sent nothing for"):
            await talk.next(seconds=0.01)
    assert ended == ["cancelled"]
    with pytest.raises(RuntimeError, match="context manager"):
        Conversation(hang, http_scope()).cancel()


async def test_a_cancelled_app_ends_cancelled() -> None:
    async with Conversation(ScriptedApp(200), http_scope()) as talk:
        await asyncio.sleep(0)
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()


@pytest.mark.parametrize(
    ("messages", "mistake"),
    [([START, START], "twice"), ([LAST], "before"), ([START, LAST, LAST], "after the last")],
)
def test_what_the_specification_refuses_is_refused(messages: list[Message], mistake: str) -> None:
    answer = Answer()
    for message in messages[:-1]:
        record(answer, message)
    with pytest.raises(RuntimeError, match=mistake):
        record(answer, messages[-1])


async def test_a_body_whose_client_left_is_not_a_body() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ConnectionError):
            await read_body(receive)

    async with Conversation(app, http_scope()) as talk:
        talk.body(b"half", more=True)
        talk.disconnect()
        await talk.finish()


def test_a_scope_looks_like_a_servers() -> None:
    scope = http_scope(path="/ä b", headers=[(b"x", b"1")], raw_path=b"/%C3%A4%20b", client=None)
    assert scope["headers"] == [(b"host", b"testserver"), (b"x", b"1")]
    assert (scope["raw_path"], scope["client"], scope["type"]) == (b"/%C3%A4%20b", None, "http")
    assert http_scope(headers=[(b"host", b"other")])["headers"] == [(b"host", b"other")]


def test_a_handshake_has_no_method_and_may_be_denied_with_an_answer() -> None:
    scope = websocket_scope("/ws")
    assert (scope["type"], scope["scheme"], "method" in scope) == ("websocket", "ws", False)
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert websocket_scope(denial=False)["extensions"] == {}
