"""Host names that lead to several addresses, each of which is an endpoint of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, TypeVar

from asgi_gateway.clock import Clock

RESOLVE_EVERY: Final = 30.0
"""Seconds between two lookups; the system's resolver does not say how long an answer holds."""

E = TypeVar("E")

_logger = logging.getLogger("asgi_gateway.resolution")


class Name(Generic[E]):
    """A host name, and how to make an endpoint of one of its addresses."""

    def __init__(self, host: str, port: int, make: Callable[[str], E], *, clock: Clock) -> None:
        self.make = make
        self._host = host
        self._port = port
        self._clock = clock

    async def lookups(self) -> AsyncIterator[list[str]]:
        """Look the name up for ever; its addresses each time.

        A lookup that fails says nothing: addresses that were good a minute ago are the best guess.
        """
        while True:
            found = await self._addresses()
            if found:
                yield found
            await self._clock.sleep(RESOLVE_EVERY)

    async def _addresses(self) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            _logger.warning("the name of an endpoint was not found", extra={"reason": str(error)})
            return []
        return sorted({str(address[0]) for *_, address in found})
