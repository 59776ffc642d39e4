"""From a request to the chain of one service: longest prefix on whole segments, then host, then method."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.headers import get_header
from asgi_gateway.asgi.paths import PathPattern, climbs_out, request_path, resolved
from asgi_gateway.context import ROUTE, SERVICE, STRIPPED_PREFIX, join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.problem import Problem
from asgi_gateway.proxy.max_forwards import LIMITED, limited, own_options
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

_TWO_READINGS: Final = Problem(400, Failure("bad_request", "client"), "The path can be read in two ways.")
_USUAL_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """One route and the chain it leads to.

    `host` is an exact name or ``*.example.com``; None is any. `methods` None is any. With
    `mounted` the service is an ASGI app in this process, no further hop.
    """

    pattern: str
    service: str
    app: ASGIApp
    host: str | None = None
    methods: frozenset[str] | None = None
    strip_prefix: str = ""
    mounted: bool = False

    _told: dict[str, Any] = field(init=False, repr=False, compare=False)
    """What it adds to every scope."""
    entrance: ASGIApp = field(init=False, repr=False, compare=False)
    """What to call for its app."""

    def __post_init__(self) -> None:
        told: dict[str, Any] = {SERVICE: self.service, ROUTE: self.pattern}
        if self.strip_prefix:
            told[STRIPPED_PREFIX] = self.strip_prefix.encode("utf-8")
        object.__setattr__(self, "_told", told)
        object.__setattr__(self, "entrance", direct(self.app))

    def enter(self, scope: Scope) -> Scope:
        """The scope as the service's chain sees it."""
        return {**scope, **self._told}

    def takes_host(self, host: str) -> bool:
        if self.host is None:
            return True
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host

    def takes_method(self, method: str | None) -> bool:
        return self.methods is None or method is None or method in self.methods


class Router:
    """Send each request to its service; what no route wants goes to `fallback` or is answered 404.

    Routes match the path decoded once with its dot segments resolved. A path that, as it is
    spelled, would lead somewhere else is refused with 400. ``OPTIONS *``, and TRACE and OPTIONS that
    may go no farther, are answered here; where there is a `fallback`, ``OPTIONS *`` is its own.
    """

    def __init__(self, routes: Iterable[ServiceRoute], fallback: ASGIApp | None = None) -> None:
        self._exact: dict[str, list[ServiceRoute]] = {}
        self._below: dict[str, list[ServiceRoute]] = {}
        self._fallback = fallback
        self._methods = set(_USUAL_METHODS)
        self._longest = 0
        self.lead(routes)

    def lead(self, routes: Iterable[ServiceRoute]) -> None:
        """Lead every request that comes from now on by these routes."""
        exact: dict[str, list[ServiceRoute]] = {}
        below: dict[str, list[ServiceRoute]] = {}
        methods = set(_USUAL_METHODS)
        for route in sorted(routes, key=_narrowest_first):
            pattern = PathPattern(route.pattern)
            methods.update(route.methods or ())
            table = below if pattern.below else exact
            table.setdefault(pattern.exact, []).append(route)
        self._exact, self._below, self._methods = exact, below, methods
        self._longest = max(map(len, below), default=0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Choose who answers; see `asgi_gateway.asgi.calls.direct`."""
        scope, exchange = join_exchange(scope)
        spelled = request_path(scope)
        path = resolved(spelled)
        route = self._match(path, scope)
        if path is not spelled and self._has_two_readings(spelled, scope, route):
            return _TWO_READINGS(scope, receive, send)
        if route is None:
            return self._unrouted(path, scope)(scope, receive, send)
        exchange.service = route.service
        exchange.route = route.pattern
        app = route.entrance
        if scope.get("method") in LIMITED and not route.mounted:
            scope, answer = limited(scope, partial(self._allowed, path, scope))
            app = answer or app
        return app(route.enter(scope), receive, send)

    def _unrouted(self, path: str, scope: Scope) -> ASGIApp:
        """Who answers what no route wants."""
        if self._fallback is not None:
            return self._fallback
        if path == "*" and scope.get("method") == "OPTIONS":
            return own_options("")
        allowed = self._allowed(path, scope)
        if not allowed:
            return Problem(404, Failure("route_not_found", "gateway"), "No route leads here.")
        failure = Failure("method_not_allowed", "gateway")
        headers = [(b"allow", allowed.encode("ascii"))]
        return Problem(405, failure, "The route does not take this method.", headers=headers)

    def _has_two_readings(self, spelled: str, scope: Scope, route: ServiceRoute | None) -> bool:
        """Whether the spelled path leads elsewhere, or out of what the service is shown of itself."""
        if self._match(spelled, scope) is not route:
            return True
        return route is not None and climbs_out(spelled[len(route.strip_prefix) :])

    def _match(self, path: str, scope: Scope) -> ServiceRoute | None:
        if path in self._exact and (route := _chosen(self._exact[path], scope)) is not None:
            return route
        # The walk up begins below the longest of the routes. What has no slash to cut at is no path: "*",
        # or a URL that the server left whole.
        cut = len(path) if len(path) <= self._longest else path.rfind("/", 0, self._longest + 1)
        while cut >= 0:
            prefix = path[:cut]
            if prefix in self._below and (route := _chosen(self._below[prefix], scope)) is not None:
                return route
            cut = prefix.rfind("/")
        return None

    def _allowed(self, path: str, scope: Scope) -> str:
        """The methods that some route of the path takes, as ``Allow`` lists them."""
        taken = (m for m in self._methods if self._match(path, {**scope, "method": m}) is not None)
        return ", ".join(sorted(taken))


def _chosen(candidates: list[ServiceRoute], scope: Scope) -> ServiceRoute | None:
    for route in candidates:
        if (route.host is None or route.takes_host(_host(scope))) and (
            route.methods is None or route.takes_method(scope.get("method"))
        ):
            return route
    return None


def _narrowest_first(route: ServiceRoute) -> tuple[bool, bool, int, bool]:
    """Exact hosts before wildcards, longer ones before shorter; any host last; then methods."""
    host = route.host or ""
    return not host, host.startswith("*"), -len(host), route.methods is None


def _host(scope: Scope) -> str:
    """The request's host: no port, no final dot, lower case (RFC 9110 section 4.2.3)."""
    value = (get_header(scope["headers"], b"host") or b"").decode("latin-1").lower()
    if value.startswith("["):
        return value.partition("]")[0] + "]"
    return value.partition(":")[0].rstrip(".")
