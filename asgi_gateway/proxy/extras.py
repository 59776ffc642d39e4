"""What an answer may hold besides head and body: early hints before it, trailers after it.

Both are passed on only by the extensions of ASGI that the server in front offers, else dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from asgi_gateway.asgi.headers import get_all
from asgi_gateway.proxy.headers import DROPPED_FROM_RESPONSE, ENDS_HERE, Ended
from asgi_gateway.proxy.transport import UpstreamRequest, UpstreamResponse
from asgi_gateway.types import Headers, Send

NEVER_TRAILERS = (
    ENDS_HERE
    | DROPPED_FROM_RESPONSE
    | {
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-range",
        b"content-type",
        b"set-cookie",
        b"www-authenticate",
    }
)
"""Fields that frame, route, authenticate or say how to read what has been read (RFC 9110 section 6.5.1)."""


def offer_extras(request: UpstreamRequest, extensions: Mapping[str, Any], ended: Ended, send: Send) -> None:
    """Ask the service for what this server and this client can take; `ended` are this hop's headers."""
    if "http.response.early_hint" in extensions:
        request.on_early_hints = partial(_pass_on_early_hints, send)
    if "http.response.trailers" in extensions:
        request.trailers = b"trailers" in _tokens(ended.get(b"te", []))


def may_have_trailers(response: UpstreamResponse) -> bool:
    """Whether the service announced trailers: an announcement to the server in front must come first.

    hypercorn 0.18 fails where trailers are announced and none come.
    """
    return any(name == b"trailer" for name, _ in response.headers)


def trailers_of(response: UpstreamResponse) -> Headers:
    """The trailers of an answer that may go on."""
    return [pair for pair in response.trailers if pair[0] not in NEVER_TRAILERS]


async def _pass_on_early_hints(send: Send, headers: Headers) -> None:
    """A 103 as ASGI has it: its links and nothing else."""
    links = get_all(headers, b"link")
    if links:
        await send({"type": "http.response.early_hint", "links": links})


def _tokens(values: list[bytes]) -> set[bytes]:
    return {token.strip().lower() for value in values for token in value.split(b",")}
