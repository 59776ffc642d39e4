"""A middleware such as anybody might write: who is asked for, and what the service is told of it."""

from asgi_gateway.asgi.headers import get_header, replaced
from asgi_gateway.errors import Failure
from asgi_gateway.problem import Problem
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

UNKNOWN = Problem(
    401, Failure("bad_request", "client"), "Who are you?", headers=[(b"www-authenticate", b"Bearer")]
)


class GuardMiddleware:
    """Let ``Authorization: Bearer good`` through and tell the service ``X-User-Id: alice``."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if get_header(scope["headers"], b"authorization") != b"Bearer good":
            await UNKNOWN(scope, receive, send)
            return
        await self.app(
            {**scope, "headers": replaced(scope["headers"], b"x-user-id", b"alice")}, receive, send
        )
