"""The ways to a store: one server, the master that sentinels know, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from asgi_gateway.clock import Clock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.stores.cluster import ClusterLink
from asgi_gateway.stores.pipe import OnLost, Pipe, connect
from asgi_gateway.stores.url import Place, StoreAddress

WATCH_INTERVAL: Final = 1.0
"""Seconds between two questions to the sentinels whether the master is still the same."""


class Link(Protocol):
    """An open way to a store."""

    @property
    def in_parts(self) -> bool:
        """Whether what fails is given up alone, and the rest goes on."""

    def send(self, key: bytes, *command: bytes) -> Awaitable[Any]:
        """Ask the server that holds `key`. Raises `StoreUnavailable`."""

    async def learn(self) -> None:
        """Find out where the servers are, and connect to those that can be reached."""

    def keys(self, name: bytes) -> list[bytes]:
        """Keys that begin with `name`, one of each server."""

    def post(self, key: bytes, *command: bytes) -> asyncio.Future[Any]:
        """Ask the server that was last known to hold `key`, before this returns and whoever awaits it."""

    def close(self) -> None:
        """Close all connections."""


class SingleLink:
    """To one server, over one connection."""

    in_parts: Final = False

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def send(self, key: bytes, *command: bytes) -> Awaitable[Any]:
        return self._pipe.send(*command)

    def post(self, key: bytes, *command: bytes) -> asyncio.Future[Any]:
        return self._pipe.send(*command)

    async def learn(self) -> None:
        return

    def keys(self, name: bytes) -> list[bytes]:
        return [name]

    def close(self) -> None:
        self._pipe.close()


class SentinelLink(SingleLink):
    """To the master that sentinels name, left once they name another.

    The one before may take commands for ten seconds more, and what it counts then is lost.
    """

    def __init__(
        self, pipe: Pipe, named: Callable[[], Awaitable[bool]], clock: Clock, on_lost: OnLost
    ) -> None:
        super().__init__(pipe)
        self._watching = asyncio.get_running_loop().create_task(self._watch(named, clock, on_lost))

    def close(self) -> None:
        self._watching.cancel()
        super().close()

    async def _watch(self, named: Callable[[], Awaitable[bool]], clock: Clock, on_lost: OnLost) -> None:
        await clock.sleep(WATCH_INTERVAL)
        while await named():
            await clock.sleep(WATCH_INTERVAL)
        on_lost("the sentinels name another master", False)  # noqa: FBT003 - as a pipe does
        self._pipe.close()


async def open_link(address: StoreAddress, clock: Clock, within: float, on_lost: OnLost) -> Link:
    """Connect to a store; to one in several parts once it is told to `learn`. Raises `StoreUnavailable`.

    `on_lost` is told where the connection to the only server breaks.
    """

    async def dial(place: Place, on_lost: OnLost) -> Pipe:
        return await connect(address, place, clock, within, on_lost)

    if address.kind == "cluster":
        return ClusterLink(address.places, dial, clock, within)
    if address.kind == "single":
        return SingleLink(await dial(address.places[0], on_lost))

    async def still(place: Place) -> bool:
        """Whether the first sentinel that answers names it, or none does."""
        for sentinel in address.places:
            with suppress(StoreUnavailable):
                return await _named(address, sentinel, clock, within) == place
        return True

    reason = StoreUnavailable("no sentinel answers")
    for sentinel in address.places:
        try:
            place = await _named(address, sentinel, clock, within)
            pipe = await dial(place, on_lost)
            await _check_master(pipe)
        except StoreUnavailable as error:
            reason = error
        else:
            return SentinelLink(pipe, partial(still, place), clock, on_lost)
    raise reason


async def _check_master(pipe: Pipe) -> None:
    """Close the connection unless the server says itself that it is a master."""
    try:
        role = await pipe.send(b"ROLE")
        if not isinstance(role, list) or role[:1] != [b"master"]:
            raise StoreUnavailable("the sentinel names a master that is none")
    except BaseException:
        pipe.close()
        raise


async def _named(address: StoreAddress, sentinel: Place, clock: Clock, within: float) -> Place:
    """The master that a sentinel names."""
    pipe = await connect(address, sentinel, clock, within, lambda *_: None, greet=False)
    try:
        named = await pipe.send(b"SENTINEL", b"get-master-addr-by-name", address.master.encode())
        return named[0].decode(), int(named[1])
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # None, where it knows none
        raise StoreUnavailable("the sentinel knows no master of that name") from error
    finally:
        pipe.close()
