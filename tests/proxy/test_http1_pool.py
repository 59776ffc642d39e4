"""Our own transport's connections: kept, bounded, replaced, and never left behind."""

import asyncio

import pytest

from asgi_gateway.proxy.transport import MalformedRequest, UpstreamError, UpstreamRequest, draining
from asgi_gateway.testing import ManualClock, Upstream, behaviours, refused_url, settle
from tests.proxy.conftest import MakeTransport, fetch, get


async def test_one_connection_serves_many_requests(make_http1: MakeTransport) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_http1(upstream.port) as transport:
        assert [await fetch(transport) for _ in range(5)] == [b"ok"] * 5
        assert upstream.connections.total == 1
        assert repr(transport) == f"<Http1Transport 127.0.0.1:{upstream.port} 0 in flight, 1 idle, 0 waiting>"


@pytest.mark.parametrize("reset", [False, True])
async def test_connection_closed_while_idle_is_replaced_unnoticed(
    make_http1: MakeTransport, reset: bool
) -> None:
    async with (
        Upstream.script(behaviours.stale(reset=reset), behaviours.answer(body=b"fresh")) as upstream,
        make_http1(upstream.port) as transport,
    ):
        await fetch(transport)
        await upstream.wait_for(lambda: upstream.connections.closed == 1)
        await settle()
        assert await fetch(transport, get(b"POST", b"x")) == b"fresh"


async def test_request_on_a_dying_connection_is_sent_again_if_idempotent(make_http1: MakeTransport) -> None:
    script = [behaviours.answer(), behaviours.close_before_headers(), behaviours.answer(body=b"again")]
    async with Upstream.script(*script) as upstream, make_http1(upstream.port) as transport:
        await fetch(transport)
        assert await fetch(transport, get(b"PUT", b"x")) == b"again"
        assert [request.method for request in upstream.requests] == ["GET", "PUT", "PUT"]


async def test_request_on_a_dying_connection_is_never_sent_twice_if_not(make_http1: MakeTransport) -> None:
    script = [behaviours.answer(), behaviours.close_before_headers(), behaviours.answer()]
    async with Upstream.script(*script) as upstream, make_http1(upstream.port) as transport:
        await fetch(transport)
        with pytest.raises(UpstreamError) as caught:
            await fetch(transport, get(b"POST", b"x"))
        assert caught.value.failure.kind == "reset"
        assert [request.method for request in upstream.requests] == ["GET", "POST"]


async def test_request_on_a_new_connection_is_not_sent_again(make_http1: MakeTransport) -> None:
    async with (
        Upstream(behaviours.close_before_headers()) as upstream,
        make_http1(upstream.port) as transport,
    ):
        with pytest.raises(UpstreamError):
            await fetch(transport)
        assert len(upstream.requests) == 1


async def test_an_answer_that_began_is_not_asked_for_again(make_http1: MakeTransport) -> None:
    script = [behaviours.answer(), behaviours.reset_inside_headers(), behaviours.answer()]
    async with Upstream.script(*script) as upstream, make_http1(upstream.port) as transport:
        await fetch(transport)
        with pytest.raises(UpstreamError):
            await fetch(transport)
        assert len(upstream.requests) == 2


async def test_idle_connections_expire(make_http1: MakeTransport, clock: ManualClock) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, clock=clock, connections={"idle_expiry": 4.0}) as transport,
    ):
        await fetch(transport)
        await clock.advance(3.9)
        assert upstream.connections.open == 1
        await clock.advance(0.2)
        await upstream.wait_for(lambda: upstream.connections.open == 0)
        await fetch(transport)
        assert upstream.connections.total == 2


async def test_the_youngest_idle_connection_is_taken_first(
    make_http1: MakeTransport, clock: ManualClock
) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_http1(upstream.port, clock=clock) as transport:
        await asyncio.gather(fetch(transport), fetch(transport))
        assert upstream.connections.total == 2
        for _ in range(5):
            await clock.advance(1)
            await fetch(transport)
        await upstream.wait_for(lambda: upstream.connections.open == 1)


async def test_requests_wait_in_order_for_a_connection(make_http1: MakeTransport) -> None:
    turn = asyncio.Event()

    async def handler(request, connection) -> None:
        await turn.wait()
        await connection.respond(200, body=request.target)

    async with Upstream(handler) as upstream, make_http1(upstream.port, connections={"max": 1}) as transport:
        order: list[int] = []

        async def one(number: int) -> None:
            await fetch(transport, UpstreamRequest(b"GET", b"/%d" % number, []))
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(one(number))
            await upstream.wait_for(lambda: upstream.requests)
            turn.set()
        assert order == [0, 1, 2, 3]
        assert upstream.connections.total == 1


async def test_waiting_longer_than_the_connect_timeout_is_overload(
    make_http1: MakeTransport, clock: ManualClock
) -> None:
    async with (
        Upstream(behaviours.hang()) as upstream,
        make_http1(
            upstream.port, clock=clock, connections={"max": 1}, timeouts={"connect": 5.0, "first_byte": 60.0}
        ) as transport,
    ):
        busy = asyncio.create_task(fetch(transport))
        await upstream.wait_for(lambda: upstream.requests)
        waiting = asyncio.create_task(fetch(transport))
        await clock.advance(5.1)
        with pytest.raises(UpstreamError) as caught:
            await waiting
        assert caught.value.failure.code == "overloaded"
        busy.cancel()
        await asyncio.wait([busy])
        assert "0 waiting" in repr(transport)


async def test_a_cancelled_waiter_passes_its_turn_on(make_http1: MakeTransport) -> None:
    async with (
        Upstream.script(behaviours.hang(), behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max": 1}) as transport,
    ):
        busy = asyncio.create_task(fetch(transport))
        await upstream.wait_for(lambda: upstream.requests)
        first, second = asyncio.create_task(fetch(transport)), asyncio.create_task(fetch(transport))
        await settle()
        busy.cancel()
        await asyncio.wait([busy])
        first.cancel()
        assert await asyncio.wait_for(second, 5) == b"ok"
        assert transport.in_flight == 0


async def test_connections_that_break_free_their_place(make_http1: MakeTransport) -> None:
    async with (
        Upstream.script(*[behaviours.reset_before_headers()] * 10, behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max": 2}) as transport,
    ):
        for _ in range(10):
            with pytest.raises(UpstreamError):
                await fetch(transport)
        assert await fetch(transport) == b"ok"
        assert transport.in_flight == 0


async def test_first_byte_timeout_does_not_count_what_came_before(
    make_http1: MakeTransport, clock: ManualClock
) -> None:
    """A timer moved instead of made anew must neither fire early nor late."""
    release = asyncio.Event()

    async def handler(request, connection) -> None:
        if request.target == b"/slow":
            await release.wait()
        await connection.respond(200, body=b"ok")

    async with (
        Upstream(handler) as upstream,
        make_http1(
            upstream.port, clock=clock, timeouts={"first_byte": 10.0}, connections={"idle_expiry": 100.0}
        ) as transport,
    ):
        await fetch(transport)
        await clock.advance(9)
        slow = asyncio.create_task(fetch(transport, UpstreamRequest(b"GET", b"/slow", [])))
        await upstream.wait_for(lambda: len(upstream.requests) == 2)
        await clock.advance(9.9)
        assert not slow.done()
        await clock.advance(0.2)
        with pytest.raises(UpstreamError) as caught:
            await slow
        assert caught.value.failure.kind == "timeout"


async def test_a_client_who_does_not_read_pauses_the_service(make_http1: MakeTransport) -> None:
    sent = 0

    async def handler(request, connection) -> None:
        nonlocal sent
        await connection.send_head(200, [(b"Content-Length", b"104857600")])
        for _ in range(1600):
            await connection.write(b"x" * 65536)
            sent += 65536

    async with Upstream(handler) as upstream, make_http1(upstream.port) as transport:
        response = await transport.exchange(get())
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.05)
        assert sent < 16 * 1024 * 1024
        piece, more = await response.read()
        assert more
        assert len(piece) < 1024 * 1024
        total = len(piece)
        while more:
            piece, more = await response.read()
            total += len(piece)
        await response.aclose()
        assert total == 104857600


async def test_a_service_that_does_not_read_pauses_the_client(make_http1: MakeTransport) -> None:
    given = 0

    async def body():
        nonlocal given
        for _ in range(1600):
            given += 65536
            yield b"x" * 65536

    async with (
        Upstream(behaviours.never_reads()) as upstream,
        make_http1(upstream.port, timeouts={"idle": 0.2}) as transport,
    ):
        with pytest.raises(UpstreamError) as caught:
            await transport.exchange(UpstreamRequest(b"POST", b"/", [], body(), None))
        assert caught.value.failure.kind == "timeout"
        assert given < 16 * 1024 * 1024


async def test_an_answer_before_the_upload_ends_is_passed_on_and_the_upload_stopped(
    make_http1: MakeTransport,
) -> None:
    stopped = asyncio.Event()

    async def body():
        try:
            while True:
                yield b"x" * 1024
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    async with (
        Upstream.script(behaviours.early_answer(413, b"too much"), behaviours.answer()) as upstream,
        make_http1(upstream.port) as transport,
    ):
        assert await fetch(transport, UpstreamRequest(b"POST", b"/", [], body(), None)) == b"too much"
        await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted")
        assert await fetch(transport) == b"ok"
        assert upstream.connections.total == 2


async def test_closing_the_transport_closes_its_connections(make_http1: MakeTransport) -> None:
    async with Upstream(behaviours.answer()) as upstream:
        async with make_http1(upstream.port) as transport:
            await fetch(transport)
        await upstream.wait_for(lambda: upstream.connections.open == 0)


@pytest.mark.parametrize("after", [0.0, 0.02])
async def test_late_bytes_on_an_idle_connection_reach_nobody(make_http1: MakeTransport, after: float) -> None:
    async with (
        Upstream.script(behaviours.extra_bytes(after=after), behaviours.answer(body=b"mine")) as upstream,
        make_http1(upstream.port) as transport,
    ):
        await fetch(transport)
        await upstream.wait_for(lambda: upstream.connections.open == 0)
        assert await fetch(transport) == b"mine"


async def test_an_old_connection_is_replaced(make_http1: MakeTransport, clock: ManualClock) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(
            upstream.port, clock=clock, connections={"max_age": 10.0, "idle_expiry": 100.0}
        ) as transport,
    ):
        await fetch(transport)
        await clock.advance(9)
        await fetch(transport)
        assert upstream.connections.total == 1
        await clock.advance(1)
        await fetch(transport)
        await upstream.wait_for(lambda: upstream.connections.open == 0)
        await fetch(transport)
        assert upstream.connections.total == 2


async def test_a_connection_serves_so_many_requests_and_no_more(make_http1: MakeTransport) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max_requests": 3}) as transport,
    ):
        for _ in range(7):
            await fetch(transport)
        assert upstream.connections.total == 3
        await upstream.wait_for(lambda: upstream.connections.open == 1)


async def test_who_waits_gets_the_place_of_a_connection_at_its_end(make_http1: MakeTransport) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max": 2, "max_requests": 2}) as transport,
    ):
        assert await asyncio.gather(*(fetch(transport) for _ in range(20))) == [b"ok"] * 20
        assert upstream.connections.total == 10


async def test_connections_are_opened_ahead(make_http1: MakeTransport) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max": 3, "warm": 5}) as transport,
    ):
        await transport.warm()
        await upstream.wait_for(lambda: upstream.connections.open == 3)
        await asyncio.gather(*(fetch(transport) for _ in range(3)))
        assert upstream.connections.total == 3


async def test_a_service_that_is_down_is_no_error_when_warming(
    make_http1: MakeTransport, caplog: pytest.LogCaptureFixture
) -> None:
    with refused_url() as url:
        async with make_http1(int(url.rpartition(":")[2]), connections={"warm": 2}) as transport:
            await transport.warm()
            assert transport.in_flight == 0
    assert "2 of 2 connections could not be opened ahead" in caplog.text


async def test_idle_connections_expire_oldest_first(make_http1: MakeTransport, clock: ManualClock) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, clock=clock, connections={"idle_expiry": 4.0}) as transport,
    ):
        await asyncio.gather(fetch(transport), fetch(transport), fetch(transport))
        await clock.advance(2)
        await fetch(transport)
        await clock.advance(2.1)
        await upstream.wait_for(lambda: upstream.connections.open == 1)
        await clock.advance(2)
        await upstream.wait_for(lambda: upstream.connections.open == 0)


@pytest.mark.parametrize("kept", [False, True])
async def test_a_request_that_cannot_be_made_takes_no_connection(
    make_http1: MakeTransport, *, kept: bool
) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max": 1}) as transport,
    ):
        if kept:
            await fetch(transport)
        for value, error in ((b"a\0b", MalformedRequest), ("no bytes", TypeError)):
            with pytest.raises(error):
                await fetch(transport, UpstreamRequest(b"GET", b"/", [(b"x-thing", value)]))
        assert transport.in_flight == 0
        assert await asyncio.wait_for(fetch(transport), 1) == b"ok"
        assert upstream.connections.total == 1


async def test_nothing_begins_on_a_connection_that_was_still_being_made_at_the_cut(
    make_http1: MakeTransport,
) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_http1(upstream.port) as transport:
        asking = asyncio.ensure_future(fetch(transport))
        await asyncio.sleep(0)
        assert transport.in_flight == 1
        await transport.aclose()
        await transport.cut()
        with pytest.raises(UpstreamError) as caught:
            await asking
        assert caught.value.failure == draining(request_sent=False).failure
        assert upstream.requests == []
        assert transport.in_flight == 0


async def test_who_was_just_handed_a_connection_at_the_cut_is_told_so(make_http1: MakeTransport) -> None:
    async with (
        Upstream.script(behaviours.answer(), behaviours.hang()) as upstream,
        make_http1(upstream.port, connections={"max": 1}) as transport,
    ):
        first = await transport.exchange(get())
        waiting = asyncio.ensure_future(fetch(transport))
        await settle()
        await first.read()
        await first.aclose()  # hands it on, but who waits has not run yet
        await transport.cut()
        with pytest.raises(UpstreamError) as caught:
            await waiting
        assert caught.value.failure == draining(request_sent=False).failure
        assert len(upstream.requests) == 1


async def test_opening_ahead_takes_no_place_that_a_request_has(make_http1: MakeTransport) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max": 2, "warm": 2}) as transport,
    ):
        await asyncio.gather(transport.warm(), *(fetch(transport) for _ in range(2)))
        assert upstream.connections.total == 2


async def test_a_connection_whose_end_has_come_is_not_kept(make_http1: MakeTransport) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_http1(upstream.port) as transport:
        response = await transport.exchange(get())
        await response.read()
        response.eof_received()  # by the event loop, behind the answer
        assert not response.release()
        await response.aclose()


async def test_a_connection_that_closed_on_its_way_to_who_left_is_not_kept(make_http1: MakeTransport) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_http1(upstream.port, connections={"max": 1}) as transport,
    ):
        first = await transport.exchange(get())
        waiting = asyncio.ensure_future(fetch(transport))
        await settle()
        await first.read()
        first._transport.abort()  # the event loop, for an error; nobody is told before its next turn
        await first.aclose()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert transport.in_flight == 0
        assert await fetch(transport) == b"ok"
