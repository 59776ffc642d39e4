"""Send weighted shares of the requests to other services."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.keys import KeyFunction, by_client_address, by_cookie, by_header
from asgi_gateway.asgi.targets import Target, target_app
from asgi_gateway.options import validated
from asgi_gateway.policies.split import Split
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class SplitTarget:
    """One of those that requests are split among. Raises `ValueError` for a weight below 0."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    service: Target
    """The name of a service, or in Python an ASGI app."""
    weight: float = 1.0
    """Its share is this weight among the sum of all; 0 is none."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf"):
            raise ValueError("weight must be 0 or more")


def _sticky(name: str | None) -> str | None:
    if name is None:
        return None
    kind, _, rest = name.partition(":")
    if name != "client_address" and not (kind in ("header", "cookie") and rest):
        raise ValueError(f"expected header:<name>, cookie:<name> or client_address, not {name!r}")
    return name


class SplitMiddleware:
    """Divide requests by weight among services and the app that it stands around.

    With `sticky`, requests of the same header, cookie or address get the same choice, by a hash, so there
    is no state. Requests without it are divided at random. WebSocket handshakes are divided too.

        SplitMiddleware(app, own_weight=90, targets=[SplitTarget(canary, weight=10)])
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        targets: Annotated[
            tuple[SplitTarget, ...],
            Field(min_length=1, description="Services and their weights: {service, weight}."),
        ],
        own_weight: Annotated[
            float, Field(ge=0, allow_inf_nan=False, description="The weight of what it stands around.")
        ] = 0.0,
        sticky: Annotated[
            str | None,
            AfterValidator(_sticky),
            Field(description="What the choice hangs on: header:<name>, cookie:<name> or client_address."),
        ] = None,
        runtime: Runtime | None = None,
    ) -> None:
        runtime = runtime or Runtime()
        named = [
            (str(target.service) if isinstance(target.service, str) else f"app {number}", target.weight)
            for number, target in enumerate(targets)
        ]
        self.app = direct(app)
        self.policy = Split([("", own_weight), *named])
        self._apps = [self.app, *(target_app(target.service, runtime) for target in targets)]
        self._key = _key_function(sticky)
        self._random = runtime.random

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The same without a frame of its own; see `asgi_gateway.asgi.calls`."""
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        key = None if self._key is None else self._key(scope)
        if key is not None and not isinstance(key, bytes):
            key = str(key)
        return self._apps[self.policy.choose(self._random, key)](scope, receive, send)


validated(SplitMiddleware)


def _key_function(sticky: str | None) -> KeyFunction | None:
    if sticky is None:
        return None
    if sticky == "client_address":
        return by_client_address
    kind, _, name = sticky.partition(":")
    return by_cookie(name) if kind == "cookie" else by_header(name)
