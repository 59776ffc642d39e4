import asyncio

import h11
import pytest

from asgi_gateway.testing import Connection, Handler, RawClient, Request, Upstream, behaviours

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_it_reads_to_a_mark_a_number_of_bytes_and_the_end() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more"
    async with Upstream(behaviours.raw(said)) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        assert await client.until(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
        assert await client.head() == b"Content-Length: 4\r\n\r\n"
        assert await client.exactly(4) == b"body"
        assert client.ended is None
        assert (await client.rest(), client.ended) == (b" and more", "closed")


async def test_answers_are_read_one_by_one_by_their_framing() -> None:
    script = [
        behaviours.raw(
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", close=False
        ),
        behaviours.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", close=False),
        behaviours.chunked(b"a", b"b", headers=[(b"X-Mine", b"1")]),
        behaviours.close_delimited(b"to the end"),
    ]
    async with Upstream.script(*script) as upstream, RawClient(upstream.url) as client:
        await client.send(GET + HEAD + GET + GET)
        answers = [await client.answer(method) for method in ("GET", "HEAD", "GET", "GET")]
    assert [answer.body for answer in answers] == [b"ok", b"", b"ab", b"to the end"]
    assert (answers[2].status, answers[2].header("X-Mine")) == (200, "1")


@pytest.mark.parametrize(
    "handler", [behaviours.too_short(), behaviours.chunked_cut(b"a"), behaviours.raw(b"no HTTP")]
)
async def test_what_is_no_whole_answer_raises(handler: Handler) -> None:
    async with Upstream(handler) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        with pytest.raises(h11.RemoteProtocolError):
            await client.answer()


async def test_an_answer_that_only_its_end_ends_is_not_ended_by_a_reset() -> None:
    async def handler(request: Request, connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\n\r\npart")
        await told.wait()
        connection.reset()

    told = asyncio.Event()
    async with Upstream(handler) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        asyncio.get_running_loop().call_later(0.05, told.set)
        with pytest.raises(ConnectionResetError):
            await client.answer()


async def test_it_tells_a_reset_from_a_close() -> None:
    async with Upstream(behaviours.reset_before_headers()) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        assert (await client.rest(), client.ended) == (b"", "reset")


async def test_an_end_before_what_was_waited_for_raises() -> None:
    async with Upstream(behaviours.raw(b"half")) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        with pytest.raises(EOFError, match="closed after b'half'"):
            await client.until(b"whole")


async def test_it_waits_no_longer_than_it_was_told_to() -> None:
    async with Upstream(behaviours.hang()) as upstream, RawClient(upstream.url, seconds=0.05) as client:
        await client.send(GET)
        with pytest.raises(TimeoutError):
            await client.rest()


async def test_the_other_side_sees_a_finish_and_a_reset() -> None:
    async with Upstream(behaviours.hang()) as upstream:
        async with RawClient(upstream.url) as client:
            client.write(b"GET / HT")
            client.finish()
            assert (await client.rest(), client.ended) == (b"", "closed")
        assert len(upstream.malformed) == 1
        async with RawClient(upstream.url) as client:
            await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\npart")
            await upstream.wait_for(lambda: upstream.requests)
            client.reset()
            await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted", 1)


async def test_a_client_that_does_not_read_holds_the_sender_up() -> None:
    sent = 0

    async def flood(request: Request, connection: Connection) -> None:
        nonlocal sent
        while True:
            await connection.write(b"x" * 65536)
            sent += 65536

    async with Upstream(flood) as upstream, RawClient(upstream.url) as client:
        await client.send(GET)
        before = -1
        while sent > before:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 50 * 2**20
        await client.exactly(sent + 1)  # and it goes on once it reads
