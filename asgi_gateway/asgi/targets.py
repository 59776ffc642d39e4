"""What a middleware may send a request to beside the app that it stands around."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, WithJsonSchema

from asgi_gateway.asgi.calls import direct
from asgi_gateway.context import SERVICE, STRIPPED_PREFIX, join_exchange
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Receive, Scope, Send


class ServiceName(str):
    """The name of another service of the configuration."""

    __slots__ = ()


def _named(target: str | Callable[..., Any]) -> ServiceName | Callable[..., Any]:
    return ServiceName(target) if isinstance(target, str) else target


Target: TypeAlias = Annotated[
    str | Callable[..., Any],
    AfterValidator(_named),
    WithJsonSchema({"type": "string", "description": "The name of a service."}),
]
"""A service by its name, or in Python any ASGI app."""


def in_this_process(app: ASGIApp) -> ASGIApp:
    """The app as the end of a chain: a prefix that the route stripped becomes part of its ``root_path``."""
    app = direct(app)

    def called(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        prefix: bytes | None = scope.get(STRIPPED_PREFIX)
        if prefix:
            scope = {**scope, "root_path": scope.get("root_path", "") + prefix.decode("utf-8")}
            del scope[STRIPPED_PREFIX]
        return app(scope, receive, send)

    return called


def target_app(target: str | ASGIApp, runtime: Runtime) -> ASGIApp:
    """The app to call for a target; of a service it is the chain that it has at that moment.

    The service is told to the inner layers by the scope and to the outer ones by the exchange. Raises
    `ValueError` for a name where there is no gateway.
    """
    if not isinstance(target, str):
        return in_this_process(target)
    name, chains = str(target), runtime.chains
    if chains is None:
        raise ValueError(f"{name!r} names a service, but there is no gateway here: give an ASGI app")

    def called(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope, exchange = join_exchange(scope)
        exchange.service = name
        return chains[name]({**scope, SERVICE: name}, receive, send)

    return called
