"""The fields that tell a client how much of a limit is left (draft-ietf-httpapi-ratelimit-headers-06)."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Final

from asgi_gateway.asgi.headers import without
from asgi_gateway.context import Exchange
from asgi_gateway.policies.window import Window
from asgi_gateway.types import Headers, Message, Send

_NAMES: Final = frozenset({b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset"})


def limit_fields(window: Window) -> Headers:
    """``RateLimit-Limit``, ``-Remaining`` and ``-Reset`` of a window."""
    return [
        (b"ratelimit-limit", b"%d" % window.limit),
        (b"ratelimit-remaining", b"%d" % window.remaining),
        (b"ratelimit-reset", b"%d" % math.ceil(window.reset_after)),
    ]


def reporting(exchange: Exchange, own: Window, send: Send) -> Send:
    """A ``send`` that puts the exchange's tightest window on the response."""

    def reporting(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            headers = without(message.get("headers", ()), _NAMES)
            headers += limit_fields(exchange.rate_limit or own)
            message = {**message, "headers": headers}
        return send(message)

    return reporting
