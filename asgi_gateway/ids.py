"""Random identifiers: what every request gets one or several of."""

from __future__ import annotations

import os
from typing import Final

_DRAWN: Final = 4096
"""Hexadecimal digits that are drawn at once."""


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


def uuid4(digits: str) -> str:
    """A UUID of version 4 made from 32 random hexadecimal digits (RFC 9562 section 5.4)."""
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
