"""Which requests are delayed and which broken off, to see what then becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from asgi_gateway.types import PositiveSeconds


@dataclass(frozen=True, slots=True)
class Delay:
    """Makes a share of the requests wait. Raises `ValueError` for a share outside 0 to 1."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    duration: PositiveSeconds
    """How long they wait."""
    share: float = 1.0
    """The part of the requests that waits, 0 to 1."""

    def __post_init__(self) -> None:
        _check_share(self.share)


@dataclass(frozen=True, slots=True)
class Abort:
    """Ends a share of the requests: with a status, or as if the service had broken the connection.

    Raises `ValueError` for a share outside 0 to 1, a status outside 400 to 599, and for both a status and
    a reset.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    status: int | None = None
    """The status that is answered, 400 to 599; 503 where there is no `reset`."""
    reset: bool = False
    """As if the service closed the connection before it answered, which is 502."""
    share: float = 1.0
    """The part of the requests that is ended, 0 to 1."""

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.reset and self.status is not None:
            raise ValueError("either a status or a reset")
        if self.status is not None and not 400 <= self.status <= 599:
            raise ValueError("status must be between 400 and 599")


@dataclass(frozen=True, slots=True)
class Fault:
    """Decides for one request. Delay and abort are drawn apart, so a request may have both."""

    delay: Delay | None = None
    abort: Abort | None = None

    def seconds(self, random: Callable[[], float]) -> float:
        """How long the request is to wait; 0 where it is not."""
        delay = self.delay
        return delay.duration if delay is not None and random() < delay.share else 0.0

    def aborts(self, random: Callable[[], float]) -> bool:
        """Whether the request is to be ended."""
        abort = self.abort
        return abort is not None and random() < abort.share


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError("share must be between 0 and 1")
