"""The head of a request as it leaves for the service, made from an ASGI scope: HTTP and WebSocket alike."""

from __future__ import annotations

from typing import Final

from asgi_gateway.asgi.paths import raw_request_path, without_prefix
from asgi_gateway.context import STRIPPED_PREFIX, TRACE, TRUSTED_PEER
from asgi_gateway.proxy.headers import Ended, forwarded_headers, split_request
from asgi_gateway.proxy.transport import MalformedRequest
from asgi_gateway.types import Headers, Scope

_SCHEMES: Final = {"http": b"http", "https": b"https", "ws": b"http", "wss": b"https"}
"""X-Forwarded-Proto names the scheme of a WebSocket's handshake, which is an HTTP request."""

_VIA: Final = {version: b"%b asgi-gateway" % version.encode("ascii") for version in ("1.0", "1.1", "2", "3")}


def outgoing_headers(scope: Scope, authority: bytes | None) -> tuple[Headers, Ended]:
    """The headers for the service, and those of the client's that ended here.

    `authority` is the Host to send; None passes the client's on.
    """
    trace = scope.get(TRACE)
    passed, ended = split_request(scope["headers"], traced=trace is not None)
    host = ended[b"host"][0] if b"host" in ended else b""
    peer = scope.get("client")
    scheme: str = scope.get("scheme", "http")
    version: str = scope.get("http_version", "1.1")
    headers = [
        (b"host", authority or host),
        *passed,
        *forwarded_headers(
            ended,
            peer=peer[0].encode("latin-1") if peer else b"unknown",
            scheme=_SCHEMES.get(scheme) or scheme.encode("ascii"),
            host=host,
            prefix=scope.get(STRIPPED_PREFIX, b""),
            trusted=scope.get(TRUSTED_PEER, False),
        ),
        (b"via", _VIA.get(version) or b"%b asgi-gateway" % version.encode("ascii")),
    ]
    if trace is not None:
        headers.append((b"traceparent", trace.child_header()))
    return headers, ended


def outgoing_target(scope: Scope, base_path: bytes) -> bytes:
    """The client's own bytes less the stripped prefix, behind the service's base path."""
    prefix: bytes = scope.get(STRIPPED_PREFIX, b"")
    raw = raw_request_path(scope)
    path = without_prefix(raw, prefix) if prefix else raw
    if path is None:
        raise MalformedRequest("its raw path does not spell out the routed prefix")
    query: bytes | None = scope.get("query_string")
    if query:
        return b"%b%b?%b" % (base_path, path, query)
    return base_path + path
