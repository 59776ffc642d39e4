"""Every fault of a client, under every server.

After each: the service is not left with half a request that looks whole, nor with one that nobody waits
for; the next request is served. In the end no connection, task, descriptor or memory is left behind.
"""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from asgi_gateway.testing import Handler, behaviours
from tests.faults.client import LEAVING, Client, Leaving, connected, held_by
from tests.faults.walk import GOOD, PATIENT, SERVERS, SOON, Service, Walk, complaint_of_service, note

EVENTS = [(b"Content-Type", b"text/event-stream")]
PIECES = [b"data: piece\n\n"] * 1000
GET = b"GET %b HTTP/1.1\r\nHost: g\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: g\r\n"
COUNTED = POST + b"Content-Length: 99\r\n\r\npart"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"


class Stage(NamedTuple):
    """How far an exchange is when the client leaves: what it said, and what it has seen or caused by then."""

    said: bytes
    handler: Handler = behaviours.hang()
    seen: bytes = b""
    requests: int = 0
    uploaded: int = 0


STAGES = {
    "before it said anything": Stage(b""),
    "inside the head": Stage(b"GET %b HTTP/1.1\r\nHo"),
    "before the answer": Stage(GET, requests=1),
    "inside a counted upload": Stage(COUNTED, requests=1, uploaded=4),
    "inside a chunked upload": Stage(CHUNKED, requests=1, uploaded=4),
    "inside an echoed upload": Stage(CHUNKED, behaviours.echo(), seen=b"part", requests=1, uploaded=4),
    "inside the answer": Stage(GET, behaviours.chunked(*PIECES, interval=0.05), seen=b"piece", requests=1),
    "inside an event stream": Stage(
        GET, behaviours.chunked(*PIECES, interval=0.05, headers=EVENTS), seen=b"piece", requests=1
    ),
    "between two requests": Stage(GET, GOOD, seen=b"still here", requests=1),
    "with a second request waiting": Stage(GET + b"GET /waits HTTP/1.1\r\nHost: g\r\n\r\n", requests=1),
}
MISDEEDS = {
    "bad chunk": CHUNKED + b"zz\r\n",
    "no end of a chunk": CHUNKED + b"4\r\nparts\r\n",
    "nonsense": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n",
    "nonsense behind a request": GET + b"\x16\x03\x01\x00\xa5\r\n\r\n",
    "more than its length": POST + b"Content-Length: 4\r\n\r\nbody\x16\x03\x01\r\n\r\n",
    "endless head": b"GET %b HTTP/1.1\r\nHost: g\r\n" + b"X: x\r\n" * 150_000,
}
ANSWERED_FIRST = {"nonsense behind a request", "more than its length"}
"""Whose first request is complete."""

WITH_A_SECOND = {f"{how} with a second request waiting" for how in LEAVING}
DIFFERENT: dict[str, set[str]] = {
    "httptools": {"nonsense behind a request", "more than its length", "endless head", *WITH_A_SECOND},
    "hypercorn": {
        "half-closing before it said anything",
        "half-closing between two requests",
        *WITH_A_SECOND,
    },
    "granian": WITH_A_SECOND,
}
"""What a server does not see or end. Each is told of in docs/servers.md."""


async def reach(walk: Walk, name: str, stage: Stage, client: Client) -> None:
    await client.send(stage.said.replace(b"%b", walk.target(name)))
    await client.until(stage.seen)
    await walk.upstream.wait_for(lambda: len(walk.requests(name)) >= stage.requests)
    await walk.upstream.wait_for(lambda: sum(r.received for r in walk.requests(name)) >= stage.uploaded)


async def leave(walk: Walk, name: str, stage: Stage, how: Leaving) -> None:
    async with connected(walk.port) as client:
        await reach(walk, name, stage, client)
        client.leave(how)
        complaint = await complaint_of_service(walk, name)
        if complaint is None and how == "half-closing" and not await client.everything(SOON):
            complaint = "its connection stays"
    note(walk, name, complaint)
    await walk.check_that_it_serves(name)


async def misbehave(walk: Walk, name: str, said: bytes) -> None:
    complaint = None
    async with connected(walk.port) as client:
        sending = asyncio.ensure_future(client.send(said.replace(b"%b", walk.target(name))))
        if not await client.everything(SOON):
            complaint = "its connection stays"
        await asyncio.wait([sending])
    if name not in ANSWERED_FIRST:
        complaint = complaint or await complaint_of_service(walk, name)
    if len(walk.requests(name)) > 1 or (name in ANSWERED_FIRST) != (b" 200 " in client.received):
        complaint = f"{walk.requests(name)}, {client.received!r}"
    note(walk, name, complaint)
    await walk.check_that_it_serves(name)


@pytest.mark.parametrize("server", SERVERS)
async def test_every_fault_of_a_client_is_survived(server: str, tmp_path: Path) -> None:
    leaving = {f"{how} {name}": (stage, how) for name, stage in STAGES.items() for how in LEAVING}
    services = {name: Service(stage.handler, PATIENT) for name, (stage, _) in leaving.items()}
    services |= {name: Service(behaviours.answer(), PATIENT) for name in MISDEEDS}
    async with Walk.over(SERVERS[server], services, tmp_path, different=DIFFERENT.get(server, set())) as walk:
        await asyncio.gather(
            *(leave(walk, name, stage, how) for name, (stage, how) in leaving.items()),
            *(misbehave(walk, name, said) for name, said in MISDEEDS.items()),
        )


class Endless:
    """An answer that has no end; `sent` counts what the client's side took."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, _: object, connection: Any) -> None:
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        while True:
            await connection.send_chunk(b"x" * 65536)
            self.sent += 65536


@pytest.mark.parametrize("server", SERVERS)
async def test_a_client_that_never_reads_pauses_the_service(server: str, tmp_path: Path) -> None:
    answers = [Endless() for _ in range(4)]
    services = {f"endless {number}": Service(answer, PATIENT) for number, answer in enumerate(answers)}
    async with Walk.over(SERVERS[server], services, tmp_path) as walk:
        before = await held_by(walk.port)
        async with asyncio.timeout(10):
            await asyncio.gather(
                *(never_read(walk, name, answer) for name, answer in zip(services, answers, strict=True))
            )
        if (after := await held_by(walk.port))["resident"] > before["resident"] + 16 * 1024:
            walk.wrong.append(f"memory: {before} became {after}")
        await asyncio.gather(*(walk.check_that_it_serves(name) for name in services))


async def never_read(walk: Walk, name: str, answer: Endless) -> None:
    """Ask, read nothing until the service has stopped, then leave."""
    async with connected(walk.port) as client:
        await client.send(GET % walk.target(name))
        seen = -1
        while seen != answer.sent or not answer.sent:
            seen = answer.sent
            await asyncio.sleep(0.2)
        client.leave("resetting")
    note(walk, name, await complaint_of_service(walk, name))
