"""The schedule of waiting between attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from asgi_gateway.types import Seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between attempts, from `initial` up to `max`; each kind is another way from one to the next.

    - ``exponential``: after attempt n ``min(initial * factor ** (n - 1), max)``; 1 s, 2 s, 4 s by default.
    - ``constant``: ``min(initial, max)``, always.
    - ``decorrelated``: at random between `initial` and three times the delay before, at most `max` (Marc
      Brooker, "Exponential Backoff And Jitter"). It has no use for `factor` and `jitter`.

    The first two are multiplied by a random number between ``1 - jitter`` and ``1 + jitter``, so that clients
    which failed together do not return together. ``jitter=0`` is exact. Raises `ValueError` for a factor
    outside 1 to 10 or a jitter outside 0 to 1.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    initial: Seconds = 1.0
    """The delay after the first attempt."""
    factor: float = 2.0
    """What each further delay is multiplied by, 1 to 10."""
    max: Seconds = 30.0
    """No delay is longer than this, before jitter."""
    jitter: float = 0.2
    """How far a delay may be moved either way, as a part of itself, 0 to 1."""
    kind: Literal["exponential", "constant", "decorrelated"] = "exponential"
    """How one delay follows from another."""

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 10:
            raise ValueError("factor must be between 1 and 10")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter must be between 0 and 1")

    def delay(self, attempt: int, random: float, previous: float = 0.0) -> float:
        """Seconds to wait after that many attempts, for a random number between 0 and 1.

        `previous` is how long was waited before this attempt, 0 before the first.
        """
        if self.kind == "decorrelated":
            longest = 3 * max(self.initial, previous)
            return min(self.initial + random * (longest - self.initial), self.max)
        factor = 1.0 if self.kind == "constant" else self.factor ** (attempt - 1)
        return min(self.initial * factor, self.max) * (1 + self.jitter * (2 * random - 1))


DEFAULT_BACKOFF: Final = Backoff()
"""1 s, 2 s, 4 s and so on up to 30 s, each give or take a fifth."""
