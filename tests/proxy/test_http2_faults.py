"""HTTP/2 services that fail, and what they do to their clients: by frames on a real socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_gateway.errors import ResponseAborted
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.httpx import HttpxTransport
from asgi_gateway.testing import Conversation, ManualClock, http_scope, request, settle
from tests.proxy.conftest import build_transport
from tests.proxy.h2_service import OK, H2Service, Stream

CHUNKED = [(b"transfer-encoding", b"chunked")]


@asynccontextmanager
async def proxy(service: H2Service, **options: Any) -> AsyncIterator[ProxyApp]:
    transport = build_transport(HttpxTransport, service.port, http2=True, **options)
    app = ProxyApp(transport, endpoint="service", authority=None, clock=transport._clock)
    try:
        yield app
    finally:
        await app.aclose()


async def test_an_upload_is_never_sent_again_without_its_body() -> None:
    """A GOAWAY that leaves a stream out asks for it again on another connection (RFC 9113 section 6.8)."""

    async def handler(stream: Stream) -> None:
        await stream.ended.wait()
        if stream.number == 3:
            stream.go_away(last=1)
        else:
            stream.answer(stream.body)

    async with H2Service(handler) as service, proxy(service) as app:
        await request(app)
        streamed = await request(app, "POST", headers=CHUNKED, body=[b"ab", b"cd"])
        assert (streamed.status, streamed.header("x-gateway-error")) == (502, "upstream_reset")
        assert [stream.body for stream in service.streams] == [b"", b"abcd"]


async def test_an_upload_at_hand_is_sent_again_after_a_goaway() -> None:
    async def handler(stream: Stream) -> None:
        await stream.ended.wait()
        if stream.number == 3:
            stream.go_away(last=1)
        else:
            stream.answer(stream.body)

    async with H2Service(handler) as service, proxy(service) as app:
        await request(app)
        assert (await request(app, "POST", headers=CHUNKED, body=b"abcd")).body == b"abcd"
        assert len(service.links) == 2


async def ticking(stream: Stream) -> None:
    """Events without an end, nothing at all, or an answer: by the path."""
    if stream.path == b"/events":
        stream.head()
        while not stream.reset.is_set():
            stream.data(b"tick")
            await asyncio.sleep(0.02)
    elif stream.path == b"/ok":
        stream.answer()


async def test_the_time_of_one_request_is_not_renewed_by_another() -> None:
    async with H2Service(ticking) as service, proxy(service, timeouts={"first_byte": 0.3}) as app:
        async with Conversation(app, http_scope(path="/events")) as events:
            await events.next()
            silent = await asyncio.wait_for(request(app, path="/silent"), 2)
            assert (silent.status, silent.header("x-gateway-error")) == (504, "upstream_timeout")
            await service.streams[1].reset.wait()
            await events.next()
            events.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await events.finish()


async def test_the_silence_of_one_answer_ends_no_other(clock: ManualClock) -> None:
    async def handler(stream: Stream) -> None:
        stream.head()
        stream.data(b"first")
        if stream.path == b"/other":
            await asyncio.sleep(0)
            more.append(stream)

    more: list[Stream] = []
    async with H2Service(handler) as service, proxy(service, clock=clock, timeouts={"idle": 60.0}) as app:
        async with (
            Conversation(app, http_scope(path="/silent")) as silent,
            Conversation(app, http_scope(path="/other")) as other,
        ):
            for talk in (silent, other):
                await talk.next()
                assert (await talk.next())["body"] == b"first"
            await clock.advance(50)
            more[0].data(b"second")
            assert (await other.next())["body"] == b"second"
            await clock.advance(20)
            with pytest.raises(ResponseAborted) as caught:
                await silent.finish()
            assert caught.value.failure.kind == "timeout"
            more[0].data(b"third", end=True)
            assert (await other.next())["body"] == b"third"
            await other.finish()


async def test_an_upload_that_the_service_does_not_take_is_a_timeout(clock: ManualClock) -> None:
    async def handler(stream: Stream) -> None:
        reached.set()

    reached = asyncio.Event()
    async with (
        H2Service(handler, takes=False) as service,
        proxy(service, clock=clock, timeouts={"idle": 60.0}) as app,
    ):
        asking = asyncio.create_task(request(app, "POST", headers=CHUNKED, body=[b"x" * 65536] * 3))
        await reached.wait()
        await settle()
        await clock.advance(61)
        assert (await asyncio.wait_for(asking, 2)).status == 504


async def test_a_client_who_takes_its_time_to_upload_is_no_timeout(clock: ManualClock) -> None:
    async def handler(stream: Stream) -> None:
        await stream.ended.wait()
        stream.answer(stream.body)

    timeouts = {"connect": 5.0, "first_byte": 30.0, "idle": 60.0}
    async with H2Service(handler) as service, proxy(service, clock=clock, timeouts=timeouts) as app:
        async with Conversation(app, http_scope("POST", headers=CHUNKED)) as talk:
            talk.body(b"ab", more=True)
            await until(lambda: service.streams)
            for _ in range(3):
                await clock.advance(50)
                talk.body(b"cd", more=True)
            talk.body(b"")
            assert (await talk.finish()).body == b"abcdcdcd"


async def test_a_connection_that_fell_silent_is_asked_nothing_more(clock: ManualClock) -> None:
    """It may be dead: whoever was at the other end left no word."""
    async with H2Service(ticking) as service, proxy(service, clock=clock) as app:
        asking = asyncio.create_task(request(app, path="/silent"))
        await until(lambda: service.streams)
        await clock.advance(31)
        assert (await asyncio.wait_for(asking, 2)).status == 504
        assert (await request(app, path="/ok")).status == 200
        assert len(service.links) == 2


async def test_a_service_without_room_for_another_stream_is_not_waited_for(clock: ManualClock) -> None:
    async with H2Service(ticking, room=1) as service, proxy(service, clock=clock) as app:
        first = asyncio.create_task(request(app, path="/silent"))
        await until(lambda: service.streams)
        second = asyncio.create_task(request(app, path="/ok"))
        await settle()
        await clock.advance(5.1)
        refused = await asyncio.wait_for(second, 2)
        assert (refused.status, refused.header("x-gateway-error")) == (504, "upstream_timeout")
        assert len(service.streams) == 1
        first.cancel()
        await asyncio.wait([first])


FRAME_DATA, FRAME_RESET, FRAME_UNKNOWN_SETTINGS = 0, 3, 4


def data_on_no_stream(stream: Stream) -> None:
    stream.raw(FRAME_DATA, b"x", stream=0)


def reset_of_no_stream(stream: Stream) -> None:
    stream.raw(FRAME_RESET, bytes(4), stream=0)


def settings_cut_short(stream: Stream) -> None:
    stream.raw(FRAME_UNKNOWN_SETTINGS, b"abc", stream=0)


def data_before_the_head(stream: Stream) -> None:
    stream.raw(FRAME_DATA, b"x")


BREACHES = [data_on_no_stream, reset_of_no_stream, settings_cut_short]


@pytest.mark.parametrize("breach", [*BREACHES, data_before_the_head], ids=lambda f: f.__name__)
@pytest.mark.parametrize("body", [None, [b"ab", b"cd"]], ids=["", "upload"])
async def test_a_service_that_breaks_the_protocol_is_to_blame(
    breach: Callable[[Stream], None], body: list[bytes] | None
) -> None:
    async def handler(stream: Stream) -> None:
        breach(stream)

    async with H2Service(handler) as service, proxy(service) as app:
        headers = CHUNKED if body else []
        answer = await request(app, "POST", headers=headers, body=body or b"")
        assert (answer.status, answer.header("x-gateway-error")) == (502, "upstream_protocol")


@pytest.mark.parametrize("breach", BREACHES, ids=lambda f: f.__name__)
async def test_a_service_that_breaks_the_protocol_inside_its_answer_is_to_blame(
    breach: Callable[[Stream], None],
) -> None:
    async def handler(stream: Stream) -> None:
        stream.head()
        stream.data(b"part")
        await told.wait()
        breach(stream)

    told = asyncio.Event()
    async with H2Service(handler) as service, proxy(service) as app:
        async with Conversation(app, http_scope()) as talk:
            await talk.next()
            await talk.next()
            told.set()
            with pytest.raises(ResponseAborted) as caught:
                await talk.finish()
            assert caught.value.failure.code == "upstream_protocol"


async def test_who_shares_a_connection_with_a_breach_is_not_kept_waiting() -> None:
    async def handler(stream: Stream) -> None:
        if stream.path == b"/breach":
            data_on_no_stream(stream)

    async with H2Service(handler) as service, proxy(service) as app:
        waiting = asyncio.create_task(request(app, path="/wait"))
        await until(lambda: service.streams)
        await request(app, path="/breach")
        assert (await asyncio.wait_for(waiting, 2)).status == 502


@pytest.mark.parametrize("header", [(b"", b"x"), (b":x", b"y"), (b"x-a", b"b\r\nx-c: d"), (b"x y", b"z")])
async def test_a_header_that_http2_forbids_reaches_no_service_and_spoils_no_connection(
    header: tuple[bytes, bytes],
) -> None:
    """What is refused halfway has been compressed in part, and the service would not know of it."""
    async with H2Service(ticking) as service, proxy(service) as app:
        await request(app, path="/ok")
        answer = await request(app, path="/ok", headers=[(b"x-before", b"1"), header])
        assert (answer.status, answer.header("x-gateway-error")) == (400, "bad_request")
        for value in (b"2", b"2"):
            assert (await request(app, path="/ok", headers=[(b"x-after", value)])).status == 200
        assert [stream.headers.get(b"x-after") for stream in service.streams] == [None, b"2", b"2"]
        assert len(service.links) == 1


@pytest.mark.parametrize("size", [2, 40_000])
async def test_an_answer_that_is_here_whole_survives_a_goaway_behind_it(size: int) -> None:
    async def handler(stream: Stream) -> None:
        link = stream.link
        link.h2.send_headers(stream.number, OK)
        for start in range(0, size, 10_000):
            link.h2.send_data(stream.number, b"x" * min(10_000, size), end_stream=start + 10_000 >= size)
        stream.go_away(last=stream.number)

    async with H2Service(handler) as service, proxy(service) as app:
        for _ in range(3):
            assert (await request(app)).body == b"x" * size
        assert len(service.links) == 3


async def test_the_end_of_one_request_after_a_goaway_spoils_no_answer_that_is_here_whole() -> None:
    async def handler(stream: Stream) -> None:
        if len(service.streams) < 2:
            return
        for one in service.streams:
            stream.link.h2.send_headers(one.number, OK)
            stream.link.h2.send_data(one.number, b"part")
        [kept] = [one.number for one in service.streams if one.path == b"/kept"]
        for _ in range(2):
            stream.link.h2.send_data(kept, b"more")
        stream.link.h2.end_stream(kept)
        stream.go_away(last=stream.number)

    async with H2Service(handler) as service, proxy(service) as app:
        async with (
            Conversation(app, http_scope(path="/kept")) as kept,
            Conversation(app, http_scope(path="/left")) as left,
        ):
            held = asyncio.Event()
            take = kept._send

            async def slowly(message: dict[str, Any]) -> None:
                await held.wait()
                await take(message)

            kept._send = slowly
            assert (await left.finish()).status == 502  # httpcore has its part and does not look
            held.set()
            assert (await kept.finish()).body == b"partmoremore"


@pytest.mark.parametrize("how", ["goaway", "reset"])
async def test_a_service_that_ends_what_it_serves_closed_the_connection(how: str) -> None:
    async def handler(stream: Stream) -> None:
        if stream.path == b"/answering":
            stream.head()
            stream.data(b"part")
            await told.wait()
        if how == "goaway":
            stream.go_away(last=stream.number)
        else:
            stream.raw(FRAME_RESET, bytes(4))

    told = asyncio.Event()
    async with H2Service(handler) as service, proxy(service) as app:
        async with Conversation(app, http_scope(path="/answering")) as talk:
            await talk.next()
            await talk.next()
            told.set()
            with pytest.raises(ResponseAborted) as caught:
                await talk.finish()
            assert caught.value.failure.code == "upstream_reset"
        answer = await request(app)
        assert (answer.status, answer.header("x-gateway-error")) == (502, "upstream_reset")


async def until(known: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not known():
            await asyncio.sleep(0.001)
