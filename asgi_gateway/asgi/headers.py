"""Header lists as ASGI carries them: pairs of bytes, order and repetition kept.

Names are compared in lower case: ASGI asks for it, but requests need not obey and Django's
responses do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from asgi_gateway.types import Header, Headers


def get_header(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The first value of a header, `name` in lower case; None where it is absent."""
    for key, value in headers:
        if key == name or key.lower() == name:
            return value
    return None


def get_all(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Every value of a header in order, `name` in lower case."""
    return [value for key, value in headers if key.lower() == name]


def without(headers: Iterable[Header], names: Collection[bytes]) -> Headers:
    """A copy less the named headers, names in lower case."""
    return [pair for pair in headers if pair[0].lower() not in names]


def replaced(headers: Iterable[Header], name: bytes, value: bytes) -> Headers:
    """A copy in which the header occurs once, with this value, at the end."""
    copy = [pair for pair in headers if pair[0].lower() != name]
    copy.append((name, value))
    return copy
