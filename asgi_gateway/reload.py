"""One way in for whoever wants a reload: a change of the files, a signal, an operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from asgi_gateway.clock import Clock, SystemClock
from asgi_gateway.config import Config, ConfigError, Files, load_config
from asgi_gateway.metrics import Metrics

SETTLE: Final = 0.1
"""Seconds in which files must not change again, so that none is read half written."""

Apply: TypeAlias = Callable[[Config, Files], Awaitable[tuple[str, ...]]]
"""Puts a configuration to work and says what of it takes a restart; raises `ConfigError`.

The files give it again to whoever asks."""

_logger = logging.getLogger("asgi_gateway.reload")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one reload: when it was, and why the one before was kept, if it was.

    `restarts` says what changed that no reload brings about.
    """

    at: float
    mistakes: tuple[str, ...] = ()
    restarts: tuple[str, ...] = ()


class Reloader:
    """Reloads the configuration at `path` and hands it to `apply`, one after the other.

    `config` and `files` are those of the start. A file with mistakes changes nothing; it is tried again when
    it, or a file that it wanted, has changed.
    """

    def __init__(
        self, path: str, config: Config, files: Files, apply: Apply, *, clock: Clock | None = None
    ) -> None:
        self.path = path
        self.last: Outcome | None = None
        """The outcome of the last reload; None before the first."""
        self.number = 1
        """The generation that serves: 1, and one more with each reload."""
        self.metrics = Metrics()
        """How reloads went."""
        self._succeeded = self.metrics.counter("config_reloads_total", result="success")
        self._failed = self.metrics.counter("config_reloads_total", result="failure")
        self.metrics.gauge("config_last_reload_success", lambda: int(not (self.last and self.last.mistakes)))
        self._config = config
        self._files = files
        self._apply = apply
        self._clock = clock or SystemClock()
        self._turn = asyncio.Lock()

    async def reload(self) -> Outcome:
        """Read everything again and put it to work, or log why not."""
        async with self._turn:
            self._files = files = Files()
            restarts: tuple[str, ...] = ()
            try:
                config = await asyncio.to_thread(load_config, self.path, files=files)
                restarts = await self._apply(config, files.frozen())
            except ConfigError as error:
                mistakes = tuple(map(str, error.mistakes))
            except Exception:
                _logger.exception("the reload failed")
                mistakes = ("the reload failed, the log says why",)
            else:
                mistakes = ()
                self._config = config
                self.number += 1
            self.last = Outcome(self._clock.wall(), mistakes, restarts)
            (self._failed if mistakes else self._succeeded).add()
        _tell(self.last)
        return self.last

    async def watch(self) -> None:
        """Look at the files again and again, for ever, and reload when one has changed.

        They are read in a thread, as a file system may keep its readers waiting.
        """
        while True:
            await self._clock.sleep(self._config.reload.interval)
            if not self._config.reload.watch or self._turn.locked():  # a reload still reads them
                continue
            try:
                if await self._has_changed():
                    await self.reload()
            except Exception:
                _logger.exception("the files could not be looked at")

    async def _has_changed(self) -> bool:
        before = self._files
        now = await asyncio.to_thread(before.again)
        if now == before:
            return False
        await self._clock.sleep(SETTLE)
        return await asyncio.to_thread(now.again) == now and before is self._files


def _tell(outcome: Outcome) -> None:
    if not outcome.mistakes:
        _logger.info("the configuration was reloaded")
        for restart in outcome.restarts:
            _logger.warning("%s", restart)
        return
    _logger.error("the configuration has mistakes, the one before is kept")
    for mistake in outcome.mistakes:
        _logger.error("%s", mistake)
