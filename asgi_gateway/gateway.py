"""The gateway as one ASGI app: a configuration, compiled once into chains, behind one call."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

from asgi_gateway.config import Config, ConfigError, load_config, parse_config
from asgi_gateway.context import join_exchange
from asgi_gateway.generation import Chains, Generation, compile_generation, compiling
from asgi_gateway.lifespan import InnerLifespan, StartupFailed
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.endpoints import Endpoint, EndpointsApp
from asgi_gateway.runtime import Lifecycle, Runtime
from asgi_gateway.state import check_same_state, open_state
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

CONFIG_VARIABLE: Final = "ASGI_GATEWAY_CONFIG"
DEFAULT_CONFIG: Final = "gateway.yaml"

LOOK_AGAIN: Final = 1.0
"""Seconds between two looks at whether what was removed serves something still."""

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
        self._runtime = replace(
            base,
            lifecycle=self._lifecycle,
            services={},
            chains=Chains(),
            service=None,
            status=None,
            background=set(),
        )
        self._store = open_state(self.config, self._runtime)
        self._runtime = replace(self._runtime, state=self._store or base.state)
        self._lifecycle.started_at = base.clock.monotonic()
        self._has_lifespan = False
        self._reloading = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], list[ProxyApp | EndpointsApp | Endpoint]] = {}
        self.number = 1
        """Which generation serves: 1, and one more with each reload."""
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

        What did not change keeps what it knows. Requests in progress end as they began, those to what is
        gone within ``reload.drain_timeout``. A file is read in a thread. A configuration with mistakes
        raises `ConfigError` and changes nothing, and so does one with other ``app:`` services, and any once
        the gateway stops.
        """
        source = self._source if config is None else config
        if config is None and isinstance(source, Mapping | Config):
            raise ValueError("there is no file to read again: name one, or give the configuration")
        async with self._reloading:
            loaded = source if isinstance(source, Config) else await asyncio.to_thread(_loaded, source)
            check_same_state(self.config, loaded)
            old, new = self._live, await self._compiled(loaded)
            if self._store is not None and self._lifecycle.phase != "draining":
                await self._store.start()  # this may be the first that needs it
            if self._lifecycle.phase == "draining":
                raise ConfigError([loaded.mistake((), "the gateway stops, nothing is reloaded any more")])
            self._live, self._source, self.config = new, source, loaded
            self.number += 1
            gone = new.take_over(self._runtime)
            leaving = [*(proxy for proxy in old.proxies if proxy not in new.proxies), *gone]
            self._retire(leaving)
            await _open(old, new)

    def drain(self) -> None:
        """Not ready from now on, so that a balancer in front sends no more; all is still served."""
        self._lifecycle.phase = "draining"

    def end_websockets(self) -> None:
        """Close every WebSocket to a service (1001), both sides of it."""
        for proxy in chain(self._live.proxies, *self._retiring.values()):
            proxy.end_websockets()

    def check(self, config: Config) -> None:
        """Raise `ConfigError` where a reload with this configuration would, and change nothing."""
        check_same_state(self.config, config)
        compile_generation(config, self._app, self._runtime, self._live)

    def status(self) -> dict[str, Any]:
        """How it stands: its phase, its services, every counter and gauge; plain data."""
        now = self._runtime.clock.monotonic()
        services = {
            name: {
                "required": service.required,
                "breaker": service.breaker_state(now),
                "endpoints": [asdict(endpoint) for endpoint in service.endpoints()]
                if service.endpoints
                else [],
            }
            for name, service in self._runtime.services.items()
        }
        return {
            "phase": self._lifecycle.phase,
            "generation": self.number,
            "uptime_seconds": round(now - self._lifecycle.started_at, 3),
            "services": services,
            **self._runtime.metrics.report(),
        }

    async def _compiled(self, config: Config) -> Generation:
        """Compile while requests are served in turns with it."""
        steps = compiling(config, self._app, self._runtime, self._live)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                generation: Generation = end.value
                return generation
            await self._runtime.clock.sleep(0)

    def _retire(self, leaving: list[ProxyApp | EndpointsApp | Endpoint]) -> None:
        """Close what serves nothing new, as soon as it serves nothing at all."""
        if leaving:
            task = asyncio.get_running_loop().create_task(self._closed_in_time(leaving))
            self._retiring[task] = leaving
            task.add_done_callback(lambda ended: self._retiring.pop(ended, None))

    async def _closed_in_time(self, leaving: list[ProxyApp | EndpointsApp | Endpoint]) -> None:
        clock = self._runtime.clock
        deadline = clock.monotonic() + self.config.reload.drain_timeout
        for one in leaving:
            await one.aclose()
        while any(one.in_flight for one in leaving):
            left = deadline - clock.monotonic()
            if left <= 0:
                for one in leaving:
                    await one.cut()
                return
            await clock.sleep(min(left, LOOK_AGAIN))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start inner apps after ourselves and stop them before (ASGI lifespan specification 2.0)."""
        await receive()
        state = scope.get("state", {})
        started: list[InnerLifespan] = []
        try:
            mounted = self._live.mounted
            for app in {id(app): app for app in mounted.values()}.values():  # several services may share one
                name = ", ".join(name for name, one in mounted.items() if one is app)
                inner = InnerLifespan(app, name, state)
                await inner.startup()
                started.append(inner)
        except StartupFailed as error:
            await self._stop(started)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise  # asgi-lifespan reads only the exception, servers only the message
        if self._store is not None:
            await self._store.start()
        await asyncio.gather(*(proxy.warm() for proxy in self._live.proxies))
        self._lifecycle.phase = "serving"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._lifecycle.phase = "draining"
        await self._stop(started)
        await send({"type": "lifespan.shutdown.complete"})

    async def _stop(self, started: list[InnerLifespan]) -> None:
        await _cancelled(self._runtime.background)
        for inner in reversed(started):
            await inner.shutdown()
        for task in self._retiring:
            task.cancel()
        for proxy in self._live.proxies:
            await proxy.aclose()
        if self._store is not None:
            await self._store.aclose()

    def __repr__(self) -> str:
        return f"<Gateway {self._lifecycle.phase}, services: {', '.join(self.config.services) or 'none'}>"


def create_app() -> Gateway:
    """The gateway of ``$ASGI_GATEWAY_CONFIG``, else of ``gateway.yaml``: for ``uvicorn --factory``."""
    return Gateway(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)


async def _open(old: Generation, new: Generation) -> None:
    """Open what is new in the new generation."""
    before, now = old.proxies, new.proxies
    changed = {one.terminal for one in new.services.values() if one.replace_endpoints is not None}
    await asyncio.gather(*(proxy.warm() for proxy in now if proxy in changed or proxy not in before))


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    ended = list(tasks)
    for task in ended:
        task.cancel()
    if ended:
        await asyncio.wait(ended)


def _loaded(config: Source) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(config)
    return load_config(Path(config))
