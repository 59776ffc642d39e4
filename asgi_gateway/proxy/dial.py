"""A new connection to an endpoint: its name resolved anew, every address tried, the fastest taken.

Happy eyeballs, RFC 8305: the addresses of both families in turn, each with a head start over the
next, the first that connects wins. TLS begins only on the connection that won.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from itertools import chain, zip_longest
from typing import Any, Final, TypeAlias, TypeVar

from asgi_gateway.clock import Clock
from asgi_gateway.proxy.tls import ClientTls, Tls
from asgi_gateway.proxy.transport import Origin

P = TypeVar("P", bound=asyncio.BaseProtocol)

Address: TypeAlias = tuple[int, tuple[Any, ...]]
"""A family and what its sockets connect to."""

HEAD_START: Final = 0.25
"""Seconds before the next address is tried beside one that does not answer (RFC 8305 section 5)."""


class Dialer:
    """Opens connections to one endpoint. Raises `OSError`, the last address's own where all fail.

    It sets no limit of time: that is the caller's. Raises `ValueError` for TLS files that cannot be used.
    Loading the system's certificates takes milliseconds, so dialers had better share one `ClientTls`.
    """

    def __init__(self, origin: Origin, *, clock: Clock, tls: ClientTls | Tls | None = None) -> None:
        self._origin = origin
        self._clock = clock
        self._tls: ClientTls | None = None
        self._server_name: str | None = None
        if origin.tls:
            self._tls = tls if isinstance(tls, ClientTls) else ClientTls(tls or Tls())
            self._server_name = self._tls.server_name or origin.host
        self._literal = _literal(origin)
        self._lookup: asyncio.Task[list[Address]] | None = None

    async def connect(self, factory: Callable[[], P]) -> P:
        """A protocol on a connection that is open, and secured where the origin is https."""
        loop = asyncio.get_running_loop()
        if self._origin.path is not None:
            return (await loop.create_unix_connection(factory, self._origin.path))[1]
        context = self._tls.context() if self._tls is not None else None
        winner = await race(await self._addresses(), self._clock)
        _, protocol = await loop.create_connection(
            factory, sock=winner, ssl=context, server_hostname=self._server_name
        )
        return protocol

    async def _addresses(self) -> list[Address]:
        """Those of the name. Who asks during a lookup shares it.

        A lookup cannot be called off: it keeps one of the few threads there are until the resolver gives up.
        More than one for each endpoint, and a name that nobody resolves would hold up every other.
        """
        if self._literal is not None:
            return [self._literal]
        if self._lookup is None:
            self._lookup = asyncio.ensure_future(self._look_up())
            self._lookup.add_done_callback(self._looked_up)
        return await asyncio.shield(self._lookup)

    def _looked_up(self, lookup: asyncio.Task[list[Address]]) -> None:
        self._lookup = None
        if not lookup.cancelled():
            lookup.exception()  # it may be that nobody waits for it any more

    async def _look_up(self) -> list[Address]:
        host, port = self._origin.address or self._origin.host, self._origin.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(f"{host!r} is no host name") from error
        return interleaved([(family, address) for family, _, _, _, address in found])


def _literal(origin: Origin) -> Address | None:
    """The address of a host that is one already, so that nobody has to resolve it."""
    try:
        version = ipaddress.ip_address(origin.address or origin.host).version
    except ValueError:
        return None
    if "%" in (origin.address or origin.host):
        return None  # a scope's name stands for a number that only getaddrinfo knows
    return (socket.AF_INET if version == 4 else socket.AF_INET6), (origin.address or origin.host, origin.port)


def interleaved(addresses: list[Address]) -> list[Address]:
    """The families in turn, the system's favourite first, without doubles (RFC 8305 section 4)."""
    distinct = list(dict.fromkeys(addresses))
    first = [address for address in distinct if address[0] == distinct[0][0]]
    others = [address for address in distinct if address[0] != distinct[0][0]]
    pairs = zip_longest(first, others)
    return [address for address in chain.from_iterable(pairs) if address is not None]


async def race(addresses: list[Address], clock: Clock) -> socket.socket:
    """The first socket that connects; raises the last error where none does."""
    if len(addresses) == 1:
        return await _connected(addresses[0])
    running: set[asyncio.Task[socket.socket]] = set()
    error: OSError = OSError("the name has no address")
    try:
        for number, address in enumerate(addresses, start=1):
            running.add(asyncio.ensure_future(_connected(address)))
            while running:
                done = await _first(running, clock, head_start=number < len(addresses))
                running -= done
                for attempt in done:
                    if attempt.exception() is None:
                        return _only(attempt, done)
                    error = _failure(attempt)
                if number < len(addresses):
                    break
        raise error
    finally:
        await _give_up(running)


async def _first(
    running: set[asyncio.Task[socket.socket]], clock: Clock, *, head_start: bool
) -> set[asyncio.Task[socket.socket]]:
    """The attempts that have ended once one has, or none once the head start is over."""
    if not head_start:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        return done
    done = set()
    with contextlib.suppress(TimeoutError):
        async with clock.timeout(HEAD_START):
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    return done


def _only(winner: asyncio.Task[socket.socket], done: set[asyncio.Task[socket.socket]]) -> socket.socket:
    """The winner's socket; those that connected in the same moment are closed."""
    for attempt in done - {winner}:
        if attempt.exception() is None:
            attempt.result().close()
    return winner.result()


def _failure(attempt: asyncio.Task[socket.socket]) -> OSError:
    error = attempt.exception()
    if not isinstance(error, OSError):
        raise error or RuntimeError("an attempt that connected did not fail")
    return error


async def _give_up(running: set[asyncio.Task[socket.socket]]) -> None:
    """End the attempts that lost, and close what they may have opened meanwhile."""
    for attempt in running:
        attempt.cancel()
    if running:
        await asyncio.wait(running)
    for attempt in running:
        if not attempt.cancelled() and attempt.exception() is None:
            attempt.result().close()


async def _connected(address: Address) -> socket.socket:
    family, target = address
    attempt = socket.socket(family, socket.SOCK_STREAM)
    try:
        attempt.setblocking(False)  # noqa: FBT003 - the standard library's signature
        await asyncio.get_running_loop().sock_connect(attempt, target)
    except BaseException:
        attempt.close()
        raise
    return attempt
