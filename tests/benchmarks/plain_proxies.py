"""What people write when they need a proxy in an afternoon, or take from a library: yardsticks from below."""

from __future__ import annotations

import os

import httpx

SERVICE = os.environ.get("SERVICE", "http://127.0.0.1:9000")
SKIPPED = {b"connection", b"content-length", b"host", b"transfer-encoding"}


async def _body(receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


class HttpxProxy:
    """One shared `httpx.AsyncClient`, the answer streamed."""

    def __init__(self) -> None:
        self.client = httpx.AsyncClient(base_url=SERVICE, limits=httpx.Limits(max_connections=256))

    async def __call__(self, scope, receive, send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] not in SKIPPED]
        request = self.client.build_request(
            scope["method"], scope["path"], headers=headers, content=await _body(receive)
        )
        response = await self.client.send(request, stream=True)
        try:
            pairs = [(name.lower(), value) for name, value in response.headers.raw]
            await send({"type": "http.response.start", "status": response.status_code, "headers": pairs})
            async for chunk in response.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await response.aclose()


class AiohttpProxy:
    """One shared `aiohttp.ClientSession`, the answer streamed."""

    def __init__(self) -> None:
        self.session = None

    async def __call__(self, scope, receive, send) -> None:
        import aiohttp

        if self.session is None:
            self.session = aiohttp.ClientSession(
                auto_decompress=False, connector=aiohttp.TCPConnector(limit=256)
            )
        headers = [(n.decode(), v.decode("latin-1")) for n, v in scope["headers"] if n not in SKIPPED]
        async with self.session.request(
            scope["method"], SERVICE + scope["path"], headers=headers, data=await _body(receive)
        ) as response:
            pairs = [(name.lower(), value) for name, value in response.raw_headers]
            await send({"type": "http.response.start", "status": response.status, "headers": pairs})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def asgi_proxy_lib():
    """The app of asgi-proxy-lib, which knows no lifespan."""
    from asgi_proxy import asgi_proxy

    return asgi_proxy(SERVICE)


def fastapi_proxy_lib():
    """The app of fastapi-proxy-lib, whose lifespan closes its client."""
    from fastapi_proxy_lib.fastapi.app import reverse_http_app

    return reverse_http_app(base_url=SERVICE + "/")


httpx_proxy = HttpxProxy()
aiohttp_proxy = AiohttpProxy()
