"""The lifespan of inner apps, run by the gateway on their behalf (ASGI lifespan specification 2.0).

Each app gets a task of its own, because between startup and shutdown it waits inside one call. An
app that raises instead of answering does not support the lifespan (Django does so) and is served
all the same; an app that says ``startup.failed`` stops the gateway's own startup.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from asgi_gateway.types import ASGIApp, Message

LINGER: Final = 1.0
"""Seconds for an app to return once it has said that it has stopped, and again once it is cancelled."""

_logger = logging.getLogger("asgi_gateway.lifespan")


class StartupFailed(Exception):
    """An inner app refused to start."""


class InnerLifespan:
    """One app's lifespan. `state` is the server's own dictionary, shared so that requests see it."""

    def __init__(self, app: ASGIApp, name: str, state: dict[str, Any]) -> None:
        self._app = app
        self._name = name
        self._state = state
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._started = False

    async def startup(self) -> None:
        """Start the app; raises `StartupFailed` if it says that it cannot."""
        self._task = asyncio.create_task(self._run())
        answer = await self._ask("lifespan.startup")
        if answer is None:
            _logger.debug("%s does not support the lifespan", self._name)
        elif answer["type"] == "lifespan.startup.failed":
            raise StartupFailed(f"{self._name}: {answer.get('message') or 'startup failed'}")

    async def shutdown(self) -> None:
        """Stop the app; a failure is logged, for nothing can be done about it."""
        if self._task is None or self._task.done():
            return
        answer = await self._ask("lifespan.shutdown")
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            _logger.error("%s: %s", self._name, answer.get("message") or "shutdown failed")
        await asyncio.wait([self._task], timeout=LINGER)
        if not self._task.done():
            _logger.error("%s does not return from its lifespan, and is cancelled", self._name)
            self._task.cancel()
            await asyncio.wait([self._task], timeout=LINGER)

    async def _ask(self, kind: str) -> Message | None:
        """Send one message and return the app's answer, None if it ended without one."""
        if self._task is None:
            return None
        self._to_app.put_nowait({"type": kind})
        answer = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._to_app.get, self._send)
        except Exception:  # by the specification, raising is how an app declines
            level = logging.ERROR if self._started else logging.DEBUG
            _logger.log(level, "%s raised on the lifespan scope", self._name, exc_info=True)

    async def _send(self, message: Message) -> None:
        self._started |= message["type"] == "lifespan.startup.complete"
        self._from_app.put_nowait(message)
