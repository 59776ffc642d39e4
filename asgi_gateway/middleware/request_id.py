"""Give every request an id that client, service and log agree on."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from typing import Annotated

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.headers import names_of, replaced
from asgi_gateway.asgi.messages import RESPONSE_STARTS
from asgi_gateway.context import GONE, REQUEST_ID, request_id_var
from asgi_gateway.ids import Ready, uuid4
from asgi_gateway.options import validated
from asgi_gateway.types import ASGIApp, Headers, Message, Receive, Scope, Send, mypyc_attr

_DEFAULT = b"x-request-id"
_VALID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestIdMiddleware:
    """Keep the client's request id where it is a valid one, else make one.

    Valid is one header line of at most 128 of ``A-Za-z0-9._-``; what is made is a UUID, version 4.
    The id is in scope, in the request's headers and so on its way to the service, on every response
    in place of what the app says, and in every log record of the request.

        RequestIdMiddleware(app)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        header: Annotated[
            str, Field(pattern=r"^[A-Za-z0-9-]+$", description="The header that carries the id, both ways.")
        ] = "X-Request-ID",
    ) -> None:
        self.app = direct(app)
        self._header = header.lower().encode("ascii")
        self._made = Ready(uuid4)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers: Headers = scope["headers"]
        request_id = None
        if self._header in names_of(headers):
            headers, request_id = self._identified(headers)
        if request_id is None:
            request_id = self._made()
            headers = [*headers, (self._header, request_id.encode("ascii"))]
        value = request_id.encode("ascii")
        token = request_id_var.set(request_id)

        def identifying(message: Message) -> Awaitable[None]:
            if message["type"] in RESPONSE_STARTS:
                answered = replaced(message.get("headers", ()), self._header, value)
                message = {**message, "headers": answered}
            return send(message)

        inner = self.app({**scope, REQUEST_ID: request_id, "headers": headers}, receive, identifying)
        scope = GONE
        del headers
        await inner
        # Not in a `finally`: whoever catches an exception on its way out can still name the request.
        request_id_var.reset(token)

    def _identified(self, headers: Headers) -> tuple[Headers, str | None]:
        """The headers with the client's id as their one such line, and the id; without both if it is none.

        ``X_Request_ID`` is the same name to a service that speaks CGI, so it is never passed on. Any other
        name than the default is put in anew: what a client sent, its Connection header can take off.
        """
        name = self._header
        found = [pair for pair in headers if pair[0].lower().replace(b"_", b"-") == name]
        if len(found) == 1 and b"_" not in found[0][0] and _VALID.fullmatch(found[0][1]):
            value = found[0][1]
            return headers if name == _DEFAULT else replaced(headers, name, value), value.decode("ascii")
        return [pair for pair in headers if pair not in found], None


validated(RequestIdMiddleware)
