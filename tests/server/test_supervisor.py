"""The parent of the workers where the system refuses it one, or a worker takes long to start."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from asgi_gateway.config import Files, load_config
from asgi_gateway.gateway import Gateway
from asgi_gateway.server import CannotStart, Settings, Supervisor, bind
from asgi_gateway.server.supervisor import Worker
from asgi_gateway.testing import Upstream, behaviours, run_process
from tests.server.running import ENVIRONMENT, Running


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """As they were before: the supervisor leaves SIGHUP ignored."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def supervisor_of(folder: Path, workers: int, sockets: list[socket.socket]) -> Supervisor:
    file, files = folder / "gateway.yaml", Files()
    file.write_text("version: 1\nservices: {data: {url: 'http://127.0.0.1:9', routes: [{path: /*}]}}\n")
    gateway = Gateway(load_config(file, files=files))
    return Supervisor(Settings(str(file)), gateway, files, workers, sockets)


@asynccontextmanager
async def supervised(folder: Path) -> AsyncIterator[Supervisor]:
    """A supervisor of one worker, once that has started."""
    sockets = bind("127.0.0.1", 0)
    with closing(sockets[0]):
        supervisor = supervisor_of(folder, 1, sockets)
        running = asyncio.create_task(supervisor.run(lambda: None, None))
        await until_started(supervisor)
        try:
            yield supervisor
        finally:
            supervisor._stop(signal.SIGTERM)
            await asyncio.wait_for(running, 20)


async def until_started(supervisor: Supervisor, before: Worker | None = None) -> None:
    async with asyncio.timeout(20):
        while not [one for one in supervisor._workers if one.started and one is not before]:
            await asyncio.sleep(0.02)


async def test_a_worker_that_the_system_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(tmp_path) as supervisor:
        new, refused = supervisor._new, [OSError(11, "Resource temporarily unavailable")]

        def refusing() -> Any:
            if refused:
                raise refused.pop()
            return new()

        monkeypatch.setattr(supervisor, "_new", refusing)
        killed = supervisor._workers[0]
        killed.process.kill()
        await until_started(supervisor, killed)
    assert "no worker can be started, it is tried again" in caplog.text


async def test_workers_that_the_system_refuses_at_the_start_are_a_reason_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = bind("127.0.0.1", 0)
    with closing(sockets[0]):
        supervisor = supervisor_of(tmp_path, 2, sockets)
        new, first = supervisor._new, []

        def refusing() -> Any:
            if first:
                raise OSError(11, "Resource temporarily unavailable")
            first.append(new())
            return first[0]

        monkeypatch.setattr(supervisor, "_new", refusing)
        with pytest.raises(CannotStart, match="cannot start a worker: resource temporarily unavailable"):
            await supervisor.run(lambda: None, None)
        await asyncio.wait_for(first[0].ended, 10)


async def test_a_worker_that_starts_slowly_holds_up_no_reload_and_serves_what_was_loaded_meanwhile(
    tmp_path: Path,
) -> None:
    go = tmp_path / "go"
    go.touch()
    slow = "  slow: {app: 'tests.server.slow_start:app', routes: [{path: /slow}]}"
    answers = [behaviours.answer(body=body) for body in (b"one", b"two")]
    async with Upstream(answers[0]) as one, Upstream(answers[1]) as two:
        gateway = Running(tmp_path, workers=2, reload="{watch: false}")
        gateway.write(one.url, more=slow)
        environment = {**ENVIRONMENT, "SLOW_START": str(go)}
        async with run_process(["run", str(gateway.file)], env=environment) as process:
            gateway.process = process
            await gateway.until(lambda reports: len(reports) == 2)
            go.unlink()
            killed, kept = [report["pid"] for report in await gateway.workers()]
            os.kill(killed, signal.SIGKILL)
            begun = time.monotonic()
            await gateway.until(lambda reports: [report["pid"] for report in reports] == [kept])
            async with asyncio.timeout(10):
                while not go.with_suffix(".waits").exists():
                    await asyncio.sleep(0.02)
            gateway.write(two.url, more=slow)
            assert await gateway.reload() == []
            assert time.monotonic() - begun < 10
            go.touch()
            await gateway.until(lambda reports: [report["generation"] for report in reports] == [2, 2])
            async with httpx.AsyncClient(trust_env=False) as client:
                assert {(await client.get(process.url)).text for _ in range(8)} == {"two"}
    assert len([line for line in process.output if "another takes its place" in line]) == 1
