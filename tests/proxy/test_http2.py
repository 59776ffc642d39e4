"""HTTP/2 to a service, against a real server (hypercorn)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as HypercornConfig

from asgi_gateway import Gateway
from asgi_gateway.config import ConfigError
from asgi_gateway.proxy import httpx as adapter
from asgi_gateway.testing import Conversation, http_scope, request
from asgi_gateway.types import ASGIApp


class Service:
    """An ASGI app that remembers what it saw, and runs a handler."""

    def __init__(self, handler: Callable[..., Awaitable[None]]) -> None:
        self.handler = handler
        self.scopes: list[dict] = []
        self.left = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        self.scopes.append(scope)
        await self.handler(self, receive, send)


@asynccontextmanager
async def serving(
    app: ASGIApp, certificate: trustme.LeafCert | None = None, folder: Path = Path()
) -> AsyncIterator[int]:
    """hypercorn with HTTP/2 in front of an app; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = HypercornConfig()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    config.graceful_timeout = 0.2
    if certificate is not None:
        certificate.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "server.key"))
        config.certfile, config.keyfile = str(folder / "server.pem"), str(folder / "server.key")
    stop = asyncio.Event()
    server = asyncio.create_task(hypercorn_serve(app, config, shutdown_trigger=stop.wait))
    try:
        await listening(port)
        yield port
    finally:
        stop.set()
        await server


async def listening(port: int) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


@asynccontextmanager
async def gateway(url: str, **service: object) -> AsyncIterator[Gateway]:
    entry = {"url": url, "transport": "http2", "routes": [{"path": "/*"}], **service}
    app = Gateway({"version": 1, "services": {"s": entry}})
    try:
        yield app
    finally:
        for proxy in app._live.proxies:
            await proxy.aclose()


async def echo(service: Service, receive, send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-thing", b"1")]})
    await send({"type": "http.response.body", "body": body})


async def test_requests_go_over_http2_on_a_kept_connection() -> None:
    service = Service(echo)
    async with serving(service) as port, gateway(f"http://127.0.0.1:{port}/base") as app:
        for number in range(3):
            answer = await request(
                app,
                "POST",
                "/a",
                query=b"b=%2F",
                headers=[(b"transfer-encoding", b"chunked")],
                body=[b"ab", b"%d" % number],
            )
            assert (answer.status, answer.body, answer.header("x-thing")) == (201, b"ab%d" % number, "1")
    assert {scope["http_version"] for scope in service.scopes} == {"2"}
    assert {scope["raw_path"] + b"?" + scope["query_string"] for scope in service.scopes} == {
        b"/base/a?b=%2F"
    }
    assert len({scope["client"] for scope in service.scopes}) == 1


async def test_many_requests_share_a_connection() -> None:
    service = Service(echo)
    async with serving(service) as port, gateway(f"http://127.0.0.1:{port}") as app:
        await request(app)
        answers = await asyncio.gather(*(request(app) for _ in range(20)))
    assert {answer.status for answer in answers} == {201}
    assert len({scope["client"] for scope in service.scopes}) == 1


async def test_events_stream_over_tls(tmp_path: Path) -> None:
    turns = [asyncio.Event() for _ in range(5)]

    async def stream(service: Service, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number, turn in enumerate(turns):
            await turn.wait()
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await send({"type": "http.response.body"})

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    service = Service(stream)
    tls = {"ca": str(tmp_path / "ca.pem"), "server_name": "inner.example"}
    async with (
        serving(service, authority.issue_cert("inner.example"), tmp_path) as port,
        gateway(f"https://127.0.0.1:{port}", tls=tls) as app,
        Conversation(app, http_scope()) as talk,
    ):
        talk.body()
        assert (await talk.next())["status"] == 200
        for number, turn in enumerate(turns):
            turn.set()
            assert (await talk.next())["body"] == b"data: %d\n\n" % number
        assert (await talk.finish()).complete
    assert service.scopes[0]["http_version"] == "2"


@pytest.mark.parametrize("inside", [False, True], ids=["before the answer", "inside the answer"])
async def test_a_client_who_leaves_ends_its_stream_and_no_other(*, inside: bool) -> None:
    async def hang(service: Service, receive, send) -> None:
        if service.scopes[-1]["path"] != "/hang":
            await echo(service, receive, send)
            return
        if inside:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        service.left.set()

    service = Service(hang)
    async with serving(service) as port, gateway(f"http://127.0.0.1:{port}") as app:
        await request(app)
        async with Conversation(app, http_scope(path="/hang")) as talk:
            while len(service.scopes) < 2:
                await asyncio.sleep(0.01)
            if inside:
                await talk.next()
            talk.disconnect()
            await talk.finish(2)
        await asyncio.wait_for(service.left.wait(), 2)
        assert (await request(app)).status == 201
    assert len({scope["client"] for scope in service.scopes}) == 1


async def test_abandoned_answers_do_not_use_up_the_connection() -> None:
    """More than its flow control window of 16 MiB is sent on streams that nobody reads to their end."""

    async def large(service: Service, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(16):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body"})

    service = Service(large)
    async with serving(service) as port, gateway(f"http://127.0.0.1:{port}", timeouts={"idle": 2}) as app:
        for _ in range(30):
            async with Conversation(app, http_scope()) as talk:
                await talk.next()
                talk.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await talk.finish()
        assert len((await request(app)).body) == 1024 * 1024
    assert len({scope["client"] for scope in service.scopes}) == 1


async def test_a_service_that_speaks_no_http2_is_a_failure() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        async with gateway(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as app:
            assert (await request(app)).status == 502


def test_the_missing_package_is_a_mistake_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    service = {"url": "http://x", "transport": "http2", "routes": [{"path": "/*"}]}
    with pytest.raises(ConfigError, match=r"services\.s\.transport: .* pip install 'asgi-gateway\[http2\]'"):
        Gateway({"version": 1, "services": {"s": service}})
