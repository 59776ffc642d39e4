"""The end of a gateway: nothing is lost but what outlives its deadline."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed

from asgi_gateway.testing import RawClient, Upstream, behaviours
from asgi_gateway.testing.connection import Connection
from asgi_gateway.testing.received import Request
from tests.load import under_load
from tests.server.running import running

REQUEST = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shutdown", ["{accept_grace: 0s}", "{accept_grace: 300ms}"])
async def test_under_load_with_kept_connections_nothing_is_lost(
    tmp_path: Path, workers: int, shutdown: str
) -> None:
    async with Upstream(behaviours.answer()) as upstream:
        async with running(tmp_path, upstream.url, workers=workers, shutdown=shutdown) as gateway:
            async with under_load(gateway.process.port, clients=16) as load:
                await upstream.wait_for(lambda: len(upstream.requests) > 200)
                assert await gateway.process.stop(signal.SIGTERM) == 0
    assert set(load.outcomes) == {"200", "refused"}
    assert load.outcomes["refused"] == 16


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_is_unready_at_once_and_serves_on_for_the_grace(tmp_path: Path, workers: int) -> None:
    async with Upstream(behaviours.answer()) as upstream:
        keys: dict[str, Any] = {"workers": workers, "shutdown": "{accept_grace: 30s}"}
        async with running(tmp_path, upstream.url, **keys) as gateway:
            url = gateway.process.url
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"{url}/health/ready")).status_code == 200
                begun = time.monotonic()
                gateway.process.process.send_signal(signal.SIGTERM)
                while (await client.get(f"{url}/health/ready")).status_code != 503:
                    await asyncio.sleep(0.01)
                assert time.monotonic() - begun < 1
                answers = [await client.get(url) for _ in range(6)]
            assert {answer.status_code for answer in answers} == {200}
            assert answers[-1].headers["connection"] == "close"
            assert await gateway.process.stop(signal.SIGTERM, seconds=5) == 0, "a second signal ends it"


async def test_a_kept_connection_is_served_once_more(tmp_path: Path) -> None:
    """Its request may have been on its way when the end began."""
    async with Upstream(behaviours.answer()) as upstream, running(tmp_path, upstream.url) as gateway:
        async with RawClient(gateway.process.url) as client:
            await client.send(REQUEST)
            assert (await client.answer()).status == 200
            gateway.process.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while await _listens(gateway.process.port):
                    await asyncio.sleep(0.01)
            await client.send(REQUEST)
            answer = await client.answer()
            assert (answer.status, answer.header("connection")) == (200, "close")
        assert await gateway.process.wait() == 0


async def test_a_request_whose_head_is_arriving_is_served(tmp_path: Path) -> None:
    async with Upstream(behaviours.answer()) as upstream, running(tmp_path, upstream.url) as gateway:
        async with RawClient(gateway.process.url) as client:
            await client.send(REQUEST + REQUEST[:-2])
            assert (await client.answer()).status == 200  # so the head after it is there too
            gateway.process.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(1.5)  # longer than connections without a request are kept
            await client.send(b"\r\n")
            assert (await client.answer()).status == 200
        assert await gateway.process.wait() == 0


async def test_what_is_in_progress_ends_and_what_outlives_the_deadline_is_broken_off(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def handler(asked: Request, connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        if asked.target == b"/short":
            await go_on.wait()
            await connection.write(b"5\r\nother\r\n0\r\n\r\n")
        else:
            await asyncio.sleep(60)

    async with Upstream(handler) as upstream:
        keys = {"shutdown": "{drain_timeout: 2s}"}
        async with running(tmp_path, upstream.url, **keys) as gateway:
            url = gateway.process.url
            async with RawClient(url) as short, RawClient(url) as long:
                await short.send(REQUEST.replace(b"/ ", b"/short ", 1))
                await long.send(REQUEST)
                for client in (short, long):
                    await client.until(b"first\r\n")
                begun = time.monotonic()
                gateway.process.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(5):
                    while await _listens(gateway.process.port):
                        await asyncio.sleep(0.01)
                go_on.set()
                assert (await short.until(b"0\r\n\r\n")).endswith(b"other\r\n0\r\n\r\n")
                assert await long.rest() == b"", "broken off without the end of its body"
            assert await gateway.process.wait() == 0
    assert 1.5 < time.monotonic() - begun < 8


async def test_streams_may_be_given_less_time_than_what_has_a_length(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def handler(asked: Request, connection: Connection) -> None:
        if asked.target == b"/download":
            await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
            await go_on.wait()
            await connection.write(b"other")
        else:
            await connection.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            await asyncio.sleep(60)

    async with Upstream(handler) as upstream:
        keys = {"shutdown": "{stream_timeout: 100ms}"}
        async with running(tmp_path, upstream.url, **keys) as gateway:
            url = gateway.process.url
            async with RawClient(url) as download, RawClient(url) as stream:
                await download.send(REQUEST.replace(b"/ ", b"/download ", 1))
                await stream.send(REQUEST)
                for client in (download, stream):
                    await client.until(b"first")
                gateway.process.process.send_signal(signal.SIGTERM)
                assert await stream.rest() == b"\r\n", "broken off without the end of its body"
                go_on.set()
                assert await download.rest() == b"other"
            assert await gateway.process.wait() == 0
    assert upstream.connections.open == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_both_sides_of_a_websocket_are_told(tmp_path: Path, workers: int) -> None:
    told: list[int | None] = []

    async def service(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()
        told.append(connection.close_code)

    async with serve_websocket(service, "127.0.0.1", 0) as upstream:
        url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
        async with running(tmp_path, url, workers=workers) as gateway:
            async with connect(gateway.process.url.replace("http", "ws", 1), proxy=None) as client:
                assert await client.recv() == "hello"
                begun = time.monotonic()
                gateway.process.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed) as closed:
                    await client.recv()
            assert await gateway.process.wait() == 0
            assert time.monotonic() - begun < 3
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert told == [1001]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_second_signal_ends_it_at_once(tmp_path: Path, workers: int) -> None:
    async with (
        Upstream(behaviours.hang()) as upstream,
        running(tmp_path, upstream.url, workers=workers) as gateway,
    ):
        async with RawClient(gateway.process.url) as client:
            await client.send(REQUEST)
            await upstream.wait_for(lambda: upstream.requests)
            gateway.process.process.send_signal(signal.SIGINT)
            async with asyncio.timeout(5):
                while await _listens(gateway.process.port):
                    await asyncio.sleep(0.01)
            begun = time.monotonic()
            assert await gateway.process.stop(signal.SIGINT, seconds=5) == 0
            assert time.monotonic() - begun < 3


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
