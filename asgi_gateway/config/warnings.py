"""What can be loaded but will not do what was meant. Each check reads a valid `Config`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import accumulate

from asgi_gateway.asgi.keys import has_part
from asgi_gateway.asgi.paths import PathPattern
from asgi_gateway.config.mistakes import Mistake, Path
from asgi_gateway.config.model import Config, MiddlewareSpec
from asgi_gateway.config.orders import broken_orders
from asgi_gateway.types import write_duration


def warnings_of(config: Config) -> list[Mistake]:
    """The warnings about a configuration, in the order of the file. None of them stops a gateway."""
    found = dict.fromkeys(warning for check in CHECKS for warning in check(config))
    return sorted(found, key=lambda warning: (warning.line or 0, warning.column or 0))


def _orders(config: Config) -> Iterator[Mistake]:
    for _, chain in config.chains():
        for order, outer, inner in broken_orders(chain):
            place = config.document.place(inner.path)
            message = f"{outer.name} stands outside {inner.name} ({place}): {order.reason}"
            yield config.document.mistake(outer.path, message)


def _shared_breakers(config: Config) -> Iterator[Mistake]:
    """A breaker in the global chain is one for all services."""
    for spec in config.middleware:
        if spec.name == "circuit_breaker" and len(config.services) > 1:
            message = "one breaker for all services closes all when one fails; give each its own"
            yield config.document.mistake(spec.path, message)


def _limits_by_service(config: Config) -> Iterator[Mistake]:
    """The service is known only behind the router."""
    for spec in config.middleware:
        if spec.name in ("rate_limit", "concurrency_limit") and has_part(spec.options["key"], "service"):
            message = "key: service is for a service's own chain, here no service is known yet"
            yield config.document.mistake(spec.path, message)


def _timers(config: Config) -> Iterator[Mistake]:
    """A stage of an attempt that may take longer than the whole never runs out."""
    for name, service in config.services.items():
        for spec in _named("timeout", (*config.middleware, *service.middleware)):
            total: float = spec.options["total"]
            for stage, seconds in asdict(service.timeouts).items():
                path: Path = ("services", name, "timeouts", stage)
                if stage != "idle" and seconds >= total and config.document.get(path) is not None:
                    message = f"never runs out: {_timeout_at(config, spec)} ends the request before"
                    yield config.document.mistake(path, message)


def _attempts(config: Config) -> Iterator[Mistake]:
    """Attempts that the deadline leaves no time for, each taken to fail at once."""
    for _, chain in config.chains():
        for index, retry in enumerate(chain):
            outside = [spec for spec in chain[:index] if spec.name == "timeout"]
            if retry.name == "retry" and outside:
                timeout = min(outside, key=lambda spec: float(spec.options["total"]))
                begun = list(_attempts_begin(retry))
                possible = sum(1 for seconds in begun if seconds < timeout.options["total"])
                if possible < len(begun):
                    message = (
                        f"only {possible} of {len(begun)} attempts are possible: the last would begin after"
                        f" {write_duration(begun[-1])}, but {_timeout_at(config, timeout)} ends it before"
                    )
                    yield config.document.mistake(retry.path, message)


def _attempts_begin(retry: MiddlewareSpec) -> Iterator[float]:
    """The seconds after which each attempt begins at the earliest, jitter aside."""
    backoff = retry.options["backoff"]
    waits = (backoff.delay(attempt, 0.5) for attempt in range(1, retry.options["attempts"]))
    return accumulate(waits, initial=0.0)


def _hidden_routes(config: Config) -> Iterator[Mistake]:
    """Routes whose requests the health middleware answers."""
    for health in _named("health", config.middleware):
        base: str = health.options["path"]
        answered = (base, f"{base}/live", f"{base}/ready")
        for name, service in config.services.items():
            for index, route in enumerate(service.routes):
                if PathPattern(route.path).exact in answered:
                    path: Path = ("services", name, "routes", index)
                    place = config.document.place(health.path)
                    message = f"health ({place}) answers {', '.join(answered)} before this route"
                    yield config.document.mistake(path, message)


def _named(name: str, chain: tuple[MiddlewareSpec, ...]) -> Iterator[MiddlewareSpec]:
    return (spec for spec in chain if spec.name == name)


def _timeout_at(config: Config, spec: MiddlewareSpec) -> str:
    return f"timeout ({config.document.place(spec.path)}, total {write_duration(spec.options['total'])})"


CHECKS: tuple[Callable[[Config], Iterator[Mistake]], ...] = (
    _orders,
    _shared_breakers,
    _limits_by_service,
    _timers,
    _attempts,
    _hidden_routes,
)
