"""An app whose start-up waits until the file that SLOW_START names is there; by another it says so."""

import asyncio
import os
from pathlib import Path

from asgi_gateway.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "lifespan":
        return
    await receive()
    go = Path(os.environ["SLOW_START"])
    while not go.exists():
        go.with_suffix(".waits").touch()
        await asyncio.sleep(0.02)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
