"""From a request to the chain of one service: longest prefix on whole segments, then host, then method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from asgi_gateway.asgi.headers import get_header
from asgi_gateway.asgi.paths import PathPattern, climbs_out, request_path, resolved
from asgi_gateway.context import ROUTE, SERVICE, STRIPPED_PREFIX, join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.problem import Problem
from asgi_gateway.proxy.max_forwards import LIMITED, limited, own_options
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

_USUAL_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


@dataclass(frozen=True, slots=True)
class ServiceRoute:
    """One route and the chain it leads to.

    `host` is an exact name or ``*.example.com``; None is any. `methods` None is any. With
    `mounted` the service is an ASGI app in this process, for which a stripped prefix becomes part
    of ``root_path``; a proxied service has it cut from the path.
    """

    pattern: str
    service: str
    app: ASGIApp
    host: str | None = None
    methods: frozenset[str] | None = None
    strip_prefix: str = ""
    mounted: bool = False

    def enter(self, scope: Scope) -> Scope:
        """The scope as the service's chain sees it."""
        inner = {**scope, SERVICE: self.service, ROUTE: self.pattern}
        if self.strip_prefix and self.mounted:
            inner["root_path"] = scope.get("root_path", "") + self.strip_prefix
        elif self.strip_prefix:
            inner[STRIPPED_PREFIX] = self.strip_prefix.encode("utf-8")
        return inner

    def takes_host(self, host: str) -> bool:
        if self.host is None:
            return True
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host

    def takes_method(self, method: str | None) -> bool:
        return self.methods is None or method is None or method in self.methods


@dataclass(slots=True)
class _Match:
    route: ServiceRoute | None = None
    allowed: set[str] = field(default_factory=set)


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
        for route in sorted(routes, key=_narrowest_first):
            pattern = PathPattern(route.pattern)
            self._methods.update(route.methods or ())
            table = self._below if pattern.below else self._exact
            table.setdefault(pattern.exact, []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope, exchange = join_exchange(scope)
        spelled = request_path(scope)
        path = resolved(spelled)
        match = self._match(path, scope)
        if path is not spelled and self._has_two_readings(spelled, scope, match.route):
            refusal = Problem(400, Failure("bad_request", "client"), "The path can be read in two ways.")
            await refusal(scope, receive, send)
            return
        route = match.route
        if route is not None:
            exchange.service = route.service
            exchange.route = route.pattern
            app = route.app
            if scope.get("method") in LIMITED and not route.mounted:
                scope, answer = limited(scope, partial(self._allowed, path, scope))
                app = answer or app
            await app(route.enter(scope), receive, send)
        elif self._fallback is not None:
            await self._fallback(scope, receive, send)
        elif path == "*" and scope.get("method") == "OPTIONS":
            await own_options("")(scope, receive, send)
        else:
            await _unrouted(match.allowed)(scope, receive, send)

    def _has_two_readings(self, spelled: str, scope: Scope, route: ServiceRoute | None) -> bool:
        """Whether the spelled path leads elsewhere, or out of what the service is shown of itself."""
        if self._match(spelled, scope).route is not route:
            return True
        return route is not None and climbs_out(spelled[len(route.strip_prefix) :])

    def _match(self, path: str, scope: Scope) -> _Match:
        match = _Match()
        candidates = self._exact.get(path)
        if candidates and self._choose(candidates, scope, match):
            return match
        prefix = path
        while True:
            candidates = self._below.get(prefix)
            if candidates and self._choose(candidates, scope, match):
                return match
            cut = prefix.rfind("/")
            if cut < 0:  # the path is walked up, or is none: "*", or a URL that the server left whole
                return match
            prefix = prefix[:cut]

    def _allowed(self, path: str, scope: Scope) -> str:
        """The methods that some route of the path takes, as ``Allow`` lists them."""
        asked = ((method, self._match(path, {**scope, "method": method})) for method in self._methods)
        return ", ".join(sorted(method for method, match in asked if match.route is not None))

    @staticmethod
    def _choose(candidates: list[ServiceRoute], scope: Scope, match: _Match) -> bool:
        method: str | None = scope.get("method")
        for route in candidates:
            if route.host is not None and not route.takes_host(_host(scope)):
                continue
            if route.takes_method(method):
                match.route = route
                return True
            match.allowed.update(route.methods or ())
        return False


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


def _unrouted(allowed: set[str]) -> Problem:
    if not allowed:
        return Problem(404, Failure("route_not_found", "gateway"), "No route leads here.")
    allow = ", ".join(sorted(allowed)).encode("ascii")
    failure = Failure("method_not_allowed", "gateway")
    return Problem(405, failure, "The route does not take this method.", headers=[(b"allow", allow)])
