"""The head of a request as it leaves for the service, made from an ASGI scope: HTTP and WebSocket alike."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias

from asgi_gateway.asgi.paths import raw_request_path, without_prefix
from asgi_gateway.context import EXCHANGE, STRIPPED_PREFIX, TRACE, TRUSTED_PEER
from asgi_gateway.ids import RandomHex
from asgi_gateway.proxy.forwarded import MakeForwarded
from asgi_gateway.proxy.headers import Ended, split_request
from asgi_gateway.proxy.transport import MalformedRequest
from asgi_gateway.proxy.via import earlier_via
from asgi_gateway.trace import TraceContext
from asgi_gateway.types import Headers, Scope

_HTTP_SCHEMES: Final = {"ws": "http", "wss": "https"}
"""X-Forwarded-Proto names the scheme of the handshake, which is an HTTP request."""

_Facts: TypeAlias = tuple[str, str, str, bytes, bytes]
"""Peer, scheme, HTTP version, Host and stripped prefix of a request."""

_HASH: Final = ord("#")
_SPACE: Final = ord(" ")

_STAMPS: Final = 1024
"""Clients for whom the gateway's own headers are remembered."""

_LONGEST_HOST: Final = 255
"""Bytes of a Host with which they are; a longer one is made up."""


class Outgoing:
    """How requests leave for one endpoint.

    `authority` is the Host that it is sent; None passes the client's on. `base_path` goes in front of
    every path. `make_forwarded` is one of `STYLES`.
    """

    __slots__ = ("_authority", "_base_path", "_ids", "_make_forwarded", "_stamp")

    def __init__(self, authority: bytes | None, base_path: bytes, make_forwarded: MakeForwarded) -> None:
        self._authority = authority
        self._base_path = base_path.rstrip(b"/")
        self._make_forwarded = make_forwarded
        self._ids = RandomHex()
        self._stamp = lru_cache(_STAMPS)(self._make_stamp)

    def headers(self, scope: Scope) -> tuple[Headers, Ended]:
        """The headers for the service, and those of the client's that ended here.

        Raises `UpstreamError` for a request that goes in circles.
        """
        trace: TraceContext | None = scope.get(TRACE)
        trusted: bool | None = scope.get(TRUSTED_PEER)  # None where nobody has looked at the peer
        passed, ended = split_request(
            scope["headers"], scope.get(EXCHANGE), traced=trace is not None, vouched=trusted is not None
        )
        host = ended[b"host"][0] if b"host" in ended else b""
        peer = scope.get("client")
        facts = (
            peer[0] if peer else "unknown",
            scope.get("scheme", "http"),
            scope.get("http_version", "1.1"),
            host,
            scope.get(STRIPPED_PREFIX, b""),
        )
        if trusted:
            stamp = self._make_stamp(facts, ended)
        else:
            stamp = self._stamp(facts) if len(host) <= _LONGEST_HOST else self._make_stamp(facts)
        headers = [(b"host", self._authority or host), *passed, *stamp]
        if b"via" in ended:
            headers[-1:-1] = earlier_via(ended[b"via"])
        if trace is not None:
            headers.append((b"traceparent", trace.child_header(self._ids(16))))
        return headers, ended

    def _make_stamp(self, facts: _Facts, ended: Ended | None = None) -> Headers:
        """What the gateway says of a request: who asked for what and how, and `Via` at the end.

        `ended` is given where the peer is trusted and what it says is continued.
        """
        peer, scheme, version, host, prefix = facts
        made = self._make_forwarded(
            ended or {},
            peer=peer.encode("latin-1"),
            scheme=_HTTP_SCHEMES.get(scheme, scheme).encode("ascii"),
            host=host,
            prefix=prefix,
            trusted=ended is not None,
        )
        return [*made, (b"via", b"%b asgi-gateway" % version.encode("ascii"))]

    def target(self, scope: Scope) -> bytes:
        """The client's own bytes less the stripped prefix, behind the service's base path.

        Raises `MalformedRequest` where they are no target: some servers let a fragment or a space through.
        """
        prefix: bytes = scope.get(STRIPPED_PREFIX, b"")
        raw = raw_request_path(scope)
        path = without_prefix(raw, prefix) if prefix else raw
        if path is None:
            raise MalformedRequest("its raw path does not spell out the routed prefix")
        query: bytes | None = scope.get("query_string")
        target = b"%b%b?%b" % (self._base_path, path, query) if query else self._base_path + path
        if _HASH in target or _SPACE in target:
            raise MalformedRequest("its target holds a character that no URL has")
        return target
