"""The gateway as one ASGI app: a configuration, compiled once into chains, behind one call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from asgi_gateway.config import Config, load_config, parse_config
from asgi_gateway.context import join_exchange
from asgi_gateway.generation import Generation, compile_generation
from asgi_gateway.lifespan import InnerLifespan, StartupFailed
from asgi_gateway.proxy.endpoints import Endpoint
from asgi_gateway.runtime import Lifecycle, Runtime
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

CONFIG_VARIABLE: Final = "ASGI_GATEWAY_CONFIG"
DEFAULT_CONFIG: Final = "gateway.yaml"

Source: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Config
"""A file, its content, or what was made of it."""


class Gateway:
    """The global chain, the router, and one chain for each service.

    `config` is the path of a YAML file, a mapping of the same shape, or a loaded `Config`; every
    mistake in it is raised at once as `ConfigError`. `app` is what requests without a route go to,
    through the global chain; without it they are answered 404. `runtime` replaces the clock and
    the event sink, for tests.

        app = Gateway("gateway.yaml", app=existing_app)
    """

    def __init__(
        self,
        config: Source,
        *,
        app: ASGIApp | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.config = _loaded(config)
        self._source = config
        self._app = app
        self._lifecycle = Lifecycle(phase="starting")
        base = runtime or Runtime()
        self._runtime = replace(base, lifecycle=self._lifecycle, services={}, chains={}, service=None)
        self._lifecycle.started_at = base.clock.monotonic()
        self._has_lifespan = False
        self._live = compile_generation(self.config, app, self._runtime)
        self._live.take_over(self._runtime)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._has_lifespan = True
            await self._lifespan(scope, receive, send)
            return
        if self._lifecycle.phase == "starting" and not self._has_lifespan:
            self._lifecycle.phase = "serving"
        scope, _ = join_exchange(scope)  # before any middleware adds to what the client sent
        inner = self._live.app(scope, receive, send)
        del scope
        await inner

    async def reload(self, config: Source | None = None) -> None:
        """Serve another configuration from now on, or what is in the same file now.

        What did not change keeps what it knows; requests in progress end as they began. A configuration
        with mistakes raises `ConfigError` and changes nothing, and so does one with other ``app:``
        services. Once the gateway stops, nothing is reloaded any more.
        """
        if self._lifecycle.phase == "draining":
            return
        source = self._source if config is None else config
        if config is None and isinstance(source, Mapping | Config):
            raise ValueError("there is no file to read again: name one, or give the configuration")
        loaded = _loaded(source)
        old, new = self._live, compile_generation(loaded, self._app, self._runtime, self._live)
        self._live, self._source, self.config = new, source, loaded
        gone = new.take_over(self._runtime)
        await _close_and_open(old, new, gone)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start inner apps after ourselves and stop them before (ASGI lifespan specification 2.0)."""
        await receive()
        state = scope.get("state", {})
        started: list[InnerLifespan] = []
        try:
            for name, app in self._live.mounted.items():
                inner = InnerLifespan(app, name, state)
                await inner.startup()
                started.append(inner)
        except StartupFailed as error:
            await self._stop(started)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # asgi-lifespan reads only the exception, servers only the message
        await asyncio.gather(*(proxy.warm() for proxy in self._live.proxies))
        self._lifecycle.phase = "serving"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._lifecycle.phase = "draining"
        await self._stop(started)
        await send({"type": "lifespan.shutdown.complete"})

    async def _stop(self, started: list[InnerLifespan]) -> None:
        for inner in reversed(started):
            await inner.shutdown()
        for proxy in self._live.proxies:
            await proxy.aclose()

    def __repr__(self) -> str:
        return f"<Gateway {self._lifecycle.phase}, services: {', '.join(self.config.services) or 'none'}>"


def create_app() -> Gateway:
    """The gateway of ``$ASGI_GATEWAY_CONFIG``, else of ``gateway.yaml``: for ``uvicorn --factory``."""
    return Gateway(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


async def _close_and_open(old: Generation, new: Generation, gone: list[Endpoint]) -> None:
    """Close what only the old generation has, then open what is new in the new one."""
    before, now = old.proxies, new.proxies
    for leaving in (*(proxy for proxy in before if proxy not in now), *gone):
        await leaving.aclose()
    changed = {one.terminal for one in new.services.values() if one.replace_endpoints is not None}
    await asyncio.gather(*(proxy.warm() for proxy in now if proxy in changed or proxy not in before))


def _loaded(config: Source) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(config)
    return load_config(Path(config))
