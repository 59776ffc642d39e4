"""One process that serves and sees to its own reloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgi_gateway.config import Config, Files
from asgi_gateway.gateway import Gateway
from asgi_gateway.reload import Reloader
from asgi_gateway.server.admin import AdminSocket
from asgi_gateway.server.control import controlled
from asgi_gateway.server.process import Served, Settings, restarts_of
from asgi_gateway.server.serve import Server


def serve_alone(
    gateway: Gateway,
    settings: Settings,
    files: Files,
    on_started: Callable[[], None],
    admin: AdminSocket | None,
) -> Server:
    """The server of a gateway that was made from `files`; its ``run`` may raise `CannotStart`."""
    served = Served(gateway, settings)
    first = gateway.config

    async def reload(config: Config, _files: Files) -> tuple[str, ...]:
        await served.reload(config)
        return restarts_of(first, config)

    async def status() -> list[dict[str, Any]]:
        return [served.status()]

    reloader = Reloader(settings.path, gateway.config, files, reload)
    return served.server(on_started, beside=controlled(reloader, status, admin))
