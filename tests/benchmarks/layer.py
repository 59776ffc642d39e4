"""The middleware that does nothing: what a layer costs at least."""

from __future__ import annotations

from asgi_gateway.types import ASGIApp, Receive, Scope, Send


class PassThroughMiddleware:
    """Pass everything on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
