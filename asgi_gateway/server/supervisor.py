"""Several processes that serve one configuration, and the parent that keeps them.

The parent binds the port, reads the configuration, checks it and hands each worker the very bytes that it
checked, so that all serve the same. A worker that dies is replaced, and the new one gets the newest
configuration that was good. uvicorn's own supervisor is not used: it restarts its workers for a reload, which
ends streams and forgets limits and breakers, and it looks for signals and for dead workers twice a second.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from asgi_gateway.clock import SystemClock
from asgi_gateway.config import Config, ConfigError, Files, Mistake
from asgi_gateway.gateway import Gateway
from asgi_gateway.reload import Reloader
from asgi_gateway.server.admin import AdminSocket
from asgi_gateway.server.control import controlled
from asgi_gateway.server.launch import STARTUP_FAILED, CannotStart, close, reason_of
from asgi_gateway.server.process import STARTUP_FAILURE, Settings, restarts_of, work
from asgi_gateway.state import counted_apart, needs_state, server_for_workers

ANSWER_WITHIN: Final = 30.0
"""Seconds that a worker has for an order; one that needs longer is replaced."""

PAUSE: Final = 1.0
"""Seconds before a worker that lived shorter than this is replaced."""

KILL_AFTER: Final = 5.0
"""Seconds beyond `shutdown` after which a worker that still runs is killed."""

SPAWN: Final = multiprocessing.get_context("spawn")
_logger = logging.getLogger("asgi_gateway.workers")


class Worker:
    """One worker process, seen from its parent."""

    def __init__(self, settings: Settings, files: Files, sockets: list[socket.socket]) -> None:
        self._pipe, there = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(settings, files, sockets, there))
        self.process.start()
        there.close()
        self.files = files
        self.started = False
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it has started, or ended without."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.since = SystemClock.monotonic()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._told)
        loop.add_reader(self.process.sentinel, self._ended)

    async def ask(self, order: str, value: object = None) -> Any:
        """What the worker answers; raises `OSError` where it does not."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            async with SystemClock.timeout(ANSWER_WITHIN):
                await self._send(number, order, value)
                return await answer
        except TimeoutError as error:
            raise OSError("no answer") from error
        finally:
            self._answers.pop(number, None)

    def stop(self, how: int) -> None:
        """Have it end as after that signal."""
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.get_running_loop().create_task(self._tell(how))

    async def _tell(self, how: int) -> None:
        with suppress(OSError):  # it has ended
            await self._send(0, "stop", how)

    async def _send(self, *order: object) -> None:
        """In a thread, because a worker that hangs takes nothing; if it is killed, so is the wait."""
        async with self._turn:
            await asyncio.to_thread(self._pipe.send, order)

    def _told(self) -> None:
        try:
            number, answer = self._pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            return
        if number == 0:
            self.started = True
            self.settled.set_result(None)
        elif number in self._answers and not self._answers[number].done():
            self._answers[number].set_result(answer)

    def _ended(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.process.sentinel)
        loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        self.process.join()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(OSError("it has ended"))
        if not self.settled.done():
            self.settled.set_result(None)
        self.ended.set_result(None)


class Supervisor:
    """Keep so many workers serving on `sockets`."""

    def __init__(
        self, settings: Settings, gateway: Gateway, files: Files, workers: int, sockets: list[socket.socket]
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._files = files.frozen()
        self._config = self._first = gateway.config
        self._number = workers
        self._sockets = sockets
        self._workers: list[Worker] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping: asyncio.Future[int] | None = None
        self._failed = False
        self.reloader = Reloader(settings.path, gateway.config, files, self._reload)

    async def run(self, on_started: Callable[[], None], admin: AdminSocket | None) -> None:
        """Serve until SIGINT or SIGTERM. Raises `CannotStart` where the first workers do not start."""
        loop = asyncio.get_running_loop()
        self._stopping = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        on_started()
        try:
            for _ in range(self._number):
                self._workers.append(self._new())
        except OSError as error:
            self._kill()
            raise CannotStart(f"cannot start a worker: {reason_of(error)}") from error
        self._keepers = [loop.create_task(self._keep(place)) for place in range(self._number)]
        async with controlled(self.reloader, self._status, admin):
            await self._stopping
        close(self._sockets)  # else what comes now would wait here for an end that is a reset
        await asyncio.wait(self._keepers)
        if self._failed:
            raise CannotStart(STARTUP_FAILED)

    def _new(self) -> Worker:
        return Worker(self._settings, self._files, self._sockets)

    async def _replace(self, place: int, stopping: asyncio.Future[int]) -> None:
        """Put another worker in this place, as soon as the system has room for one."""
        while not stopping.done():
            try:
                self._workers[place] = self._new()
            except OSError as error:
                _logger.error("no worker can be started, it is tried again: %s", error)  # noqa: TRY400
                await asyncio.wait([stopping], timeout=PAUSE)
            else:
                return

    async def _keep(self, place: int) -> None:
        """See to it that there is a worker in this place."""
        while True:
            worker = self._workers[place]
            await worker.settled
            if worker.started and worker.files is not self._files:
                for mistake in await self._hand(worker):  # what was loaded while it started
                    _logger.error("%s", mistake)
            await worker.ended
            if self._stopping is None or self._stopping.done():
                return
            code = worker.process.exitcode
            if code == STARTUP_FAILURE and not any(one.started for one in self._workers):
                self._failed = True
                self._stop(signal.SIGINT)
                return
            _logger.warning("worker %d ended (%s), another takes its place", worker.process.pid, code)
            if SystemClock.monotonic() - worker.since < PAUSE or code == STARTUP_FAILURE:
                await asyncio.wait([self._stopping], timeout=PAUSE)
            await self._replace(place, self._stopping)

    def _stop(self, how: int) -> None:
        """End every worker as after that signal; they take a second one for a sign of haste."""
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(how)
            options = self._config.shutdown
            longest = options.accept_grace + options.drain_timeout + KILL_AFTER
            SystemClock().call_later(longest, self._kill)
        for worker in self._workers:
            worker.stop(how)

    def _kill(self) -> None:
        for worker in self._workers:
            if not worker.ended.done():
                worker.process.kill()

    async def _reload(self, config: Config, files: Files) -> tuple[str, ...]:
        """Have every worker serve another configuration, one that is good; what takes a restart."""
        self._gateway.check(config)
        server_for_workers(config, self._number)  # none was started where there was nothing to count
        self._files, self._config = files, config
        started = [one for one in self._workers if one.started]  # the others are handed it when they are
        answers = await asyncio.gather(*map(self._hand, started))
        mistakes = [mistake for answer in answers for mistake in answer]
        if mistakes:
            raise ConfigError(Mistake(self._settings.path, None, None, "", mistake) for mistake in mistakes)
        restarts = restarts_of(self._first, config)
        if not needs_state(self._first) and (apart := counted_apart(config, self._number)):
            restarts += (apart,)  # what is as it was at the start was told then
        return restarts

    async def _hand(self, worker: Worker) -> list[str]:
        """Have a worker serve the newest configuration; why it does not."""
        try:
            mistakes = await worker.ask("reload", self._files)
        except Exception as error:  # noqa: BLE001 - whatever it is, its successor begins with that
            _logger.error("worker %d did not reload: %s", worker.process.pid, error)  # noqa: TRY400
            worker.process.kill()
            return []
        return [f"worker {worker.process.pid}: {mistake}" for mistake in mistakes]

    async def _status(self) -> list[dict[str, Any]]:
        started = [one for one in self._workers if one.started]
        answers = await asyncio.gather(*(one.ask("status") for one in started), return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, dict)]


def supervise(supervisor: Supervisor, on_started: Callable[[], None], admin: AdminSocket | None) -> None:
    """Run the supervisor to its end. Raises `CannotStart`."""
    if sys.platform == "win32":
        raise CannotStart("several workers need another system than Windows")
    asyncio.run(supervisor.run(on_started, admin))
