"""Passive health: an endpoint that fails request after request gets none for a while.

Its rules:

1. Failures in a row count, and any success forgives them. Which call is a failure is for the caller to say.
2. The first ejection lasts `base_duration`, each further one that much longer, up to `max_duration`.
   Every `base_duration` without another one takes one step back.
3. What is reported of a call that began before the last change is ignored: it says nothing of now.
4. An ejected endpoint may still be called when there is nothing else. If it then succeeds, it is back.
5. How many may be ejected at once is a share of all endpoints, and one alone never is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from asgi_gateway.types import PositiveSeconds


@dataclass(frozen=True, slots=True)
class Ejection:
    """When an endpoint is taken out for failing, and for how long."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    consecutive_failures: int = 5
    """Failures in a row that eject an endpoint."""
    base_duration: PositiveSeconds = 30.0
    """How long the first time; the second lasts twice as long, and so on."""
    max_duration: PositiveSeconds = 300.0
    """No ejection is longer than this."""
    max_ejected: float = 0.5
    """The share of the endpoints that may be out at once, 0 to 1; 0 ejects none, else one always may be."""

    def __post_init__(self) -> None:
        if self.consecutive_failures < 1:
            raise ValueError("consecutive_failures must be at least 1")
        if not 0 <= self.max_ejected <= 1:
            raise ValueError("max_ejected must be between 0 and 1")

    def allows(self, ejected: int, endpoints: int) -> bool:
        """Whether one more may be ejected."""
        if endpoints < 2 or not self.max_ejected:
            return False
        return ejected < max(1, int(self.max_ejected * endpoints))


class Record:
    """What is known of one endpoint from the requests it was sent.

    Take `generation` when a call begins and hand it back with the call's outcome.
    """

    __slots__ = ("_failures", "_returned_at", "_settings", "_times", "ejected_until", "generation")

    def __init__(self, settings: Ejection) -> None:
        self._settings = settings
        self._failures = 0
        self._times = 0
        self._returned_at = 0.0
        self.ejected_until: float | None = None
        """When it may return; None while it is not ejected."""
        self.generation = 0

    def succeeded(self, generation: int, now: float) -> bool:
        """A call went well; True where this brings an ejected endpoint back."""
        if generation != self.generation:
            return False
        self._failures = 0
        if self.ejected_until is None:
            return False
        self._come_back(now)
        return True

    def failed(self, generation: int, now: float, *, may_eject: bool) -> float | None:
        """A call failed; the seconds for which the endpoint is ejected, None where it is not."""
        if generation != self.generation or self.ejected_until is not None:
            return None
        self._failures += 1
        if self._failures < self._settings.consecutive_failures or not may_eject:
            return None
        return self._eject(now)

    def returns(self, now: float) -> bool:
        """End an ejection whose time is over; True where there was one."""
        if self.ejected_until is None or now < self.ejected_until:
            return False
        self._come_back(now)
        return True

    def _eject(self, now: float) -> float:
        base = self._settings.base_duration
        healthy_for = now - self._returned_at
        self._times = max(0, self._times - int(healthy_for / base)) + 1
        duration = min(base * self._times, self._settings.max_duration)
        self.ejected_until = now + duration
        self._begin_anew()
        return duration

    def _come_back(self, now: float) -> None:
        self.ejected_until = None
        self._returned_at = now
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._failures = 0
        self.generation += 1

    def __repr__(self) -> str:
        return f"<Record failures={self._failures} ejected_until={self.ejected_until}>"


DEFAULT_EJECTION: Final = Ejection()
"""Five failures in a row: 30 s, 60 s and so on up to 300 s, for at most half of the endpoints."""
