"""A configuration compiled into chains, which keeps of the one before all that did not change."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.targets import in_this_process
from asgi_gateway.chain import ChainError, build_chain
from asgi_gateway.config import Config, ConfigError, MiddlewareSpec, Mistake, Route, Service
from asgi_gateway.errors import Failure, MissingExtra
from asgi_gateway.metrics import Metrics
from asgi_gateway.middleware.errors import ErrorsMiddleware
from asgi_gateway.problem import Problem
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.endpoints import Endpoint, EndpointsApp
from asgi_gateway.registry import MiddlewareNotFound
from asgi_gateway.router import Router, ServiceRoute
from asgi_gateway.runtime import Runtime, ServiceStatus
from asgi_gateway.terminals import following_endpoints, terminal_of
from asgi_gateway.types import ASGIApp

WRAPPED: Final = "the wrapped app"
ANOTHER_APP: Final = (
    "an app in this process starts and stops with it: no reload adds, removes or replaces one"
)

_APART: Final[Mapping[str, Any]] = MappingProxyType(
    {"endpoints": None, "routes": (), "required": False, "middleware": ()}
)
"""What of a service may change while the app that its chain ends in stays."""


GONE: Final = Problem(503, Failure("draining", "gateway"), "The service was removed.")


class Chains(dict[str, ASGIApp]):
    """The chains of all services by name; a request in progress may still ask for one that was removed."""

    def __missing__(self, name: str) -> ASGIApp:
        return GONE


@dataclass(frozen=True, slots=True)
class CompiledService:
    """One service: what it was made from, the app that its chain ends in, the chain, and what is known."""

    service: Service
    terminal: ASGIApp
    chain: ASGIApp
    status: ServiceStatus
    metrics: Metrics
    """The gauges of the chain."""
    replace_endpoints: Callable[[], list[Endpoint]] | None = None
    """Gives a terminal that stays its new endpoints; returns those that are gone."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration, compiled: the whole chain, and what has to be started and stopped with it."""

    app: ASGIApp
    metrics: Metrics
    """The gauges of the global chain."""
    middleware: tuple[MiddlewareSpec, ...]
    router: Router
    routes: tuple[ServiceRoute, ...]
    services: Mapping[str, CompiledService]
    mounted: Mapping[str, ASGIApp]

    @property
    def proxies(self) -> tuple[ProxyApp | EndpointsApp, ...]:
        """What has connections."""
        terminals = (compiled.terminal for compiled in self.services.values())
        return tuple(terminal for terminal in terminals if isinstance(terminal, ProxyApp | EndpointsApp))

    def take_over(self, runtime: Runtime) -> list[Endpoint]:
        """Change what this generation keeps of the one before; returns the endpoints that are gone.

        Nothing here waits, so no request sees one half of it.
        """
        self.router.lead(self.routes)
        runtime.metrics.show([self.metrics, *(compiled.metrics for compiled in self.services.values())])
        runtime.services.clear()
        gone: list[Endpoint] = []
        if runtime.chains is not None:
            runtime.chains.clear()
            runtime.chains.update((name, direct(compiled.chain)) for name, compiled in self.services.items())
        for name, compiled in self.services.items():
            runtime.services[name] = compiled.status
            compiled.status.required = compiled.service.required
            if compiled.replace_endpoints is not None:
                gone += compiled.replace_endpoints()
        return gone


def compile_generation(
    config: Config, app: ASGIApp | None, runtime: Runtime, before: Generation | None = None
) -> Generation:
    """Build every chain that `before` does not have; raises `ConfigError` with all that will not be built.

    Nothing that serves is touched before `take_over`.
    """
    steps = compiling(config, app, runtime, before)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            generation: Generation = end.value
            return generation


def compiling(
    config: Config, app: ASGIApp | None, runtime: Runtime, before: Generation | None
) -> Generator[None, None, Generation]:
    """The same in small steps, one for each service, between which others may have their turn."""
    mistakes: list[Mistake] = []
    services: dict[str, CompiledService] = {}
    for name, service in config.services.items():
        known = before.services.get(name) if before else None
        yield
        try:
            services[name] = _service(name, service, runtime, known)
        except ChainError as error:
            mistakes.append(config.mistake(error.spec.path, str(error)))
        except MiddlewareNotFound as error:
            mistakes.append(config.mistake(("services", name, "app"), str(error)))
        except MissingExtra as error:
            mistakes.append(config.mistake(("services", name, "transport"), str(error)))
    mounted: dict[str, ASGIApp] = {} if app is None else {WRAPPED: app}
    mounted |= {name: one.terminal for name, one in services.items() if one.service.app is not None}
    if before is not None:
        broken = config.services.keys() - services.keys()
        changed = (name for name in {**mounted, **before.mounted} if name not in broken)
        other = (name for name in changed if mounted.get(name) is not before.mounted.get(name))
        mistakes += [config.mistake(("services", name, "app"), ANOTHER_APP) for name in other]
    routes = tuple(
        _route(route, name, one.chain, mounted=name in mounted)
        for name, one in services.items()
        for route in one.service.routes
    )
    if before is not None and before.middleware == config.middleware:
        outer, metrics, router = before.app, before.metrics, before.router
    else:
        router, metrics = Router((), app), runtime.metrics.part()
        try:
            own = replace(runtime, metrics=metrics)
            outer = direct(_guarded(build_chain(config.middleware, router, own), config.middleware))
        except ChainError as error:
            mistakes.append(config.mistake(error.spec.path, str(error)))
    if mistakes:
        raise ConfigError(mistakes)
    return Generation(outer, metrics, config.middleware, router, routes, services, mounted)


def _service(name: str, service: Service, runtime: Runtime, known: CompiledService | None) -> CompiledService:
    """The service compiled, with its terminal and its chain taken from `known` where they stay the same."""
    status = ServiceStatus(name, service.required)
    scoped = replace(runtime.scoped_to(name), status=status, metrics=runtime.metrics.part())
    if known is None or known.service.model_copy(update=_APART) != service.model_copy(update=_APART):
        terminal = terminal_of(service, scoped)
        chain = _chain(service, terminal, scoped)
        return CompiledService(service, terminal, chain, status, scoped.metrics)
    terminal = known.terminal
    change: Callable[[], list[Endpoint]] | None = None
    if isinstance(terminal, EndpointsApp) and known.service.endpoints != service.endpoints:
        change = partial(terminal.replace, *following_endpoints(service, scoped, terminal))
    if known.service.middleware == service.middleware:
        return replace(known, service=service, replace_endpoints=change)
    status.endpoints = known.status.endpoints
    chain = _chain(service, terminal, scoped)
    return CompiledService(service, terminal, chain, status, scoped.metrics, change)


def _chain(service: Service, terminal: ASGIApp, scoped: Runtime) -> ASGIApp:
    entrance = terminal if service.app is None else in_this_process(terminal)
    return build_chain(service.middleware, entrance, scoped)


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
