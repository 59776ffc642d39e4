"""Waiting between two attempts."""

from __future__ import annotations

from asgi_gateway.asgi.replay import ReplayableBody
from asgi_gateway.clock import Clock


async def backed_off(delay: float, body: ReplayableBody, clock: Clock) -> bool:
    """Wait `delay` seconds; False as soon as the client leaves meanwhile.

    A client can only be listened to when its body has been read: else the body is what comes next.
    """
    if delay <= 0 or not body.complete:
        await clock.sleep(delay)
        return True
    try:
        async with clock.timeout(delay):
            await body.disconnected()
    except TimeoutError:
        return True
    return False
