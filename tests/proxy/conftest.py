from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from asgi_gateway.clock import Clock, SystemClock
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.httpx import HttpxTransport
from asgi_gateway.proxy.pool import Http1Transport
from asgi_gateway.proxy.transport import Connections, Origin, Timeouts, Transport, UpstreamRequest

MakeTransport = Callable[..., AbstractAsyncContextManager[Transport]]
MakeProxy = Callable[..., AbstractAsyncContextManager[ProxyApp]]


def build_transport(
    kind: type[Transport],
    port: int,
    *,
    clock: Clock | None = None,
    timeouts: Any = None,
    connections: Any = None,
    origin: Origin | None = None,
    **more: Any,
) -> Transport:
    return kind(
        origin or Origin("127.0.0.1", port),
        timeouts=Timeouts(**(timeouts or {})),
        connections=Connections(**(connections or {})),
        clock=clock or SystemClock(),
        **more,
    )


async def fetch(transport: Transport, request: UpstreamRequest | None = None) -> bytes:
    """The body of the answer to a request, by default a GET."""
    response = await transport.exchange(request or get())
    parts, more = [], True
    try:
        while more:
            piece, more = await response.read()
            parts.append(piece)
    finally:
        await response.aclose()
    return b"".join(parts)


def get(method: bytes = b"GET", body: bytes | None = None, **options: Any) -> UpstreamRequest:
    """A request for ``/``."""
    return UpstreamRequest(method, b"/", [(b"host", b"service")], body, **options)


@pytest.fixture(params=[Http1Transport, HttpxTransport], ids=["http1", "httpx"])
def transport_kind(request: pytest.FixtureRequest) -> type[Transport]:
    return request.param


@pytest.fixture
def make_proxy(transport_kind: type[Transport]) -> MakeProxy:
    """A proxy over each transport in turn: what holds for one must hold for the other."""

    @asynccontextmanager
    async def make(
        port: int, *, preserve_host: bool = False, base_path: bytes = b"", **options: Any
    ) -> AsyncIterator[ProxyApp]:
        clock = options.get("clock") or SystemClock()
        app = ProxyApp(
            build_transport(transport_kind, port, **options),
            endpoint=f"127.0.0.1:{port}",
            authority=None if preserve_host else b"127.0.0.1:%d" % port,
            base_path=base_path,
            clock=clock,
        )
        try:
            yield app
        finally:
            await app.aclose()

    return make


@pytest.fixture
def make_http1() -> MakeTransport:
    @asynccontextmanager
    async def make(port: int, **options: Any) -> AsyncIterator[Transport]:
        transport = build_transport(Http1Transport, port, **options)
        try:
            yield transport
        finally:
            await transport.aclose()

    return make
