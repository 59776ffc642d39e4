"""Everything impure that a middleware may use, handed in by the gateway or private to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol
from weakref import WeakValueDictionary

from asgi_gateway.clock import Clock, SystemClock
from asgi_gateway.events import EventSink, log_event
from asgi_gateway.metrics import Counter, Gauge, Metrics
from asgi_gateway.policies.circuit_breaker import CircuitBreaker
from asgi_gateway.policies.limit import Limit, Settle
from asgi_gateway.policies.retry_budget import Budget, RetryBudget
from asgi_gateway.policies.window import Window
from asgi_gateway.types import ASGIApp

Phase = Literal["starting", "serving", "draining"]


@dataclass(slots=True)
class Lifecycle:
    """Where the process stands; only ``serving`` is ready."""

    phase: Phase = "serving"
    started_at: float = 0.0


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """How one endpoint of a service stands. ``off`` is one whose weight is 0."""

    name: str
    state: Literal["usable", "ejected", "unhealthy", "off"]
    in_flight: int


@dataclass(slots=True)
class ServiceStatus:
    """What is known of a service's ability to answer."""

    name: str
    required: bool = False
    breakers: list[CircuitBreaker] = field(default_factory=list)
    endpoints: Callable[[], Sequence[EndpointStatus]] | None = None
    """Tells how the endpoints stand, where their health is known."""
    retry_budgets: dict[Budget, RetryBudget] = field(default_factory=dict)

    def breaker_state(self, now: float) -> str | None:
        """The state of the service's breaker, the worst where it has several; None without one."""
        states = {breaker.state(now) for breaker in self.breakers}
        return next((state for state in ("open", "half_open", "closed") if state in states), None)

    def open_for(self, now: float) -> float:
        """Seconds for which the service's breaker stays open; 0 where it is not."""
        is_open = (breaker for breaker in self.breakers if breaker.state(now) == "open")
        return max((breaker.opens_until - now for breaker in is_open), default=0.0)

    def retry_budget(self, budget: Budget) -> RetryBudget:
        """The one retry budget of the service with these options, for all who retry or hedge."""
        known = self.retry_budgets.get(budget)
        if known is None:
            known = self.retry_budgets[budget] = RetryBudget(budget)
        return known

    def usable(self, now: float) -> bool:
        if self.breaker_state(now) == "open":
            return False
        return self.endpoints is None or any(endpoint.state == "usable" for endpoint in self.endpoints())


class SharedState(Protocol):
    """What several processes know together: `asgi_gateway.stores.store.Store`."""

    def limiter(
        self, name: str, limits: Sequence[Limit], cost: int
    ) -> Callable[[Hashable], Awaitable[Window]]:
        """Counts a request of a key in all limits; what it returns raises `StoreUnavailable`."""

    def reserver(
        self, name: str, limits: Sequence[Limit], cost: int
    ) -> Callable[[Hashable], Awaitable[tuple[Window, Settle]]]:
        """The same where the cost is only reserved, and settled by a plain call when it is known."""

    async def start(self) -> None:
        """Connects, if something needs it and it is not connected yet."""

    def breaker(
        self, name: str, breaker: CircuitBreaker, opened: Callable[[float], None]
    ) -> Callable[[float | None], None]:
        """Has a breaker open while another process's is; see `asgi_gateway.stores.breakers`."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Clock, random numbers, event sink, metrics, shared state, and the services by name.

    A middleware that is given none makes its own, so nothing is shared by accident. `service` is the name of
    the service in whose chain the middleware stands, None in the global chain; `status` is what is known of
    it where that is not among the `services` yet. `chains` are the chains of all services as they are now;
    None where there is no gateway. `state` is None where every process counts for itself. `background` are
    the tasks that outlive their requests; the gateway cancels them at its end. `twins` are how often each
    shared name was given in the chain that is being built; None where no chain is built as a whole. `loaded`
    is what services have loaded from files, by what it was made from, for as long as one of them uses it.
    """

    clock: Clock = field(default_factory=SystemClock)
    random: Callable[[], float] = random.random
    emit: EventSink = log_event
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    metrics: Metrics = field(default_factory=Metrics)
    services: dict[str, ServiceStatus] = field(default_factory=dict)
    chains: dict[str, ASGIApp] | None = None
    service: str | None = None
    status: ServiceStatus | None = None
    state: SharedState | None = None
    background: set[asyncio.Task[None]] = field(default_factory=set)
    twins: dict[str, int] | None = None
    loaded: MutableMapping[Hashable, object] = field(default_factory=WeakValueDictionary)

    def counter(self, name: str, **labels: str | None) -> Counter:
        """The counter of that name and these labels, for `service` where there is one."""
        return self.metrics.counter(name, service=self.service, **labels)

    def gauge(self, name: str, read: Callable[[], float], **labels: str | None) -> Gauge:
        """A gauge of that name and these labels whose value `read` tells, likewise."""
        return self.metrics.gauge(name, read, service=self.service, **labels)

    def shared_name(self, *what: object) -> str:
        """What a middleware is known by in other processes and after a reload: its service and `what` it is.

        Of those that are the same in one chain each but the innermost has a number beside it. To be asked
        once by each.
        """
        name = repr((self.service, *what))
        if self.twins is None:
            return name
        number = self.twins[name] = self.twins.get(name, 0) + 1
        return name if number == 1 else f"{name} {number}"

    @property
    def service_status(self) -> ServiceStatus:
        """What is known of `service`; of nothing but the caller's own where there is none."""
        if self.status is not None:
            return self.status
        if self.service is None:
            return ServiceStatus("")
        return self.services.setdefault(self.service, ServiceStatus(self.service))

    def scoped_to(self, service: str) -> Runtime:
        """The same runtime for the chain of one service."""
        return replace(self, service=service, status=None)
