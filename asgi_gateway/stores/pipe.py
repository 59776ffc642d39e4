"""One connection to a Valkey or Redis server, over which many requests speak at once (RESP2)."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final

from asgi_gateway.clock import Clock, Timer
from asgi_gateway.errors import MissingExtra, StoreUnavailable
from asgi_gateway.stores.url import Place, StoreAddress

CONNECT_TIMEOUT: Final = 1.0
"""Seconds for a connection with its greeting. No request waits for it longer than its own time limit."""

_GRACE: Final = 0.2
"""The part of the time limit that an answer which is late gets once more: a busy process may find the
timer before it has read what lies in the socket."""

_NONSENSE: Final = "what came is not the protocol of Valkey or Redis"

OnLost = Callable[[str, bool], None]
"""Told why a connection was lost, and whether anybody waited for an answer."""


class Refused(StoreUnavailable):
    """The server answered with an error, whose text this is."""


class Pipe(asyncio.Protocol):
    """Commands of one turn of the event loop leave in one write, and answers come in the order of asking.

    `timeout` is the seconds after which an answer is given up, and the connection with it: what comes on it
    later could not be told apart.
    """

    def __init__(self, clock: Clock, timeout: float, on_lost: OnLost) -> None:
        from hiredis import Reader, pack_command

        self._clock = clock
        self._timeout = timeout
        self._on_lost = on_lost
        self._reader = Reader()
        self._pack: Callable[[Any], bytes] = pack_command
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: Timer | None = None
        self._lost: str | None = None

    def send(self, *command: bytes) -> asyncio.Future[Any]:
        """Ask; the answer, an error of the server's raised as `Refused`."""
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self._lost is not None:
            answer.set_exception(StoreUnavailable(self._lost))
            return answer
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(self._pack(command))
        self._asked.append((answer, self._clock.monotonic() + self._timeout))
        if self._timer is None:
            self._timer = self._clock.call_later(self._timeout, self._look)
        return answer

    def close(self, reason: str = "closed") -> None:
        """Close at once; whoever still waits is told `reason`."""
        if self._lost is not None:
            return
        self._lost = reason
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        asked = [answer for answer, _ in self._asked if not answer.done()]
        self._asked.clear()
        for answer in asked:
            answer.set_exception(StoreUnavailable(reason))
        self._on_lost(reason, bool(asked))

    def _flush(self) -> None:
        commands, self._unsent = self._unsent, []
        if self._transport is not None and self._lost is None:
            self._transport.write(b"".join(commands))

    def _look(self, last_chance: float = 0.0) -> None:
        """Give up where the answer that was asked for first is late, else look again when it will be."""
        self._timer = None
        if not self._asked:
            return
        due = self._asked[0][1]
        if due == last_chance:
            self.close("no answer in time")
        elif due <= self._clock.monotonic():
            self._timer = self._clock.call_later(self._timeout * _GRACE, self._look, due)
        else:
            self._timer = self._clock.call_later(due - self._clock.monotonic(), self._look)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        from hiredis import ProtocolError, ReplyError

        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if not self._asked:  # it says why it will close, if it is a server of that kind at all
                    self.close(str(reply) if isinstance(reply, ReplyError) else _NONSENSE)
                    return
                answer, _ = self._asked.popleft()
                if answer.done():  # whoever asked was cancelled
                    continue
                if isinstance(reply, ReplyError):
                    answer.set_exception(Refused(str(reply)))
                else:
                    answer.set_result(reply)
        except ProtocolError:
            self.close(_NONSENSE)

    def connection_lost(self, error: Exception | None) -> None:
        self.close("the connection broke")


def check_installed() -> None:
    """Raise `MissingExtra` where the parser of the protocol is not installed."""
    if find_spec("hiredis") is None:
        raise MissingExtra("state in Valkey or Redis", "redis")


async def connect(
    address: StoreAddress,
    place: Place,
    clock: Clock,
    within: float,
    on_lost: OnLost,
    *,
    greet: bool = True,
) -> Pipe:
    """A connection to one place of a store, its user known, its database chosen. Raises `StoreUnavailable`.

    Sentinels are not greeted: they have users of their own, and no databases.
    """
    loop = asyncio.get_running_loop()
    host, port = place

    def pipe() -> Pipe:
        return Pipe(clock, within, on_lost)

    made: Pipe | None = None
    try:
        async with clock.timeout(CONNECT_TIMEOUT):
            if port:
                named = host if address.tls else None
                _, made = await loop.create_connection(
                    pipe, host, port, ssl=address.tls, server_hostname=named
                )
            else:
                _, made = await loop.create_unix_connection(pipe, host)
            if greet:
                await _greet(made, address)
    except BaseException as error:
        reason = _why(error)
        if made is not None:
            made.close(reason or "closed")
        if reason is None:
            raise
        raise StoreUnavailable(reason) from error
    return made


def _why(error: BaseException) -> str | None:
    """Why there is no connection; None where that is not what the error tells."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, UnicodeError):
        return "cannot connect: that is no host name"
    if isinstance(error, OSError):  # ssl.SSLError is one
        return f"cannot connect: {(error.strerror or type(error).__name__).lower()}"
    return str(error) if isinstance(error, StoreUnavailable) else None


async def _greet(pipe: Pipe, address: StoreAddress) -> None:
    """Say all of it in one write, as requests may be waiting."""
    greeting: list[tuple[bytes, ...]] = [(b"PING",)]
    if address.database:
        greeting.insert(0, (b"SELECT", b"%d" % address.database))
    if address.password is not None:
        user = () if address.username is None else (address.username.encode(),)
        greeting.insert(0, (b"AUTH", *user, address.password.encode()))
    answers = await asyncio.gather(*(pipe.send(*command) for command in greeting), return_exceptions=True)
    for command, answer in zip(greeting, answers, strict=True):
        if isinstance(answer, Refused) and command[0] == b"AUTH":
            said = re.split("['\"`]", str(answer))[0]  # it may quote what it was sent
            hidden = str(address.password) in said
            raise StoreUnavailable("the password is refused" if hidden else said.strip())
        if isinstance(answer, BaseException):
            raise answer
