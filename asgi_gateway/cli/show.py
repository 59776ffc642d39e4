"""``check``, ``routes`` and ``schema``: the commands that read and tell."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from asgi_gateway.config import (
    Config,
    MiddlewareSpec,
    Route,
    effective_yaml,
    json_schema,
    load_config,
    warnings_of,
)
from asgi_gateway.gateway import Gateway
from asgi_gateway.state import counted_apart, server_for_workers

COLUMNS = 80
WIDEST = (26, 12, 14)
"""The most that route, methods and service take of a line; the chain has the rest."""


def check(options: argparse.Namespace) -> None:
    """Do everything but listen, then say how much was found; warnings go to standard error."""
    config = checked(options.config)
    warnings = [str(warning) for warning in warnings_of(config)]
    if config.workers > 1 and config.state is not None and (apart := counted_apart(config, config.workers)):
        warnings.append(apart)
    for warning in warnings:
        say(f"warning: {warning}", error=True)
    if options.effective:
        say(effective_yaml(config).rstrip("\n"))
    say(summary(options.config, config, len(warnings)), error=options.effective)


def checked(path: str) -> Config:
    """A configuration that `run` would serve. Raises `ConfigError` where it would not."""
    config = load_config(path)
    Gateway(config)
    server_for_workers(config, config.workers)
    return config


def routes(options: argparse.Namespace) -> None:
    """Print the table of routes and the chain that every request passes before it."""
    config = load_config(options.config)
    rows = [
        (*way, name, joined(service.middleware, destination(config, name)))
        for name, service in config.services.items()
        for way in [(address(route), methods(route)) for route in service.routes] or [("-", "-")]
    ]
    for line in table(("ROUTE", "METHODS", "SERVICE", "CHAIN"), rows):
        say(line)
    if config.middleware:
        first = f"Before every route: {joined(config.middleware)}"
        say("\n" + textwrap.fill(first, COLUMNS, subsequent_indent="  ", break_on_hyphens=False))


def schema(_options: argparse.Namespace) -> None:
    """Print the JSON Schema of the configuration."""
    say(json.dumps(json_schema(), indent=2))


def say(text: str, *, error: bool = False) -> None:
    """Print a text where a reader of results, or of remarks, looks for it."""
    print(text, file=sys.stderr if error else sys.stdout)


def summary(path: str, config: Config, warnings: int) -> str:
    """One line for a configuration without mistakes."""
    found = {
        "service": len(config.services),
        "route": sum(len(service.routes) for service in config.services.values()),
        "middleware": len(config.middleware) + sum(len(s.middleware) for s in config.services.values()),
        "warning": warnings,
    }
    return f"{path}: ok: " + ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in found.items())


def address(route: Route) -> str:
    """What a route asks of host and path."""
    return f"{route.host or ''}{route.path}"


def methods(route: Route) -> str:
    """The methods a route takes."""
    return " ".join(sorted(route.methods)) if route.methods else "any"


def destination(config: Config, name: str) -> str:
    """Where a service is, unless that is a secret."""
    service = config.services[name]
    if service.app is not None:
        return f"app {service.app}"
    secrets = config.document.secrets
    if service.endpoints is None:
        return "***" if ("services", name, "url") in secrets else str(service.url)
    path = ("services", name, "endpoints")
    urls = (
        "***" if (*path, index, "url") in secrets else endpoint.url
        for index, endpoint in enumerate(service.endpoints)
    )
    return " ".join(urls)


def joined(specs: Iterable[MiddlewareSpec], *end: str) -> str:
    """Names in the order in which a request passes them."""
    return " > ".join([*(spec.name for spec in specs), *end])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of at most 80 columns; a cell that is too long goes on below."""
    rows = [head, *rows]
    widths = [min(most, max(len(row[n]) for row in rows)) for n, most in enumerate(WIDEST)]
    widths.append(COLUMNS - sum(widths) - 2 * len(widths))
    for row in rows:
        cells = [
            textwrap.wrap(cell, width, break_on_hyphens=False) or [""]
            for cell, width in zip(row, widths, strict=True)
        ]
        for parts in zip_longest(*cells, fillvalue=""):
            yield "  ".join(f"{part:{width}}" for part, width in zip(parts, widths, strict=True)).rstrip()
