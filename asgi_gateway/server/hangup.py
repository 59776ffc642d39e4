"""SIGHUP: read the configuration again."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from asgi_gateway.config import ConfigError
from asgi_gateway.gateway import Gateway

_logger = logging.getLogger("asgi_gateway.reload")


def reload_on_hangup(gateway: Gateway) -> None:
    """Reload `gateway` at every SIGHUP that the process of the running loop gets, and log what came of it."""
    if sys.platform == "win32":
        return
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(gateway))
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)


async def _reload(gateway: Gateway) -> None:
    try:
        await gateway.reload()
    except ConfigError as error:
        _logger.error("the configuration has mistakes, the one before is kept")
        for mistake in error.mistakes:
            _logger.error("%s", mistake)
    except Exception:
        _logger.exception("the reload failed")
    else:
        _logger.info("the configuration was reloaded")
