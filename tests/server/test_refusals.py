"""What the server refuses itself: the answer names it, the log tells of it, and no client fills the log."""

import json
import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asgi_gateway.server import Bounds, HttpProtocol
from asgi_gateway.server.refusal import CODES
from asgi_gateway.testing import RawClient, Upstream, behaviours, run_process
from tests.server.apps import respond
from tests.server.listening import listening
from tests.server.running import ROOT

Impatient = partial(HttpProtocol, bounds=Bounds(head_timeout=0.1))
GET = b"GET / HTTP/1.1\r\nHost: h\r\n"
REFUSED = {
    400: b"GET / HTTP/1.1\r\n\r\n",
    408: GET,
    414: b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 20_000),
    417: GET + b"Expect: more\r\n\r\n",
    431: GET + b"X: y\r\n" * 200 + b"\r\n",
    501: b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n",
    505: b"GET / HTTP/0.9\r\nHost: h\r\n\r\n",
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    await respond(send)


async def answer(url: str, raw: bytes) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    """Status, headers and problem of a refusal."""
    async with RawClient(url) as client:
        client.write(raw)
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    return int(status.split()[1]), dict(line.split(b": ", 1) for line in lines), json.loads(body)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """What the server logs."""
    seen: list[Any] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = seen.append  # type: ignore[method-assign]
    logger = logging.getLogger("asgi_gateway.server")
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


def test_every_status_has_a_code() -> None:
    assert REFUSED.keys() == CODES.keys()
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize("status", REFUSED)
async def test_the_answer_and_the_log_say_what_it_was_and_share_an_id(status: int, lines: list[Any]) -> None:
    async with listening(app, Impatient) as server:
        found, headers, problem = await answer(server.url, REFUSED[status])
    assert (found, problem["status"]) == (status, status)
    code, request_id = CODES[status], problem["request_id"]
    assert (problem["code"], problem["type"]) == (code, f"urn:problem-type:asgi-gateway:{code}")
    assert headers[b"x-gateway-error"].decode() == code
    assert headers[b"x-request-id"].decode() == request_id
    assert headers[b"content-type"] == b"application/problem+json"
    [line] = lines
    assert (line.request_id, line.status, line.failure, line.unlogged) == (request_id, status, code, 0)
    assert line.client_address == "127.0.0.1"
    assert line.getMessage().removeprefix("refused a request: ") in problem["detail"]


async def test_no_two_refusals_have_the_same_id() -> None:
    async with listening(app) as server:
        ids = {(await answer(server.url, REFUSED[400]))[2]["request_id"] for _ in range(3)}
    assert len(ids) == 3


async def test_many_refusals_are_few_lines(lines: list[Any]) -> None:
    async with listening(app) as server:
        for _ in range(20):
            for status in (400, 417, 501):
                await answer(server.url, REFUSED[status])
    assert len(lines) < 10, "one line a second at most, whatever the clients send"


async def test_what_breaks_off_an_answer_is_told_as_well(lines: list[Any]) -> None:
    async def talks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with listening(talks) as server, RawClient(server.url) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.until(b"begun")
        await client.send(b"nonsense\r\n")
        await client.rest()
    assert len(lines) == 1


async def test_it_is_in_the_log_of_the_command_as_it_is(tmp_path: Path) -> None:
    """At the default level, as a line like any other."""
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nlisten: {port: 0}\n")
    async with run_process(["run", str(path)], env={**os.environ, "PYTHONPATH": ROOT}) as gateway:
        _, _, problem = await answer(gateway.url, REFUSED[431])
        line = json.loads((await gateway.wait_for_line(".*refused a request.*"))[0])
    assert (line["level"], line["logger"], line["failure"]) == (
        "warning",
        "asgi_gateway.server",
        "head_too_large",
    )
    assert line["request_id"] == problem["request_id"]


async def test_a_websocket_that_nobody_speaks_is_501_and_no_request_to_the_service(tmp_path: Path) -> None:
    for package in ("websockets", "wsproto"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not installed')\n")
    handshake = [
        b"GET /chat HTTP/1.1",
        b"Host: h",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
    ]
    async with Upstream(behaviours.answer(body=b"not meant")) as upstream:
        path = tmp_path / "gateway.yaml"
        path.write_text(
            "version: 1\nlisten: {port: 0}\n"
            f"services: {{one: {{url: '{upstream.url}', routes: [{{path: /*}}]}}}}\n"
        )
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        async with run_process(["run", str(path)], env=environment) as gateway:
            status, headers, problem = await answer(gateway.url, b"\r\n".join([*handshake, b"", b""]))
            await gateway.wait_for_line("refused a request: .*extra 'websocket'")
    assert (status, problem["code"]) == (501, "not_implemented")
    assert headers[b"x-request-id"].decode() == problem["request_id"]
    assert upstream.requests == []
