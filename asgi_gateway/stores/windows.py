"""What `windows.lua` is asked, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.policies.limit import COUNTERS, Limit
from asgi_gateway.policies.window import Window

PROBE: Final = (b"", b"1", b"hit", b"fixed_window", b"1000000000", b"1")
"""The arguments of a count that hurts nobody."""

_NAMES: Final = {counter: name.encode() for name, counter in COUNTERS.items()}
_WRONG: Final = "the store answers something else than it was asked"


def namer(prefix: bytes, name: str, limits: int) -> Callable[[Hashable], tuple[bytes, ...]]:
    """Names the keys of a client's key, one for each limit and all in one slot of a cluster."""
    base = b"%b:%b:{" % (prefix, hashlib.blake2b(name.encode(), digest_size=8).hexdigest().encode())
    ends = tuple(b"}:%d" % place for place in range(limits))

    def keys(key: Hashable) -> tuple[bytes, ...]:
        named = base + name_of(key)
        return tuple([named + end for end in ends])

    return keys


def name_of(key: Hashable) -> bytes:
    """A hash of a key, of every key another: of text as it is, of anything else as Python writes it."""
    text, kind = (key, b"") if isinstance(key, str) else (repr(key), b"r")
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return digest.encode() + kind


def terms_of(limits: Sequence[Limit]) -> list[bytes]:
    """The limits as the script is told them."""
    return [
        part for kind, amount, period in limits for part in (_NAMES[kind], b"%d" % amount, b"%d" % period)
    ]


def window_of(reply: Any) -> Window:
    """The window that a reply tells. Raises `StoreUnavailable`."""
    try:
        limit, remaining, reset_after, retry_after, *_ = reply
        return Window(int(limit), int(remaining), float(reset_after), float(retry_after))
    except (TypeError, ValueError) as error:
        raise StoreUnavailable(_WRONG) from error


def taken_at(reply: Any) -> bytes:
    """What a reservation is known by when it is settled. Raises `StoreUnavailable`."""
    if len(reply) == 5 and isinstance(reply[4], bytes):
        return reply[4]
    raise StoreUnavailable(_WRONG)
