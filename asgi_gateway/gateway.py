"""The gateway as one ASGI app: a configuration, compiled once into chains, behind one call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from asgi_gateway.asgi.calls import direct
from asgi_gateway.chain import ChainError, build_chain
from asgi_gateway.config import (
    Config,
    ConfigError,
    MiddlewareSpec,
    Mistake,
    Route,
    load_config,
    parse_config,
)
from asgi_gateway.context import join_exchange
from asgi_gateway.errors import MissingExtra
from asgi_gateway.lifespan import InnerLifespan, StartupFailed
from asgi_gateway.middleware.errors import ErrorsMiddleware
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.endpoints import EndpointsApp
from asgi_gateway.registry import MiddlewareNotFound
from asgi_gateway.router import Router, ServiceRoute
from asgi_gateway.runtime import Lifecycle, Runtime, ServiceStatus
from asgi_gateway.terminals import terminal_of
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

CONFIG_VARIABLE: Final = "ASGI_GATEWAY_CONFIG"
DEFAULT_CONFIG: Final = "gateway.yaml"


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration, compiled: the whole chain, and what has to be started and stopped with it."""

    app: ASGIApp
    mounted: Mapping[str, ASGIApp]
    proxies: tuple[ProxyApp | EndpointsApp, ...]


class Gateway:
    """The global chain, the router, and one chain for each service.

    `config` is the path of a YAML file, a mapping of the same shape, or a loaded `Config`; every
    mistake in it is raised at once as `ConfigError`. `app` is what requests without a route go to,
    through the global chain; without it they are answered 404. `runtime` replaces the clock and
    the event sink, for tests.

        app = Gateway("gateway.yaml", app=existing_app)
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | Config,
        *,
        app: ASGIApp | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.config = _loaded(config)
        self._lifecycle = Lifecycle(phase="starting")
        base = runtime or Runtime()
        self._runtime = Runtime(
            clock=base.clock, random=base.random, emit=base.emit, lifecycle=self._lifecycle
        )
        self._lifecycle.started_at = base.clock.monotonic()
        self._has_lifespan = False
        self._live = _compile(self.config, app, self._runtime)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._has_lifespan = True
            await self._lifespan(scope, receive, send)
            return
        if self._lifecycle.phase == "starting" and not self._has_lifespan:
            self._lifecycle.phase = "serving"
        scope, _ = join_exchange(scope)  # before any middleware adds to what the client sent
        inner = self._live.app(scope, receive, send)
        del scope
        await inner

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start inner apps after ourselves and stop them before (ASGI lifespan specification 2.0)."""
        await receive()
        state = scope.get("state", {})
        started: list[InnerLifespan] = []
        try:
            for name, app in self._live.mounted.items():
                inner = InnerLifespan(app, name, state)
                await inner.startup()
                started.append(inner)
        except StartupFailed as error:
            await self._stop(started)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # asgi-lifespan reads only the exception, servers only the message
        await asyncio.gather(*(proxy.warm() for proxy in self._live.proxies))
        self._lifecycle.phase = "serving"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._lifecycle.phase = "draining"
        await self._stop(started)
        await send({"type": "lifespan.shutdown.complete"})

    async def _stop(self, started: list[InnerLifespan]) -> None:
        for inner in reversed(started):
            await inner.shutdown()
        for proxy in self._live.proxies:
            await proxy.aclose()

    def __repr__(self) -> str:
        return f"<Gateway {self._lifecycle.phase}, services: {', '.join(self.config.services) or 'none'}>"


def create_app() -> Gateway:
    """The gateway of ``$ASGI_GATEWAY_CONFIG``, else of ``gateway.yaml``: for ``uvicorn --factory``."""
    return Gateway(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


def _loaded(config: str | os.PathLike[str] | Mapping[str, Any] | Config) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(config)
    return load_config(Path(config))


def _compile(config: Config, app: ASGIApp | None, runtime: Runtime) -> Generation:
    """Build every chain; raises `ConfigError` with all that will not be built."""
    mistakes: list[Mistake] = []
    mounted: dict[str, ASGIApp] = {} if app is None else {"the wrapped app": app}
    proxies: list[ProxyApp | EndpointsApp] = []
    routes: list[ServiceRoute] = []
    for name, service in config.services.items():
        runtime.services[name] = ServiceStatus(name, service.required)
        try:
            scoped = runtime.scoped_to(name)
            terminal = terminal_of(service, scoped)
            chain = build_chain(service.middleware, terminal, scoped)
        except ChainError as error:
            mistakes.append(config.mistake(error.spec.path, str(error)))
            continue
        except MiddlewareNotFound as error:
            mistakes.append(config.mistake(("services", name, "app"), str(error)))
            continue
        except MissingExtra as error:
            mistakes.append(config.mistake(("services", name, "transport"), str(error)))
            continue
        if isinstance(terminal, ProxyApp | EndpointsApp):
            proxies.append(terminal)
        else:
            mounted[name] = terminal
        routes += [_route(route, name, chain, mounted=name in mounted) for route in service.routes]
    try:
        outer = build_chain(config.middleware, Router(routes, app), runtime)
    except ChainError as error:
        mistakes.append(config.mistake(error.spec.path, str(error)))
    if mistakes:
        raise ConfigError(mistakes)
    return Generation(direct(_guarded(outer, config.middleware)), mounted, tuple(proxies))


def _guarded(app: ASGIApp, chain: tuple[MiddlewareSpec, ...]) -> ASGIApp:
    """Where the chain has no `errors` of its own, the outermost part answers for bugs."""
    if any(spec.factory is ErrorsMiddleware for spec in chain):
        return app
    return ErrorsMiddleware(app)


def _route(route: Route, name: str, chain: ASGIApp, *, mounted: bool) -> ServiceRoute:
    return ServiceRoute(
        pattern=route.path,
        service=name,
        app=chain,
        host=route.host,
        methods=route.methods,
        strip_prefix=route.strip_prefix or "",
        mounted=mounted,
    )
