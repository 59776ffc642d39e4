"""SIGHUP: read the configuration again."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable

from asgi_gateway.config import ConfigError

_logger = logging.getLogger("asgi_gateway.reload")


def reload_on_hangup(reload: Callable[[], Awaitable[None]]) -> None:
    """Call `reload` in the running loop at every SIGHUP, and log what came of it."""
    if sys.platform == "win32":
        return
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    def hung_up() -> None:
        task = loop.create_task(_logged(reload))
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGHUP, hung_up)


async def _logged(reload: Callable[[], Awaitable[None]]) -> None:
    try:
        await reload()
    except ConfigError as error:
        _tell_mistakes(error)
    except Exception:
        _logger.exception("the reload failed")
    else:
        _logger.info("the configuration was reloaded")


def _tell_mistakes(error: ConfigError) -> None:
    _logger.error("the configuration has mistakes, the one before is kept")
    for mistake in error.mistakes:
        _logger.error("%s", mistake)
