"""The Retry-After header field, both ways (RFC 9110 section 10.2.3)."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

from asgi_gateway.types import Header


def retry_after_header(seconds: float) -> Header:
    """The field that asks a client to wait: whole seconds, rounded up, at least 1."""
    return b"retry-after", b"%d" % max(1, math.ceil(seconds))


def parse_retry_after(value: bytes, wall: float) -> float | None:
    """Seconds from `wall` that a value asks for: a number of seconds or an HTTP date.

    None for anything else; a date that has passed is 0.
    """
    text = value.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # asctime's form of a date names no zone and means UTC (RFC 9110 section 5.6.7).
        at = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0.0, at - wall)
