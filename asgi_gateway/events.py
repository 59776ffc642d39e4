"""State changes, told in the past tense to whoever listens, the log at first."""

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


@dataclass(frozen=True, slots=True)
class EndpointEjected:
    """An endpoint failed too often in a row and gets no requests for `seconds`."""

    service: str | None
    endpoint: str
    seconds: float


@dataclass(frozen=True, slots=True)
class EndpointReturned:
    """An ejected endpoint gets requests again."""

    service: str | None
    endpoint: str


@dataclass(frozen=True, slots=True)
class EndpointUnhealthy:
    """Health checks took an endpoint out."""

    service: str | None
    endpoint: str


@dataclass(frozen=True, slots=True)
class EndpointHealthy:
    """Health checks brought an endpoint back."""

    service: str | None
    endpoint: str


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The shared store cannot be used; each limiter does what its `on_store_failure` says."""

    store: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoreRecovered:
    """The shared store works again, `seconds` after it failed."""

    store: str
    seconds: float


Event: TypeAlias = (
    CircuitOpened
    | CircuitHalfOpened
    | CircuitClosed
    | EndpointEjected
    | EndpointReturned
    | EndpointUnhealthy
    | EndpointHealthy
    | StoreFailed
    | StoreRecovered
)
EventSink: TypeAlias = Callable[[Event], None]


def log_event(event: Event) -> None:
    """The default sink: one log line an event, a warning where something is no longer used."""
    bad = isinstance(event, CircuitOpened | EndpointEjected | EndpointUnhealthy | StoreFailed)
    level = logging.WARNING if bad else logging.INFO
    _logger.log(level, type(event).__name__, extra=asdict(event))
