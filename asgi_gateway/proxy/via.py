"""The way that a request took, and the end of one that goes in circles (RFC 9110 section 7.6.3)."""

from __future__ import annotations

from typing import Final

from asgi_gateway.errors import Failure
from asgi_gateway.proxy.transport import UpstreamError
from asgi_gateway.types import Headers

OUR_NAME: Final = b"asgi-gateway"

MAX_PASSES: Final = 8
"""How often a request may pass a gateway of this name: more than there are in a row, few for a circle."""


def earlier_via(lines: list[bytes]) -> Headers:
    """The `Via` lines of a request as headers; raises `UpstreamError` where it goes in circles."""
    entries = [entry.split() for line in lines for entry in line.lower().split(b",")]
    if sum(OUR_NAME in entry[1:2] for entry in entries) >= MAX_PASSES:
        raise UpstreamError(Failure("loop_detected", "gateway"), "the request goes in circles")
    return [(b"via", line) for line in lines]
