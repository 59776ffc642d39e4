"""The head of a request as it leaves for the service, made from an ASGI scope: HTTP and WebSocket alike."""

from __future__ import annotations

from typing import Final

from asgi_gateway.asgi.paths import raw_request_path, without_prefix
from asgi_gateway.context import EXCHANGE, STRIPPED_PREFIX, TRACE, TRUSTED_PEER
from asgi_gateway.proxy.forwarded import MakeForwarded
from asgi_gateway.proxy.headers import VOUCHED, Ended, forwarded_headers, split_request
from asgi_gateway.proxy.transport import MalformedRequest
from asgi_gateway.proxy.via import earlier_via
from asgi_gateway.types import Headers, Scope

_SCHEMES: Final = {"http": b"http", "https": b"https", "ws": b"http", "wss": b"https"}
"""X-Forwarded-Proto names the scheme of a WebSocket's handshake, which is an HTTP request."""

_VIA: Final = {version: b"%b asgi-gateway" % version.encode("ascii") for version in ("1.0", "1.1", "2", "3")}


def outgoing_headers(
    scope: Scope, authority: bytes | None, make_forwarded: MakeForwarded = forwarded_headers
) -> tuple[Headers, Ended]:
    """The headers for the service, and those of the client's that ended here.

    `authority` is the Host to send; None passes the client's on. `make_forwarded` is one of `STYLES`.
    Raises `UpstreamError` for a request that goes in circles.
    """
    trace = scope.get(TRACE)
    passed, ended = split_request(scope["headers"], scope.get(EXCHANGE), traced=trace is not None)
    host = ended[b"host"][0] if b"host" in ended else b""
    peer = scope.get("client")
    scheme: str = scope.get("scheme", "http")
    trusted: bool = scope.get(TRUSTED_PEER, False)
    headers = [
        (b"host", authority or host),
        *passed,
        *make_forwarded(
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
        headers.append((b"traceparent", trace.child_header()))
    return headers, ended


def outgoing_target(scope: Scope, base_path: bytes) -> bytes:
    """The client's own bytes less the stripped prefix, behind the service's base path.

    Raises `MalformedRequest` where they are no target: some servers let a fragment or a space through.
    """
    prefix: bytes = scope.get(STRIPPED_PREFIX, b"")
    raw = raw_request_path(scope)
    path = without_prefix(raw, prefix) if prefix else raw
    if path is None:
        raise MalformedRequest("its raw path does not spell out the routed prefix")
    query: bytes | None = scope.get("query_string")
    target = b"%b%b?%b" % (base_path, path, query) if query else base_path + path
    if b"#" in target or b" " in target:
        raise MalformedRequest("its target holds a character that no URL has")
    return target
