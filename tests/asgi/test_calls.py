"""Which form of an app is called, and that every form does the same."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from asgi_gateway.asgi.calls import direct
from asgi_gateway.middleware import ClientAddressMiddleware, GatewayHeadersMiddleware
from asgi_gateway.testing import Conversation, ScriptedApp, http_scope, request
from asgi_gateway.types import ASGIApp, Receive, Scope, Send


class Plain:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["called"].append("call")


class Entered(Plain):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["called"].append("enter")
        return asyncio.sleep(0)


class Inherited(Entered):
    pass


class Overridden(Entered):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["called"].append("override")
        await super().__call__(scope, receive, send)


async def function(scope: Scope, receive: Receive, send: Send) -> None:
    scope["called"].append("function")


@pytest.mark.parametrize(
    ("app", "called"),
    [
        (Plain(), ["call"]),
        (Plain().__call__, ["call"]),
        (Entered(), ["enter"]),
        (Inherited(), ["enter"]),
        (Overridden(), ["override", "enter"]),
        (function, ["function"]),
    ],
)
async def test_what_is_called_for_an_app(app: Any, called: list[str]) -> None:
    seen: list[str] = []
    await direct(app)({"called": seen}, None, None)  # type: ignore[arg-type]
    assert seen == called


def test_a_function_is_left_as_it_is() -> None:
    assert direct(function) is function


@pytest.mark.parametrize("make", [ClientAddressMiddleware, GatewayHeadersMiddleware])
async def test_an_entered_layer_answers_as_a_called_one(make: Any) -> None:
    scopes, answers = [], []
    for form in (make, lambda app: direct(make(app))):
        app = ScriptedApp((200, [(b"a", b"1"), (b"x-gateway-attempts", b"7")], [b"x"]))
        answer = await request(form(app), headers=[(b"x-forwarded-for", b"1.1.1.1")])
        scopes.append({key: value for key, value in app.calls[0].items() if key != "asgi_gateway.exchange"})
        answers.append((answer.status, [name for name, _ in answer.headers], answer.body))
    assert scopes[0] == scopes[1]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("make", [ClientAddressMiddleware, GatewayHeadersMiddleware])
async def test_an_entered_layer_can_be_cancelled_inside(make: Any) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    entered: ASGIApp = direct(make(endless))

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await entered(scope, receive, send)

    async with Conversation(outer, http_scope()) as talk:
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()


@pytest.mark.parametrize("make", [ClientAddressMiddleware, GatewayHeadersMiddleware])
def test_servers_know_the_layer_itself_for_an_application(make: Any) -> None:
    assert asyncio.iscoroutinefunction(make(function).__call__)
