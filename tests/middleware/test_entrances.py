"""Every middleware does the same, whether it is called or entered by the layer outside."""

from typing import Any

import pytest
from options_needed import EVERY

from asgi_gateway.types import Receive, Scope, Send


def class_of(wrap: Any) -> Any:
    return getattr(wrap, "func", wrap)


@pytest.mark.parametrize("wrap", [wrap for wrap in EVERY if hasattr(class_of(wrap), "enter_asgi")])
@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan", "unknown"])
async def test_what_is_called_only_enters(wrap: Any, kind: str) -> None:
    entered: list[object] = []

    async def entering(*given: object) -> None:
        entered.append(given)

    class Watched(class_of(wrap)):  # type: ignore[misc]
        def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Any:
            return entering(scope, receive, send)

    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    layer = Watched(app, **getattr(wrap, "keywords", {}))
    given: Any = ({"type": kind}, None, None)
    await layer(*given)
    assert entered == [given]
