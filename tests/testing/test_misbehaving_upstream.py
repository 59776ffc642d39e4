import asyncio
import socket

import httpx
import pytest

from asgi_gateway.testing import Connection, RawClient, Request, Upstream, behaviours, refused_url

GET = b"GET /a%2Fb?x=1&x=2 HTTP/1.1\r\nHost: x\r\nX-Mixed: One\r\nx-mixed: two\r\n\r\n"
POST_10 = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
POST_CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def exchange(upstream: Upstream, data: bytes = GET) -> bytes:
    client = await RawClient(upstream.url).open()
    try:
        await client.send(data)
        return await client.rest()
    finally:
        client.close()


async def test_requests_are_recorded_byte_for_byte() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(GET)
        assert await client.until(b"\r\n\r\nok") == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        client.close()
    [seen] = upstream.requests
    assert (seen.method, seen.target, seen.http_version) == ("GET", b"/a%2Fb?x=1&x=2", "1.1")
    assert seen.headers == [(b"Host", b"x"), (b"X-Mixed", b"One"), (b"x-mixed", b"two")]
    assert seen.all("X-MIXED") == [b"One", b"two"]
    assert seen.ended == "complete"


async def test_a_connection_serves_one_request_after_another() -> None:
    async with Upstream.script(behaviours.answer(500), behaviours.answer(body=b"last")) as upstream:
        async with httpx.AsyncClient() as client:
            answers = [await client.post(upstream.url, content=b"abc") for _ in range(3)]
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)
    assert [answer.status_code for answer in answers] == [500, 200, 200]
    assert answers[2].text == "last"
    assert [request.content for request in upstream.requests] == [b"abc"] * 3
    assert upstream.connections.total == 1


async def test_the_client_may_ask_for_the_connection_to_end() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        closing = GET.replace(b"Host: x", b"Host: x\r\nConnection: close")
        assert (await exchange(upstream, closing)).endswith(b"ok")
        assert (await exchange(upstream, GET.replace(b"HTTP/1.1", b"HTTP/1.0"))).endswith(b"ok")


async def test_head_is_answered_without_a_body() -> None:
    async with Upstream(behaviours.answer()) as upstream, httpx.AsyncClient() as client:
        answer = await client.head(upstream.url)
    assert (answer.headers["content-length"], answer.content) == ("2", b"")


@pytest.mark.parametrize(("status", "length"), [(200, "0"), (204, None), (304, None)])
async def test_an_answer_that_has_no_body_by_its_status_has_no_length(
    status: int, length: str | None
) -> None:
    async with Upstream(behaviours.answer(status, body=b"")) as upstream, httpx.AsyncClient() as client:
        answer = await client.get(upstream.url)
    assert (answer.status_code, answer.headers.get("content-length")) == (status, length)


async def test_bodies_are_read_counted_and_chunked_with_trailers() -> None:
    async with Upstream(behaviours.echo()) as upstream:
        chunked = b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
        client = await RawClient(upstream.url).open()
        await client.send(POST_CHUNKED + chunked)
        echoed = await client.until(b"\r\n0\r\n\r\n")
        assert b"hello" in echoed
        assert b" world" in echoed
        await client.send(POST_10 + b"0123456789")
        assert b"0123456789" in await client.until(b"\r\n0\r\n\r\n")
        client.close()
    first, second = upstream.requests
    assert (first.content, first.ended, first.trailers) == (b"hello world", "complete", [(b"X-Sum", b"1")])
    assert (second.content, second.ended) == (b"0123456789", "complete")


async def test_the_body_streams_in_while_the_answer_streams_out() -> None:
    async with Upstream(behaviours.echo()) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(POST_CHUNKED + b"5\r\nfirst\r\n")
        assert b"first" in await client.until(b"first\r\n")
        assert upstream.requests[0].ended is None
        await client.send(b"0\r\n\r\n")
        await upstream.wait_for(lambda: upstream.requests[0].ended == "complete")
        client.close()


@pytest.mark.parametrize(
    ("head", "cut"),
    [
        (POST_10, b"01234"),
        (POST_CHUNKED, b"5\r\nhello\r\n"),
        (POST_CHUNKED, b"5\r\nhel"),
        (POST_CHUNKED, b"5\r\nhello!\r\n0\r\n\r\n"),
        (POST_CHUNKED, b"5\r\nhelloXX0\r\n\r\n"),
        (POST_CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"),
        (POST_CHUNKED, b"0\r\n"),
    ],
)
@pytest.mark.parametrize("behaviour", [behaviours.answer(), behaviours.hang(), behaviours.early_answer()])
async def test_a_cut_or_malformed_body_is_aborted(head: bytes, cut: bytes, behaviour: object) -> None:
    async with Upstream(behaviour) as upstream:  # type: ignore[arg-type]
        client = await RawClient(upstream.url).open()
        await client.send(head + cut)
        await upstream.wait_for(lambda: upstream.requests)
        client.close()
        await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted", seconds=1)
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)


async def test_a_client_that_leaves_is_noticed_while_the_service_hangs() -> None:
    async with Upstream(behaviours.hang()) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(GET)
        await upstream.wait_for(lambda: upstream.requests)
        assert upstream.connections.open == 1
        client.close()
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)
    assert (upstream.connections.total, upstream.connections.closed) == (1, 1)


async def test_waiting_in_vain_says_what_was_seen() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        with pytest.raises(AssertionError, match=r"after 0.01 s: <Upstream http://127.0.0.1"):
            await upstream.wait_for(lambda: upstream.requests, seconds=0.01)


async def test_a_mistake_in_a_handler_is_raised_where_the_block_ends() -> None:
    async def mistaken(request: Request, connection: Connection) -> None:
        raise KeyError("mistake")

    with pytest.raises(KeyError, match="mistake"):
        async with Upstream(mistaken) as upstream:
            assert await exchange(upstream) == b""


async def test_leaving_the_block_ends_every_connection_and_task() -> None:
    before = asyncio.all_tasks()
    async with Upstream(behaviours.never_reads()) as upstream:
        clients = [await RawClient(upstream.url).open() for _ in range(3)]
        for client in clients:
            await client.send(POST_10)
        await upstream.wait_for(lambda: len(upstream.requests) == 3)
    assert asyncio.all_tasks() == before
    for client in clients:
        assert await client.rest() == b""
        client.close()
    with pytest.raises(ConnectionRefusedError):
        await RawClient(upstream.url).open()


async def test_a_refused_url_refuses() -> None:
    with refused_url() as url:
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(url)


@pytest.mark.parametrize(
    ("behaviour", "before"),
    [
        (behaviours.reset_before_headers(), b""),
        (behaviours.reset_inside_headers(), b"HTTP/1.1 200 OK\r\nContent-Le"),
        (behaviours.reset_inside_body(b"part"), b"4\r\npart\r\n"),
        (behaviours.reset_inside_body(b"part", length=10), b"\r\n\r\npart"),
        (behaviours.stale(reset=True), b"\r\n\r\nok"),
    ],
)
async def test_a_reset_is_a_reset(behaviour: object, before: bytes) -> None:
    async with Upstream(behaviour) as upstream:  # type: ignore[arg-type]
        client = await RawClient(upstream.url).open()
        await client.send(GET)
        assert (await client.rest()).endswith(before)
        assert client.ended == "reset"
        client.close()


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [
        (behaviours.close_before_headers(), b""),
        (behaviours.too_short(b"part", length=9), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"),
        (behaviours.close_delimited(b"all"), b"HTTP/1.1 200 OK\r\n\r\nall"),
        (
            behaviours.chunked_cut(b"a", b"b"),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n",
        ),
        (behaviours.stale(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (behaviours.raw(b"nonsense\r\n"), b"nonsense\r\n"),
    ],
)
async def test_what_ends_in_a_close_says_no_more(behaviour: object, answer: bytes) -> None:
    async with Upstream(behaviour) as upstream:  # type: ignore[arg-type]
        assert await exchange(upstream) == answer
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [
        (behaviours.too_long(b"whole", extra=b"more"), b"Content-Length: 5\r\n\r\nwholemore"),
        (behaviours.extra_bytes(b"late", after=0.01), b"Content-Length: 2\r\n\r\noklate"),
        (behaviours.chunked(b"a", b"b", interval=0.01), b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n"),
        (behaviours.trickle(b"drip", interval=0.001), b"Content-Length: 4\r\n\r\ndrip"),
        (behaviours.trickle(b"drip", interval=0.001, headers=True), b"Content-Length: 4\r\n\r\ndrip"),
        (behaviours.hang_inside_body(b"part"), b"\r\n\r\n4\r\npart\r\n"),
        (behaviours.interim(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ],
)
async def test_what_keeps_the_connection_open(behaviour: object, answer: bytes) -> None:
    async with Upstream(behaviour) as upstream:  # type: ignore[arg-type]
        client = await RawClient(upstream.url).open()
        await client.send(GET)
        assert (await client.until(answer)).startswith(b"HTTP/1.1 ")
        assert upstream.connections.open == 1
        client.close()


async def test_interim_answers_come_before_the_last() -> None:
    async with Upstream(behaviours.interim((100, 103))) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(GET)
        received = await client.until(b"ok")
        client.close()
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1")]
    assert lines == [b"HTTP/1.1 100 Continue", b"HTTP/1.1 103 Early Hints", b"HTTP/1.1 200 OK"]


async def test_an_early_answer_comes_before_the_upload_has_ended() -> None:
    async with Upstream(behaviours.early_answer(413)) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(POST_10 + b"01234")
        assert b"413" in await client.until(b"enough")
        assert upstream.requests[0].ended is None
        await client.send(b"56789" + GET)
        await client.until(b"enough")
        client.close()
    assert [request.ended for request in upstream.requests] == ["complete", "complete"]


async def test_an_early_answer_may_close() -> None:
    async with Upstream(behaviours.early_answer(413, close=True)) as upstream:
        answer = await exchange(upstream, POST_10)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert upstream.requests[0].ended is None


async def test_never_reading_stops_the_client() -> None:
    async with Upstream(behaviours.never_reads()) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(POST_CHUNKED)
        await upstream.wait_for(lambda: upstream.requests)
        upload = asyncio.create_task(client.send(b"4000000\r\n" + b"x" * 0x4000000))
        _, stuck = await asyncio.wait([upload], timeout=0.3)
        assert stuck
        upload.cancel()
        client.reset()


async def test_writing_waits_for_a_client_that_does_not_read() -> None:
    written = 0

    async def pour(request: Request, connection: Connection) -> None:
        nonlocal written
        await connection.send_head(200)
        while True:
            await connection.write(b"x" * 65536)
            written += 65536

    async with Upstream(pour) as upstream:
        with socket.create_connection((upstream.host, upstream.port)) as idle:
            idle.sendall(GET)
            await upstream.wait_for(lambda: upstream.requests)
            last = -1
            while written != last:
                last = written
                await asyncio.sleep(0.1)
            assert written < 64 * 1024 * 1024
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)


async def test_a_wait_ends_when_the_client_leaves() -> None:
    seen: list[str] = []

    async def patient(request: Request, connection: Connection) -> None:
        try:
            await connection.pause(60)
        except ConnectionError:
            seen.append("left")
            raise

    async with Upstream(patient) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(GET)
        await upstream.wait_for(lambda: upstream.requests)
        client.close()
        await upstream.wait_for(lambda: seen == ["left"], seconds=1)


@pytest.mark.parametrize("kept", [3, 1000])
async def test_only_the_beginning_of_a_body_is_kept(kept: int) -> None:
    async with Upstream(behaviours.answer(), keep=kept) as upstream, httpx.AsyncClient() as client:
        await client.post(upstream.url, content=b"0123456789")
    [seen] = upstream.requests
    assert (seen.content, seen.received) == (b"0123456789"[:kept], 10)


def test_it_runs_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        script = [behaviours.answer(), behaviours.reset_before_headers()]
        async with Upstream.script(*script) as upstream, httpx.AsyncClient() as client:
            assert (await client.get(upstream.url)).status_code == 200
            with pytest.raises(httpx.ReadError):
                await client.get(upstream.url)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize(
    "data",
    [b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nHo", b"x" * 200_000, POST_10.replace(b"10", b"+1"), b"\r\n\r\n"],
)
async def test_what_is_no_request_is_not_taken_for_one(data: bytes) -> None:
    async with Upstream(behaviours.answer()) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(data)
        client.finish()
        assert await client.rest() == b""
        client.close()
        await upstream.wait_for(lambda: upstream.connections.open == 0)
    assert (len(upstream.malformed), upstream.requests) == (1, [])


async def test_a_connection_that_ends_between_requests_is_nothing_malformed() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        client = await RawClient(upstream.url).open()
        await client.send(GET)
        await client.until(b"ok")
        client.close()
        await upstream.wait_for(lambda: upstream.connections.open == 0)
    assert upstream.malformed == []
