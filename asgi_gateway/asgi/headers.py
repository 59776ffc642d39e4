"""Header lists as ASGI carries them: pairs of bytes, order and repetition kept.

Names are compared in lower case: ASGI asks for it, but requests need not obey and Django's
responses do not. A pair may be a list, and headers any iterable, so nothing here takes them for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from asgi_gateway.types import Header, Headers

_NAME = itemgetter(0)


def get_header(headers: Sequence[Header], name: bytes) -> bytes | None:
    """The first value of a header, `name` in lower case; None where it is absent."""
    fields = dict(reversed(headers))  # the first of several wins
    if b"".join(fields).islower():
        return fields.get(name)
    values = get_all(headers, name)
    return values[0] if values else None


def get_all(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Every value of a header in order, `name` in lower case."""
    pairs: Iterable[Any] = headers
    return [value for key, value in pairs if key.lower() == name]


def fields_of(headers: Headers) -> dict[bytes, bytes] | None:
    """The headers as a dictionary, where that loses nothing; None where names repeat or are not lower case.

    Most headers are of this kind, and a question to a dictionary takes the same time however many
    there are.
    """
    fields = dict(headers)
    return fields if len(fields) == len(headers) and b"".join(fields).islower() else None


def without(headers: Iterable[Header], names: frozenset[bytes]) -> Headers:
    """A copy of the headers less those named, `names` in lower case."""
    copy: list[Any] = [*headers]
    fields = dict(copy)
    if not names.isdisjoint(fields) or not b"".join(fields).islower():
        copy = [pair for pair in copy if pair[0].lower() not in names]
    return copy


def replaced(headers: Iterable[Header], name: bytes, value: bytes) -> Headers:
    """A copy in which the header occurs once, with this value, at the end; `name` in lower case."""
    copy: list[Any] = [*headers]
    if name in b"\n".join(map(_NAME, copy)).lower():
        copy = [pair for pair in copy if pair[0].lower() != name]
    copy.append((name, value))
    return copy


def names_of(headers: Iterable[Header]) -> bytes:
    """All names, a line each, in lower case and with hyphens for underscores.

    One search of it rules out that a name, or any that has a part in common with it, is there at all.
    """
    return b"\n".join(map(_NAME, headers)).lower().replace(b"_", b"-")
