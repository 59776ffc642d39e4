"""What the walks over the faults share: a server with a service for each fault, and what it leaves."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import yaml

from asgi_gateway.testing import Connection, Handler, Request, Upstream, behaviours
from tests.faults.client import ask, held_by
from tests.servers import COMMANDS, running

KEEP_ALIVE = "4"
"""Seconds, in place of those of the page: hypercorn notices only then that an idle client has left."""


def _command(beginning: str, end: str = "") -> str:
    found = [command for command in COMMANDS if command.startswith(beginning) and command.endswith(end)]
    return found[0].replace("keep-alive 75", f"keep-alive {KEEP_ALIVE}")


SERVERS = {
    "asgi-gateway": _command("asgi-gateway"),
    "httptools": _command("uvicorn", "75"),
    "h11": _command("uvicorn", "--http h11"),
    "hypercorn": _command("hypercorn"),
    "granian": _command("granian"),
}
LIMIT = 1.0
"""Seconds of every timeout of a service."""

SOON = 3.0
"""Seconds: one for the gateway to notice, and what a busy machine may be late."""

CHAIN = ["request_id", "tracing", "client_address", "access_log", "gateway_headers", "errors", "health"]
SERVICE_CHAIN = [
    {"circuit_breaker": {"failure_threshold": 1_000_000}},
    {"timeout": {"total": 30.0}},
    {"retry": {"attempts": 1}},
]
GOOD = behaviours.answer(headers=[(b"Connection", b"close")], body=b"still here")
GROWTH = 24 * 1024
"""KiB that a process may grow by in one walk: the code that it had not run yet, its first TLS context, and
what the allocator keeps. A leak of one buffer an exchange is more."""


class Service(NamedTuple):
    """How a service of the gateway misbehaves: by its handler, or by where it is and how it is spoken to.

    ``{port}`` in a URL among the options is that of the handlers.
    """

    handler: Handler = GOOD
    options: Mapping[str, Any] = {}


PATIENT = {"timeouts": {"connect": LIMIT, "first_byte": 4, "idle": 4}}
"""Of a service whose exchanges only the client's leaving can end soon."""


class Walk:
    """A server in front of services, by name; `/name/fault` is the fault, `/name/good` answers properly."""

    def __init__(self, services: Mapping[str, Service], different: Collection[str] = ()) -> None:
        self.different = different
        self.numbers = {name: number for number, name in enumerate(services)}
        self.services = list(services.values())
        self.upstream = Upstream(self.answer)
        self.port = 0
        self.wrong: list[str] = []
        self.output = Path()

    async def answer(self, request: Request, connection: Connection) -> None:
        number, _, what = request.target.strip(b"/").partition(b"/")
        handler = GOOD if what == b"good" else self.services[int(number)].handler
        await handler(request, connection)

    def target(self, name: str, what: str = "fault") -> bytes:
        return f"/{self.numbers[name]}/{what}".encode()

    def config(self) -> dict[str, Any]:
        services: dict[str, Any] = {
            "probe": {"app": "tests.faults.probe:app", "routes": [{"path": "/probe"}]}
        }
        for number, service in enumerate(self.services):
            services[f"s{number}"] = {
                "url": self.upstream.url,
                "timeouts": {"connect": LIMIT, "first_byte": LIMIT, "idle": LIMIT},
                "routes": [{"path": f"/{number}/*"}],
                "middleware": SERVICE_CHAIN,
                **service.options,
            }
            services[f"s{number}"]["url"] = services[f"s{number}"]["url"].format(port=self.upstream.port)
        return {"version": 1, "middleware": CHAIN, "services": services}

    def requests(self, name: str) -> list[Request]:
        """Those that this service was sent, but for the good ones."""
        return [request for request in self.upstream.requests if request.target == self.target(name)]

    async def check_that_it_serves(self, name: str) -> None:
        """The next request to this service must be answered."""
        target = self.target(name, "good")
        answer = await ask(self.port, b"GET %b HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n" % target)
        if answer.status != 200 or b"still here" not in answer.received:
            self.wrong.append(f"after {name}: {answer}")

    async def check_that_nothing_is_left(self, before: dict[str, int]) -> None:
        """No connection to the service, descriptor or task, and no more memory than a process needs."""
        try:
            await self.upstream.wait_for(lambda: self.upstream.connections.open == 0, 5)
        except AssertionError:
            waiting = {connection.request for connection in self.upstream.live}
            self.wrong.append(f"connections to the service are left: {waiting}")
        until = time.monotonic() + 8
        while True:
            after = await held_by(self.port)
            grown = {what for what in ("tasks", "descriptors") if after[what] > before[what]}
            if not grown or time.monotonic() > until:
                break
            await asyncio.sleep(0.05)
        if grown or after["resident"] > before["resident"] + GROWTH:
            self.wrong.append(f"left behind: {before} became {after}")

    @classmethod
    @asynccontextmanager
    async def over(
        cls,
        command: str,
        services: Mapping[str, Service],
        folder: Path,
        *,
        different: Collection[str] = (),
        left: Mapping[str, int] = MappingProxyType({}),
        prefix: str = "exec",
    ) -> AsyncIterator[Self]:
        """Walk under a server. In the end only what is `left` may be, and whatever was `wrong` is raised."""
        walk = cls(services, different)
        async with walk.upstream:
            config = folder / "gateway.yaml"
            config.write_text(yaml.safe_dump(walk.config(), sort_keys=False))
            with running(command, config, prefix=prefix) as server:
                walk.port = server.port
                walk.output = server.output
                for _ in range(2):  # the first brings in what only a first request needs
                    await walk.check_that_it_serves(next(iter(services)))
                    before = await held_by(walk.port)
                yield walk
                allowed = {what: number + left.get(what, 0) for what, number in before.items()}
                await walk.check_that_nothing_is_left(allowed)
        said = walk.output.read_text(errors="replace")
        walk.wrong += re.findall(r".*(?:never retrieved|was destroyed).*", said)
        if command.startswith("asgi-gateway"):  # others log every broken answer so, uvicorn also bad text
            walk.wrong += re.findall(r"^(?!.*Invalid UTF-8).*Traceback.*", said, re.MULTILINE)
        print(said)
        assert not walk.wrong, "\n".join(walk.wrong)


async def complaint_of_service(walk: Walk, name: str) -> str | None:
    """What the service is left with, if anything."""
    asked = walk.requests(name)
    try:
        await walk.upstream.wait_for(lambda: all(r.connection.closed.is_set() for r in asked), SOON)
    except AssertionError:
        return "the service still waits"
    if any(request.ended == "complete" for request in asked if request.method == "POST"):
        return "the upload looks whole"
    return None


def note(walk: Walk, name: str, complaint: str | None) -> None:
    """A complaint that is not expected is wrong, and so is an expected one that is not there."""
    if (complaint is not None) != (name in walk.different):
        walk.wrong.append(f"{name}: {complaint}")
