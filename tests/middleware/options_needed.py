"""Every middleware, those that need options with some at which the inner app still answers."""

from functools import partial

from asgi_gateway import middleware
from asgi_gateway.middleware import (
    FallbackMiddleware,
    FaultMiddleware,
    MirrorMiddleware,
    MockMiddleware,
    RateLimitMiddleware,
    SplitMiddleware,
)
from asgi_gateway.testing import ScriptedApp
from asgi_gateway.types import Receive, Scope, Send


async def other(scope: Scope, receive: Receive, send: Send) -> None:
    await ScriptedApp(204)(scope, receive, send)


WITH_OPTIONS = [
    partial(FallbackMiddleware, targets=[other]),
    partial(FaultMiddleware, delay={"duration": 1, "share": 0}, abort={"share": 0}),
    partial(MirrorMiddleware, target=other),
    partial(MockMiddleware, answers=[{"path": "/mocked", "status": 418}]),
    partial(RateLimitMiddleware, cost_from="json:usage.total_tokens"),
    partial(SplitMiddleware, targets=[{"service": other, "weight": 0}], own_weight=1),
]

_NEEDY = {one.func for one in WITH_OPTIONS}
EVERY = [
    *(one for name in middleware.__all__ if (one := getattr(middleware, name)) not in _NEEDY),
    *WITH_OPTIONS,
]
