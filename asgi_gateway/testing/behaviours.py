"""What a service can do to its client: handlers for `Upstream`, from the well-behaved to the worst.

Each function returns a handler. ``async with Upstream(behaviours.hang()) as upstream: ...``
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from asgi_gateway.testing.connection import Connection, Handler
from asgi_gateway.testing.received import Request
from asgi_gateway.types import Header


def answer(status: int = 200, headers: Iterable[Header] = (), body: bytes = b"ok") -> Handler:
    """Read the request to its end, then answer properly and keep the connection."""
    pairs = list(headers)

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.respond(status, pairs, body)

    return handler


def echo() -> Handler:
    """Answer with the request's body, chunk by chunk while it comes in."""

    async def handler(request: Request, connection: Connection) -> None:
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        async for piece in request.stream():
            await connection.send_chunk(piece)
        await connection.send_chunk(b"")

    return handler


def chunked(*chunks: bytes, headers: Iterable[Header] = (), interval: float = 0.0) -> Handler:
    """A chunked answer, `interval` seconds between its chunks."""
    pairs = [*headers, (b"Transfer-Encoding", b"chunked")]

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.send_head(200, pairs)
        for number, chunk in enumerate(chunks):
            if number and interval:
                await connection.pause(interval)
            await connection.send_chunk(chunk)
        await connection.send_chunk(b"")

    return handler


def chunked_cut(*chunks: bytes, headers: Iterable[Header] = ()) -> Handler:
    """A chunked answer that ends in a FIN with its last chunk still to come."""
    pairs = [*headers, (b"Transfer-Encoding", b"chunked")]

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.send_head(200, pairs)
        for chunk in chunks:
            await connection.send_chunk(chunk)
        connection.close()

    return handler


def close_delimited(body: bytes = b"ok", headers: Iterable[Header] = ()) -> Handler:
    """An answer without any length, ended by a FIN (RFC 9112 section 6.3)."""
    pairs = list(headers)

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.send_head(200, pairs)
        await connection.write(body)
        connection.close()

    return handler


def too_short(body: bytes = b"part", *, length: int = 1000, headers: Iterable[Header] = ()) -> Handler:
    """Promise `length` bytes, send fewer, then FIN."""
    pairs = [*headers, (b"Content-Length", b"%d" % length)]

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.respond(200, pairs, body)
        connection.close()

    return handler


def too_long(body: bytes = b"whole", *, extra: bytes = b"and more") -> Handler:
    """Promise the length of `body` and send more in the same write."""
    return extra_bytes(extra, body=body)


def extra_bytes(
    extra: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen",
    *,
    body: bytes = b"ok",
    after: float | None = None,
) -> Handler:
    """A proper answer, then bytes that nobody asked for: with it, or `after` so many seconds."""

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        length = [(b"Content-Length", b"%d" % len(body))]
        if after is None:
            await connection.respond(200, length, body + extra)
            return
        await connection.respond(200, length, body)
        await connection.pause(after)
        await connection.write(extra)

    return handler


def stale(*, after: float = 0.0, reset: bool = False) -> Handler:
    """A proper answer, then a FIN (or RST) that no ``Connection: close`` announced."""

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.respond(200, body=b"ok")
        await connection.pause(after)
        if reset:
            connection.reset()
        else:
            connection.close()

    return handler


def reset_before_headers() -> Handler:
    """Read the request, then RST."""

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        connection.reset()

    return handler


def close_before_headers() -> Handler:
    """Read the request, then FIN."""

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        connection.close()

    return handler


def reset_inside_headers() -> Handler:
    """RST in the middle of a header line."""

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        await _delivered(connection)
        connection.reset()

    return handler


def reset_inside_body(
    body: bytes = b"part", *, length: int | None = None, headers: Iterable[Header] = ()
) -> Handler:
    """RST after the first bytes of a body, chunked unless `length` says how many were promised."""
    pairs = list(headers)

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        if length is None:
            await connection.send_head(200, [*pairs, (b"Transfer-Encoding", b"chunked")])
            await connection.send_chunk(body)
        else:
            await connection.respond(200, [*pairs, (b"Content-Length", b"%d" % length)], body)
        await _delivered(connection)
        connection.reset()

    return handler


def hang() -> Handler:
    """Read the request and whatever else comes; never answer."""

    async def handler(request: Request, connection: Connection) -> None:
        await connection.hang()

    return handler


def hang_inside_body(body: bytes = b"part", *, headers: Iterable[Header] = ()) -> Handler:
    """The headers and a first chunk, then nothing."""
    pairs = [*headers, (b"Transfer-Encoding", b"chunked")]

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.send_head(200, pairs)
        await connection.send_chunk(body)
        await connection.hang()

    return handler


def trickle(body: bytes = b"slowly", *, interval: float = 0.01, headers: bool = False) -> Handler:
    """An answer byte by byte, `interval` seconds apart: its body, or with `headers` all of it."""

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        if not headers:
            await connection.write(head)
        for byte in head + body if headers else body:
            await connection.write(bytes([byte]))
            await connection.pause(interval)

    return handler


def early_answer(status: int = 413, body: bytes = b"enough", *, close: bool = False) -> Handler:
    """Answer before the upload has ended; then read on, or with `close` FIN at once."""

    async def handler(request: Request, connection: Connection) -> None:
        await connection.respond(status, [(b"Connection", b"close")] if close else [], body)

    return handler


def interim(
    statuses: Sequence[int] = (103,), headers: Iterable[Header] = ((b"Link", b"</style.css>; rel=preload"),)
) -> Handler:
    """Interim answers (1xx), then a proper one."""
    pairs = list(headers)

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        for status in statuses:
            await connection.send_head(status, pairs)
        await connection.respond(200, body=b"ok")

    return handler


def never_reads() -> Handler:
    """Take the headers and not another byte, so that an upload fills every buffer on its way."""

    async def handler(request: Request, connection: Connection) -> None:
        connection.pause_reading()
        await connection.lost.wait()

    return handler


def raw(data: bytes, *, close: bool = True) -> Handler:
    """Any bytes for an answer, then FIN unless `close` is False."""

    async def handler(request: Request, connection: Connection) -> None:
        await request.body()
        await connection.write(data)
        if close:
            connection.close()

    return handler


async def _delivered(connection: Connection) -> None:
    """Let what was written leave this process: RST throws away what is still in its buffers."""
    while connection.transport.get_write_buffer_size():  # noqa: ASYNC110 - no callback tells of it
        await asyncio.sleep(0.001)
