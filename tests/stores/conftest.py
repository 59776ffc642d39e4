"""Real servers: one Valkey for the tests of a process, and a proxy that breaks the way to it."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from asgi_gateway.events import Event
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.store import Store


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    server = EmbeddedServer()
    server.start()
    yield server
    server.stop()


class Way:
    """A Unix socket that leads to another: it can be slow, silent or shut."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.delay = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, path: Path) -> None:
        self.path = path
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        for task in list(self._tasks):
            task.cancel()
        self.path.unlink(missing_ok=True)
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self.target)
        self._writers += [writer, back]
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._carry(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
            writer.close()


@pytest.fixture
async def way(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Way]:
    way = Way(server.url.removeprefix("valkey+unix://"))
    await way.open(tmp_path / "way.sock")
    yield way
    await way.shut()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
async def open_store(events: list[Event]) -> AsyncIterator[Callable[..., Store]]:
    """Makes stores whose keys are a test's own, with more time than a busy machine takes."""
    prefix = uuid.uuid4().hex
    made: list[Store] = []

    def make(url: str, **options: object) -> Store:
        runtime = Runtime(emit=events.append)
        made.append(Store(url, **{"prefix": prefix, "runtime": runtime, "timeout": 5, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for store in made:
        await store.aclose()
