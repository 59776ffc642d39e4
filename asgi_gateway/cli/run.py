"""``run`` and ``demo``: the commands that serve."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator

from asgi_gateway.cli.show import address, destination
from asgi_gateway.cli.version import package_version
from asgi_gateway.config import Config, warnings_of
from asgi_gateway.gateway import CONFIG_VARIABLE, DEFAULT_CONFIG, Gateway
from asgi_gateway.logs import log_config
from asgi_gateway.server import (
    WebSocketLimits,
    bind,
    close,
    end_on_signals,
    reload_on_hangup,
    run_server,
    server_config,
    url_of,
)

SHOWN_ROUTES = 12


def run(options: argparse.Namespace) -> None:
    """Check everything, bind, then serve until told to stop."""
    end_on_signals()
    path: str = options.config or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
    gateway = Gateway(path)
    config = gateway.config
    app: Gateway | str = gateway
    if options.workers > 1:
        os.environ[CONFIG_VARIABLE] = path
        app = "asgi_gateway.server.launch:worker_app"
    host: str = config.listen.host if options.host is None else options.host
    port: int = config.listen.port if options.port is None else options.port
    sockets = bind(host, port)
    try:
        lines = [f"asgi-gateway {package_version()} on {url_of(sockets)} from {path}"]
        lines += [*route_lines(config), *notes(config, options.workers)]
        level: str = options.log_level or config.logging.level
        server = server_config(
            app,
            log_config(level),
            log_level=level,
            workers=options.workers,
            websocket=WebSocketLimits.of(config),
        )

        def started() -> None:
            print(*lines, sep="\n", file=sys.stderr, flush=True)  # noqa: T201
            if options.workers == 1:
                reload_on_hangup(gateway.reload)

        run_server(server, sockets, started)
    finally:
        close(sockets)


def demo(options: argparse.Namespace) -> None:
    """Serve the demo until told to stop."""
    from asgi_gateway.demo.serve import serve_demo  # its services stand on tools for tests

    end_on_signals()
    serve_demo(options.port)


def route_lines(config: Config) -> Iterator[str]:
    """One line for each route: path, service, and where the service is."""
    routes = [(address(route), name) for name, service in config.services.items() for route in service.routes]
    widths = [max(map(len, column)) for column in zip(*routes, strict=True)]
    for route, name in routes[:SHOWN_ROUTES]:
        yield f"  {route:{widths[0]}}  {name:{widths[1]}}  {destination(config, name)}"
    if len(routes) > SHOWN_ROUTES:
        yield f"  and {len(routes) - SHOWN_ROUTES} more routes"


def notes(config: Config, workers: int) -> Iterator[str]:
    """What the person who starts it should know."""
    for warning in warnings_of(config):
        yield f"warning: {warning}"
    if workers > 1:
        yield f"note: each of the {workers} workers counts its own rate limits and has its own breakers"
