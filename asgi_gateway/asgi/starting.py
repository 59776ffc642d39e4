"""What has to stand before an app starts."""

from __future__ import annotations

from asgi_gateway.runtime import SharedState
from asgi_gateway.types import Message, Receive


def starting(state: SharedState, receive: Receive) -> Receive:
    """The ``receive`` of a lifespan, that has a state connect before the app is told to start."""

    async def received() -> Message:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await state.start()
        return message

    return received
