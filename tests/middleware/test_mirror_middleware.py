"""Mirror by raw ASGI."""

import asyncio
from collections.abc import Callable

import pytest
from asgi_lifespan import LifespanManager

from asgi_gateway import Gateway
from asgi_gateway.asgi.calls import direct
from asgi_gateway.context import ATTEMPT, DEADLINE, EXCHANGE, ON_DISCONNECT, Exchange
from asgi_gateway.middleware import MirrorMiddleware, RequestIdMiddleware
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    ScriptedApp,
    Upstream,
    behaviours,
    http_scope,
    read_body,
    request,
    settle,
)
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

CHUNKED = [(b"transfer-encoding", b"chunked")]


def counted(runtime: Runtime) -> dict[str, int]:
    return {counter.name: counter.value for counter in runtime.metrics.counters if counter.value}


async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def test_the_copy_is_the_request_with_a_mark_and_an_exchange_of_its_own() -> None:
    copies, exchange = ScriptedApp(500), Exchange()
    app = MirrorMiddleware(ScriptedApp(200), target=copies)
    more = {EXCHANGE: exchange, DEADLINE: 1.0, ATTEMPT: 2, ON_DISCONNECT: None}
    headers = [*CHUNKED, (b"x-request-id", b"one")]
    answer = await request(app, "POST", "/a", body=[b"ab", b"cd"], headers=headers, **more)
    await settle()
    [scope] = copies.calls
    assert (answer.status, copies.bodies) == (200, [b"abcd"])
    assert scope["headers"][-2:] == [(b"x-request-id", b"one"), (b"x-gateway-mirror", b"true")]
    assert scope[EXCHANGE] is not exchange
    assert exchange.failure is None
    assert not {DEADLINE, ATTEMPT, ON_DISCONNECT} & scope.keys()


async def test_a_client_cannot_have_the_mark_taken_off() -> None:
    async with Upstream(behaviours.answer()) as upstream:
        gateway = Gateway(
            {
                "version": 1,
                "services": {
                    "main": {
                        "url": upstream.url,
                        "routes": [{"path": "/*"}],
                        "middleware": [{"mirror": {"target": "next"}}],
                    },
                    "next": {"url": upstream.url},
                },
            }
        )
        async with LifespanManager(gateway):
            await request(gateway, headers=[(b"connection", b"x-mine, x-gateway-mirror"), (b"x-mine", b"1")])
            async with asyncio.timeout(5):
                while len(upstream.requests) < 2:
                    await asyncio.sleep(0.01)
    assert sorted(sent.all("x-gateway-mirror") for sent in upstream.requests) == [[], [b"true"]]
    assert [sent.all("x-mine") for sent in upstream.requests] == [[], []]


@pytest.mark.parametrize("target", [hanging, ScriptedApp(ValueError("bug")), ScriptedApp(503)])
async def test_a_target_that_hangs_or_fails_is_nothing_to_the_client(target: object) -> None:
    app = MirrorMiddleware(ScriptedApp(200), target=target)
    assert (await request(app, "POST", body=b"x", headers=CHUNKED)).status == 200
    await app.aclose()


async def test_the_body_is_passed_on_before_it_is_complete() -> None:
    copies = ScriptedApp(200)
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            seen.append((await receive())["body"])

    async with Conversation(
        MirrorMiddleware(app, target=copies), http_scope("POST", headers=CHUNKED)
    ) as talk:
        talk.body(b"first", more=True)
        await settle()
        assert (seen, copies.calls) == ([b"first"], [])
        talk.body(b"last")
        await settle()
        assert copies.bodies == [b"firstlast"]


async def test_larger_bodies_are_not_copied_and_arrive_whole() -> None:
    runtime, copies, inner = Runtime(), ScriptedApp(200), ScriptedApp(200)
    app = MirrorMiddleware(inner, target=copies, max_body=3, runtime=runtime)
    await request(app, "POST", body=[b"ab", b"cd"], headers=CHUNKED)
    await request(app, "POST", body=b"abcd", headers=[(b"content-length", b"4")])
    await settle()
    assert (inner.bodies, copies.calls) == ([b"abcd", b"abcd"], [])
    assert counted(runtime) == {"mirror_skipped_total": 2}


async def test_a_client_that_leaves_inside_its_body_is_not_mirrored() -> None:
    copies = ScriptedApp(200)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ConnectionError):
            await read_body(receive)

    async with Conversation(
        MirrorMiddleware(app, target=copies), http_scope("POST", headers=CHUNKED)
    ) as talk:
        talk.body(b"first", more=True)
        await settle()
        talk.disconnect()
        await talk.finish()
    assert copies.calls == []


async def test_no_more_than_so_many_are_on_their_way() -> None:
    begun: list[Scope] = []

    async def target(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope)
        await asyncio.Event().wait()

    app = MirrorMiddleware(ScriptedApp(200), target=target, max_in_flight=2)
    for _ in range(5):
        assert (await request(app)).status == 200
    await settle()
    assert len(begun) == 2
    await app.aclose()


async def test_a_copy_takes_only_so_long() -> None:
    clock = ManualClock()
    runtime = Runtime(clock=clock)
    before = asyncio.all_tasks()
    await request(MirrorMiddleware(ScriptedApp(200), target=hanging, timeout=5, runtime=runtime))
    await settle()
    assert len(asyncio.all_tasks() - before) == 1
    await clock.advance(5)
    assert asyncio.all_tasks() == before
    assert counted(runtime) == {"mirrored_total": 1, "mirror_failures_total": 1}


async def test_the_share_is_drawn() -> None:
    drawn = iter([0.1, 0.9, 0.2, 0.3])
    copies = ScriptedApp(200)
    app = MirrorMiddleware(
        ScriptedApp(200), target=copies, share=0.3, runtime=Runtime(random=lambda: next(drawn))
    )
    for number in range(4):
        await request(app, path=f"/{number}")
    await settle()
    assert [scope["path"] for scope in copies.calls] == ["/0", "/2"]


@pytest.mark.parametrize("entrance", [lambda app: app, direct, RequestIdMiddleware])
async def test_the_end_of_the_lifespan_ends_the_copies(entrance: Callable[[ASGIApp], ASGIApp]) -> None:
    """Whatever stands outside, and calls the form that costs least."""
    before = asyncio.all_tasks()
    app = MirrorMiddleware(ScriptedApp(200), target=hanging)
    await request(app)
    await settle()

    async def ending(scope: Scope, receive: Receive, send: Send) -> None: ...

    app.app = ending
    await entrance(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert asyncio.all_tasks() == before


async def test_a_copy_is_told_of_the_end_only_after_its_answer() -> None:
    told: list[str] = []

    async def target(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting = asyncio.ensure_future(receive())
        await settle()
        assert not waiting.done()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        told.append((await waiting)["type"])

    await request(MirrorMiddleware(ScriptedApp(200), target=target))
    for _ in range(4):
        await settle()
    assert told == ["http.disconnect"]
