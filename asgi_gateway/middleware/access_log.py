"""Write one JSON line for every request, whatever becomes of it."""

from __future__ import annotations

import logging
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.context import EXCHANGE, join_exchange
from asgi_gateway.logs import stdout_handler
from asgi_gateway.middleware._access_lines import AccessLines, Seen
from asgi_gateway.options import validated
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Receive, Scope, Send, mypyc_attr

_INFO: Final = logging.INFO
_SERVED: Final = frozenset({"http", "websocket"})


@mypyc_attr(allow_interpreted_subclasses=True)
class AccessLogMiddleware:
    """One line a request: who asked what, who answered how, and what it took.

    The path is logged and never the query, nor any header. A client that left before its answer began
    is status 499. A WebSocket is one line at its end, status 101 or the refusal's.

        AccessLogMiddleware(app)

    Where the application configures the logger, or any logger above it, that is left alone. Where
    nobody does by the first line, lines go to standard output.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        logger: Annotated[str, Field(min_length=1, description="The logger's name.")] = "asgi_gateway.access",
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        self._logger = logging.getLogger(logger)
        self._lines = AccessLines(self._logger)
        self._unconfigured = True
        self._monotonic = (runtime or Runtime()).clock.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._unconfigured and scope["type"] in _SERVED:
            self._configure()
        if scope["type"] not in _SERVED or not self._logger.isEnabledFor(_INFO):
            await self.app(scope, receive, send)
            return
        exchange = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        seen = Seen(receive, send)
        begun = self._monotonic()
        try:
            await self.app(scope, seen.receive, seen.send)
        except BaseException as error:
            self._lines.write(scope, exchange, seen, self._monotonic() - begun, error)
            raise
        self._lines.write(scope, exchange, seen, self._monotonic() - begun)

    def _configure(self) -> None:
        self._unconfigured = False
        if not self._logger.hasHandlers():
            self._logger.addHandler(stdout_handler())
            self._logger.setLevel(_INFO)
            self._logger.propagate = False


validated(AccessLogMiddleware)
