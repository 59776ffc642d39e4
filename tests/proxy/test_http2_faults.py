"""HTTP/2 services that fail, and what they do to their clients: by frames on a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.httpx import HttpxTransport
from asgi_gateway.testing import request
from tests.proxy.conftest import build_transport
from tests.proxy.h2_service import H2Service, Stream

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
