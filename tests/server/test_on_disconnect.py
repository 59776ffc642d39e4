"""How our protocol class tells an app, without a task, that its client has left."""

import asyncio

import pytest

from asgi_gateway.context import ON_DISCONNECT
from asgi_gateway.testing import RawClient
from asgi_gateway.types import Receive, Scope, Send
from tests.server.apps import GET, post, respond
from tests.server.listening import listening


class Watching:
    """Registers, waits to be told, and counts; `late` registers only once the client is gone."""

    def __init__(self, *, late: bool = False) -> None:
        self.late = late
        self.asked = asyncio.Event()
        self.told = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        self.asked.set()
        if self.late:
            assert (await receive())["type"] == "http.disconnect"
        scope[ON_DISCONNECT](self.told.set)
        await self.told.wait()


@pytest.mark.parametrize("late", [False, True], ids=["in time", "afterwards"])
async def test_the_callback_is_called_when_the_client_leaves(late: bool) -> None:
    app = Watching(late=late)
    async with listening(app) as server:
        async with RawClient(server.url) as client:
            await client.send(GET)
            await asyncio.wait_for(app.asked.wait(), 5)
            assert not app.told.is_set()
        await asyncio.wait_for(app.told.wait(), 5)


async def test_a_callback_taken_back_is_not_called() -> None:
    told: list[str] = []
    gone = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        forget = scope[ON_DISCONNECT](lambda: told.append("first"))
        scope[ON_DISCONNECT](lambda: (told.append("second"), gone.set()))
        forget()  # which is not the second's
        scope[ON_DISCONNECT](lambda: told.append("third"))()
        await respond(send)
        scope[ON_DISCONNECT](gone.set)

    async with listening(app) as server:
        async with RawClient(server.url) as client:
            await client.send(GET)
            assert (await client.answer()).status == 200
        await asyncio.wait_for(gone.wait(), 5)
    assert told == []


async def test_it_is_called_behind_an_upload_larger_than_what_is_kept() -> None:
    """Reading stops inside such an upload; with its end there is nothing to stop for any more."""
    app = Watching()
    async with listening(app) as server:
        async with RawClient(server.url):
            (await server.newest()).data_received(post(b"x" * 200_000))
            await asyncio.wait_for(app.asked.wait(), 5)
        await asyncio.wait_for(app.told.wait(), 5)


async def test_it_is_called_though_the_upload_was_never_taken() -> None:
    told, asked = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ON_DISCONNECT](told.set)
        asked.set()
        await told.wait()

    async with listening(app) as server:
        async with RawClient(server.url):
            (await server.newest()).data_received(post(b"x" * 200_000))
            await asyncio.wait_for(asked.wait(), 5)
        await asyncio.wait_for(told.wait(), 5)
