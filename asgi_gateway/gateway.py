"""The gateway as one ASGI app: a configuration, compiled once into chains, behind one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from asgi_gateway.chain import ChainError, build_chain
from asgi_gateway.config import (
    Config,
    ConfigError,
    Connections,
    ConsistentHashing,
    EndpointSpec,
    MiddlewareSpec,
    Mistake,
    Route,
    Service,
    load_config,
    parse_config,
)
from asgi_gateway.lifespan import InnerLifespan, StartupFailed
from asgi_gateway.middleware.errors import ErrorsMiddleware
from asgi_gateway.policies.balance import Balance, ConsistentHash, LeastInFlight, RoundRobin, Weighted
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.endpoints import Endpoint, EndpointsApp, request_key
from asgi_gateway.proxy.health_checks import HealthChecks
from asgi_gateway.proxy.pool import Http1Transport
from asgi_gateway.proxy.resolution import Name
from asgi_gateway.proxy.transport import Origin, Transport
from asgi_gateway.proxy.websocket import WebSocketProxy, dialer
from asgi_gateway.registry import MiddlewareNotFound, load
from asgi_gateway.router import Router, ServiceRoute
from asgi_gateway.runtime import Lifecycle, Runtime, ServiceStatus
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

BALANCES: Final[Mapping[str, Callable[[], Balance]]] = {
    "least_in_flight": LeastInFlight,
    "round_robin": RoundRobin,
    "weighted": Weighted,
}
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
        await self._live.app(scope, receive, send)

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
        for proxy in self._live.proxies:
            if isinstance(proxy, EndpointsApp):
                proxy.start()
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
            terminal = _terminal(service, scoped)
            chain = build_chain(service.middleware, terminal, scoped)
        except ChainError as error:
            mistakes.append(config.mistake(error.spec.path, str(error)))
            continue
        except MiddlewareNotFound as error:
            mistakes.append(config.mistake(("services", name, "app"), str(error)))
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
    return Generation(_guarded(outer, config.middleware), mounted, tuple(proxies))


def _terminal(service: Service, runtime: Runtime) -> ASGIApp:
    if service.app is not None:
        return load(service.app)
    if service.endpoints is None and service.health_check is None and service.resolve == "first":
        return _proxy(service, runtime)
    return _endpoints(service, runtime)


def _guarded(app: ASGIApp, chain: tuple[MiddlewareSpec, ...]) -> ASGIApp:
    """No bug of any layer reaches the server: the outermost part answers for it."""
    if chain and chain[0].factory is ErrorsMiddleware:
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


def _endpoints(service: Service, runtime: Runtime) -> EndpointsApp:
    specs = service.endpoints or (EndpointSpec(url=service.url or ""),)
    hashing = service.balance if isinstance(service.balance, ConsistentHashing) else None
    endpoints = {_endpoint(service, spec, runtime): spec for spec in specs}
    named = endpoints.items() if service.resolve == "all" else ()
    return EndpointsApp(
        list(endpoints),
        names={endpoint: _name(service, spec, runtime) for endpoint, spec in named},
        balance=ConsistentHash() if hashing else BALANCES[str(service.balance)](),
        key=request_key(hashing.consistent_hash) if hashing else None,
        ejection=service.ejection,
        slow_start=service.slow_start,
        panic=service.panic,
        runtime=runtime,
    )


def _name(service: Service, spec: EndpointSpec, runtime: Runtime) -> Name[Endpoint]:
    origin = _origin(spec.url)
    make = partial(_endpoint, service, spec, runtime)
    return Name(origin.host, origin.port, make, clock=runtime.clock)


def _endpoint(service: Service, spec: EndpointSpec, runtime: Runtime, address: str | None = None) -> Endpoint:
    alone = service.model_copy(update={"url": spec.url})
    origin = _origin(spec.url, address)
    return Endpoint(
        _proxy(alone, runtime, address),
        name=origin.name,
        weight=spec.weight,
        identity=f"{spec.url.rstrip('/')} {address or ''}",
        ejection=service.ejection,
        checks=_health_checks(alone, origin, runtime),
    )


def _health_checks(service: Service, origin: Origin, runtime: Runtime) -> HealthChecks | None:
    if service.health_check is None:
        return None
    alone = service.model_copy(update={"connections": Connections(max=1)})
    base = urlsplit(service.url or "").path.rstrip("/")
    return HealthChecks(
        service.health_check,
        _transport(alone, origin, runtime),
        host=origin.authority.encode("ascii"),
        target=(base + service.health_check.path).encode("ascii"),
        clock=runtime.clock,
        random=runtime.random,
    )


def _origin(address: str, connect_to: str | None = None) -> Origin:
    url = urlsplit(address)
    tls = url.scheme == "https"
    return Origin(url.hostname or "", url.port or (443 if tls else 80), tls, connect_to)


def _proxy(service: Service, runtime: Runtime, address: str | None = None) -> ProxyApp:
    base_path = urlsplit(service.url or "").path.encode("ascii")
    origin = _origin(service.url or "", address)
    authority = None if service.preserve_host else origin.authority.encode("ascii")
    websocket = WebSocketProxy(
        dialer(origin),
        authority=authority,
        base_path=base_path,
        timeouts=service.timeouts,
        options=service.websocket,
        clock=runtime.clock,
    )
    return ProxyApp(
        _transport(service, origin, runtime),
        endpoint=origin.name,
        authority=authority,
        base_path=base_path,
        clock=runtime.clock,
        websocket=websocket,
    )


def _transport(service: Service, origin: Origin, runtime: Runtime) -> Transport:
    if service.transport == "http1":
        return Http1Transport(
            origin, timeouts=service.timeouts, connections=service.connections, clock=runtime.clock
        )
    from asgi_gateway.proxy.httpx import HttpxTransport

    return HttpxTransport(
        origin, timeouts=service.timeouts, connections=service.connections, clock=runtime.clock
    )
