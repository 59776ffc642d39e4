"""What a policy in shadow mode would have refused."""

from __future__ import annotations

import logging
from typing import Final

from asgi_gateway.context import Exchange
from asgi_gateway.runtime import Runtime

_logger: Final = logging.getLogger("asgi_gateway.shadow")


class Shadow:
    """Tells of one middleware what it would have refused: a counter, the exchange, and a line of the log.

    The counter is ``shadow_rejected_total`` with the middleware's name as its label.

        shadow = Shadow("rate_limit", runtime)
        shadow.would_reject(exchange)
    """

    def __init__(self, middleware: str, runtime: Runtime) -> None:
        self._middleware = middleware
        self._service = runtime.service
        self._counter = runtime.counter("shadow_rejected_total", middleware=middleware)

    def would_reject(self, exchange: Exchange) -> None:
        """Tell that the request of this exchange would have been refused."""
        self._counter.add()
        exchange.would_reject += (self._middleware,)
        _logger.info("%s would have refused a request", self._middleware, extra={"service": self._service})
