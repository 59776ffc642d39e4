"""``run`` and ``demo``: the commands that serve."""

from __future__ import annotations

import argparse
import logging.config
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from asgi_gateway.cli.show import address, checked, destination, say
from asgi_gateway.cli.version import package_version
from asgi_gateway.config import Config, Files, load_config, warnings_of
from asgi_gateway.gateway import CONFIG_VARIABLE, DEFAULT_CONFIG, Gateway
from asgi_gateway.logs import log_config
from asgi_gateway.server import (
    AdminSocket,
    CannotStart,
    Settings,
    Supervisor,
    ask,
    bind,
    close,
    end_on_signals,
    serve_alone,
    supervise,
    url_of,
)
from asgi_gateway.state import state_for_workers, state_note

SHOWN_ROUTES = 12


def run(options: argparse.Namespace) -> None:
    """Check everything, bind, then serve until told to stop."""
    end_on_signals()
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that is wanted too early ends nothing
    path: str = options.config or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
    files = Files()
    config = load_config(path, files=files)
    workers: int = options.workers or config.workers
    state = state_for_workers(config, workers)
    gateway = Gateway(config)
    host: str = config.listen.host if options.host is None else options.host
    port: int = config.listen.port if options.port is None else options.port
    settings = Settings(path, options.log_level)
    sockets: list[socket.socket] = []
    admin: AdminSocket | None = None
    try:
        sockets = bind(host, port)
        if (path_of_admin := admin_path(config)) is not None:
            admin = AdminSocket(path_of_admin)
        lines = [f"asgi-gateway {package_version()} on {url_of(sockets)} from {path}"]
        lines += [*route_lines(config), *notes(config, workers)]

        def started() -> None:
            print(*lines, sep="\n", file=sys.stderr, flush=True)  # noqa: T201

        if workers == 1:
            serve_alone(gateway, settings, files, started, admin).run(sockets)
        else:
            logging.config.dictConfig(log_config(settings.level(config)))
            supervise(Supervisor(settings, gateway, files, workers, sockets), started, admin)
    finally:
        close(sockets)
        if state is not None:
            state.stop()
        if admin is not None:
            admin.close()


def reload(options: argparse.Namespace) -> None:
    """Check a configuration, have the process that serves it reload, and say what came of it."""
    path = Path(options.socket) if options.socket else None
    if path is None:
        path = admin_path(checked(options.config))
    if path is None:
        raise CannotStart("admin.socket is not set, so there is nobody to ask: send SIGHUP to the process")
    try:
        answered = ask(str(path), "POST /reload")
    except OSError as error:
        raise CannotStart(f"no gateway answers at {path}: {error.strerror or error}") from error
    if answered["mistakes"]:
        raise CannotStart("\n".join(["the one before is kept:", *answered["mistakes"]]))
    for restart in answered["restarts"]:
        say(f"warning: {restart}", error=True)
    say(f"{options.config}: reloaded, generation {answered['generation']}")


def admin_path(config: Config) -> Path | None:
    """Where the admin socket is, if there is one; a relative path starts at the file's folder."""
    name = config.admin.socket
    return None if name is None else Path(config.document.file).parent / name


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
        yield state_note(config, workers)
