"""Header lists as ASGI carries them: pairs of bytes, order and repetition kept.

Names are compared in lower case: ASGI asks for it, but requests need not obey and Django's
responses do not.
"""

from __future__ import annotations

from collections.abc import Iterable

from asgi_gateway.types import Header, Headers


def get_header(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The first value of a header, `name` in lower case; None where it is absent."""
    length = len(name)
    for key, value in headers:
        if len(key) == length and key.lower() == name:
            return value
    return None


def get_all(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Every value of a header in order, `name` in lower case."""
    return [value for key, value in headers if key.lower() == name]


class HeaderNames:
    """A set of header names that tells by its length that most names are not in it."""

    __slots__ = ("_lengths", "_names")

    def __init__(self, *names: bytes) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._lengths = frozenset(map(len, names))

    def without(self, headers: Iterable[Header]) -> Headers:
        """A copy of the headers less these, in whatever case."""
        lengths, names = self._lengths, self._names
        return [pair for pair in headers if len(pair[0]) not in lengths or pair[0].lower() not in names]


def replaced(headers: Iterable[Header], name: bytes, value: bytes) -> Headers:
    """A copy in which the header occurs once, with this value, at the end; `name` in lower case."""
    length = len(name)
    copy = [pair for pair in headers if len(pair[0]) != length or pair[0].lower() != name]
    copy.append((name, value))
    return copy
