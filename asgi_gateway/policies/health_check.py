"""Active health: what to ask an endpoint and how often, and what follows from its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from asgi_gateway.types import PositiveSeconds, StatusSet


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A small GET to every endpoint, again and again."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    path: str
    """What is asked for, below the endpoint's own path; a query may follow."""
    interval: PositiveSeconds = 10.0
    """From the end of one check to the beginning of the next."""
    jitter: float = 0.2
    """How far an interval may be moved either way, as a part of itself, 0 to 1."""
    timeout: PositiveSeconds = 2.0
    """How long one check may take, connecting included."""
    healthy_threshold: int = 2
    """Good checks in a row that bring an unhealthy endpoint back."""
    unhealthy_threshold: int = 3
    """Bad checks in a row that take a healthy endpoint out."""
    expected_statuses: StatusSet = frozenset(range(200, 300))
    """The statuses of a good check."""

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or not self.path.isascii() or not self.path.isprintable():
            raise ValueError("path must begin with a slash and hold visible ASCII characters only")
        if " " in self.path or "#" in self.path:
            raise ValueError("path may hold neither spaces nor a fragment")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter must be between 0 and 1")
        if self.healthy_threshold < 1 or self.unhealthy_threshold < 1:
            raise ValueError("healthy_threshold and unhealthy_threshold must be at least 1")

    def delay(self, random: float) -> float:
        """Seconds until the next check, for a random number between 0 and 1."""
        return self.interval * (1 + self.jitter * (2 * random - 1))

    def first_delay(self, random: float) -> float:
        """Seconds until the first check: soon, but not of every endpoint and worker at once."""
        return self.interval * self.jitter * random


class Checked:
    """What the checks of one endpoint have shown. It is taken to be healthy until they show otherwise."""

    __slots__ = ("_against", "_settings", "healthy")

    def __init__(self, settings: HealthCheck) -> None:
        self._settings = settings
        self._against = 0
        self.healthy = True

    def passed(self) -> bool:
        """A check went well; True where this makes the endpoint healthy."""
        return self._note(good=True, threshold=self._settings.healthy_threshold)

    def failed(self) -> bool:
        """A check did not go well; True where this makes the endpoint unhealthy."""
        return self._note(good=False, threshold=self._settings.unhealthy_threshold)

    def _note(self, *, good: bool, threshold: int) -> bool:
        if good == self.healthy:
            self._against = 0
            return False
        self._against += 1
        if self._against < threshold:
            return False
        self.healthy = good
        self._against = 0
        return True

    def __repr__(self) -> str:
        return f"<Checked {'healthy' if self.healthy else 'unhealthy'} against={self._against}>"
