"""The upstream transport: a small protocol over bytes that the proxy app speaks to any client.

A transport sends one request to one endpoint and hands the answer back piece by piece. It knows
nothing of ASGI, routes or retries. There are two: `Http1Transport`, our own, and `HttpxTransport`
over any `httpx.AsyncBaseTransport`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic import ConfigDict, Field

from asgi_gateway.errors import Failure
from asgi_gateway.types import Headers, PositiveSeconds, Size

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Methods that may be sent again when nobody can tell whether they arrived (RFC 9110 section 9.2.2)."""

OnEarlyHints: TypeAlias = Callable[[Headers], Awaitable[None]]
"""Called with the headers of each 103 as it comes, before the final answer (RFC 8297)."""


class UpstreamError(Exception):
    """The service could not be reached, broke off, stalled, or did not speak HTTP."""

    def __init__(self, failure: Failure, reason: str) -> None:
        super().__init__(reason)
        self.failure = failure


class MalformedRequest(Exception):
    """The client's request cannot be forwarded as one unambiguous HTTP/1.1 message."""


class UpstreamRequest:
    """One request as it leaves: everything in bytes, framing still to be chosen.

    `headers` hold neither Content-Length nor Transfer-Encoding nor anything hop-by-hop. `body` is
    None where the request has none, bytes where it is at hand, else an iterator over the upload,
    which raises where the upload breaks off. `length` is what an iterated body adds up to; None
    means that nobody knows yet. `on_early_hints` is told of 103 answers, which are dropped where it
    is None; `trailers` says that whoever asks can use them. A transport may know neither.
    """

    __slots__ = ("body", "headers", "length", "method", "on_early_hints", "target", "trailers")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None = None,
        length: int | None = None,
        *,
        on_early_hints: OnEarlyHints | None = None,
        trailers: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.length = length
        self.on_early_hints = on_early_hints
        self.trailers = trailers

    @property
    def replayable(self) -> bool:
        """Whether sending it a second time is allowed and possible."""
        return self.method in IDEMPOTENT and (self.body is None or isinstance(self.body, bytes))


class UpstreamResponse(Protocol):
    """An answer whose head has arrived. Header names are in lower case; framing is undone.

    `trailers` are there once `read` has said that nothing follows; they are never headers
    (RFC 9110 section 6.5.1).
    """

    status: int
    headers: Headers
    trailers: Headers

    def take(self) -> tuple[bytes, bool] | None:
        """What `read` would return, if that is here already; else None."""

    async def read(self) -> tuple[bytes, bool]:
        """The next piece of the body and whether more follows; raises `UpstreamError`."""

    def release(self) -> bool:
        """Give the connection back at once; False where that takes `aclose`."""

    async def aclose(self) -> None:
        """Give the connection back if the answer is complete, else break it off. Idempotent."""


class Transport(Protocol):
    """Sends requests to one endpoint."""

    async def exchange(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a request and wait for the head of the answer; raises `UpstreamError`.

        An error of the body iterator is raised as it is, after the request was broken off.
        """

    async def warm(self) -> None:
        """Open the connections that are wanted before the first request, anew after `aclose`.

        Never raises `UpstreamError`.
        """

    async def aclose(self) -> None:
        """Close every connection, those that serve an exchange as it ends."""

    async def cut(self) -> None:
        """Break off every exchange and begin no more."""

    @property
    def in_flight(self) -> int:
        """Exchanges that are not over."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a service may keep us waiting, each limit on its own."""

    connect: Annotated[PositiveSeconds, Field(description="Until a connection is open.")] = 5.0
    first_byte: Annotated[
        PositiveSeconds, Field(description="From the request sent whole until the head of the answer.")
    ] = 30.0
    idle: Annotated[
        PositiveSeconds, Field(description="Between two pieces of the answer, or of an upload taken.")
    ] = 60.0

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Connections:
    """Bounds of one endpoint's connections, and of each one's life."""

    max: Annotated[int, Field(ge=1, description="Connections open at once.")] = 256
    max_pending: Annotated[
        int, Field(ge=0, description="Requests that may wait for one, at most the connect timeout.")
    ] = 1024
    idle_expiry: Annotated[
        PositiveSeconds, Field(description="How long one is kept unused: less than services keep theirs.")
    ] = 4.0
    max_age: Annotated[
        PositiveSeconds,
        Field(description="How old one may get; a name is resolved anew for the one in its place."),
    ] = 3600.0
    max_requests: Annotated[
        int | None,
        Field(ge=1, description="Requests that one serves before it is replaced; no limit if unset."),
    ] = None
    warm: Annotated[int, Field(ge=0, description="Connections opened as the gateway starts.")] = 0

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class WebSocketOptions:
    """How WebSocket connections to a service are kept."""

    max_message: Annotated[
        Size, Field(ge=1, description="The longest message, either way; a longer one ends both sides (1009).")
    ] = 16 * 2**20
    idle: Annotated[
        PositiveSeconds | None,
        Field(description="Without a message either way for so long, both sides are closed; off if unset."),
    ] = None
    ping_interval: Annotated[
        PositiveSeconds | None,
        Field(description="How often the service is pinged; it has as long to answer. Off if unset."),
    ] = None

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an endpoint listens: a host and a port, or the path of a Unix socket.

    `address` is connected to in place of what `host` resolves to.
    """

    host: str
    port: int
    tls: bool = False
    path: str | None = None
    address: str | None = None

    @property
    def authority(self) -> str:
        """``host:port`` as a Host header carries it: brackets around IPv6, no default port."""
        if self.path is not None:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """What logs and metrics call the endpoint: ``host:port`` or ``unix:/path``."""
        return f"{self.address or self.host}:{self.port}" if self.path is None else f"unix:{self.path}"


def parse_url(url: str) -> tuple[Origin, str]:
    """Where a service listens and the path in front of its paths.

    ``http://host:port/base``, ``https://...``, ``unix:/run/app.sock``, or with a base path
    ``http+unix://%2Frun%2Fapp.sock/base``. Raises `ValueError` for anything else.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Origin("localhost", 80, path=parts.path), ""
    if parts.scheme == "http+unix" and unquote(parts.netloc).startswith("/"):
        return Origin("localhost", 80, path=unquote(parts.netloc)), parts.path
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL such as http://localhost:8000")
    if "@" in parts.netloc:
        raise ValueError("a URL may not hold a user or password")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("the port must be a number from 1 to 65535")
    tls = parts.scheme == "https"
    return Origin(parts.hostname, port or (443 if tls else 80), tls), parts.path


def draining(*, request_sent: bool) -> UpstreamError:
    """The service is no longer part of the configuration, and what was in progress had its time."""
    failure = Failure("draining", "gateway", request_sent=request_sent)
    return UpstreamError(failure, "the service was removed or changed")


def overloaded() -> UpstreamError:
    """No connection is free and none came free in time; our own refusal, not the service's failure."""
    return UpstreamError(Failure("overloaded", "gateway"), "every connection to the service is busy")
