"""Active health checks: a small request to an endpoint, again and again.

They go over a connection of their own, so that they find out how the endpoint is and not how busy
the pool is, and take no place from the requests of clients.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from asgi_gateway.clock import Clock
from asgi_gateway.policies.health_check import Checked, HealthCheck
from asgi_gateway.proxy.failure_log import FailureLog
from asgi_gateway.proxy.transport import Transport, UpstreamError, UpstreamRequest

USER_AGENT: Final = b"asgi-gateway-health-check"
LONGEST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read so that its connection can be used again; more are not."""

_logger = logging.getLogger("asgi_gateway.health_checks")


class HealthChecks:
    """The checks of one endpoint.

    `host` is the Host that it is sent, `target` the path and query that are asked for. The state
    outlives a pause between two runs of `changes`.
    """

    def __init__(
        self,
        settings: HealthCheck,
        transport: Transport,
        *,
        host: bytes,
        target: bytes,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self.state = Checked(settings)
        self._settings = settings
        self._transport = transport
        self._host = host
        self._target = target
        self._clock = clock
        self._failures = FailureLog(clock)
        self._random = random

    async def changes(self) -> AsyncIterator[bool]:
        """Check for ever; True whenever the endpoint became healthy, False whenever it ceased to be."""
        await self._transport.warm()
        await self._clock.sleep(self._settings.first_delay(self._random()))
        while True:
            if await self._passes():
                if self.state.passed():
                    yield True
            elif self.state.failed():
                yield False
            await self._clock.sleep(self._settings.delay(self._random()))

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()

    async def _passes(self) -> bool:
        try:
            async with self._clock.timeout(self._settings.timeout):
                return await self._ask() in self._settings.expected_statuses
        except UpstreamError as error:
            self._failures.tell(self._host.decode("ascii"), error)
            return False
        except (TimeoutError, OSError):
            return False
        except Exception:
            _logger.exception("a health check could not be made")
            return False

    async def _ask(self) -> int:
        """Send the request and read the answer; returns its status."""
        headers = [(b"host", self._host), (b"user-agent", USER_AGENT), (b"accept", b"*/*")]
        response = await self._transport.exchange(UpstreamRequest(b"GET", self._target, headers))
        try:
            received, more = 0, True
            while more and received < LONGEST_ANSWER:
                piece, more = await response.read()
                received += len(piece)
        finally:
            await response.aclose()
        return response.status
