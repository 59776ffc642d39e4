"""The terminal app of a service with several endpoints: one is chosen for every attempt.

What forwards is a `ProxyApp` for each endpoint, the same as where there is only one. This layer
chooses, counts what is in flight, and learns from the exchange how it went. Nothing here waits.

Who may be chosen changes seldom, so it is worked out when it does: `_refresh` makes the candidates
and says when time alone will change them next. A request looks at that time and no further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from math import inf
from typing import Final

from asgi_gateway.asgi.keys import KeyFunction, by_client_address, by_cookie, by_header
from asgi_gateway.context import Exchange, join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.events import EndpointEjected, EndpointHealthy, EndpointReturned, EndpointUnhealthy
from asgi_gateway.policies.balance import Balance, Candidates, LeastInFlight, fingerprint
from asgi_gateway.policies.ejection import DEFAULT_EJECTION, Ejection, Record
from asgi_gateway.problem import Problem
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.health_checks import HealthChecks
from asgi_gateway.proxy.resolution import Name
from asgi_gateway.runtime import EndpointStatus, Runtime
from asgi_gateway.types import Receive, Scope, Send

NO_ENDPOINT: Final = Failure("no_endpoint", "gateway")
SLOW_START_STEPS: Final = 20
"""In how many steps, and from which part of its share on, an endpoint comes back."""


class Endpoint:
    """One address of a service, and all that is known of it.

    `weight` is its share of the requests beside the others'; 0 sends it none. `identity` is what a
    consistent hash and a new configuration know it by, its name unless told otherwise.
    """

    __slots__ = (
        "app",
        "checks",
        "identity",
        "in_flight",
        "name",
        "record",
        "returned_at",
        "seed",
        "share",
        "turn",
        "weight",
    )

    def __init__(
        self,
        app: ProxyApp,
        *,
        name: str,
        weight: float = 1.0,
        identity: str | None = None,
        ejection: Ejection = DEFAULT_EJECTION,
        checks: HealthChecks | None = None,
    ) -> None:
        self.app = app
        self.name = name
        self.weight = weight
        self.share = weight
        self.in_flight = 0
        self.turn = 0.0
        self.identity = identity or name
        self.seed = fingerprint(self.identity)
        self.record = Record(ejection)
        self.checks = checks
        self.returned_at: float | None = None
        """Since when it has been coming back slowly; None where it is not."""

    @property
    def healthy(self) -> bool:
        """Whether its checks, if it has any, have nothing against it."""
        return self.checks is None or self.checks.state.healthy

    @property
    def status(self) -> EndpointStatus:
        """How it stands."""
        if not self.weight:
            return EndpointStatus(self.name, "off", self.in_flight)
        if not self.healthy:
            return EndpointStatus(self.name, "unhealthy", self.in_flight)
        ejected = self.record.ejected_until is not None
        return EndpointStatus(self.name, "ejected" if ejected else "usable", self.in_flight)

    async def aclose(self) -> None:
        """Close the connections to it."""
        await self.app.aclose()
        if self.checks is not None:
            await self.checks.aclose()

    def end_websockets(self) -> None:
        """Tell both sides of every WebSocket that it ends (1001)."""
        self.app.end_websockets()

    async def cut(self) -> None:
        """End what is in progress."""
        await self.app.cut()

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} {self.status.state} in_flight={self.in_flight}>"


class EndpointsApp:
    """Forward every request to one of several endpoints.

    An endpoint is out while it is ejected or unhealthy. With all of them out, all are tried
    (`panic`, the default) or the answer is 503 ``no_endpoint``. For `slow_start` seconds (default 0) the
    share of one that comes back grows from little to all. An attempt after the first goes to an endpoint
    not yet tried, if there is one. `key` is what a consistent hash hangs on. Those of the `endpoints`
    that are in `names` give way to one for each of their addresses.

    A failure of the endpoint is a 5xx, no connection, no answer in time, or an answer that breaks off;
    clients that leave and refusals of our own are nobody's.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        names: Mapping[Endpoint, Name[Endpoint]] | None = None,
        balance: Balance | None = None,
        key: KeyFunction | None = None,
        ejection: Ejection = DEFAULT_EJECTION,
        slow_start: float = 0.0,
        panic: bool = True,
        runtime: Runtime | None = None,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._places = {endpoint: self._endpoints[n : n + 1] for n, endpoint in enumerate(endpoints)}
        """The endpoints now in the place of each that was given, so that their order stays."""
        self._left: dict[Endpoint, list[Endpoint]] = {}
        """Of each name the endpoints whose address it no longer has, while they serve something still."""
        self._names = names or {}
        self._balance = balance or LeastInFlight()
        self._key = key
        self._ejection = ejection
        self._slow_start = slow_start
        self._panic = panic
        self._runtime = runtime = runtime or Runtime()
        self._random = runtime.random
        self._now = runtime.clock.monotonic
        self._service = runtime.service
        self._tasks: dict[object, asyncio.Task[None]] | None = None
        self._closed = False
        self._candidates: Candidates[Endpoint] | None = None
        self._changes_at = inf
        self._refresh()
        if self._service is not None:
            status = runtime.service_status
            status.endpoints = self.statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._tasks is None:
            self.start()
        scope, exchange = join_exchange(scope)
        endpoint = self._choose(scope, exchange)
        if endpoint is None:
            await Problem(503, NO_ENDPOINT, "The service cannot be used now.")(scope, receive, send)
            return
        generation = endpoint.record.generation
        exchange.tried += (endpoint,)
        exchange.upstream_status = None
        endpoint.in_flight += 1
        try:
            await endpoint.app(scope, receive, send)
        finally:
            endpoint.in_flight -= 1
            self._learn(endpoint, generation, exchange)

    def start(self) -> None:
        """Begin to check endpoints and look up names; done by the first request where nobody did before."""
        if self._tasks is not None:
            return
        self._tasks = {}
        self._look_up(self._names)
        self._watch(self._endpoints)

    async def warm(self) -> None:
        """Start, after `aclose` anew, and open the connections that are wanted from the start.

        Those of a name are opened when its addresses are known.
        """
        if self._closed:
            self._closed, self._tasks = False, None
        self.start()
        await _warm(endpoint for endpoint in self._endpoints if endpoint not in self._names)

    async def aclose(self) -> None:
        """Stop the checks and close the connections to every endpoint."""
        self._closed = True
        self._tasks = self._tasks or {}  # a request that comes late starts none
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for endpoint in self._endpoints:
            await endpoint.aclose()

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets in progress."""
        return sum(endpoint.in_flight for endpoint in self._serving())

    def end_websockets(self) -> None:
        """Tell both sides of every WebSocket that it ends (1001)."""
        for endpoint in self._serving():
            endpoint.end_websockets()

    async def cut(self) -> None:
        """End what is in progress."""
        for endpoint in list(self._serving()):
            await endpoint.cut()

    def _serving(self) -> Iterator[Endpoint]:
        return chain(self._endpoints, *self._left.values())

    @property
    def given(self) -> Mapping[str, Endpoint]:
        """By identity the endpoints that it was given, names before they are looked up."""
        return {endpoint.identity: endpoint for endpoint in self._places}

    def replace(
        self, weights: Mapping[Endpoint, float], names: Mapping[Endpoint, Name[Endpoint]]
    ) -> list[Endpoint]:
        """Use these endpoints with their weights in place of those that were given before.

        One that stays keeps all that is known of it. `names` are those of new ones. Returns the endpoints
        that are gone, for the caller to close.
        """
        before, names_before = self._places, self._names
        self._places = {endpoint: before.get(endpoint, (endpoint,)) for endpoint in weights}
        self._names = {e: name for e, name in {**names, **names_before}.items() if e in weights}
        self._endpoints = tuple(chain.from_iterable(self._places.values()))
        for endpoint, weight in weights.items():
            endpoint.weight = weight
            for address in self._places[endpoint]:
                address.weight = weight / len(self._places[endpoint])
        left = {endpoint: place for endpoint, place in before.items() if endpoint not in weights}
        for endpoint in left:
            self._end((endpoint, names_before.get(endpoint)))
        gone = [one for named, place in left.items() for one in (*place, *self._left.pop(named, ()))]
        for endpoint in gone:
            self._end(endpoint)
        self._refresh()
        new = [endpoint for endpoint in weights if endpoint not in before]
        self._look_up({endpoint: self._names[endpoint] for endpoint in new if endpoint in self._names})
        self._watch(new)
        return gone

    def statuses(self) -> list[EndpointStatus]:
        """How every endpoint stands."""
        if self._now() >= self._changes_at:
            self._refresh()
        return [endpoint.status for endpoint in self._endpoints]

    def __repr__(self) -> str:
        return f"<EndpointsApp {', '.join(map(repr, self._endpoints))}>"

    # Choosing

    def _choose(self, scope: Scope, exchange: Exchange) -> Endpoint | None:
        if self._changes_at is not inf and self._now() >= self._changes_at:
            self._refresh()
        candidates = self._candidates
        if candidates is None:
            return None
        if exchange.tried:
            untried = [endpoint for endpoint in candidates.members if endpoint not in exchange.tried]
            candidates = Candidates(untried) if untried else candidates
        key = None if self._key is None else self._key(scope)
        return self._balance.choose(candidates, self._random, key)  # type: ignore[arg-type] # str or bytes

    def _refresh(self) -> None:
        """Work out who may be chosen and what their shares are."""
        now = self._now()
        for endpoint in self._endpoints:
            if endpoint.record.returns(now):
                self._came_back(endpoint, now)
                self._runtime.emit(EndpointReturned(self._service, endpoint.name))
            endpoint.share = self._share(endpoint, now)
        usable = [endpoint for endpoint in self._endpoints if endpoint.status.state == "usable"]
        if not usable and self._panic:
            usable = [endpoint for endpoint in self._endpoints if endpoint.weight]
        self._candidates = Candidates(usable) if usable else None
        self._changes_at = min(self._changes(now), default=inf)

    def _changes(self, now: float) -> Iterator[float]:
        """When each endpoint changes without anything happening to it."""
        for endpoint in self._endpoints:
            if endpoint.record.ejected_until is not None:
                yield endpoint.record.ejected_until
            if endpoint.returned_at is not None:
                yield now + self._slow_start / SLOW_START_STEPS

    def _share(self, endpoint: Endpoint, now: float) -> float:
        if endpoint.returned_at is None:
            return endpoint.weight
        part = (now - endpoint.returned_at) / self._slow_start
        if part >= 1:
            endpoint.returned_at = None
            return endpoint.weight
        return endpoint.weight * max(part, 1 / SLOW_START_STEPS)

    def _came_back(self, endpoint: Endpoint, now: float) -> None:
        endpoint.returned_at = now if self._slow_start else None

    # Learning

    def _learn(self, endpoint: Endpoint, generation: int, exchange: Exchange) -> None:
        failure, status = exchange.failure, exchange.upstream_status
        if (failure is None and status is not None and status >= 500) or (
            failure is not None and failure.source == "upstream"
        ):
            self._failed(endpoint, generation)
        elif status is not None and status < 500:
            now = self._now()
            if endpoint.record.succeeded(generation, now):
                self._came_back(endpoint, now)
                self._runtime.emit(EndpointReturned(self._service, endpoint.name))
                self._refresh()

    def _failed(self, endpoint: Endpoint, generation: int) -> None:
        ejected = sum(1 for other in self._endpoints if other.record.ejected_until is not None)
        may_eject = self._ejection.allows(ejected, sum(1 for other in self._endpoints if other.weight))
        seconds = endpoint.record.failed(generation, self._now(), may_eject=may_eject)
        if seconds is not None:
            self._runtime.emit(EndpointEjected(self._service, endpoint.name, seconds))
            self._refresh()

    # In the background

    def _look_up(self, names: Mapping[Endpoint, Name[Endpoint]]) -> None:
        if self._tasks is None:
            return
        for named in names.items():
            self._tasks[named] = asyncio.ensure_future(self._follow(*named))

    def _watch(self, endpoints: Iterable[Endpoint]) -> None:
        if self._tasks is None:
            return
        for endpoint in endpoints:
            if endpoint.checks is not None:
                self._tasks[endpoint] = asyncio.ensure_future(self._check(endpoint, endpoint.checks))

    async def _check(self, endpoint: Endpoint, checks: HealthChecks) -> None:
        async for healthy in checks.changes():
            if healthy:
                self._came_back(endpoint, self._now())
            event = EndpointHealthy if healthy else EndpointUnhealthy
            self._runtime.emit(event(self._service, endpoint.name))
            self._refresh()

    async def _follow(self, named: Endpoint, name: Name[Endpoint]) -> None:
        """Keep an endpoint for each address of a name in the place of the one for the name itself."""
        current = {"": named}
        async for addresses in name.lookups():
            if addresses == list(current):
                continue
            following = {address: current.get(address) or name.make(address) for address in addresses}
            for endpoint in following.values():
                endpoint.weight = named.weight / len(following)
            new = [endpoint for address, endpoint in following.items() if address not in current]
            gone = [endpoint for address, endpoint in current.items() if address not in following]
            self._places[named] = tuple(following.values())
            self._endpoints = tuple(chain.from_iterable(self._places.values()))
            current = following
            self._refresh()
            self._watch(new)
            self._left[named] = [one for one in (*self._left.get(named, ()), *gone) if one.in_flight]
            for endpoint in gone:
                await self._leave(endpoint)
            await _warm(new)

    async def _leave(self, endpoint: Endpoint) -> None:
        self._end(endpoint)
        await endpoint.aclose()

    def _end(self, key: object) -> None:
        """End the task of an endpoint or a name, if it has one."""
        task = self._tasks.pop(key, None) if self._tasks else None
        if task is not None:
            task.cancel()


async def _warm(endpoints: Iterable[Endpoint]) -> None:
    await asyncio.gather(*(endpoint.app.warm() for endpoint in endpoints))


def request_key(name: str) -> KeyFunction:
    """The function for ``client_address``, ``header:<name>`` or ``cookie:<name>``."""
    kind, _, rest = name.partition(":")
    if kind == "client_address":
        return by_client_address
    return by_cookie(rest) if kind == "cookie" else by_header(rest)
