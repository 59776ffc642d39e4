"""What crosses the gateway while a WebSocket is being opened, and what becomes of a refusal."""

import asyncio
import builtins
import json
import sys
import time
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response

from asgi_gateway import Gateway
from asgi_gateway.testing import (
    Connection,
    Conversation,
    Upstream,
    behaviours,
    refused_url,
    websocket_scope,
)
from asgi_gateway.testing import Request as HttpRequest
from tests.proxy.websocket_sides import RawWebSocket, dial, gateway, service, settings, through, url_of


async def tell_request(connection: ServerConnection) -> None:
    request = connection.request
    assert request is not None
    await connection.send(json.dumps([request.path, list(request.headers.raw_items())]))


async def heard(**options: Any) -> tuple[str, list[tuple[str, str]]]:
    """The target and the headers that reach the service."""
    async with through(tell_request, **options) as client:
        target, headers = json.loads(await client.recv())
    return target, [(name.lower(), value) for name, value in headers]


async def refusal_of(url: str, **options: Any) -> tuple[int, Any, bytes]:
    async with gateway(url, **options) as server:
        with pytest.raises(InvalidStatus) as refused:
            await dial(server)
    response = refused.value.response
    return response.status_code, response.headers, bytes(response.body or b"")


async def test_the_services_subprotocol_is_the_clients() -> None:
    offered = {"subprotocols": ["chat.v2", "chat.v1"]}
    async with through(client=offered, accepting={"subprotocols": ["chat.v1"]}) as client:
        assert client.subprotocol == "chat.v1"
        assert client.response is not None
        assert client.response.headers.get_all("Sec-WebSocket-Protocol") == ["chat.v1"]


async def test_the_service_is_offered_what_the_client_offers() -> None:
    _, headers = await heard(client={"subprotocols": ["chat.v2", "chat.v1"]})
    assert [value for name, value in headers if name == "sec-websocket-protocol"] == ["chat.v2, chat.v1"]


async def test_no_subprotocol_is_no_header() -> None:
    _, headers = await heard()
    assert "sec-websocket-protocol" not in dict(headers)


async def test_the_path_and_query_go_on_byte_for_byte() -> None:
    async with service(tell_request) as upstream, gateway(url_of(upstream)) as server:
        async with RawWebSocket(server.url) as client:
            assert b" 101 " in await client.handshake(b"/api/a%2Fb%7e/;v=1?b=2&a=%20&c")
            _, data = await client.frame()
    assert json.loads(data)[0] == "/a%2Fb%7e/;v=1?b=2&a=%20&c"


async def test_headers_go_on_as_for_http() -> None:
    sent = [("Cookie", "a=1"), ("X-Twice", "1"), ("X-Twice", "2"), ("Authorization", "Bearer t")]
    sent += [("X-Forwarded-User", "root"), ("X-Real-IP", "6.6.6.6")]
    chain = ["request_id", "tracing"]
    client = {"additional_headers": sent, "origin": "https://app.example", "user_agent_header": "mine"}
    _, headers = await heard(client=client, chain=chain)
    assert [pair for pair in headers if pair[0] == "x-twice"] == [("x-twice", "1"), ("x-twice", "2")]
    got = dict(headers)
    assert (got["cookie"], got["authorization"], got["origin"]) == ("a=1", "Bearer t", "https://app.example")
    assert (got["x-forwarded-for"], got["x-forwarded-proto"]) == ("127.0.0.1", "http")
    assert (got["x-forwarded-prefix"], got["via"]) == ("/api", "1.1 asgi-gateway")
    assert got["x-request-id"]
    assert got["traceparent"].startswith("00-")
    assert got["user-agent"] == "mine"
    assert not {"x-forwarded-user", "x-real-ip"} & got.keys()
    once = [name for name, _ in headers if name != "x-twice"]
    assert len(once) == len(set(once))


async def test_bytes_outside_ascii_keep_their_value_both_ways() -> None:
    async def handler(request: HttpRequest, connection: Connection) -> None:
        await connection.respond(403, [(b"X-Said", request.header("x-mine") or b"")])

    async with (
        Upstream(handler) as upstream,
        gateway(upstream.url) as server,
        RawWebSocket(server.url) as client,
    ):
        head = await client.handshake(b"/api/", b"X-Mine: caf\xe9")
    assert upstream.requests[0].header("x-mine") == b"caf\xe9"
    assert b"x-said: caf\xe9\r\n" in head


async def test_compression_is_not_offered_and_nothing_is_said_for_a_silent_client() -> None:
    async with service(tell_request) as upstream, gateway(url_of(upstream)) as server:
        async with RawWebSocket(server.url) as client:
            await client.handshake(b"/api/", b"Sec-WebSocket-Extensions: permessage-deflate")
            headers = json.loads((await client.frame())[1])[1]
    names = {name.lower() for name, _ in headers}
    assert names.isdisjoint({"sec-websocket-extensions", "user-agent", "origin"})


async def test_the_services_host_is_sent_unless_the_clients_is_preserved() -> None:
    for preserve, expected in ((False, "127.0.0.1"), (True, "public.example")):
        async with service(tell_request) as upstream:
            async with (
                gateway(url_of(upstream), preserve_host=preserve) as server,
                RawWebSocket(server.url) as client,
            ):
                await client.handshake()
                headers = json.loads((await client.frame())[1])[1]
        hosts = [value for name, value in headers if name.lower() == "host"]
        assert [host.partition(":")[0] for host in hosts] == [expected]


async def test_headers_of_the_answer_come_back_and_each_hop_keeps_its_own() -> None:
    def cookies(connection: ServerConnection, request: Request, response: Response) -> Response:
        response.headers["Set-Cookie"] = "a=1"
        response.headers["Set-Cookie"] = "b=2"
        return response

    async with through(accepting={"process_response": cookies}) as client:
        assert client.response is not None
        assert client.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
        assert len(client.response.headers.get_all("Sec-WebSocket-Accept")) == 1


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND])
async def test_the_services_refusal_is_the_clients(status: HTTPStatus) -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(status, "not you\n")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async with service(process_request=refuse) as upstream:
        got, headers, body = await refusal_of(url_of(upstream))
    assert (got, body) == (status, b"not you\n")
    assert headers["WWW-Authenticate"] == "Bearer"
    assert headers.get_all("Content-Length") == ["8"]


async def test_a_refusal_is_one_message_or_a_plain_close() -> None:
    async def handler(request: HttpRequest, connection: Connection) -> None:
        await connection.send_head(401, [(b"Transfer-Encoding", b"chunked")])
        for piece in (b"not ", b"you", b""):
            await connection.send_chunk(piece)

    for denial, expected in ((True, ["http.response.start", "http.response.body"]), (False, ["close"])):
        async with Upstream(handler) as upstream:
            app = Gateway(settings(upstream.url))
            async with Conversation(app, websocket_scope("/api/x", denial=denial)) as talk:
                talk.give({"type": "websocket.connect"})
                await talk.finish()
        kinds = [message["type"].removeprefix("websocket.") for message in talk.answer.messages]
        assert kinds == expected
        if denial:
            assert talk.answer.messages[1] == {"type": "websocket.http.response.body", "body": b"not you"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (behaviours.answer(200), "upstream_protocol"),
        (behaviours.raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\nmine"), "upstream_protocol"),
        (behaviours.raw(b"nonsense\r\n\r\n"), "upstream_protocol"),
        (behaviours.interim((103,)), "upstream_protocol"),
        (behaviours.reset_before_headers(), "upstream_reset"),
        (behaviours.close_before_headers(), "upstream_reset"),
    ],
    ids=["200", "bad-101", "nonsense", "103", "reset", "close"],
)
async def test_no_valid_answer_is_502_and_no_tunnel(answer: Any, code: str) -> None:
    async with Upstream(answer) as upstream:
        status, headers, body = await refusal_of(upstream.url)
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)
    assert (status, headers["X-Gateway-Error"]) == (502, code)
    assert b"mine" not in body


async def test_a_subprotocol_that_nobody_offered_is_502() -> None:
    async with service(select_subprotocol=lambda *_: "mine") as upstream:
        assert (await refusal_of(url_of(upstream)))[0] == 502


async def test_a_service_that_is_down_is_502() -> None:
    with refused_url() as url:
        status, headers, _ = await refusal_of(url)
    assert (status, headers["X-Gateway-Error"]) == (502, "upstream_connect")


async def test_a_service_that_does_not_answer_is_504() -> None:
    async with Upstream(behaviours.hang()) as upstream:
        status, headers, _ = await refusal_of(upstream.url, timeouts={"first_byte": "50ms"})
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)
    assert (status, headers["X-Gateway-Error"]) == (504, "upstream_timeout")


async def test_a_client_that_leaves_during_the_handshake_takes_the_service_with_it() -> None:
    async with Upstream(behaviours.hang()) as upstream, gateway(upstream.url) as server:
        async with RawWebSocket(server.url) as client:
            waiting = asyncio.ensure_future(client.handshake())
            await upstream.wait_for(lambda: upstream.requests)
            waiting.cancel()
        left = time.monotonic()
        await upstream.wait_for(lambda: upstream.connections.open == 0, seconds=1)
    assert time.monotonic() - left < 1


@pytest.mark.parametrize("name", ["é", "a b", "a\r\nx-evil: 1"])
async def test_a_subprotocol_that_is_no_token_is_400(name: str) -> None:
    app = Gateway(settings("http://127.0.0.1:1"))
    async with Conversation(app, {**websocket_scope("/api/x"), "subprotocols": [name]}) as talk:
        talk.give({"type": "websocket.connect"})
        await talk.finish()
    assert talk.answer.messages[0]["status"] == 400


async def test_without_the_extra_it_is_501(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("websockets"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for module in ("websocket_client", "websocket_relay"):
        monkeypatch.delitem(sys.modules, f"asgi_gateway.proxy.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    async with Conversation(Gateway(settings("http://127.0.0.1:1")), websocket_scope("/api/x")) as talk:
        talk.give({"type": "websocket.connect"})
        await talk.finish()
    assert talk.answer.messages[0]["status"] == 501
    with pytest.raises(ImportError, match=r"asgi-gateway\[websocket\]"):
        import asgi_gateway.proxy.websocket_client  # noqa: F401
