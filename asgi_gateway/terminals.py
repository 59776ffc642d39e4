"""What a service's chain ends in: a proxy to one endpoint or to several, or an app in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from asgi_gateway.config import Connections, ConsistentHashing, EndpointSpec, Service
from asgi_gateway.policies.balance import Balance, ConsistentHash, LeastInFlight, RoundRobin, Weighted
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.dial import Dialer
from asgi_gateway.proxy.endpoints import Endpoint, EndpointsApp, request_key
from asgi_gateway.proxy.forwarded import STYLES
from asgi_gateway.proxy.health_checks import HealthChecks
from asgi_gateway.proxy.pool import Http1Transport
from asgi_gateway.proxy.resolution import Name
from asgi_gateway.proxy.tls import ClientTls, Tls
from asgi_gateway.proxy.transport import Origin, Transport, parse_url
from asgi_gateway.proxy.websocket import WebSocketProxy
from asgi_gateway.registry import load
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp

BALANCES: Final[Mapping[str, Callable[[], Balance]]] = MappingProxyType(
    {"least_in_flight": LeastInFlight, "round_robin": RoundRobin, "weighted": Weighted}
)


def terminal_of(service: Service, runtime: Runtime) -> ASGIApp:
    """The app that a service's chain ends in; raises `MiddlewareNotFound` and `MissingExtra`."""
    if service.app is not None:
        return load(service.app)
    if service.endpoints is None and service.health_check is None and service.resolve == "first":
        return _proxy(service, runtime)
    return _endpoints(service, runtime)


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


def following_endpoints(
    service: Service, runtime: Runtime, app: EndpointsApp
) -> tuple[dict[Endpoint, float], dict[Endpoint, Name[Endpoint]]]:
    """For `app`, whose service had other endpoints: these with their weights, and the names of the new ones.

    An endpoint that `app` has already is the same object.
    """
    weights: dict[Endpoint, float] = {}
    names: dict[Endpoint, Name[Endpoint]] = {}
    given = app.given
    for spec in service.endpoints or ():
        endpoint = given.get(_identity(spec))
        if endpoint is None:
            endpoint = _endpoint(service, spec, runtime)
            if service.resolve == "all":
                names[endpoint] = _name(service, spec, runtime)
        weights[endpoint] = spec.weight
    return weights, names


def _identity(spec: EndpointSpec, address: str | None = None) -> str:
    return f"{spec.url.rstrip('/')} {address or ''}"


def _name(service: Service, spec: EndpointSpec, runtime: Runtime) -> Name[Endpoint]:
    origin, _ = _located(spec.url)
    make = partial(_endpoint, service, spec, runtime)
    return Name(origin.host, origin.port, make, clock=runtime.clock)


def _endpoint(service: Service, spec: EndpointSpec, runtime: Runtime, address: str | None = None) -> Endpoint:
    alone = service.model_copy(update={"url": spec.url})
    origin, base_path = _located(spec.url, address)
    return Endpoint(
        _proxy(alone, runtime, address),
        name=origin.name,
        weight=spec.weight,
        identity=_identity(spec, address),
        ejection=service.ejection,
        checks=_health_checks(alone, origin, base_path, runtime),
    )


def _health_checks(
    service: Service, origin: Origin, base_path: bytes, runtime: Runtime
) -> HealthChecks | None:
    if service.health_check is None:
        return None
    alone = service.model_copy(update={"connections": Connections(max=1)})
    return HealthChecks(
        service.health_check,
        _transport(alone, origin, runtime),
        host=origin.authority.encode("ascii"),
        target=base_path.rstrip(b"/") + service.health_check.path.encode("ascii"),
        clock=runtime.clock,
        random=runtime.random,
    )


def _located(url: str, address: str | None = None) -> tuple[Origin, bytes]:
    """Where a URL leads, by way of `address` if one is given, and the path in front of its paths."""
    origin, base_path = parse_url(url)
    return replace(origin, address=address), base_path.encode("ascii")


def _proxy(service: Service, runtime: Runtime, address: str | None = None) -> ProxyApp:
    origin, base_path = _located(service.url or "", address)
    authority = None if service.preserve_host else origin.authority.encode("ascii")
    make_forwarded = STYLES[service.forwarded]
    websocket = WebSocketProxy(
        Dialer(origin, clock=runtime.clock, tls=_client_tls(service, origin, "http1", runtime)).connect,
        authority=authority,
        base_path=base_path,
        timeouts=service.timeouts,
        options=service.websocket,
        clock=runtime.clock,
        make_forwarded=make_forwarded,
    )
    return ProxyApp(
        _transport(service, origin, runtime),
        endpoint=origin.name,
        authority=authority,
        base_path=base_path,
        clock=runtime.clock,
        websocket=websocket,
        make_forwarded=make_forwarded,
    )


def _transport(service: Service, origin: Origin, runtime: Runtime) -> Transport:
    """The transport that the service asks for; raises `MissingExtra`."""
    timeouts, connections, clock = service.timeouts, service.connections, runtime.clock
    tls = _client_tls(service, origin, service.transport, runtime)
    if service.transport == "http1":
        return Http1Transport(origin, timeouts=timeouts, connections=connections, clock=clock, tls=tls)
    from asgi_gateway.proxy.httpx import HttpxTransport

    return HttpxTransport(
        origin,
        timeouts=timeouts,
        connections=connections,
        clock=clock,
        tls=tls,
        http2=service.transport == "http2",
    )


def _client_tls(service: Service, origin: Origin, transport: str, runtime: Runtime) -> ClientTls | None:
    """One for all endpoints of all services that trust alike: loading certificates keeps requests waiting.

    Not for several transports, because httpcore changes its context to the protocols that it speaks.
    """
    if not origin.tls:
        return None
    tls = service.tls or Tls()
    known = runtime.loaded.get((tls, transport))
    if not isinstance(known, ClientTls):
        known = runtime.loaded[tls, transport] = ClientTls(tls)
    return known
