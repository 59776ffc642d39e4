"""The upstream transport: a small protocol over bytes that the proxy app speaks to any client.

A transport sends one request to one endpoint and hands the answer back piece by piece. It knows
nothing of ASGI, routes or retries. There are two: `Http1Transport`, our own, and `HttpxTransport`
over any `httpx.AsyncBaseTransport`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import ConfigDict, Field

from asgi_gateway.errors import Failure
from asgi_gateway.types import Headers, PositiveSeconds, Size

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Methods that may be sent again when nobody can tell whether they arrived (RFC 9110 section 9.2.2)."""


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
    means that nobody knows yet.
    """

    __slots__ = ("body", "headers", "length", "method", "target")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None = None,
        length: int | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.length = length

    @property
    def replayable(self) -> bool:
        """Whether sending it a second time is allowed and possible."""
        return self.method in IDEMPOTENT and (self.body is None or isinstance(self.body, bytes))


class UpstreamResponse(Protocol):
    """An answer whose head has arrived. Header names are in lower case; framing is undone."""

    status: int
    headers: Headers

    async def read(self) -> tuple[bytes, bool]:
        """The next piece of the body and whether more follows; raises `UpstreamError`."""

    async def aclose(self) -> None:
        """Give the connection back if the answer is complete, else break it off. Idempotent."""


class Transport(Protocol):
    """Sends requests to one endpoint."""

    async def exchange(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a request and wait for the head of the answer; raises `UpstreamError`.

        An error of the body iterator is raised as it is, after the request was broken off.
        """

    async def aclose(self) -> None:
        """Close every connection."""


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
    """Bounds of one endpoint's connections."""

    max: Annotated[int, Field(ge=1, description="Connections open at once.")] = 256
    max_pending: Annotated[
        int, Field(ge=0, description="Requests that may wait for one, at most the connect timeout.")
    ] = 1024
    idle_expiry: Annotated[
        PositiveSeconds, Field(description="How long one is kept unused: less than services keep theirs.")
    ] = 4.0

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
    """Where an endpoint listens. `address` is what is connected to; None looks `host` up."""

    host: str
    port: int
    tls: bool = False
    address: str | None = None

    @property
    def name(self) -> str:
        """What an endpoint is called in logs: where it is connected to, and the port."""
        return f"{self.address or self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """``host:port`` as a Host header carries it: brackets around IPv6, no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def overloaded() -> UpstreamError:
    """No connection is free and none came free in time; our own refusal, not the service's failure."""
    return UpstreamError(Failure("overloaded", "gateway"), "every connection to the service is busy")
