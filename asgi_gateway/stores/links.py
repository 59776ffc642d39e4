"""The ways to a store: one server, the master that sentinels know, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from asgi_gateway.clock import Clock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.stores.pipe import OnLost, Pipe, connect
from asgi_gateway.stores.url import Place, StoreAddress

SLOTS: Final = 16384


class Link(Protocol):
    """An open way to a store."""

    def send(self, key: bytes, *command: bytes) -> Awaitable[Any]:
        """Ask the server that holds `key`."""

    def post(self, key: bytes, *command: bytes) -> asyncio.Future[Any]:
        """Ask the server that was last known to hold `key`, before this returns and whoever awaits it."""

    def close(self) -> None:
        """Close all connections, and tell nobody."""


class SingleLink:
    """To one server, over one connection."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def send(self, key: bytes, *command: bytes) -> Awaitable[Any]:
        return self._pipe.send(*command)

    def post(self, key: bytes, *command: bytes) -> asyncio.Future[Any]:
        return self._pipe.send(*command)

    def close(self) -> None:
        self._pipe.close()


class ClusterLink:
    """To the masters of a cluster, one connection each; what has moved is followed."""

    def __init__(self, dial: Callable[[Place], Awaitable[Pipe]]) -> None:
        self._dial = dial
        self._pipes: dict[Place, Pipe] = {}
        self._owners: list[Place | None] = [None] * SLOTS

    async def learn(self, seed: Place) -> None:
        """Ask one node who holds which slots, and connect to all who do."""
        pipe = self._pipes[seed] = await self._dial(seed)
        for first, last, master, *_ in await pipe.send(b"CLUSTER", b"SLOTS"):
            host = (master[0] or b"").decode() or seed[0]
            self._owners[first : last + 1] = [(host, int(master[1]))] * (last + 1 - first)
        if None in self._owners:
            raise StoreUnavailable("some slots of the cluster are held by no node")
        places = {place for place in self._owners if place is not None}
        await asyncio.gather(*(self._pipe(place) for place in places))

    async def send(self, key: bytes, *command: bytes) -> Any:
        slot = slot_of(key)
        pipe = await self._pipe(self._owners[slot])
        try:
            return await pipe.send(*command)
        except StoreUnavailable as error:
            told, _, rest = str(error).partition(" ")
            if told not in ("MOVED", "ASK"):
                raise
            host, _, port = rest.partition(" ")[2].rpartition(":")
        place = host, int(port)
        if told == "MOVED":
            self._owners[slot] = place
        pipe = await self._pipe(place)
        if told == "ASK":
            asking = pipe.send(b"ASKING")
            answer = pipe.send(*command)
            await asking
            return await answer
        return await pipe.send(*command)

    def post(self, key: bytes, *command: bytes) -> asyncio.Future[Any]:
        place = self._owners[slot_of(key)]
        pipe = None if place is None else self._pipes.get(place)
        if pipe is not None:
            return pipe.send(*command)
        unknown: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        unknown.set_exception(StoreUnavailable("a slot of the cluster is held by no node"))
        return unknown

    def close(self) -> None:
        for pipe in list(self._pipes.values()):
            pipe.close()

    async def _pipe(self, place: Place | None) -> Pipe:
        if place is None:
            raise StoreUnavailable("a slot of the cluster is held by no node")
        pipe = self._pipes.get(place)
        if pipe is None:
            pipe = self._pipes[place] = await self._dial(place)
        return pipe


def slot_of(key: bytes) -> int:
    """The slot of a key: of what stands in its first braces, where it has some (Valkey's cluster)."""
    opened = key.find(b"{")
    closed = key.find(b"}", opened + 1)
    if opened >= 0 and closed > opened + 1:
        key = key[opened + 1 : closed]
    return binascii.crc_hqx(key, 0) % SLOTS


async def open_link(address: StoreAddress, clock: Clock, within: float, on_lost: OnLost) -> Link:
    """Connect to a store, whatever its kind. Raises `StoreUnavailable`.

    `on_lost` is told of every connection that breaks from then on, once the link stands.
    """
    stands: list[bool] = []
    pipes: list[Pipe] = []

    def lost(reason: str, waited: bool) -> None:  # noqa: FBT001 - as it is called
        if stands:
            on_lost(reason, waited)

    async def dial(place: Place) -> Pipe:
        pipe = await connect(address, place, clock, within, lost)
        pipes.append(pipe)
        return pipe

    link: Link
    try:
        if address.kind == "cluster":
            link = await _cluster(address, dial)
        elif address.kind == "sentinel":
            link = SingleLink(await _master(address, clock, within, dial))
        else:
            link = SingleLink(await dial(address.places[0]))
    except BaseException:
        for pipe in pipes:
            pipe.close()
        raise
    stands.append(True)
    return link


async def _cluster(address: StoreAddress, dial: Callable[[Place], Awaitable[Pipe]]) -> ClusterLink:
    reason = StoreUnavailable("no node of the cluster answers")
    for seed in address.places:
        link = ClusterLink(dial)
        try:
            await link.learn(seed)
        except StoreUnavailable as error:
            link.close()
            reason = error
        else:
            return link
    raise reason


async def _master(
    address: StoreAddress, clock: Clock, within: float, dial: Callable[[Place], Awaitable[Pipe]]
) -> Pipe:
    """The first master that a sentinel names and that says itself that it is one."""
    reason = StoreUnavailable("no sentinel answers")
    for place in address.places:
        try:
            sentinel = await connect(address, place, clock, within, lambda *_: None, greet=False)
            try:
                named = await sentinel.send(b"SENTINEL", b"get-master-addr-by-name", address.master.encode())
            finally:
                sentinel.close()
            if named is None:
                raise StoreUnavailable("the sentinel knows no master of that name")
            pipe = await dial((named[0].decode(), int(named[1])))
            if (await pipe.send(b"ROLE"))[0] == b"master":
                return pipe
            pipe.close()
            raise StoreUnavailable("the sentinel names a master that is none")
        except StoreUnavailable as error:
            reason = error
    raise reason
