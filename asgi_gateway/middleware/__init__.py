"""The middlewares. Each is imported only when it is asked for, and brings nothing of the others with it."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asgi_gateway.middleware.access_log import AccessLogMiddleware as AccessLogMiddleware
    from asgi_gateway.middleware.circuit_breaker import CircuitBreakerMiddleware as CircuitBreakerMiddleware
    from asgi_gateway.middleware.client_address import ClientAddressMiddleware as ClientAddressMiddleware
    from asgi_gateway.middleware.errors import ErrorsMiddleware as ErrorsMiddleware
    from asgi_gateway.middleware.fallback import FallbackMiddleware as FallbackMiddleware
    from asgi_gateway.middleware.fault import FaultMiddleware as FaultMiddleware
    from asgi_gateway.middleware.gateway_headers import GatewayHeadersMiddleware as GatewayHeadersMiddleware
    from asgi_gateway.middleware.health import HealthMiddleware as HealthMiddleware
    from asgi_gateway.middleware.hedge import HedgeMiddleware as HedgeMiddleware
    from asgi_gateway.middleware.mirror import MirrorMiddleware as MirrorMiddleware
    from asgi_gateway.middleware.mock import MockMiddleware as MockMiddleware
    from asgi_gateway.middleware.rate_limit import RateLimitMiddleware as RateLimitMiddleware
    from asgi_gateway.middleware.request_id import RequestIdMiddleware as RequestIdMiddleware
    from asgi_gateway.middleware.retry import RetryMiddleware as RetryMiddleware
    from asgi_gateway.middleware.split import SplitMiddleware as SplitMiddleware
    from asgi_gateway.middleware.timeout import TimeoutMiddleware as TimeoutMiddleware
    from asgi_gateway.middleware.tracing import TracingMiddleware as TracingMiddleware

__all__ = [
    "AccessLogMiddleware",
    "CircuitBreakerMiddleware",
    "ClientAddressMiddleware",
    "ErrorsMiddleware",
    "FallbackMiddleware",
    "FaultMiddleware",
    "GatewayHeadersMiddleware",
    "HealthMiddleware",
    "HedgeMiddleware",
    "MirrorMiddleware",
    "MockMiddleware",
    "RateLimitMiddleware",
    "RequestIdMiddleware",
    "RetryMiddleware",
    "SplitMiddleware",
    "TimeoutMiddleware",
    "TracingMiddleware",
]


def __getattr__(name: str) -> Any:
    """`RateLimitMiddleware` is at home in the file `rate_limit`, and so are they all."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    words = re.findall("[A-Z][a-z]+", name.removesuffix("Middleware"))
    home = "_".join(words).lower()
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
