"""WebSocket through the whole gateway: its middlewares act at the handshake; other peers on both sides."""

import asyncio
import json
import logging
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close
from websockets.http11 import Request, Response

from asgi_gateway.context import EXCHANGE, Exchange
from asgi_gateway.proxy.app import ProxyApp
from asgi_gateway.proxy.transport import Timeouts, WebSocketOptions
from asgi_gateway.testing import ManualClock, Upstream, behaviours, refused_url, run_process, serve
from asgi_gateway.types import Receive, Scope, Send
from tests.proxy.websocket_sides import dial, echo, gateway, service, settings, url_of


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """The lines of the access log."""
    seen: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger = logging.getLogger("asgi_gateway.access")
    handler = Keeping()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield seen
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def refused(server: Any) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as error:
        await dial(server)
    return error.value.response.status_code, error.value.response.headers


async def test_a_rate_limit_refuses_before_the_service_is_asked() -> None:
    asked: list[ServerConnection] = []

    async def counting(connection: ServerConnection) -> None:
        asked.append(connection)
        await echo(connection)

    chain = [{"rate_limit": {"limit": "1/minute"}}]
    async with service(counting) as upstream, gateway(url_of(upstream), middleware=chain) as server:
        async with dial(server) as client:
            for _ in range(3):  # messages are not counted, handshakes are
                await client.send("hello")
                assert await client.recv() == "hello"
        status, headers = await refused(server)
    assert (status, headers["X-Gateway-Error"]) == (429, "rate_limited")
    assert int(headers["Retry-After"]) >= 1
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["down", "503", "silent"])
async def test_a_breaker_counts_failed_handshakes_and_then_refuses_them(kind: str) -> None:
    breaker = [{"circuit_breaker": {"failure_threshold": 2}}]
    handler = behaviours.answer(503) if kind == "503" else behaviours.hang()
    with refused_url() as nowhere:
        async with Upstream(handler) as upstream:
            url = nowhere if kind == "down" else upstream.url
            options: Any = {"middleware": breaker, "timeouts": {"first_byte": "50ms"}}
            async with gateway(url, **options) as server:
                statuses = [(await refused(server))[0] for _ in range(2)]
                status, headers = await refused(server)
            asked = len(upstream.requests)
    assert statuses == [{"down": 502, "503": 503, "silent": 504}[kind]] * 2
    assert (status, headers["X-Gateway-Error"]) == (503, "circuit_open")
    assert asked == (0 if kind == "down" else 2)


async def test_a_refusal_by_the_service_is_no_failure_of_it() -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.UNAUTHORIZED, "who are you?")

    breaker = [{"circuit_breaker": {"failure_threshold": 1}}]
    async with service(process_request=refuse) as upstream:
        async with gateway(url_of(upstream), middleware=breaker) as server:
            assert [(await refused(server))[0] for _ in range(3)] == [401, 401, 401]


async def test_the_access_log_has_one_line(lines: list[logging.LogRecord]) -> None:
    async with service() as upstream, gateway(url_of(upstream), chain=["request_id", "access_log"]) as server:
        async with dial(server) as client:
            await client.send("four")
            await client.recv()
            assert lines == []
        endpoint = url_of(upstream).removeprefix("http://")
        async with asyncio.timeout(2):
            while not lines:
                await asyncio.sleep(0.01)
    (line,) = (vars(record) for record in lines)
    assert (line["status"], line["upstream_status"], line["attempts"]) == (101, 101, 1)
    assert (line["bytes_in"], line["bytes_out"], line["failure"]) == (4, 4, None)
    assert (line["service"], line["endpoint"]) == ("live", endpoint)
    assert line["upstream_ms"] >= line["first_byte_ms"] > 0


@pytest.mark.parametrize(("how", "failure"), [("cut", "upstream_reset"), ("broken", "upstream_protocol")])
async def test_a_bad_end_is_in_the_access_log(lines: list[logging.LogRecord], how: str, failure: str) -> None:
    async def ends(connection: ServerConnection) -> None:
        if how == "cut":
            connection.transport.abort()
        else:
            connection.transport.write(b"\x83\x00")
            await connection.wait_closed()

    async with service(ends) as upstream, gateway(url_of(upstream), chain=["access_log"]) as server:
        async with dial(server) as client:
            with pytest.raises(ConnectionClosed):
                await client.recv()
        async with asyncio.timeout(2):
            while not lines:
                await asyncio.sleep(0.01)
    assert [vars(record)["failure"] for record in lines] == [failure]
    assert vars(lines[0])["status"] == 101


async def asgi_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """A service as another implementation would run it."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4001, "reason": "bye"})
            return
        await send({**message, "type": "websocket.send"})


@pytest.mark.parametrize("behind", ["wsproto", "websockets-sansio"])
@pytest.mark.parametrize("front", ["wsproto", "websockets-sansio"])
async def test_other_implementations_on_either_side(front: str, behind: str) -> None:
    quiet: Any = {"ws": behind, "ws_max_size": 2**24, "lifespan": "off"}
    async with serve(asgi_echo, **quiet) as upstream, gateway(upstream.url, uvicorn={"ws": front}) as server:
        async with dial(server, subprotocols=["one", "two"]) as client:
            assert client.subprotocol == "one"
            for message in ("é", b"\x00\xff", "", b"", "x" * 2**20, ["in ", "pieces"]):
                await client.send(message)
                expected = "".join(message) if isinstance(message, list) else message
                assert await client.recv() == expected
            await (await client.ping())
            await client.send("bye")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
    assert closed.value.rcvd == Close(4001, "bye")


async def test_run_lets_through_what_the_largest_limit_of_a_service_allows(tmp_path: Path) -> None:
    """uvicorn's own limit is 16 MiB."""
    message = b"x" * (17 * 2**20)
    async with service() as upstream:
        config = settings(url_of(upstream), websocket={"max_message": "17MiB"})
        path = tmp_path / "gateway.yaml"
        path.write_text(json.dumps(config))
        async with run_process(["run", str(path), "--port", "0"]) as process:
            async with dial(process) as client:
                await client.send(message)
                assert await client.recv() == message
                with pytest.raises(ConnectionClosed):
                    await asyncio.gather(client.send(message + b"x"), client.recv())


async def test_a_proxy_app_without_websocket_answers_501() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    proxy = ProxyApp(None, endpoint="nowhere:1", authority=None, clock=ManualClock())  # type: ignore[arg-type]
    exchange = Exchange()
    scope = {"type": "websocket", "extensions": {"websocket.http.response": {}}, EXCHANGE: exchange}
    await proxy(scope, receive, send)
    assert sent[0]["status"] == 501
    assert json.loads(sent[1]["body"])["code"] == "not_implemented"


def test_defaults() -> None:
    assert WebSocketOptions() == WebSocketOptions(max_message=16 * 2**20, idle=None, ping_interval=None)
    assert Timeouts().idle == 60
