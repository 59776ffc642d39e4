"""Limits as clients see them: who is refused, what they are told, and that what they are told is true."""

import asyncio
import logging
from typing import Any

import pytest
from pydantic import ValidationError

from asgi_gateway.context import CLIENT_ADDRESS, EXCHANGE, SERVICE, Exchange
from asgi_gateway.middleware.client_address import ClientAddressMiddleware
from asgi_gateway.middleware.rate_limit import RateLimitMiddleware
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Answer,
    Conversation,
    ManualClock,
    ScriptedApp,
    http_scope,
    request,
    settle,
    websocket_scope,
)
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

STRATEGIES = ["fixed_window", "sliding_window", "moving_window"]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def by_plan(scope: Scope) -> str | None:
    """A key function as a user writes it."""
    plan: str | None = scope.get("plan")
    return plan


@pytest.fixture
def runtime(clock: ManualClock) -> Runtime:
    return Runtime(clock=clock)


def limited(runtime: Runtime, app: ASGIApp | None = None, **options: Any) -> RateLimitMiddleware:
    return RateLimitMiddleware(app or ScriptedApp(200), runtime=runtime, **options)


async def ask(app: ASGIApp, times: int, **scope: Any) -> list[int]:
    return [(await request(app, **scope)).status for _ in range(times)]


def told(answer: Answer) -> tuple[str | None, str | None, str | None]:
    names = ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
    limit, remaining, reset = (answer.header(name) for name in names)
    return limit, remaining, reset


@every_strategy
async def test_the_hundred_and_first_in_a_minute_is_refused(strategy: str, runtime: Runtime):
    app = ScriptedApp(200)
    assert await ask(limited(runtime, app, strategy=strategy), 102) == [200] * 100 + [429] * 2
    assert len(app.calls) == 100


@every_strategy
@pytest.mark.parametrize("seconds", [0.0, 0.3, 12.7, 59.9])
async def test_waiting_as_long_as_it_says_succeeds(
    strategy: str, seconds: float, runtime: Runtime, clock: ManualClock
):
    app = limited(runtime, limit="10/minute", strategy=strategy)
    clock.shift(seconds)
    for _ in range(30):
        await ask(app, 11)
        refused = await request(app)
        assert refused.status == 429
        wait = refused.header("retry-after")
        assert wait is not None
        assert int(wait) >= 1
        clock.shift(int(wait))
        assert (await request(app)).status == 200


async def test_a_refusal_says_what_and_how_long(runtime: Runtime, clock: ManualClock):
    app = limited(runtime, limit="1/minute", strategy="fixed_window")
    exchange = Exchange()
    await request(app)
    clock.shift(10.5)
    refused = await request(app, **{EXCHANGE: exchange})
    assert refused.header("retry-after") == "50"
    assert told(refused) == ("1", "0", "50")
    assert refused.header("x-gateway-error") == "rate_limited"
    assert refused.header("content-type") == "application/problem+json"
    assert exchange.failure is not None
    assert (exchange.failure.kind, exchange.failure.source) == ("rate_limited", "gateway")


async def test_every_limited_response_says_what_is_left(runtime: Runtime):
    app = limited(runtime, ScriptedApp(200, 404, 500), limit="5/minute", strategy="fixed_window")
    assert [told(await request(app)) for _ in range(3)] == [
        ("5", "4", "60"),
        ("5", "3", "60"),
        ("5", "2", "60"),
    ]


async def test_a_services_own_fields_do_not_win(runtime: Runtime):
    headers = [(b"RateLimit-Limit", b"9"), (b"ratelimit-remaining", b"9"), (b"X-Kept", b"1")]
    answer = await request(limited(runtime, ScriptedApp((200, headers, [])), limit="5/minute"))
    assert answer.all("ratelimit-limit") == ["5"]
    assert answer.all("ratelimit-remaining") == ["4"]
    assert answer.header("x-kept") == "1"


async def test_the_apps_own_message_is_left_alone(runtime: Runtime):
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"ratelimit-limit", b"9")]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)

    answer = await request(limited(runtime, app))
    assert answer.header("ratelimit-limit") == "100"
    assert start["headers"] == [(b"ratelimit-limit", b"9")]


# Who is counted


async def test_clients_are_counted_apart(runtime: Runtime):
    app = limited(runtime, limit="1/minute")
    assert await ask(app, 2, client=("192.0.2.1", 1)) == [200, 429]
    assert await ask(app, 2, client=("192.0.2.2", 1)) == [200, 429]


async def test_ipv6_clients_are_counted_by_their_64(runtime: Runtime):
    app = limited(runtime, limit="1/minute")
    assert await ask(app, 1, client=("2001:db8::1", 1)) == [200]
    assert await ask(app, 1, client=("2001:db8::ffff", 1)) == [429]
    assert await ask(app, 1, client=("2001:db8:0:1::1", 1)) == [200]


async def test_the_address_found_behind_a_proxy_is_the_clients(runtime: Runtime):
    app = limited(runtime, limit="1/minute")
    assert await ask(app, 1, **{CLIENT_ADDRESS: "198.51.100.1"}) == [200]
    assert await ask(app, 1, **{CLIENT_ADDRESS: "198.51.100.2"}) == [200]
    assert await ask(app, 1, **{CLIENT_ADDRESS: "198.51.100.2"}) == [429]


async def test_a_forwarded_header_alone_makes_no_new_client(runtime: Runtime):
    app = limited(runtime, limit="1/minute")
    statuses = [await ask(app, 1, headers=[(b"x-forwarded-for", b"192.0.2.%d" % n)]) for n in range(3)]
    assert statuses == [[200], [429], [429]]


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("header:X-Api-Key", {"headers": [(b"x-api-key", b"a")]}, {"headers": [(b"x-api-key", b"b")]}),
        ("path", {"path": "/a"}, {"path": "/b"}),
        ("service", {SERVICE: "ai"}, {SERVICE: "data"}),
        (f"{__name__}:by_plan", {"plan": "gold"}, {"plan": "free"}),
        (by_plan, {"plan": "gold"}, {"plan": "free"}),
        (["path", by_plan], {"path": "/a", "plan": "gold"}, {"path": "/a", "plan": "free"}),
        (["path", by_plan], {"path": "/a", "plan": "gold"}, {"path": "/b", "plan": "gold"}),
    ],
)
async def test_what_is_counted_can_be_chosen(key: Any, one: Any, other: Any, runtime: Runtime):
    app = limited(runtime, limit="1/minute", key=key)
    assert await ask(app, 2, **one) == [200, 429]
    assert await ask(app, 2, **other) == [200, 429]


async def test_without_the_key_the_address_is_counted(runtime: Runtime):
    app = limited(runtime, limit="1/minute", key="header:X-Api-Key")
    assert await ask(app, 2, client=("192.0.2.1", 1)) == [200, 429]
    assert await ask(app, 1, client=("192.0.2.2", 1)) == [200]


async def test_no_header_value_counts_against_an_address(runtime: Runtime):
    app = limited(runtime, limit="1/minute", key="header:X-Api-Key")
    assert await ask(app, 1, headers=[(b"x-api-key", b"192.0.2.1")]) == [200]
    assert await ask(app, 1, client=("192.0.2.1", 1)) == [200]


async def test_no_combination_counts_against_an_address(runtime: Runtime):
    app = limited(runtime, limit="1/minute", key=["header:X-A", "header:X-B"])
    headers = [(b"x-a", b"client_address"), (b"x-b", b"192.0.2.1")]
    assert await ask(app, 2, headers=headers) == [200, 429]
    assert await ask(app, 2, client=("192.0.2.1", 1)) == [200, 429]


@pytest.mark.parametrize(
    ("policy", "statuses"),
    [("client_address", [200, 429]), ("reject", [400, 400]), ("skip", [200, 200])],
)
async def test_without_one_of_several_keys_it_is_as_without_the_key(
    policy: str, statuses: list[int], runtime: Runtime
):
    app = limited(
        runtime, limit="1/minute", key=["client_address", "header:X-Api-Key"], on_missing_key=policy
    )
    assert await ask(app, 2) == statuses


async def test_without_the_key_a_request_can_be_rejected(runtime: Runtime):
    app = limited(runtime, key="header:X-Api-Key", on_missing_key="reject")
    refused = await request(app)
    assert (refused.status, refused.header("x-gateway-error")) == (400, "bad_request")


async def test_without_the_key_a_request_can_go_uncounted(runtime: Runtime):
    app = limited(runtime, limit="1/minute", key="header:X-Api-Key", on_missing_key="skip")
    answers = [await request(app) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].header("ratelimit-limit") is None


async def test_clients_without_an_address_are_counted_together_and_it_says_so(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
):
    app = limited(runtime, limit="1/minute")
    with caplog.at_level(logging.WARNING):
        assert await ask(app, 3, client=None) == [200, 429, 429]
    assert [record.message for record in caplog.records] == [
        "requests without a client address are counted together"
    ]


async def test_behind_client_address_a_peer_on_a_unix_socket_has_no_key_either(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
):
    """Such a peer is a proxy that nobody trusted, so all of its clients look alike."""
    strict = ClientAddressMiddleware(limited(runtime, limit="1/minute", on_missing_key="reject"))
    assert await ask(strict, 2, client=None) == [400, 400]
    with caplog.at_level(logging.WARNING):
        assert await ask(ClientAddressMiddleware(limited(runtime, limit="1/minute")), 2, client=None) == [
            200,
            429,
        ]
    assert "requests without a client address are counted together" in caplog.text


@pytest.mark.parametrize("path", ["/health", "/health/live", "/static/a.css"])
async def test_exempt_paths_are_not_counted(path: str, runtime: Runtime):
    app = limited(runtime, limit="1/minute", exempt=["/health/*", "/static/*"])
    answers = [await request(app, path=path) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].header("ratelimit-limit") is None


@pytest.mark.parametrize(
    "path", ["/healthy", "/api", "/health/../api", "/api/../health/live", "/api//../../health"]
)
async def test_a_path_that_only_looks_exempt_is_counted(path: str, runtime: Runtime):
    app = limited(runtime, limit="1/minute", exempt=["/health/*"])
    assert await ask(app, 2, path=path) == [200, 429]


@pytest.mark.parametrize(
    ("exempt", "path", "root", "statuses"),
    [
        (["/health/*"], "/gate/health/live", "/gate", [200, 200]),
        (["/health/*"], "/gate/api", "/gate", [200, 429]),
        (["/health/*"], "/api/health", "", [200, 429]),  # holds it, does not begin with it
        (["/health"], "/health/live", "", [200, 429]),
        (["/"], "/gate", "/gate", [200, 200]),
        (["/*"], "/anything", "", [200, 200]),
        (["/*", "/health"], "/anything", "", [200, 200]),
        (["/health", "/heap/*"], "/heap/dump", "", [200, 200]),
        (["/health", "/heap/*"], "/heaps", "", [200, 429]),
        ([], "/a\0b", "", [200, 429]),
    ],
)
async def test_what_is_exempt_is_the_path_below_the_mount_from_its_beginning(
    exempt: list[str], path: str, root: str, statuses: list[int], runtime: Runtime
):
    app = limited(runtime, limit="1/minute", exempt=exempt)
    assert await ask(app, 2, path=path, root_path=root) == statuses


# Several limits


async def test_the_tightest_of_several_limits_is_told(runtime: Runtime, clock: ManualClock):
    app = limited(runtime, limit=["2/second", "3/minute"], strategy="moving_window")
    assert told(await request(app)) == ("2", "1", "1")
    clock.shift(1)
    assert told(await request(app)) == ("3", "1", "60")
    clock.shift(1)
    assert told(await request(app)) == ("3", "0", "60")
    refused = await request(app)
    assert (refused.status, refused.header("retry-after")) == (429, "58")


async def test_what_one_limit_refuses_counts_for_none(runtime: Runtime, clock: ManualClock):
    app = limited(runtime, limit="2/second; 3/minute", strategy="moving_window")
    assert await ask(app, 5) == [200, 200, 429, 429, 429]
    clock.shift(1)
    assert await ask(app, 2) == [200, 429]


async def test_a_request_may_cost_more_than_one(runtime: Runtime):
    app = limited(runtime, limit="10/minute", cost=4)
    answers = [await request(app) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.header("ratelimit-remaining") for answer in answers] == ["6", "2", "2"]


@pytest.mark.parametrize(
    ("outer", "inner", "reported"),
    [("100/minute", "10/minute", "10"), ("10/minute", "100/minute", "10")],
)
async def test_of_several_limiters_in_a_chain_the_tightest_is_told(
    outer: str, inner: str, reported: str, runtime: Runtime
):
    chain = limited(runtime, limited(runtime, limit=inner), limit=outer)
    exchange = Exchange()
    answer = await request(chain, **{EXCHANGE: exchange})
    assert answer.all("ratelimit-limit") == [reported]
    assert answer.all("ratelimit-remaining") == ["9"]
    assert exchange.rate_limit is not None
    assert exchange.rate_limit.limit == int(reported)


async def test_an_inner_limiters_refusal_is_told_as_its_own(runtime: Runtime):
    chain = limited(runtime, limited(runtime, limit="2/hour", strategy="fixed_window"), limit="3/minute")
    answers = [await request(chain) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert told(answers[2]) == ("2", "0", "3600")
    assert answers[2].header("retry-after") == "3600"


async def test_two_limiters_share_nothing(runtime: Runtime):
    one, other = limited(runtime, limit="1/minute"), limited(runtime, limit="1/minute")
    assert await ask(one, 2) == [200, 429]
    assert await ask(other, 2) == [200, 429]


async def test_keys_are_bounded(runtime: Runtime):
    app = limited(runtime, max_keys=10)
    for n in range(50):
        await request(app, client=(f"192.0.2.{n}", 1))
    assert len(app.storage) == 10


# The rest


async def test_the_first_chunk_is_passed_on_before_the_last_is_made(runtime: Runtime):
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        assert sent[-1]["body"] == b"first"
        await send({"type": "http.response.body", "body": b"last"})
        await send({"type": "http.response.trailers", "headers": []})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {}

    await limited(runtime, app)(http_scope(), receive, send)
    assert [message["type"].rpartition(".")[2] for message in sent] == ["start", "body", "body", "trailers"]
    assert sent[0]["trailers"]


async def test_a_websocket_handshake_is_counted(runtime: Runtime):
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    chain = limited(runtime, app, limit="1/minute")
    scope = {**http_scope(), "type": "websocket"}
    await chain(scope, receive, send)
    await chain(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_scopes_pass_through(kind: str):
    given: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.extend([scope, receive, send])

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None: ...

    scope: Scope = {"type": kind}
    await RateLimitMiddleware(app)(scope, receive, send)
    assert all(got is handed for got, handed in zip(given, (scope, receive, send), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": "lots"}, 'expected a limit such as "100/minute"'),
        ({"limit": "100/fortnight"}, 'expected a limit such as "100/minute"'),
        ({"limit": ["1/second", "0/minute"]}, "not '0/minute'"),
        ({"limit": []}, "at least 1 item"),
        ({"limit": ["9/hour", "3/minute"], "cost": 4}, "costs 4 would never pass"),
        ({"limit": "3/minute", "cost": 4}, "costs 4 would never pass the limit '3/minute'"),
        ({"strategy": "token_bucket"}, "sliding_window"),
        ({"key": "ip"}, "expected client_address, path, service, header"),
        ({"key": "no.such.module:key"}, "cannot import the key function"),
        ({"key": ["path", "ip"]}, "expected client_address, path, service, header"),
        ({"key": []}, "at least 1 item"),
        ({"exempt": ["health"]}, "must begin with a slash"),
        ({"cost_from": "usage.total_tokens"}, "expected header:<name> or json:<member>"),
        ({"cost": 0}, "greater than or equal to 1"),
        ({"on_missing_key": "ignore"}, "client_address"),
        ({"limits": "1/minute"}, "limits"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        RateLimitMiddleware(ScriptedApp(200), **options)


@pytest.mark.parametrize("limit", ["100/minute", "5 per 10 seconds", "1/second;10/minute", ["2/hour"]])
def test_limits_are_written_as_the_limits_package_writes_them(limit: Any):
    assert RateLimitMiddleware(ScriptedApp(200), limit=limit).limits


async def test_every_refusal_is_counted(runtime: Runtime):
    inner = RateLimitMiddleware(
        ScriptedApp(200), limit="1/minute", key="header:x", on_missing_key="reject", runtime=runtime
    )
    statuses = [(await request(inner, headers=[(b"x", b"1")])).status for _ in range(3)]
    assert (statuses, (await request(inner)).status) == ([200, 429, 429], 400)
    counted = {c.name: c.value for c in runtime.metrics.counters}
    assert counted == {"rate_limit_rejected_total": 3}


async def test_in_shadow_mode_nothing_is_refused_and_all_is_told():
    runtime = Runtime()
    app = RateLimitMiddleware(ScriptedApp(200), limit="1/minute", mode="shadow", runtime=runtime)
    answers = [await request(app) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert answers[0].header("ratelimit-limit") is None
    assert {c.name: c.value for c in runtime.metrics.counters} == {
        "rate_limit_rejected_total": 0,
        "shadow_rejected_total": 2,
    }


# What a response says that it cost


def saying(cost: int | None, *, status: int = 200) -> tuple[int, Any, list[bytes]]:
    return (status, [] if cost is None else [(b"x-token-cost", b"%d" % cost)], [b"ok"])


JSON = [(b"content-type", b"application/json")]


class Tokens:
    """A service that answers when it is told to, and says then what each answer has cost."""

    def __init__(self, cost: int, source: str) -> None:
        self.by_header = source.startswith("header")
        self.cost = cost
        self.calls = 0
        self.answers = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        await self.answers.wait()
        headers = [(b"x-token-cost", b"%d" % self.cost)] if self.by_header else JSON
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"usage": {"total_tokens": %d}}' % self.cost})


SOURCES = ["header:X-Token-Cost", "json:usage.total_tokens"]


@every_strategy
@pytest.mark.parametrize("source", SOURCES)
async def test_what_was_reserved_is_given_back_when_the_cost_is_known(
    strategy: str, source: str, runtime: Runtime
):
    service = Tokens(200, source)
    app = limited(runtime, service, limit="5000/minute", strategy=strategy, cost=1000, cost_from=source)
    asked = [asyncio.ensure_future(request(app)) for _ in range(20)]
    await settle()
    assert service.calls == 5
    service.answers.set()
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 15
    service.answers.clear()
    again = [asyncio.ensure_future(request(app)) for _ in range(20)]
    await settle()
    assert service.calls == 5 + 4, "5000 - 5 * 200 holds four times 1000"
    service.answers.set()
    await asyncio.gather(*again)


@every_strategy
@pytest.mark.parametrize("source", SOURCES)
async def test_what_costs_more_is_charged_beyond_the_limit(
    strategy: str, source: str, runtime: Runtime, clock: ManualClock
):
    service = Tokens(250, source)
    service.answers.set()
    app = limited(runtime, service, limit="100/minute", strategy=strategy, cost_from=source)
    assert await ask(app, 2) == [200, 429]
    refused = await request(app)
    assert told(refused)[:2] == ("100", "0")
    clock.shift(int(refused.header("retry-after") or 0))
    assert await ask(app, 1) == [200]


@pytest.mark.parametrize(("cost", "left"), [(1, "9"), (0, "10"), (4, "6"), (40, "0"), (None, "9")])
async def test_what_is_left_is_told_with_the_cost_that_the_header_says(
    cost: int | None, left: str, runtime: Runtime
):
    app = limited(runtime, ScriptedApp(saying(cost)), limit="10/minute", cost_from="header:x-token-cost")
    answer = await request(app)
    assert told(answer)[:2] == ("10", left)
    assert answer.header("x-token-cost") == (None if cost is None else str(cost))


@pytest.mark.parametrize(
    ("outer", "inner", "cost", "reported"),
    [
        ("100/minute", "50/minute", 10, ("50", "40")),
        ("100/minute", "150/minute", 100, ("150", "50")),
        ("30/minute", "50/minute", 1, ("30", "29")),
        ("50/minute", "50/minute", 0, ("50", "49")),
    ],
)
async def test_the_limiter_that_reports_for_all_is_told_of_the_cost(
    outer: str, inner: str, cost: int, reported: tuple[str, str], runtime: Runtime
):
    app = ScriptedApp(saying(cost))
    chain = limited(runtime, limited(runtime, app, limit=inner, cost_from="header:x-token-cost"), limit=outer)
    assert told(await request(chain))[:2] == reported


async def test_what_a_response_does_not_say_is_what_was_reserved(runtime: Runtime):
    steps = [
        saying(None),
        saying(0, status=200),
        (200, JSON, [b'{"usage"']),
        (200, [(b"content-type", b"text/event-stream")], [b'data: {"usage": {"total_tokens": 1}}\n\n']),
        ConnectionError("no answer"),
    ]
    app = limited(
        runtime, ScriptedApp(*steps), limit="50/minute", cost=10, cost_from="json:usage.total_tokens"
    )
    for _ in steps[:-1]:
        await request(app)
    with pytest.raises(ConnectionError):
        await request(app)
    assert await ask(app, 1) == [429]


async def test_a_cost_is_settled_with_the_key_and_the_limits_that_it_was_reserved_from(runtime: Runtime):
    app = limited(
        runtime,
        ScriptedApp(saying(7)),
        limit=["10/second", "20/minute"],
        strategy="fixed_window",
        key="header:X-Api-Key",
        cost_from="header:x-token-cost",
    )
    one, other = ({"headers": [(b"x-api-key", name)]} for name in (b"a", b"b"))
    answers = [await request(app, **one) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert told(await request(app, **other))[:2] == ("10", "3")


async def test_shadow_mode_settles_too_and_says_nothing(clock: ManualClock):
    runtime = Runtime(clock=clock)
    app = limited(
        runtime, ScriptedApp(saying(50)), limit="100/minute", mode="shadow", cost_from="header:x-token-cost"
    )
    exchange = Exchange()
    answers = [await request(app, **{EXCHANGE: exchange}) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    assert answers[0].header("ratelimit-limit") is None
    assert exchange.rate_limit is None
    assert {c.name: c.value for c in runtime.metrics.counters} == {
        "rate_limit_rejected_total": 0,
        "shadow_rejected_total": 2,
    }


async def test_a_json_answer_is_passed_on_as_it_comes(runtime: Runtime):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": JSON})
        await send({"type": "http.response.body", "body": b'{"usage": ', "more_body": True})
        await receive()
        await send({"type": "http.response.body", "body": b'{"total_tokens": 5}}'})

    chain = limited(runtime, app, limit="10/minute", cost_from="json:usage.total_tokens")
    async with Conversation(chain, http_scope()) as talk:
        assert (await talk.next())["type"] == "http.response.start"
        assert (await talk.next())["body"] == b'{"usage": '
        talk.body(b"")
        await talk.finish()
    assert told(await request(limited(runtime)))[1] == "99"
    async with Conversation(chain, http_scope()) as talk:
        assert dict((await talk.next())["headers"])[b"ratelimit-remaining"] == b"4"


async def test_a_websocket_costs_what_was_reserved(runtime: Runtime):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept", "headers": [(b"x-token-cost", b"0")]})

    chain = limited(runtime, app, limit="1/minute", cost_from="header:x-token-cost")
    answers = []
    for _ in range(2):
        async with Conversation(chain, websocket_scope()) as talk:
            answers.append((await talk.next())["type"])
    assert answers[0] == "websocket.accept"
    assert answers[1] != "websocket.accept"
