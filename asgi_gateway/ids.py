"""Random identifiers: what every request gets one or several of."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_DRAWN: Final = 4096
"""Hexadecimal digits that are drawn at once."""

_BATCH: Final = 32
"""What is made of them at once: enough to be quick, few enough that no request waits for it."""


class RandomHex:
    """Random hexadecimal digits of the system's generator, as many at a time as are asked for.

    They are drawn a few thousand at once, because a system call for each id costs more than the id.
    Nothing is drawn before the first use, so that processes forked from one that only built its app
    never share any.
    """

    __slots__ = ("_at", "_digits")

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def __call__(self, count: int) -> str:
        """That many digits, which nobody was given before."""
        at = self._at
        self._at = end = at + count
        digits = self._digits[at:end]
        if len(digits) < count:
            self._digits = os.urandom(max(_DRAWN, count * 2) // 2).hex()
            self._at = count
            digits = self._digits[:count]
        return digits


class Ready(Generic[T]):
    """Hands out what `make` makes of random digits, each once and most of it made beforehand.

    Many made in a row cost half of what the same number cost one in each request. Nothing is made
    before the first use, as nothing is drawn.
    """

    __slots__ = ("_ids", "_made", "_make")

    def __init__(self, make: Callable[[RandomHex], T]) -> None:
        self._ids = RandomHex()
        self._make = make
        self._made: list[T] = []

    def __call__(self) -> T:
        """The next one."""
        if not self._made:
            self._made = [self._make(self._ids) for _ in range(_BATCH)]
        return self._made.pop()


def uuid4(ids: RandomHex) -> str:
    """A new UUID of version 4 (RFC 9562 section 5.4)."""
    digits = ids(32)
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
