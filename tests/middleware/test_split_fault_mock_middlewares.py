"""Split, fault and mock by raw ASGI."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from asgi_gateway import ConfigError, Gateway
from asgi_gateway.context import EXCHANGE, ON_DISCONNECT, Exchange
from asgi_gateway.middleware import (
    CircuitBreakerMiddleware,
    FallbackMiddleware,
    FaultMiddleware,
    MirrorMiddleware,
    MockMiddleware,
    RetryMiddleware,
    SplitMiddleware,
)
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Conversation, ManualClock, ScriptedApp, http_scope, request, settle


@pytest.mark.parametrize(
    ("sticky", "headers"),
    [("header:X-User", [(b"x-user", b"ann")]), ("cookie:user", [(b"cookie", b"a=b; user=ann")])],
)
async def test_a_sticky_choice_stays(sticky: str, headers: list[tuple[bytes, bytes]]) -> None:
    app = SplitMiddleware(
        ScriptedApp(200), own_weight=1, targets=[{"service": ScriptedApp(201), "weight": 1}], sticky=sticky
    )
    assert len({(await request(app, headers=headers)).status for _ in range(30)}) == 1
    assert {(await request(app)).status for _ in range(60)} == {200, 201}


async def test_requests_are_divided_by_weight() -> None:
    inner, other = ScriptedApp(200), ScriptedApp(200)
    app = SplitMiddleware(inner, own_weight=90, targets=[{"service": other, "weight": 10}])
    for _ in range(2000):
        await request(app)
    assert 100 < len(other.calls) < 300
    assert len(inner.calls) + len(other.calls) == 2000


async def test_by_default_the_inner_app_has_no_weight() -> None:
    inner = ScriptedApp(200)
    app = SplitMiddleware(inner, targets=[{"service": ScriptedApp(201)}])
    assert {(await request(app)).status for _ in range(20)} == {201}


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": [{"service": ScriptedApp(), "weight": 0}]},
        {"targets": [{"service": ScriptedApp(), "weight": -1}]},
        {"targets": [{"service": ScriptedApp()}], "sticky": "x"},
    ],
)
def test_a_split_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        SplitMiddleware(ScriptedApp(), **wrong)


@pytest.mark.parametrize(
    ("wrap", "missing"),
    [
        (FallbackMiddleware, "targets"),
        (FaultMiddleware, "give delay or abort"),
        (MirrorMiddleware, "target"),
        (MockMiddleware, "answers"),
        (SplitMiddleware, "targets"),
    ],
)
def test_what_would_do_nothing_is_a_mistake(wrap: type, missing: str) -> None:
    empty = {} if wrap is FaultMiddleware else {missing: None if missing == "target" else []}
    name = snake_case(wrap)
    for options in ({}, empty):
        with pytest.raises(ValueError, match=missing):
            wrap(ScriptedApp(), **options)
        with pytest.raises(ConfigError, match=missing):
            Gateway({"version": 1, "middleware": [{name: options}]})


def snake_case(wrap: type) -> str:
    return wrap.__name__.removesuffix("Middleware").lower()


async def test_a_delay_waits_by_the_clock() -> None:
    clock, inner = ManualClock(), ScriptedApp(200)
    app = FaultMiddleware(inner, delay={"duration": "2s"}, runtime=Runtime(clock=clock))
    async with Conversation(app, http_scope()) as talk:
        talk.body()
        await clock.advance(1.9)
        assert inner.calls == []
        await clock.advance(0.1)
        await settle()
        assert (await talk.finish()).status == 200


async def test_a_delay_ends_when_the_client_leaves(clock: ManualClock) -> None:
    listening: list[Callable[[], None]] = []

    def on_disconnect(left: Callable[[], None]) -> Callable[[], None]:
        listening.append(left)
        return lambda: listening.remove(left)

    inner, exchange = ScriptedApp(200), Exchange()
    app = FaultMiddleware(inner, delay={"duration": "2s"}, runtime=Runtime(clock=clock))
    more = {EXCHANGE: exchange, ON_DISCONNECT: on_disconnect}
    async with Conversation(app, http_scope(**more)) as talk:
        await settle()
        listening[0]()
        await settle()
        assert talk.done
    assert exchange.failure is not None
    assert (exchange.failure.kind, inner.calls, listening, clock.pending) == (
        "client_disconnected",
        [],
        [],
        [],
    )
    async with Conversation(app, http_scope(**more)) as talk:
        talk.body()
        await clock.advance(2)
        assert (await talk.finish()).status == 200
    assert listening == []


async def test_an_abort_answers_and_is_marked() -> None:
    answer = await request(FaultMiddleware(ScriptedApp(200), abort={"status": 502}))
    assert (answer.status, answer.header("x-gateway-fault")) == (502, "abort")


async def test_a_reset_is_answered_as_the_services_own_is() -> None:
    answer = await request(FaultMiddleware(ScriptedApp(200), abort={"reset": True}))
    assert (answer.status, answer.header("x-gateway-error")) == (502, "upstream_reset")
    assert answer.header("x-gateway-fault") == "abort"


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 502)])
async def test_a_reset_is_retried_as_the_services_own_is(method: str, status: int) -> None:
    """Where the service may have acted on it, only what may be repeated."""
    drawn = iter([0.0, 0.9])
    once = Runtime(random=lambda: next(drawn))
    fault = FaultMiddleware(ScriptedApp(200), abort={"reset": True, "share": 0.5}, runtime=once)
    assert (await request(RetryMiddleware(fault, backoff={"initial": 0}), method)).status == status


async def test_a_reset_is_a_failure_of_the_service_to_a_fallback_and_a_breaker() -> None:
    fault = FaultMiddleware(ScriptedApp(200), abort={"reset": True})
    assert (await request(FallbackMiddleware(fault, targets=[ScriptedApp(201)]))).status == 201
    breaker = CircuitBreakerMiddleware(fault, failure_threshold=1)
    told = [(await request(breaker)).header("x-gateway-error") for _ in range(2)]
    assert told == ["upstream_reset", "circuit_open"]


@pytest.mark.parametrize(
    ("when", "sent", "status"),
    [
        ("X-Fault: yes", b"yes", 503),
        ("X-Fault: yes", b"no", 200),
        ("X-Fault", b"any", 503),
        ("X-F", b"a", 200),
    ],
)
async def test_only_requests_with_the_header_fail(when: str, sent: bytes, status: int) -> None:
    app = FaultMiddleware(ScriptedApp(200), abort={}, when_header=when)
    assert (await request(app, headers=[(b"x-fault", sent)])).status == status
    assert (await request(app)).status == 200


async def test_the_share_of_a_fault_is_drawn() -> None:
    drawn = iter([0.05, 0.2])
    app = FaultMiddleware(ScriptedApp(200), abort={"share": 0.1}, runtime=Runtime(random=lambda: next(drawn)))
    assert [(await request(app)).status for _ in range(2)] == [503, 200]


async def test_to_the_layers_around_a_fault_is_the_services() -> None:
    fault = FaultMiddleware(ScriptedApp(200), abort={})
    retry = RetryMiddleware(fault, attempts=3, backoff={"initial": 0})
    breaker = CircuitBreakerMiddleware(retry, failure_threshold=1)
    statuses = [(await request(breaker)).header("x-gateway-error") for _ in range(2)]
    assert statuses == [None, "circuit_open"]


async def test_mocks_answer_their_paths_and_methods_and_others_pass() -> None:
    inner = ScriptedApp(404)
    app = MockMiddleware(
        inner,
        answers=[
            {"path": "/models", "methods": ["GET", "HEAD"], "body": {"data": []}},
            {"path": "/down/*", "status": 503, "headers": {"Retry-After": "5"}},
        ],
    )
    assert (await request(app, path="/models")).body == b'{"data": []}'
    head = await request(app, "HEAD", "/models")
    assert (head.body, head.header("content-length")) == (b"", "12")
    assert (await request(app, path="/down/a")).header("retry-after") == "5"
    assert (await request(app, "POST", "/models")).status == 404
    assert len(inner.calls) == 1


async def test_a_mock_reads_nothing_of_the_request() -> None:
    async with Conversation(MockMiddleware(ScriptedApp(), answers=[{}]), http_scope("POST")) as talk:
        assert (await talk.finish()).status == 200


def test_a_mock_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ValidationError):
        MockMiddleware(ScriptedApp(), answers=[{"status": 99}])
