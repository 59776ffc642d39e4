"""The masters of a cluster: each command to who holds its key, though keys move and masters die."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any, Final

from asgi_gateway.clock import Clock
from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.stores.pipe import OnLost, Pipe
from asgi_gateway.stores.url import Place

SLOTS: Final = 16384

_HOPS: Final = 4
"""How many masters one command is sent to at most."""

_TRIES: Final = 4096
"""How many keys are looked at for one of each master. One that holds hardly a slot may then have none."""

Dial = Callable[[Place, OnLost], Awaitable[Pipe]]


class SlotMoving(StoreUnavailable):
    """Some keys of a command have moved with their slot and others not yet; no server has failed."""


class ClusterLink:
    """To the masters of a cluster, one connection each; what has moved is followed.

    A master that fails is given up alone. Commands for its keys fail at once until `learn` finds somebody
    who holds them, all others go on.
    """

    in_parts: Final = True

    def __init__(self, seeds: Iterable[Place], dial: Dial, clock: Clock, within: float) -> None:
        self._seeds = tuple(seeds)
        self._dial = dial
        self._clock = clock
        self._within = within
        self._owners: list[Place | None] = [None] * SLOTS
        self._pipes: dict[Place, Pipe] = {}
        self._dialing: dict[Place, asyncio.Task[None]] = {}
        self._failed: dict[Place, str] = {}

    async def send(self, key: bytes, *command: bytes) -> Any:
        """Ask the master that holds `key`. Raises `StoreUnavailable`."""
        slot = slot_of(key)
        place = self._owners[slot]
        asking = False
        for _ in range(_HOPS):
            if place is None:
                raise StoreUnavailable("no node of the cluster holds the slot")
            pipe = self._pipes.get(place) or await self._reached(place)
            try:
                if not asking:
                    return await pipe.send(*command)
                # One right behind the other: it is for the next command only.
                return (await asyncio.gather(pipe.send(b"ASKING"), pipe.send(*command)))[1]
            except StoreUnavailable as error:
                place, asking = self._redirected(slot, place, pipe, str(error))
        raise StoreUnavailable("the nodes of the cluster send a command round and round")

    def post(self, key: bytes, *command: bytes) -> asyncio.Future[Any]:
        """Ask the master last known to hold `key`, before this returns, and nobody else."""
        place = self._owners[slot_of(key)]
        pipe = None if place is None else self._pipes.get(place)
        if pipe is not None:
            return pipe.send(*command)
        unknown: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        unknown.set_exception(StoreUnavailable("no node of the cluster holds the slot"))
        return unknown

    async def learn(self) -> None:
        """Learn who holds which slots, and reach all of them who can be reached.

        Raises `StoreUnavailable` where nobody tells.
        """
        owners = await self._told()
        self._owners = owners
        places = {place for place in owners if place is not None}
        for place in self._pipes.keys() - places:
            self._pipes.pop(place).close()
        for place in self._failed.keys() - places:
            del self._failed[place]
        if missing := [self._begin(place) for place in places - self._pipes.keys()]:
            await asyncio.wait(missing)

    def keys(self, name: bytes) -> list[bytes]:
        """Keys of which each master holds one, and one of a slot that nobody holds, if there is any."""
        found: dict[Place | None, bytes] = {}
        owners = set(self._owners)
        for number in range(_TRIES):
            key = b"%b:%d" % (name, number)
            found.setdefault(self._owners[slot_of(key)], key)
            if len(found) == len(owners):
                break
        return list(found.values())

    def close(self) -> None:
        """Close all connections."""
        for task in self._dialing.values():
            task.cancel()
        for pipe in list(self._pipes.values()):
            pipe.close()

    async def _told(self) -> list[Place | None]:
        """Who holds which slots, as the first node says that knows."""
        reason = StoreUnavailable("no node of the cluster answers")
        known = (place for place in dict.fromkeys(self._owners) if place is not None)
        for place in dict.fromkeys(chain(list(self._pipes), self._seeds, known)):
            try:
                pipe = self._pipes.get(place)
                if pipe is None:
                    await asyncio.wait((self._begin(place),))
                    pipe = self._pipes.get(place)
                if pipe is None:
                    raise StoreUnavailable(self._failed.get(place, "closed"))
                return _owners(await pipe.send(b"CLUSTER", b"SLOTS"), place)
            except StoreUnavailable as error:
                reason = error
        raise reason

    def _redirected(self, slot: int, place: Place, pipe: Pipe, reason: str) -> tuple[Place, bool]:
        """Where to go on, and whether it has to be asked for. Raises where the reason is another."""
        kind, _, rest = reason.partition(" ")
        if kind in ("MOVED", "ASK"):
            host, _, port = rest.partition(" ")[2].rpartition(":")
            if port.isdecimal():
                told = host or place[0], int(port)  # no host: that of who says so
                if kind == "MOVED":
                    self._owners[slot] = told
                return told, kind == "ASK"
        if kind == "NOSCRIPT":
            raise StoreUnavailable(reason)
        if kind == "TRYAGAIN":
            raise SlotMoving(reason)
        if reason.startswith("CLUSTERDOWN Hash slot"):
            self._owners[slot] = None
        elif self._pipes.get(place, pipe) is pipe:
            self._failed[place] = reason
            pipe.close(reason)
        raise StoreUnavailable(f"{place[0]}:{place[1]}: {reason}")

    async def _reached(self, place: Place) -> Pipe:
        """The connection to a master, made first. Nobody waits for one that has failed."""
        if place not in self._failed:
            dialing = self._begin(place)
            try:
                async with self._clock.timeout(self._within):
                    await asyncio.wait((dialing,))
            except TimeoutError:
                self._failed[place] = "no connection in time"
                dialing.cancel()
        pipe = self._pipes.get(place)
        if pipe is None:
            raise StoreUnavailable(f"{place[0]}:{place[1]}: {self._failed.get(place, 'closed')}")
        return pipe

    def _begin(self, place: Place) -> asyncio.Task[None]:
        dialing = self._dialing.get(place)
        if dialing is None:
            dialing = self._dialing[place] = asyncio.get_running_loop().create_task(self._reach(place))
            dialing.add_done_callback(lambda _: self._dialing.pop(place, None))
        return dialing

    async def _reach(self, place: Place) -> None:
        made: Pipe | None = None

        def lost(*_: object) -> None:
            if made is not None and self._pipes.get(place) is made:
                del self._pipes[place]

        try:
            made = await self._dial(place, lost)
        except StoreUnavailable as error:
            self._failed[place] = str(error)
        else:
            self._failed.pop(place, None)
            self._pipes[place] = made


def _owners(said: Any, told_by: Place) -> list[Place | None]:
    """What CLUSTER SLOTS says: the master of each slot."""
    owners: list[Place | None] = [None] * SLOTS
    try:
        for first, last, master, *_ in said:
            # A node that does not know its own name says nothing, or "?".
            host = (master[0] or b"").decode().removeprefix("?") or told_by[0]
            owners[first : last + 1] = [(host, int(master[1]))] * (last + 1 - first)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise StoreUnavailable("what came is no map of a cluster") from error
    if not any(owners):
        raise StoreUnavailable("the node knows of no slots")
    return owners[:SLOTS]


def slot_of(key: bytes) -> int:
    """The slot of a key: of what stands in its first braces, where it has some (Valkey's cluster)."""
    opened = key.find(b"{")
    closed = key.find(b"}", opened + 1)
    if opened >= 0 and closed > opened + 1:
        key = key[opened + 1 : closed]
    return binascii.crc_hqx(key, 0) % SLOTS
