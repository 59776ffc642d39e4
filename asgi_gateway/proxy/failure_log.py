"""Why an endpoint cannot be reached, for the log: the client is told only that it cannot."""

from __future__ import annotations

import logging

from asgi_gateway.clock import Clock
from asgi_gateway.policies.repeats import Repeats
from asgi_gateway.proxy.transport import UpstreamError

_logger = logging.getLogger("asgi_gateway.proxy")


class FailureLog:
    """The reasons of connections to one endpoint that could not be opened: TLS, a refusal, a name, time.

    A line has the endpoint, the failure's code and how many like it were not logged since the last one.
    What fails on an open connection is not told: its reason may quote what the service said.
    """

    __slots__ = ("_clock", "_repeats")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._repeats = Repeats()

    def tell(self, endpoint: str | None, error: UpstreamError) -> None:
        """Log why, unless it has just been logged."""
        failure = error.failure
        if failure.source != "upstream" or failure.request_sent:
            return
        reason = str(error)
        unlogged = self._repeats.tell(reason, self._clock.monotonic())
        if unlogged is None:
            return
        extra = {"endpoint": endpoint, "failure": failure.code, "unlogged": unlogged}
        _logger.warning("%s: %s", endpoint, reason, extra=extra)
