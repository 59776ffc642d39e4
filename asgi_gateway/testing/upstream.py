"""A real HTTP/1.1 service on a socket that does exactly what a test tells it to, right or wrong.

    async with Upstream(behaviours.reset_inside_body()) as upstream:
        ...  # send something to upstream.url
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)
        assert upstream.requests[0].ended == "aborted"

A handler is ``async def handler(request, connection)``; it may write anything at all. Where it
returns with the connection still open, the rest of the request is read and the next one served.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from asgi_gateway.testing.connection import Connection, Handler
from asgi_gateway.testing.received import Request


@dataclass
class Connections:
    """How many connections there are and were."""

    total: int = 0
    closed: int = 0
    """Closed by either side: for the client's side, from the moment its FIN or RST arrived."""

    @property
    def open(self) -> int:
        """Those not closed by either side."""
        return self.total - self.closed


class Upstream:
    """A service that behaves as its handler does, on a free port of 127.0.0.1 unless told otherwise.

    `requests` holds every request that arrived, from the end of its header on; `malformed` what
    came in place of one and was no HTTP, or cut inside its header. A handler's own mistake is raised
    where the ``async with`` block ends. `keep` is how many bytes of each body
    stay readable as `Request.content`, default 1 MiB. `tls` is what it speaks TLS with; `path` is that
    of a Unix socket to listen on in place of host and port.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        keep: int = 1024 * 1024,
        tls: ssl.SSLContext | None = None,
        path: str | None = None,
    ) -> None:
        self.handler = handler
        self.host = host
        self.port = port
        self.keep = keep
        self.tls = tls
        self.path = path
        self.requests: list[Request] = []
        self.connections = Connections()
        self.malformed: list[str] = []
        self.errors: list[Exception] = []
        self.live: set[Connection] = set()
        self._waiting: list[asyncio.Future[None]] = []
        self._server: asyncio.Server | None = None

    @classmethod
    def script(cls, *handlers: Handler) -> Upstream:
        """One handler for each request in turn; the last one serves all that follow."""
        remaining = list(handlers)

        async def follow(request: Request, connection: Connection) -> None:
            handler = remaining.pop(0) if len(remaining) > 1 else remaining[0]
            await handler(request, connection)

        return cls(follow)

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    async def wait_for(self, predicate: Callable[[], object], seconds: float = 5.0) -> None:
        """Return as soon as `predicate` is true; raises `AssertionError` after so many seconds.

        It is asked again whenever a connection opens or closes, a request arrives, some of a body
        does, or a handler returns.
        """
        try:
            async with asyncio.timeout(seconds):
                while not predicate():
                    change = asyncio.get_running_loop().create_future()
                    self._waiting.append(change)
                    await change
        except TimeoutError:
            raise AssertionError(f"still not so after {seconds} s: {self!r}") from None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self.path is not None:
            self._server = await loop.create_unix_server(lambda: Connection(self), self.path)
            return self
        self._server = await loop.create_server(lambda: Connection(self), self.host, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        live = list(self.live)
        for connection in live:
            connection.transport.abort()
            if connection.task is not None:
                connection.task.cancel()
        for connection in live:
            await connection.lost.wait()
        await asyncio.gather(*(c.task for c in live if c.task), return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        if error is None and self.errors:
            raise self.errors[0]

    def __repr__(self) -> str:
        return f"<Upstream {self.url} {self.connections} {self.requests}>"

    # What its connections tell it.

    def opened(self, connection: Connection) -> int:
        """A connection was made; returns its number."""
        self.live.add(connection)
        self.connections.total += 1
        self.changed()
        return self.connections.total

    def left(self) -> None:
        """A connection was closed, by either side."""
        self.connections.closed += 1
        self.changed()

    def arrived(self, request: Request) -> None:
        """A request's header is complete."""
        self.requests.append(request)
        self.changed()

    def changed(self) -> None:
        """Something a test may wait for happened."""
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)


@contextlib.contextmanager
def refused_url() -> Iterator[str]:
    """A URL that refuses connections: its port is taken, so nobody else gets it, and nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
