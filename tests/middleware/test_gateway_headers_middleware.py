import pytest

from asgi_gateway.context import EXCHANGE, SERVICE
from asgi_gateway.errors import Failure
from asgi_gateway.middleware import GatewayHeadersMiddleware
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Conversation, ManualClock, ScriptedApp, request, websocket_scope
from asgi_gateway.types import Receive, Scope, Send


async def test_service_time_and_attempts_are_told(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[EXCHANGE].service = "ai"
        scope[EXCHANGE].attempts = 3
        clock.shift(0.01234)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"A", b"1")]})
        clock.shift(5)
        await send({"type": "http.response.body", "body": b"ok"})

    answer = await request(GatewayHeadersMiddleware(app, runtime=Runtime(clock=clock)))
    assert answer.headers == [
        (b"A", b"1"),
        (b"x-gateway-response-time", b"12.3"),
        (b"x-gateway-service", b"ai"),
        (b"x-gateway-attempts", b"3"),
    ]


async def test_what_there_was_not_is_not_told() -> None:
    answer = await request(GatewayHeadersMiddleware(ScriptedApp(200)))
    assert [name for name, _ in answer.headers] == [b"x-gateway-response-time"]


async def test_in_the_chain_of_a_service_it_knows_the_service() -> None:
    answer = await request(GatewayHeadersMiddleware(ScriptedApp(200)), **{SERVICE: "data"})
    assert answer.header("x-gateway-service") == "data"


async def test_a_refusal_carries_them() -> None:
    refusal = Problem(503, Failure("circuit_open", "gateway"), "Closed.")
    answer = await request(GatewayHeadersMiddleware(refusal), **{SERVICE: "data"})
    assert (answer.status, answer.header("x-gateway-service")) == (503, "data")
    assert answer.header("x-gateway-response-time")


async def test_a_services_copies_never_win() -> None:
    copies = [
        (b"X-Gateway-Service", b"forged"),
        (b"x-gateway-RESPONSE-time", b"0"),
        (b"x-gateway-attempts", b"9"),
        (b"x-gateway-error", b"passes"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]
    answer = await request(GatewayHeadersMiddleware(ScriptedApp((200, copies, []))), **{SERVICE: "ai"})
    assert answer.all("x-gateway-service") == ["ai"]
    assert answer.all("x-gateway-attempts") == []
    assert answer.all("x-gateway-response-time") != ["0"]
    assert answer.headers[:3] == copies[3:]


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.http.response.start"])
async def test_a_handshake_is_answered_with_them(kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": kind, "status": 403})

    async with Conversation(GatewayHeadersMiddleware(app), websocket_scope(**{SERVICE: "ai"})) as talk:
        assert (b"x-gateway-service", b"ai") in (await talk.next())["headers"]
        await talk.finish()
