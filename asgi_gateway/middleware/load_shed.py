"""Refuse early what an overloaded process would only serve late."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.exempt import Paths, is_exempt
from asgi_gateway.asgi.paths import PathPattern
from asgi_gateway.asgi.retry_after import retry_after_header
from asgi_gateway.asgi.shadow import Shadow
from asgi_gateway.context import join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.options import validated
from asgi_gateway.policies.load_shed import LoadShed
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Mode, PositiveSeconds, Receive, Scope, Send

INTERVAL: Final = 0.1
"""Seconds between two looks at how late the event loop is."""


class LoadShedMiddleware:
    """Answer 503 to a growing part of the requests while the event loop is later than `max_lag`.

    How late it is shows a timer that runs only while requests come. At twice `max_lag` all are refused but
    the `exempt` paths.

        LoadShedMiddleware(app, max_lag=0.1)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_lag: Annotated[
            PositiveSeconds, Field(description="How late the event loop may be with nothing refused.")
        ] = 0.2,
        exempt: Annotated[
            Paths,
            Field(description="Paths that are never refused, such as /health/*."),
        ] = ("/health/*",),
        retry_after: Annotated[
            PositiveSeconds, Field(description="What a refusal asks a client to wait.")
        ] = 1.0,
        mode: Mode = "enforce",
        runtime: Runtime | None = None,
    ) -> None:
        self._runtime = runtime = runtime or Runtime()
        self.app = direct(app)
        self.policy = LoadShed(max_lag)
        self._exempt = [PathPattern(pattern) for pattern in exempt]
        self._shadow = Shadow("load_shed", runtime) if mode == "shadow" else None
        self._rejected = runtime.counter("load_shed_rejected_total")
        self._watched: asyncio.AbstractEventLoop | None = None
        """The loop that a timer looks at; None while nobody asks."""
        self._asked = False
        self._refusal = Problem(
            503,
            Failure("overloaded", "gateway"),
            "The gateway is overloaded; see Retry-After.",
            headers=[retry_after_header(retry_after)],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The same without a frame of its own; see `asgi_gateway.asgi.calls`."""
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        self._asked = True
        if self._watched is None or self._watched.is_closed():  # a closed loop has taken its timer with it
            self._watched = asyncio.get_running_loop()
            self.policy.lag = 0.0
            self._watch()
        if (
            self.policy.lag
            and self.policy.sheds(self._runtime.random())
            and not is_exempt(self._exempt, scope)
        ):
            if self._shadow is None:
                self._rejected.add()
                return self._refusal(scope, receive, send)
            scope, exchange = join_exchange(scope)
            self._shadow.would_reject(exchange)
        return self.app(scope, receive, send)

    def _watch(self) -> None:
        """Look at the loop in a while, and go on for as long as requests come."""
        clock = self._runtime.clock
        clock.call_later(INTERVAL, self._look, clock.monotonic() + INTERVAL)

    def _look(self, due: float) -> None:
        self.policy.observed(max(0.0, self._runtime.clock.monotonic() - due))
        if self._asked:
            self._asked = False
            self._watch()
        else:
            self._watched = None
            self.policy.lag = 0.0


validated(LoadShedMiddleware)
