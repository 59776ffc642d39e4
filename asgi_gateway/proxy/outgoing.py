"""The head of a request as it leaves for the service, made from an ASGI scope: HTTP and WebSocket alike."""

from __future__ import annotations

from typing import Final

from asgi_gateway.asgi.headers import get_header
from asgi_gateway.asgi.paths import raw_request_path, without_prefix
from asgi_gateway.context import EXCHANGE, STRIPPED_PREFIX, TRACE, TRUSTED_PEER
from asgi_gateway.proxy.forwarded import MakeForwarded
from asgi_gateway.proxy.headers import VOUCHED, forwarded_headers, split_request
from asgi_gateway.proxy.transport import MalformedRequest
from asgi_gateway.proxy.via import earlier_via
from asgi_gateway.types import Headers, Scope

_HTTP_SCHEMES: Final = {"ws": "http", "wss": "https"}
"""X-Forwarded-Proto names the scheme of the handshake, which is an HTTP request."""


def outgoing_headers(
    scope: Scope, authority: bytes | None, make_forwarded: MakeForwarded = forwarded_headers
) -> tuple[Headers, Headers]:
    """The headers for the service, and those of the client's that ended here, names in lower case.

    `authority` is the Host to send; None passes the client's on. `make_forwarded` is one of `STYLES`.
    Raises `UpstreamError` for a request that goes in circles.
    """
    trace = scope.get(TRACE)
    passed, ended = split_request(scope["headers"], scope.get(EXCHANGE), traced=trace is not None)
    host = get_header(ended, b"host") or b""
    peer = scope.get("client")
    scheme: str = scope.get("scheme", "http")
    headers = [(b"host", authority or host), *passed]
    trusted = scope.get(TRUSTED_PEER, False)
    headers += make_forwarded(
        ended,
        peer=peer[0].encode("latin-1") if peer else b"unknown",
        scheme=_HTTP_SCHEMES.get(scheme, scheme).encode("ascii"),
        host=host,
        prefix=scope.get(STRIPPED_PREFIX, b""),
        trusted=trusted,
    )
    if trusted:
        headers += [pair for pair in ended if pair[0] in VOUCHED]
    if get_header(ended, b"via") is not None:
        headers += earlier_via(ended)
    headers.append((b"via", b"%b asgi-gateway" % scope.get("http_version", "1.1").encode("ascii")))
    if trace is not None:
        headers.append((b"traceparent", trace.child_header()))
    return headers, ended


def outgoing_target(scope: Scope, base_path: bytes) -> bytes:
    """The client's own bytes less the stripped prefix, behind the service's base path.

    Raises `MalformedRequest` where they are no target: some servers let a fragment or a space through.
    """
    raw = raw_request_path(scope)
    prefix: bytes = scope.get(STRIPPED_PREFIX, b"")
    path = without_prefix(raw, prefix) if prefix else raw
    if path is None:
        raise MalformedRequest("its raw path does not spell out the routed prefix")
    query: bytes = scope.get("query_string", b"")
    target = base_path + path + (b"?" + query if query else b"")
    if b"#" in target or b" " in target:
        raise MalformedRequest("its target holds a character that no URL has")
    return target
