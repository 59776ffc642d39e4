"""Say whether the gateway lives, whether it is ready, and how its services are."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.paths import request_path
from asgi_gateway.errors import Failure
from asgi_gateway.options import validated
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime, ServiceStatus
from asgi_gateway.types import ASGIApp, Receive, Scope, Send, mypyc_attr

_Report: TypeAlias = Callable[[], tuple[int, dict[str, Any]]]


@mypyc_attr(allow_interpreted_subclasses=True)
class HealthMiddleware:
    """Answer three paths below `path` and pass everything else on.

    ``/live`` is 200 as long as the process runs. ``/ready`` is 503 while it starts or drains, and while
    a service marked ``required`` cannot be used. `path` itself adds uptime, version and, for each service,
    the breaker's state and that of each endpoint, by number: nothing of where a service is, unless
    `show_endpoints` says so.

        HealthMiddleware(app, path="/health")
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        path: Annotated[
            str,
            Field(pattern=r"^(/[^/?#*]+)+$", description="Where the report is; /live and /ready are below."),
        ] = "/health",
        show_endpoints: Annotated[
            bool, Field(description="Name the endpoints and what each has in flight.")
        ] = False,
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        self._runtime = runtime or _lone_runtime()
        self._path = path
        self._show_endpoints = show_endpoints
        self._version = _version()
        self._reports: dict[str, _Report] = {
            path: self._whole,
            f"{path}/live": self._live,
            f"{path}/ready": self._ready,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Choose who answers; see `asgi_gateway.asgi.calls.direct`."""
        # One search rules most paths out, wherever the application is mounted.
        if scope["type"] != "http" or self._path not in scope["path"]:
            return self.app(scope, receive, send)
        report = self._reports.get(request_path(scope))
        if report is None:
            return self.app(scope, receive, send)
        return self._answer(report, scope, receive, send)

    async def _answer(self, report: _Report, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await _method_not_allowed()(scope, receive, send)
            return
        status, members = report()
        body = json.dumps(members).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _live(self) -> tuple[int, dict[str, Any]]:
        return 200, {"status": "ok"}

    def _ready(self) -> tuple[int, dict[str, Any]]:
        reasons = self._unready()
        return (503, {"status": "unavailable", "reasons": reasons}) if reasons else (200, {"status": "ok"})

    def _whole(self) -> tuple[int, dict[str, Any]]:
        runtime = self._runtime
        now = runtime.clock.monotonic()
        services = {
            name: {
                "required": service.required,
                "breaker": service.breaker_state(now),
                **self._endpoints(service),
            }
            for name, service in runtime.services.items()
        }
        status, members = self._ready()
        if status == 200 and any(_is_degraded(service) for service in services.values()):
            members["status"] = "degraded"
        members |= {
            "phase": runtime.lifecycle.phase,
            "version": self._version,
            "uptime_seconds": round(now - runtime.lifecycle.started_at, 3),
            "services": services,
        }
        return status, members

    def _endpoints(self, service: ServiceStatus) -> dict[str, Any]:
        if service.endpoints is None:
            return {}
        shown = [
            {"number": number, "state": endpoint.state}
            | ({"name": endpoint.name, "in_flight": endpoint.in_flight} if self._show_endpoints else {})
            for number, endpoint in enumerate(service.endpoints(), start=1)
        ]
        return {"endpoints": shown}

    def _unready(self) -> list[str]:
        runtime = self._runtime
        now = runtime.clock.monotonic()
        phase = runtime.lifecycle.phase
        reasons = [] if phase == "serving" else [f"the gateway is {phase}"]
        return reasons + [
            f"the service {name} cannot be used"
            for name, service in runtime.services.items()
            if service.required and not service.usable(now)
        ]


validated(HealthMiddleware)


def _is_degraded(service: dict[str, Any]) -> bool:
    states = [endpoint["state"] for endpoint in service.get("endpoints", ())]
    return service["breaker"] in ("open", "half_open") or "ejected" in states or "unhealthy" in states


def _lone_runtime() -> Runtime:
    """A runtime for a middleware that stands alone: its life begins now."""
    runtime = Runtime()
    runtime.lifecycle.started_at = runtime.clock.monotonic()
    return runtime


def _version() -> str | None:
    try:
        return version("asgi-gateway")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return None


def _method_not_allowed() -> Problem:
    failure = Failure("method_not_allowed", "gateway")
    return Problem(405, failure, "Health is only read.", headers=[(b"allow", b"GET, HEAD")])
