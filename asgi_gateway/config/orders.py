"""Orders of middlewares that cannot work as meant, as data.

A rule holds for the whole way of a request: the global chain, then the chain of its service. It is
broken where `outer` stands outside `inner` and no other `inner` stands further out still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from asgi_gateway.asgi.keys import has_part
from asgi_gateway.asgi.paths import PathPattern
from asgi_gateway.config.model import MiddlewareSpec


def _always(outer: MiddlewareSpec, inner: MiddlewareSpec) -> bool:
    return True


def _by_address(outer: MiddlewareSpec, inner: MiddlewareSpec) -> bool:
    return has_part(outer.options["key"], "client_address")


def _limits_health(outer: MiddlewareSpec, inner: MiddlewareSpec) -> bool:
    path = inner.options["path"] + "/live"
    return not any(PathPattern(pattern).matches(path) for pattern in outer.options["exempt"])


@dataclass(frozen=True, slots=True)
class Order:
    """`outer` should not stand outside `inner`, for this `reason`."""

    outer: str
    inner: str
    reason: str
    applies: Callable[[MiddlewareSpec, MiddlewareSpec], bool] = _always


_ANSWERS_ITSELF = ("health", "rate_limit", "load_shed", "concurrency_limit", "circuit_breaker", "timeout")

ORDERS: tuple[Order, ...] = (
    Order("retry", "circuit_breaker", "every attempt counts at the breaker, so one request may open it"),
    Order("retry", "rate_limit", "every attempt counts against the limit, not every request"),
    Order("retry", "timeout", "the time is allowed to each attempt anew, and nothing bounds them together"),
    Order("retry", "retry", "the attempts multiply"),
    Order("hedge", "retry", "each of the two attempts is retried by itself"),
    Order("hedge", "circuit_breaker", "both attempts count at the breaker, so one request may open it"),
    Order("hedge", "rate_limit", "both attempts count against the limit"),
    Order("retry", "mirror", "every attempt is copied, not every request"),
    Order("hedge", "mirror", "both attempts are copied"),
    Order("circuit_breaker", "fallback", "while its circuit is open no other service is asked"),
    Order("retry", "fallback", "every attempt asks all services anew"),
    Order("rate_limit", "access_log", "what it refuses is not logged"),
    Order("rate_limit", "gateway_headers", "its refusals have no X-Gateway headers"),
    Order("rate_limit", "health", "it counts and refuses health checks; exempt their paths", _limits_health),
    Order("rate_limit", "client_address", "it counts by the peer, which may be a proxy", _by_address),
    Order("access_log", "client_address", "it logs the peer's address, which may be a proxy's"),
    Order("access_log", "request_id", "its lines have no request_id"),
    Order("access_log", "tracing", "its lines have no trace_id"),
    Order("access_log", "access_log", "each request is logged twice"),
    *(Order(name, "request_id", "its answers have no X-Request-ID") for name in _ANSWERS_ITSELF),
    *(
        Order(name, "errors", "errors does not see what goes wrong in it")
        for name in (*_ANSWERS_ITSELF, "retry")
    ),
)


def broken_orders(
    chain: Sequence[MiddlewareSpec],
) -> Iterator[tuple[Order, MiddlewareSpec, MiddlewareSpec]]:
    """Every rule that a chain, outermost first, does not keep to, and the two that break it."""
    for order, (index, outer) in product(ORDERS, enumerate(chain)):
        if outer.name != order.outer or any(spec.name == order.inner for spec in chain[:index]):
            continue
        inner = next((spec for spec in chain[index + 1 :] if spec.name == order.inner), None)
        if inner is not None and order.applies(outer, inner):
            yield order, outer, inner
