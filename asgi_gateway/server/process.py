"""One process that serves a configuration: alone, or as a worker that its parent tells what to do."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from asgi_gateway.config import Config, ConfigError, Files, load_config
from asgi_gateway.gateway import Gateway
from asgi_gateway.logs import log_config
from asgi_gateway.server.launch import CannotStart, end_on_signals, server_config, set_log_level
from asgi_gateway.server.serve import Server
from asgi_gateway.server.websocket import WebSocketLimits

STARTUP_FAILURE: Final = 3
"""The exit code of a worker that could not be started."""

_logger = logging.getLogger("asgi_gateway.reload")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the configuration is, and what the command line says in its place."""

    path: str
    log_level: str | None = None

    def level(self, config: Config) -> str:
        """The level of the log."""
        return self.log_level or config.logging.level


class Served:
    """A gateway, and what of its configuration is the process's."""

    def __init__(self, gateway: Gateway, settings: Settings) -> None:
        self.gateway = gateway
        self._settings = settings

    def status(self) -> dict[str, Any]:
        """How this process stands."""
        return {"pid": os.getpid(), "tasks": len(asyncio.all_tasks()), **self.gateway.status()}

    def server(
        self,
        on_started: Callable[[], None],
        *,
        beside: AbstractAsyncContextManager[object] | None = None,
    ) -> Server:
        """The server for it."""
        gateway = self.gateway
        level = self._settings.level(gateway.config)
        limits = WebSocketLimits.of(gateway.config)
        config = server_config(gateway, log_config(level), log_level=level, websocket=limits)
        return Server(
            config,
            on_started,
            gateway=gateway,
            shutdown=lambda: gateway.config.shutdown,
            beside=beside,
        )

    async def reload(self, config: Config) -> None:
        """Serve another configuration, and log as it says. Raises `ConfigError`."""
        await self.gateway.reload(config)
        set_log_level(self._settings.level(config))
        del config
        gc.collect()  # what serves collects seldom, and a configuration is full of circles


def restarts_of(first: Config, now: Config) -> tuple[str, ...]:
    """What of a new configuration only a restart brings about, one sentence each."""
    changed = (key for key in ("listen", "workers", "admin") if getattr(first, key) != getattr(now, key))
    restarts = [f"{key} was changed, which takes a restart" for key in changed]
    before, after = WebSocketLimits.of(first), WebSocketLimits.of(now)
    if after.max_message > before.max_message or after.ping_timeout > before.ping_timeout:
        restarts.append("a larger websocket.max_message or timeouts.idle than any before takes a restart")
    return tuple(restarts)


def work(settings: Settings, files: Files, sockets: list[socket.socket], parent: Connection) -> None:
    """Be a worker: serve what `files` hold, and do what the parent says, until it says stop or is gone."""
    end_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's reaches the parent as well
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        served = Served(Gateway(load_config(settings.path, files=files)), settings)
        worker = _Worker(served, settings, parent)
        worker.server.run(sockets)
    except (CannotStart, ConfigError) as error:
        logging.getLogger("asgi_gateway").error("%s", error)  # noqa: TRY400 - it says all
        sys.exit(STARTUP_FAILURE)


class _Worker:
    def __init__(self, served: Served, settings: Settings, parent: Connection) -> None:
        self._served = served
        self._settings = settings
        self._parent = parent
        self._tasks: set[asyncio.Task[None]] = set()
        self.server = served.server(self._started)

    def _started(self) -> None:
        # uvicorn has taken the signals by now; SIGTERM to this process alone ends it as it ends any.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._parent.send((0, None))
        asyncio.get_running_loop().add_reader(self._parent.fileno(), self._ordered)

    def _ordered(self) -> None:
        try:
            number, order, value = self._parent.recv()
        except (EOFError, OSError):  # the parent is gone, and with it the port
            asyncio.get_running_loop().remove_reader(self._parent.fileno())
            self.server.handle_exit(signal.SIGTERM, None)
            return
        if order == "stop":
            self.server.handle_exit(value, None)
            return
        task = asyncio.get_running_loop().create_task(self._do(number, order, value))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, number: int, order: str, value: Any) -> None:
        answer = await self._reload(value) if order == "reload" else self._served.status()
        self._parent.send((number, answer))

    async def _reload(self, files: Files) -> tuple[str, ...]:
        """Nothing, or why it did not work."""
        try:
            await self._served.reload(await asyncio.to_thread(load_config, self._settings.path, files=files))
        except ConfigError as error:
            return tuple(map(str, error.mistakes))
        except Exception as error:
            _logger.exception("the reload failed")
            return (f"the reload failed: {error!r}",)
        return ()
