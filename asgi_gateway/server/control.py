"""What runs beside the serving: reload by change, by SIGHUP and by request, and a report on all of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, TypeAlias

from asgi_gateway.metrics import summed
from asgi_gateway.reload import Outcome, Reloader
from asgi_gateway.server.admin import AdminSocket, answer_requests

Status: TypeAlias = Callable[[], Awaitable[list[dict[str, Any]]]]
"""The report of each process that serves."""


@asynccontextmanager
async def controlled(reloader: Reloader, status: Status, admin: AdminSocket | None) -> AsyncIterator[None]:
    """Follow the files and SIGHUP, and answer on the admin socket, for as long as the block runs."""
    loop = asyncio.get_running_loop()
    running = {loop.create_task(reloader.watch())}

    def hung_up() -> None:
        task = loop.create_task(_reload(reloader))
        running.add(task)
        task.add_done_callback(running.discard)

    path = os.path.abspath(reloader.path)  # noqa: PTH100, ASYNC240 - links are not followed, nothing is read

    async def reload() -> tuple[int, dict[str, Any]]:
        outcome = await reloader.reload()
        return 409 if outcome.mistakes else 200, {"generation": reloader.number, **asdict(outcome)}

    async def report() -> tuple[int, dict[str, Any]]:
        workers, own = await status(), reloader.metrics.report()
        return 200, {
            "config": path,
            "pid": os.getpid(),
            "generation": reloader.number,
            "last_reload": _written(reloader.last),
            "counters": summed([own["counters"], *(worker["counters"] for worker in workers)]),
            "gauges": own["gauges"],
            "workers": workers,
        }

    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, hung_up)
    server = await answer_requests(admin, {"POST /reload": reload, "GET /status": report})
    try:
        yield
    finally:
        if server is not None and admin is not None:
            server.close()
            admin.refuse()
        if sys.platform != "win32":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the default would end what is draining
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def _reload(reloader: Reloader) -> None:
    await reloader.reload()


def _written(outcome: Outcome | None) -> dict[str, Any] | None:
    return None if outcome is None else {**asdict(outcome), "ok": not outcome.mistakes}
