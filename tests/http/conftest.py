"""One gateway process and one service for a module; each test says how the service answers."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asgi_gateway.testing import Handler, Process, Request, Upstream, behaviours, run_process
from tests.http.wire import Client, Reply

ROOT = str(Path(__file__).parents[2])

TRUSTED = "127.0.0.2"
"""A client at this address is a proxy that is known."""

CONFIG = """\
version: 1
middleware:
  - request_id
  - tracing
  - client_address: {{trusted_proxies: [127.0.0.2]}}
  - access_log
  - gateway_headers
  - errors
  - health
services:
  plain: {{url: 'http://localhost:{port}', routes: [{{path: /plain/*}}]}}
  kept_host: {{url: '{url}', preserve_host: true, routes: [{{path: /kept-host/*}}]}}
  stripped: {{url: '{url}/base', routes: [{{path: /api/*, strip_prefix: /api}}]}}
  public: {{url: '{url}', routes: [{{path: /public/*}}]}}
  admin:
    url: '{url}'
    routes: [{{path: /admin/*}}]
    middleware: [{{use: 'tests.http.guards:GuardMiddleware'}}]
  named: {{url: '{url}', routes: [{{path: /*, host: a.example}}, {{path: /*, host: '[2001:db8::1]'}}]}}
  counted:
    url: '{url}'
    routes: [{{path: /counted/*}}]
    middleware: [rate_limit: {{limit: 1/hour, key: 'header:X-Case', exempt: [/counted/free/*]}}]
  reading: {{url: '{url}', routes: [{{path: /methods, methods: [GET, OPTIONS]}}]}}
  rfc7239: {{url: '{url}', forwarded: rfc7239, routes: [{{path: /rfc7239/*, strip_prefix: /rfc7239}}]}}
  both: {{url: '{url}', forwarded: both, routes: [{{path: /both/*}}]}}
  circle: {{url: 'http://127.0.0.1:{circle}', routes: [{{path: /circle/*}}]}}
"""


class Switch:
    """A service that answers as the test says, once or until told otherwise."""

    def __init__(self) -> None:
        self.handler: Handler = behaviours.answer()

    async def __call__(self, request: Any, connection: Any) -> None:
        await self.handler(request, connection)


@dataclass
class Wire:
    """Both ends of the gateway."""

    process: Process
    upstream: Upstream
    switch: Switch

    def client(self, source: str = "127.0.0.1") -> Client:
        return Client(self.process.port, source)

    async def ask(
        self, raw: bytes, answer: Handler | None = None, *, source: str = "127.0.0.1"
    ) -> tuple[Reply, list[Request]]:
        """The reply to one request, and the requests that the service saw of it."""
        self.switch.handler = answer or behaviours.answer()
        before = len(self.upstream.requests)
        async with self.client(source) as client:
            client.say(raw)
            reply = await client.reply(raw.partition(b" ")[0])
        return reply, self.upstream.requests[before:]

    async def sent(self, raw: bytes, **options: Any) -> Request:
        """The one request that the service saw of this one."""
        reply, requests = await self.ask(raw, **options)
        assert (reply.status, len(requests)) == (200, 1)
        return requests[0]


def get(target: bytes, *lines: bytes, method: bytes = b"GET", host: bytes = b"gate") -> bytes:
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), b"Host: " + host, *lines, b"", b""])


def answering(status: int, *lines: bytes, body: bytes = b"") -> Handler:
    """An answer of exactly these bytes, on a connection that stays."""
    head = b"\r\n".join([b"HTTP/1.1 %d Phrase" % status, *lines, b"", b""])

    async def handler(request: Any, connection: Any) -> None:
        await request.body()
        await connection.write(head + (b"" if request.method == "HEAD" else body))

    return handler


@asynccontextmanager
async def relay(to: list[int]) -> AsyncIterator[int]:
    """A port that leads to the port in `to`, which may become known later."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", to[0])
        await asyncio.gather(pipe(reader, back), pipe(onward, writer))

    server = await asyncio.start_server(through, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def wire(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Wire]:
    switch, port = Switch(), [0]
    async with Upstream(switch) as upstream, relay(port) as circle:
        config = tmp_path_factory.mktemp("http") / "gateway.yaml"
        config.write_text(CONFIG.format(url=upstream.url, port=upstream.port, circle=circle))
        environment = {**os.environ, "PYTHONPATH": ROOT}
        async with run_process(["run", str(config), "--port", "0"], env=environment) as process:
            port[0] = process.port
            yield Wire(process, upstream, switch)
