"""The demo at work: both services and the gateway in one event loop."""

from __future__ import annotations

import asyncio
import os
import socket
from importlib.resources import as_file, files

from asgi_gateway.config import load_config
from asgi_gateway.demo.services import Completions, Data, Switched
from asgi_gateway.demo.tour import Addresses, tour
from asgi_gateway.gateway import Gateway
from asgi_gateway.logs import log_config
from asgi_gateway.server import Server, bind, close, server_config, url_of
from asgi_gateway.testing import Upstream


def serve_demo(port: int) -> None:
    """Serve until told to stop. Raises `CannotStart` where the port is in use."""
    sockets = bind("127.0.0.1", port)
    try:
        asyncio.run(_serve(sockets))
    finally:
        close(sockets)


async def _serve(sockets: list[socket.socket]) -> None:
    async with Upstream(Switched(Completions())) as ai, Upstream(Switched(Data())) as data:
        with as_file(files("asgi_gateway.demo") / "gateway.yaml") as path:
            config = load_config(
                path, environ={**os.environ, "DEMO_AI_URL": ai.url, "DEMO_DATA_URL": data.url}
            )
        breaker = next(spec for spec in config.services["data"].middleware if spec.name == "circuit_breaker")
        at = Addresses(url_of(sockets), ai.url, data.url, str(path), breaker.options["break_duration"])
        server = server_config(Gateway(config), log_config(config.logging.level))
        await Server(server, lambda: print(*tour(at), sep="\n", flush=True)).serve(sockets)  # noqa: T201
