"""State that several processes share, in a Valkey or Redis server.

What is asked of it and the life of its connection are one piece: each question reads whether there is
one, and each answer that fails ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import nullcontext, suppress
from typing import Any, Final, TypeVar

from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.events import StoreFailed, StoreRecovered
from asgi_gateway.policies.circuit_breaker import CircuitBreaker
from asgi_gateway.policies.limit import Limit, Settle
from asgi_gateway.policies.window import Window
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.breakers import SharedBreakers
from asgi_gateway.stores.cluster import SlotMoving
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.links import Link, open_link
from asgi_gateway.stores.pipe import check_installed
from asgi_gateway.stores.script import Script
from asgi_gateway.stores.url import StoreAddress, parse_store_url
from asgi_gateway.stores.windows import PROBE, namer, taken_at, terms_of, window_of

_logger: Final = logging.getLogger("asgi_gateway.stores")

FIRST_PROBE: Final = 0.1
LONGEST_PROBE: Final = 2.0
"""Seconds between two looks at a store that failed: twice as many after each in vain."""

STEADY: Final = 10.0
"""Seconds that a store has to work for the next look after a failure to come early again."""

T = TypeVar("T")


class Store:
    """A store shared by every process that is given the same `url` and `prefix`.

    It connects when it is started, or first needed. A request waits for it `timeout` seconds at most
    (default 0.05, and a fifth more where the process itself is late). After a failure nobody waits: every
    call raises `StoreUnavailable` at once, while the store is looked at in the background until it works
    again.

        store = Store("valkey://127.0.0.1:6379")
        app = RateLimitMiddleware(app, limit="100/minute", runtime=Runtime(state=store))
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 0.05,
        prefix: str = "asgi_gateway",
        runtime: Runtime | None = None,
        server: EmbeddedServer | None = None,
    ) -> None:
        check_installed()
        self.address: StoreAddress = parse_store_url(url)
        self.timeout = timeout
        self._prefix = prefix.encode()
        self._server = server
        runtime = runtime or Runtime()
        self._clock = runtime.clock
        self._emit = runtime.emit
        self._failures = runtime.counter("store_failures_total")
        self._lost_settlements = runtime.counter("store_settlements_lost_total")
        runtime.gauge("store_degraded", lambda: int(self.degraded))
        self._windows = Script("windows.lua")
        self._breakers = SharedBreakers(self.call, self._clock, self._prefix)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Link | None = None
        self._opening: asyncio.Task[None] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._failed_at: float | None = None
        self._recovered_at = -STEADY
        self._delay = FIRST_PROBE
        self._used = False

    @property
    def degraded(self) -> bool:
        """Whether the store has failed and does not work again yet."""
        return self._failed_at is not None

    def limiter(
        self, name: str, limits: Sequence[Limit], cost: int
    ) -> Callable[[Hashable], Awaitable[Window]]:
        """Counts a request of a key with all `limits` if each allows it; the tightest window.

        One round trip. Limiters of one `name` count together, in whatever process. What is returned raises
        `StoreUnavailable`. Keys are kept as hashes: they may be secrets of clients.
        """
        return self._asking(name, limits, (b"%d" % cost, b"hit"), lambda _, reply: window_of(reply))

    def reserver(
        self, name: str, limits: Sequence[Limit], cost: int
    ) -> Callable[[Hashable], Awaitable[tuple[Window, Settle]]]:
        """`limiter` where `cost` is only reserved, and what it really was is told later.

        Nobody waits for that. A store that fails then loses the difference, which
        ``store_settlements_lost_total`` counts.
        """
        terms = terms_of(limits)

        def reserved(keys: tuple[bytes, ...], reply: Any) -> tuple[Window, Settle]:
            window, reservation = window_of(reply), taken_at(reply)

            def settle(actual: int) -> None:
                if actual != cost:
                    self._settle(keys, (b"", b"%d" % (actual - cost), reservation, *terms))

            return window, settle

        return self._asking(name, limits, (b"%d" % cost, b"reserve"), reserved)

    def breaker(
        self, name: str, breaker: CircuitBreaker, opened: Callable[[float], None]
    ) -> Callable[[float | None], None]:
        """Have a breaker open while one of the same `name` is open elsewhere; see `SharedBreakers.share`."""
        self._used = True
        return self._breakers.share(name, breaker, opened)

    async def call(self, key: str, *command: bytes) -> Any:
        """One command of the server that holds `key`. Raises `StoreUnavailable`."""
        link = self._link
        if link is None or self._loop is not asyncio.get_running_loop():
            link = await self._opened()
        try:
            return await link.send(key.encode(), *command)
        except StoreUnavailable as error:
            self._give_up(link, error)
            raise

    def _asking(
        self,
        name: str,
        limits: Sequence[Limit],
        asked: tuple[bytes, bytes],
        heard: Callable[[tuple[bytes, ...], Any], T],
    ) -> Callable[[Hashable], Awaitable[T]]:
        """Asks of a key, in one round trip; `heard` is told what the key is called here, and the reply."""
        self._used = True
        keys_of = namer(self._prefix, name, len(limits))
        arguments = (b"", *asked, *terms_of(limits))
        run, get_running_loop = self._windows.run, asyncio.get_running_loop

        async def ask(key: Hashable) -> T:
            link = self._link
            if link is None or self._loop is not get_running_loop():
                link = await self._opened()
            keys = keys_of(key)
            try:
                return heard(keys, await run(link, keys, arguments))
            except StoreUnavailable as error:
                self._give_up(link, error)
                raise

        return ask

    def _settle(self, keys: tuple[bytes, ...], arguments: tuple[bytes, ...]) -> None:
        if self._link is None or self._loop is not asyncio.get_running_loop():
            self._lost_settlements.add()
        else:
            self._windows.post(self._link, keys, arguments).add_done_callback(self._settled)

    def _settled(self, answer: asyncio.Future[Any]) -> None:
        if answer.exception() is not None:
            self._lost_settlements.add()

    async def start(self) -> None:
        """Connect if something needs the store; one that cannot be used is looked at from then on.

        After `aclose` it begins anew, where it has a server of its own with an empty one.
        """
        if self._server is not None and self._server.stopped:
            self._server = EmbeddedServer()
            self.address = parse_store_url(self._server.url)
        self._breakers.start()
        if self._used:
            with suppress(StoreUnavailable):
                await self._opened(patient=True)

    async def aclose(self) -> None:
        """Close all connections, stop looking, and stop the server that belongs to this store."""
        self._enter_loop()
        await self._breakers.aclose()
        for task in (self._probing, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        self._drop_link()
        self._forget()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)

    async def _opened(self, *, patient: bool = False) -> Link:
        """The link, connected first where it is not yet. Who is not `patient` waits `timeout` at most."""
        self._enter_loop()
        if self._link is None and not self.degraded:
            opening = self._opening
            if opening is None:
                opening = self._opening = asyncio.get_running_loop().create_task(self._first_opened())
            try:
                async with nullcontext() if patient else self._clock.timeout(self.timeout):
                    await asyncio.wait((opening,))
            except TimeoutError:
                if self._link is None:
                    opening.cancel()
                    self._fail("no connection in time")
        if self._link is None:
            raise StoreUnavailable("the store has failed")
        return self._link

    async def _first_opened(self) -> None:
        try:
            await self._open()
        except (StoreUnavailable, OSError) as error:
            self._fail(str(error))
        except Exception as error:
            _logger.exception("the store cannot be used")
            self._fail(type(error).__name__)
        finally:
            if self._opening is asyncio.current_task():
                self._opening = None

    async def _open(self) -> None:
        """Connect, or find again what of the store is missing, and see that all of it counts."""
        if self._server is not None:
            await asyncio.to_thread(self._server.start)
        link: Link | None = None

        def lost(reason: str, waited: bool) -> None:  # noqa: FBT001 - as a pipe calls it
            """A failure where somebody waited, else the next to need it connects again."""
            if link is not None and link is self._link:
                self._drop_link()
                if waited:
                    self._fail(reason)

        link = self._link or await open_link(self.address, self._clock, self.timeout, lost)
        try:
            await link.learn()
            keys = link.keys(b"%b:probe" % self._prefix)
            failures = await asyncio.gather(*(self._count(link, key) for key in keys))
        except BaseException:
            if link is not self._link:
                link.close()
            raise
        reason = next((failure for failure in failures if failure is not None), None)
        if reason is None or link.in_parts:
            self._link = link
        else:
            link.close()
        if reason is not None:
            raise reason

    async def _count(self, link: Link, key: bytes) -> StoreUnavailable | None:
        """Why the server that holds `key` does not count, if so."""
        try:
            window_of(await self._windows.run(link, (key,), PROBE))
        except SlotMoving:
            return None
        except StoreUnavailable as error:
            return error
        return None

    def _enter_loop(self) -> None:
        """Begin anew where the event loop is another: connections and tasks belonged to the old one."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        old, self._loop = self._loop, loop
        if old is not None and not old.is_closed():
            for end in [task.cancel for task in (self._probing, self._opening) if task is not None]:
                old.call_soon_threadsafe(end)
            if self._link is not None:
                old.call_soon_threadsafe(self._link.close)
        self._forget()

    def _forget(self) -> None:
        self._link = self._opening = self._probing = None
        self._failed_at = None

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _give_up(self, link: Link, error: StoreUnavailable) -> None:
        """A command failed. Of a store in parts the others are used further."""
        if link is not self._link or isinstance(error, SlotMoving):
            return
        if not link.in_parts:
            self._drop_link()
        self._fail(str(error))

    def _fail(self, reason: str) -> None:
        if self.degraded:
            return
        now = self._failed_at = self._clock.monotonic()
        if now - self._recovered_at >= STEADY:
            self._delay = FIRST_PROBE
        self._failures.add()
        self._probing = asyncio.get_running_loop().create_task(self._probe())
        self._emit(StoreFailed(str(self.address), reason))

    async def _probe(self) -> None:
        """Look again and again until the store works, then use it."""
        failed_at = self._clock.monotonic() if self._failed_at is None else self._failed_at
        while True:
            await self._clock.sleep(self._delay)
            self._delay = min(2 * self._delay, LONGEST_PROBE)
            try:
                await self._open()
                break
            except (StoreUnavailable, OSError) as error:
                _logger.debug("the store still fails: %s", error)
            except Exception:
                _logger.exception("the store still fails")
        self._failed_at = None
        self._recovered_at = self._clock.monotonic()
        self._emit(StoreRecovered(str(self.address), self._recovered_at - failed_at))

    def __repr__(self) -> str:
        return f"<Store {self.address} {'degraded' if self.degraded else 'in use' if self._link else 'idle'}>"
