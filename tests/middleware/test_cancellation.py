"""Every middleware, cancelled wherever it can be waiting: cancellation gets out and leaves nothing behind."""

import asyncio
from collections.abc import Callable

import pytest
from options_needed import EVERY

from asgi_gateway.testing import Conversation, http_scope, settle, websocket_scope
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.usefixtures("access_log_on")

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}
ACCEPT: Message = {"type": "websocket.accept"}

every_middleware = pytest.mark.parametrize("wrap", EVERY)
every_kind = pytest.mark.parametrize(
    "scope", [http_scope("POST"), websocket_scope()], ids=["http", "websocket"]
)


class Waiting:
    """An app that waits in one place and notes that its own clean-up ran to its end."""

    def __init__(self, place: str, *messages: Message) -> None:
        self.place = place
        self.messages = messages
        self.waits = asyncio.Event()
        self.cleaned_up = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self.messages:
            await send(message)
        try:
            self.waits.set()
            if self.place == "receive":
                await receive()
            elif self.place == "send":
                await send(START if scope["type"] == "http" else ACCEPT)
            else:
                await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.cleaned_up = True


async def cancelled(wrap: Callable[[ASGIApp], ASGIApp], app: Waiting, scope: Scope) -> None:
    """Cancel the app where it waits; a server's `send` that blocks is its socket's back-pressure."""

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        if app.waits.is_set():
            await asyncio.Event().wait()
        sent.append(message)

    before = asyncio.all_tasks()
    task = asyncio.ensure_future(wrap(app)(scope, receive, send))
    await app.waits.wait()
    await settle()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert app.cleaned_up
    assert [message["type"] for message in sent] == [message["type"] for message in app.messages]
    await settle()
    assert asyncio.all_tasks() == before


@every_middleware
@every_kind
@pytest.mark.parametrize("place", ["receive", "app", "send"])
async def test_before_the_answer(wrap: Callable[[ASGIApp], ASGIApp], scope: Scope, place: str) -> None:
    await cancelled(wrap, Waiting(place), scope)


@every_middleware
@pytest.mark.parametrize("place", ["receive", "app"])
async def test_inside_the_answer(wrap: Callable[[ASGIApp], ASGIApp], place: str) -> None:
    await cancelled(wrap, Waiting(place, START, PART), http_scope())


@every_middleware
@pytest.mark.parametrize("place", ["receive", "app"])
async def test_inside_an_open_websocket(wrap: Callable[[ASGIApp], ASGIApp], place: str) -> None:
    await cancelled(wrap, Waiting(place, ACCEPT), websocket_scope())


@every_middleware
async def test_the_next_request_is_served(wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    """What one request took, a permit or a slot, is free again after its cancellation."""
    finish = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await finish.wait()
        await send(START)
        await send({**PART, "more_body": False})

    stack = wrap(app)
    for _ in range(20):
        async with Conversation(stack, http_scope()) as talk:
            await settle()
            talk.cancel()
            with pytest.raises(asyncio.CancelledError):
                await talk.finish()
    finish.set()
    async with Conversation(stack, http_scope()) as talk:
        assert (await talk.finish()).status == 200


def stacked(app: ASGIApp) -> ASGIApp:
    for wrap in EVERY:
        app = wrap(app)
    return app


@every_kind
@pytest.mark.parametrize("place", ["receive", "app", "send"])
async def test_all_of_them_around_each_other(scope: Scope, place: str) -> None:
    await cancelled(stacked, Waiting(place), scope)
