"""Why an endpoint cannot be reached, for the log: the client is told only that it cannot."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from asgi_gateway.clock import Clock
from asgi_gateway.proxy.transport import UpstreamError

_logger = logging.getLogger("asgi_gateway.proxy")

AGAIN_AFTER: Final = 60.0
"""Seconds until the same reason is logged once more."""

OTHER_AFTER: Final = 1.0
"""Seconds until another reason is logged, so that reasons in turn are no storm either."""


@dataclass(slots=True)
class _Told:
    reason: str
    at: float
    unlogged: int = 0


class FailureLog:
    """The reasons of connections to one endpoint that could not be opened: TLS, a refusal, a name, time.

    A line has the endpoint, the failure's code and how many like it were not logged since the last one.
    What fails on an open connection is not told: its reason may quote what the service said.
    """

    __slots__ = ("_clock", "_told")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: _Told | None = None

    def tell(self, endpoint: str | None, error: UpstreamError) -> None:
        """Log why, unless it has just been logged."""
        failure = error.failure
        if failure.source != "upstream" or failure.request_sent:
            return
        reason, told, now = str(error), self._told, self._clock.monotonic()
        if told is not None and now - told.at < (AGAIN_AFTER if reason == told.reason else OTHER_AFTER):
            told.unlogged += 1
            return
        unlogged = told.unlogged if told is not None else 0
        self._told = _Told(reason, now)
        extra = {"endpoint": endpoint, "failure": failure.code, "unlogged": unlogged}
        _logger.warning("%s: %s", endpoint, reason, extra=extra)
