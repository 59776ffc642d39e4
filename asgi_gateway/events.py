"""State changes, told in the past tense to whoever listens: logs now, metrics later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeAlias

_logger = logging.getLogger("asgi_gateway.events")


@dataclass(frozen=True, slots=True)
class CircuitOpened:
    """A breaker refuses calls for `break_duration` seconds."""

    service: str | None
    break_duration: float


@dataclass(frozen=True, slots=True)
class CircuitHalfOpened:
    """A breaker's open time is over; probes are let through."""

    service: str | None


@dataclass(frozen=True, slots=True)
class CircuitClosed:
    """A breaker lets every call through again."""

    service: str | None


Event: TypeAlias = CircuitOpened | CircuitHalfOpened | CircuitClosed
EventSink: TypeAlias = Callable[[Event], None]


def log_event(event: Event) -> None:
    """The default sink: one log line an event, an opened circuit as a warning."""
    level = logging.WARNING if isinstance(event, CircuitOpened) else logging.INFO
    _logger.log(level, type(event).__name__, extra=asdict(event))
