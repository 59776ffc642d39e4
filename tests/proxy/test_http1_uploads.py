"""Uploads that last: who waits for whom, for how long, and what becomes of it when somebody leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_gateway.clock import Clock
from asgi_gateway.context import ON_DISCONNECT
from asgi_gateway.errors import ResponseAborted
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.client import WATCH_AFTER
from asgi_gateway.proxy.transport import UpstreamRequest
from asgi_gateway.testing import Conversation, ManualClock, Upstream, behaviours, http_scope, settle
from asgi_gateway.testing.connection import Connection
from asgi_gateway.testing.received import Request
from asgi_gateway.types import Scope
from tests.proxy.conftest import MakeTransport, fetch


class Ticking:
    """A service that reads the head alone, answers at once, and goes on whenever it is told to."""

    def __init__(self) -> None:
        self.tick = asyncio.Event()

    async def __call__(self, request: Request, connection: Connection) -> None:
        connection.pause_reading()
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        while True:
            await connection.send_chunk(b"tick")
            await self.tick.wait()
            self.tick.clear()


@asynccontextmanager
async def uploading(app: ProxyApp, scope: Scope) -> AsyncIterator[Conversation]:
    """A client whose upload the service does not take, though it answers."""
    async with Conversation(app, scope) as talk:
        talk.body(b"x" * 65536, more=True)
        assert (await talk.next())["status"] == 200
        assert (await talk.next())["body"] == b"tick"
        for _ in range(256):
            talk.body(b"x" * 65536, more=True)
        await settle()
        yield talk


def proxy(transport: Any, clock: Clock) -> ProxyApp:
    return ProxyApp(transport, endpoint="service", authority=b"service", clock=clock)


UPLOAD = {"method": "POST", "headers": [(b"transfer-encoding", b"chunked")]}


async def test_a_client_who_leaves_while_its_upload_is_not_taken_is_noticed_at_once(
    make_http1: MakeTransport, clock: ManualClock
) -> None:
    told: list[Callable[[], None]] = []

    def on_disconnect(callback: Callable[[], None]) -> Callable[[], None]:
        told.append(callback)
        return told.clear

    ticking = Ticking()
    scope = http_scope(**UPLOAD, **{ON_DISCONNECT: on_disconnect})
    async with Upstream(ticking) as upstream, make_http1(upstream.port, clock=clock) as transport:
        async with uploading(proxy(transport, clock), scope) as talk:
            await clock.advance(WATCH_AFTER)
            [gone] = told
            gone()
            await talk.finish(2)
        await settle()
        assert transport.in_flight == 0
        assert told == []


async def test_an_upload_that_is_not_taken_is_a_timeout_though_the_answer_goes_on(
    make_http1: MakeTransport, clock: ManualClock
) -> None:
    """Under a server that tells of a client's leaving by `receive` alone, nobody would ever know."""
    ticking = Ticking()
    async with (
        Upstream(ticking) as upstream,
        make_http1(upstream.port, clock=clock, timeouts={"idle": 60.0}) as transport,
        uploading(proxy(transport, clock), http_scope(**UPLOAD)) as talk,
    ):
        for _ in range(2):
            await clock.advance(25)
            ticking.tick.set()
            assert (await talk.next())["body"] == b"tick"
        await clock.advance(11)
        with pytest.raises(ResponseAborted) as caught:
            await talk.finish(2)
        assert caught.value.failure.kind == "timeout"


async def test_an_upload_that_moves_keeps_an_answer_alive_that_began_before_it(
    make_http1: MakeTransport, clock: ManualClock
) -> None:
    """Some services send their head at once and say the rest when they have read everything."""

    async def handler(request: Request, connection: Connection) -> None:
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        await connection.send_chunk(await request.body())
        await connection.send_chunk(b"")

    async with (
        Upstream(handler) as upstream,
        make_http1(upstream.port, clock=clock, timeouts={"idle": 60.0}) as transport,
        Conversation(proxy(transport, clock), http_scope(**UPLOAD)) as talk,
    ):
        talk.body(b"0", more=True)
        assert (await talk.next())["status"] == 200
        for number in range(1, 5):
            await clock.advance(50)
            talk.body(b"%d" % number, more=True)
        await clock.advance(50)
        talk.body()
        assert (await talk.finish(2)).body == b"01234"


@pytest.mark.parametrize("last", [(b"1", True), (b"1", False), (b"", False)], ids=["part", "last", "end"])
async def test_an_answer_stands_still_no_longer_than_its_upload_did(
    make_http1: MakeTransport, clock: ManualClock, last: tuple[bytes, bool]
) -> None:
    async def handler(request: Request, connection: Connection) -> None:
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        await connection.hang()

    async with (
        Upstream(handler) as upstream,
        make_http1(upstream.port, clock=clock, timeouts={"idle": 60.0}) as transport,
        Conversation(proxy(transport, clock), http_scope(**UPLOAD)) as talk,
    ):
        talk.body(b"0", more=True)
        assert (await talk.next())["status"] == 200
        await clock.advance(50)
        talk.body(last[0], more=last[1])
        await clock.advance(59)
        assert not talk.done
        await clock.advance(2)
        with pytest.raises(ResponseAborted):
            await talk.finish(2)


async def test_a_second_cancellation_leaves_no_connection_behind(make_http1: MakeTransport) -> None:
    leaving, may_leave = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"part"
            await asyncio.Event().wait()
        finally:
            leaving.set()
            await may_leave.wait()

    async with Upstream(behaviours.hang()) as upstream, make_http1(upstream.port) as transport:
        asking = asyncio.ensure_future(fetch(transport, UpstreamRequest(b"POST", b"/", [], body())))
        await upstream.wait_for(lambda: upstream.requests and upstream.requests[0].content)
        asking.cancel()
        await leaving.wait()
        asking.cancel()
        await asyncio.wait([asking])
        may_leave.set()
        await settle()
        assert transport.in_flight == 0
        await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted", 2)
