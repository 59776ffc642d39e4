"""The lines of a response's head and trailers, or a refusal of what is none."""

from __future__ import annotations

import http
import re
from collections.abc import Iterable
from typing import Any, Final

from asgi_gateway.types import Header

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(rb"[\r\n\0]")
_FRAMING: Final = frozenset({b"connection", b"content-length", b"host", b"trailer", b"transfer-encoding"})


def status_line(status: int) -> bytes:
    """The status line, with the phrase of a status that has one."""
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return b"HTTP/1.1 %d %b" % (status, phrase.encode("ascii"))


STATUS_LINES: Final = {status: status_line(status) for status in range(100, 600)}


def field_lines(headers: Iterable[Header]) -> bytes:
    """Header lines; raises `RuntimeError` where one would become two or decides how others are read."""
    lines: list[bytes] = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or name.lower() in _FRAMING or _CONTROL.search(value):
            raise RuntimeError("A header behind or before the response is none that can be there.")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def are_plain(names: bytes) -> bool:
    """Whether header names, one behind the other, are lower-case letters, digits and hyphens."""
    return names.islower() and names.replace(b"-", b"").isalnum()


def read_with_care(headers: list[Any]) -> tuple[list[Any], dict[bytes, bytes], bool]:
    """An app's headers without those that are ours to say, the same by name, and whether they say close.

    Raises `RuntimeError` where they cannot be sent as they are.
    """
    kept: list[Any] = []
    fields: dict[bytes, bytes] = {}
    closes = False
    for name, value in headers:
        lowered = name.lower()
        if not _NAME.fullmatch(name):
            raise RuntimeError("The name of a response header is none.")
        if lowered == b"connection":
            closes = closes or b"close" in value.lower()
        elif lowered != b"transfer-encoding":
            if lowered == b"content-length" and fields.get(lowered, value) != value:
                raise RuntimeError("A response's Content-Length is not one number.")
            kept.append((name, value))
            fields[lowered] = value
    return kept, fields, closes
