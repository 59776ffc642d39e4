"""What travels with one request: scope keys downwards, one `Exchange` upwards, ids into the log.

Outer layers tell inner ones through namespaced scope keys, set on a copy of the scope and always
read with a default. Inner layers tell outer ones through the `Exchange`, one mutable record a
request that survives copies of the scope by reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from asgi_gateway.errors import Failure
from asgi_gateway.types import Header, Scope

if TYPE_CHECKING:
    from asgi_gateway.policies.window import Window

EXCHANGE: Final = "asgi_gateway.exchange"
REQUEST_ID: Final = "asgi_gateway.request_id"
TRACE: Final = "asgi_gateway.trace"
CLIENT_ADDRESS: Final = "asgi_gateway.client_address"
UNIX: Final = "unix"
"""The client's address where it is a peer on a Unix socket, which has none."""
TRUSTED_PEER: Final = "asgi_gateway.trusted_peer"
SERVICE: Final = "asgi_gateway.service"
ROUTE: Final = "asgi_gateway.route"
STRIPPED_PREFIX: Final = "asgi_gateway.stripped_prefix"
DEADLINE: Final = "asgi_gateway.deadline"
ATTEMPT: Final = "asgi_gateway.attempt"
RETRY_BUDGET: Final = "asgi_gateway.retry_budget"
"""The budget that has counted the request, so that a retry and a hedge do not both do so."""
ON_DISCONNECT: Final = "asgi_gateway.on_disconnect"
"""A function of our own server: have a callback called when the client leaves; returns what takes it back.

It keeps one callback, the latest. Who makes several attempts at once gives each a function of its own."""

GONE: Final[Scope] = MappingProxyType({})  # type: ignore[assignment] # nobody changes it
"""In place of a scope that a layer no longer holds: compiled code can delete no argument."""

OnDisconnect: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]

request_id_var: ContextVar[str | None] = ContextVar("asgi_gateway.request_id", default=None)
trace_id_var: ContextVar[str | None] = ContextVar("asgi_gateway.trace_id", default=None)

_KNOWN: Final = (
    "attempts",
    "breaker_state",
    "endpoint",
    "failure",
    "fallbacks",
    "first_byte_seconds",
    "rate_limit",
    "received",
    "route",
    "service",
    "tried",
    "upstream_seconds",
    "upstream_status",
    "would_reject",
)
"""What an exchange tells. Compiled classes do not name their slots themselves."""


class Exchange:
    """What became of one request, filled in by whichever layer learns it. Durations are seconds.

    `received` are the headers as the client sent them, if known; what a middleware adds is not among them.
    `fallbacks` are the services that failed before another was tried, without a name an empty one.
    `would_reject` are the middlewares in shadow mode that would have refused the request.
    """

    __slots__ = _KNOWN

    def __init__(self, received: Iterable[Header] | None = None) -> None:
        self.received = received
        self.attempts = 0
        self.breaker_state: str | None = None
        self.endpoint: str | None = None
        self.failure: Failure | None = None
        self.fallbacks: tuple[str, ...] = ()
        self.first_byte_seconds: float | None = None
        self.rate_limit: Window | None = None
        self.route: str | None = None
        self.service: str | None = None
        self.tried: tuple[object, ...] = ()
        self.upstream_seconds: float | None = None
        self.upstream_status: int | None = None
        self.would_reject: tuple[str, ...] = ()

    @property
    def outer(self) -> tuple[str | None, Window | None, str | None]:
        """What layers further out have told, read by one of them before its first attempt."""
        return self.breaker_state, self.rate_limit, self.service

    def begin_anew(self, outer: tuple[str | None, Window | None, str | None]) -> None:
        """Forget what an attempt has told, before the next one; `outer` is from before the first."""
        self.breaker_state, self.rate_limit, self.service = outer
        self.endpoint = self.failure = None
        self.first_byte_seconds = self.upstream_seconds = self.upstream_status = None

    def copy(self) -> Exchange:
        """The same for one of several attempts that run at once."""
        other = Exchange()
        other.become(self)
        return other

    def become(self, other: Exchange) -> None:
        """Take over everything that `other` knows."""
        for name in _KNOWN:
            setattr(self, name, getattr(other, name))

    def __repr__(self) -> str:
        known = ((name, getattr(self, name)) for name in _KNOWN if name != "received")  # holds secrets
        return f"<Exchange {' '.join(f'{name}={value!r}' for name, value in known if value)}>"


def join_exchange(scope: Scope) -> tuple[Scope, Exchange]:
    """The exchange of this request and the scope that carries it, begun here if nobody did before."""
    exchange: Exchange | None = scope.get(EXCHANGE)
    if exchange is not None:
        return scope, exchange
    exchange = Exchange(scope.get("headers"))
    return {**scope, EXCHANGE: exchange}, exchange
