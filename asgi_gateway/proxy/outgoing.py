"""The head of a request as it leaves for the service, made from an ASGI scope: HTTP and WebSocket alike."""

from __future__ import annotations

from typing import Final

from asgi_gateway.asgi.paths import raw_request_path, without_prefix
from asgi_gateway.context import EXCHANGE, STRIPPED_PREFIX, TRACE, TRUSTED_PEER
from asgi_gateway.ids import RandomHex
from asgi_gateway.proxy.forwarded import MakeForwarded
from asgi_gateway.proxy.headers import VOUCHED, Ended, split_request
from asgi_gateway.proxy.transport import MalformedRequest
from asgi_gateway.proxy.via import earlier_via
from asgi_gateway.trace import TraceContext
from asgi_gateway.types import Headers, Scope

_SCHEMES: Final = {"http": b"http", "https": b"https", "ws": b"http", "wss": b"https"}
"""X-Forwarded-Proto names the scheme of a WebSocket's handshake, which is an HTTP request."""

_VIA: Final = {version: b"%b asgi-gateway" % version.encode("ascii") for version in ("1.0", "1.1", "2", "3")}


class Outgoing:
    """How requests leave for one endpoint.

    `authority` is the Host that it is sent; None passes the client's on. `base_path` goes in front of
    every path. `make_forwarded` is one of `STYLES`.
    """

    __slots__ = ("_authority", "_base_path", "_ids", "_make_forwarded")

    def __init__(self, authority: bytes | None, base_path: bytes, make_forwarded: MakeForwarded) -> None:
        self._authority = authority
        self._base_path = base_path.rstrip(b"/")
        self._make_forwarded = make_forwarded
        self._ids = RandomHex()

    def headers(self, scope: Scope) -> tuple[Headers, Ended]:
        """The headers for the service, and those of the client's that ended here.

        Raises `UpstreamError` for a request that goes in circles.
        """
        trace: TraceContext | None = scope.get(TRACE)
        passed, ended = split_request(scope["headers"], scope.get(EXCHANGE), traced=trace is not None)
        host = ended[b"host"][0] if b"host" in ended else b""
        peer = scope.get("client")
        scheme: str = scope.get("scheme", "http")
        trusted: bool = scope.get(TRUSTED_PEER, False)
        headers = [
            (b"host", self._authority or host),
            *passed,
            *self._make_forwarded(
                ended,
                peer=peer[0].encode("latin-1") if peer else b"unknown",
                scheme=_SCHEMES.get(scheme) or scheme.encode("ascii"),
                host=host,
                prefix=scope.get(STRIPPED_PREFIX, b""),
                trusted=trusted,
            ),
        ]
        if trusted:
            headers += [(name, value) for name in ended if name in VOUCHED for value in ended[name]]
        if b"via" in ended:
            headers += earlier_via(ended[b"via"])
        version: str = scope.get("http_version", "1.1")
        headers.append((b"via", _VIA.get(version) or b"%b asgi-gateway" % version.encode("ascii")))
        if trace is not None:
            headers.append((b"traceparent", trace.child_header(self._ids(16))))
        return headers, ended

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
        if b"#" in target or b" " in target:
            raise MalformedRequest("its target holds a character that no URL has")
        return target
