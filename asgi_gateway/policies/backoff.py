"""The schedule of waiting between attempts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from asgi_gateway.types import Seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that grow by `factor` from `initial` up to `max`, each moved at random by up to `jitter`.

    After attempt n the delay is ``min(initial * factor ** (n - 1), max)``, times a random number
    between ``1 - jitter`` and ``1 + jitter``: 1 s, 2 s, 4 s by default, each give or take a fifth, so
    that clients which failed together do not return together. ``jitter=0`` is exact. Raises
    `ValueError` for a factor outside 1 to 10 or a jitter outside 0 to 1.
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

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 10:
            raise ValueError("factor must be between 1 and 10")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter must be between 0 and 1")

    def delay(self, attempt: int, random: float) -> float:
        """Seconds to wait after that many attempts, for a random number between 0 and 1."""
        scheduled = min(self.initial * self.factor ** (attempt - 1), self.max)
        return scheduled * (1 + self.jitter * (2 * random - 1))


DEFAULT_BACKOFF: Final = Backoff()
"""1 s, 2 s, 4 s and so on up to 30 s, each give or take a fifth."""
