"""Which of many like messages are worth a line, so that what goes wrong all the time floods no log."""

from __future__ import annotations

from typing import Final

AGAIN_AFTER: Final = 60.0
"""Seconds until the same reason is told once more."""

OTHER_AFTER: Final = 1.0
"""Seconds until another reason is told, so that reasons in turn are no storm either."""


class Repeats:
    """The reasons that one place has to tell, one after the other: one line a second at most."""

    __slots__ = ("_at", "_reason", "_unlogged")

    def __init__(self) -> None:
        self._reason: str | None = None
        self._at = 0.0
        self._unlogged = 0

    def tell(self, reason: str, now: float) -> int | None:
        """How many were left out since the last line; None where this one is left out as well."""
        if self._reason is not None:
            wait = AGAIN_AFTER if reason == self._reason else OTHER_AFTER
            if now - self._at < wait:
                self._unlogged += 1
                return None
        unlogged, self._unlogged = self._unlogged, 0
        self._reason, self._at = reason, now
        return unlogged
