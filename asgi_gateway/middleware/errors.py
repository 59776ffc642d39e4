"""Answer for what goes wrong inside, and tell the client nothing of it."""

from __future__ import annotations

import logging
from typing import Final

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.messages import RESPONSE_STARTS
from asgi_gateway.context import EXCHANGE, REQUEST_ID, Exchange, join_exchange, request_id_var
from asgi_gateway.errors import CLIENT_LEFT, ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.problem import Problem
from asgi_gateway.types import ASGIApp, Headers, Message, Receive, Scope, Send

INTERNAL: Final = Failure("internal", "gateway")

_logger = logging.getLogger("asgi_gateway.errors")


class ErrorsMiddleware:
    """Turn an exception out of the inner app into a 500 problem, logged once with its traceback.

    Once the response has begun nothing can be answered any more: the exception is logged and
    `ResponseAborted` raised in its place, at which the server breaks the connection. `ResponseAborted`
    itself and cancellation pass. A client that left is nobody's mistake and ends quietly. There are
    no options.

        ErrorsMiddleware(app)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = direct(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if EXCHANGE not in scope:
            scope, _ = join_exchange(scope)
        answer = _Answer(send)
        try:
            await self.app(scope, receive, answer.send)
        except ResponseAborted:
            raise
        except Exception as error:
            exchange: Exchange = scope[EXCHANGE]
            if answer.client_left(error):
                exchange.failure = CLIENT_LEFT
                return
            _log(error, scope)
            if not answer.begun:
                await _refuse(scope, receive, send)
            elif not answer.complete:
                exchange.failure = INTERNAL
                raise ResponseAborted(INTERNAL) from error


class _Answer:
    """How far the answer got, and whether the client was there to take it."""

    # The defaults stand on the class, so that making one costs next to nothing.
    begun = False
    complete = False
    _lost: OSError | None = None
    _trailers = False

    def __init__(self, send: Send) -> None:
        self._send = send

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as error:
            self._lost = error
            raise
        kind = message["type"]
        if kind in ("http.response.body", "websocket.http.response.body"):
            self.complete = not (message.get("more_body", False) or self._trailers)
        elif kind in RESPONSE_STARTS:
            self.begun = True
            if "trailers" in message:
                self._trailers = message["trailers"]
        elif kind == "http.response.trailers":
            self.complete = not message.get("more_trailers", False)
        elif kind == "websocket.close":
            self.begun = self.complete = True

    def client_left(self, error: Exception) -> bool:
        """Whether the exception says no more than that the client is gone."""
        if isinstance(error, ClientDisconnected):
            return True
        return self._lost is not None and self._lost in (error, error.__cause__, error.__context__)


def _log(error: Exception, scope: Scope) -> None:
    asked = {"method": scope.get("method"), "path": scope["path"]}
    _logger.error("an exception came out of the application", exc_info=error, extra=asked)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 500. Where this layer stands outside the one that made the request's id, it names it too."""
    headers: Headers = []
    request_id = request_id_var.get()
    if REQUEST_ID not in scope and request_id is not None:
        scope = {**scope, REQUEST_ID: request_id}
        headers = [(b"x-request-id", request_id.encode("ascii", "replace"))]
    problem = Problem(500, INTERNAL, "Something went wrong inside the gateway.", headers=headers)
    await problem(scope, receive, send)
