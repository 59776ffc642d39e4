"""The breaker as a client, a service and an operator see it."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from asgi_gateway.context import EXCHANGE, Exchange
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event
from asgi_gateway.middleware.circuit_breaker import CircuitBreakerMiddleware
from asgi_gateway.middleware.retry import RetryMiddleware
from asgi_gateway.middleware.timeout import TimeoutMiddleware
from asgi_gateway.policies.backoff import Backoff
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import Conversation, ManualClock, ScriptedApp, http_scope, request, settle
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

RESET = Failure("reset", "upstream", request_sent=True)
CLIENT_LEFT = Failure("client_disconnected", "client")


@pytest.fixture
def runtime(clock: ManualClock) -> Runtime:
    return Runtime(clock=clock)


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """What an app does whose client left before there was an answer."""


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def breaking_off(error: Exception) -> ASGIApp:
    """An app that begins a good answer and cannot finish it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise error

    return app


async def ask(app: ASGIApp, times: int = 1, **scope: Any) -> list[int]:
    """The statuses of that many requests, 0 for one that was answered with an exception or not at all."""
    statuses = []
    for _ in range(times):
        try:
            statuses.append((await request(app, **scope)).status)
        except Exception:
            statuses.append(0)
    return statuses


async def test_after_five_failures_in_a_row_the_service_is_left_alone(runtime: Runtime):
    app = ScriptedApp(500)
    breaker = CircuitBreakerMiddleware(app, runtime=runtime)
    assert await ask(breaker, 8) == [500] * 5 + [503] * 3
    assert len(app.calls) == 5


async def test_the_refusal_says_when_to_come_back(runtime: Runtime, clock: ManualClock):
    breaker = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, runtime=runtime)
    await ask(breaker)
    clock.shift(17.5)
    refusal = await request(breaker)
    assert refusal.status == 503
    assert refusal.header("retry-after") == "43"
    assert refusal.header("x-gateway-error") == "circuit_open"
    assert refusal.header("content-type") == "application/problem+json"


async def test_a_success_closes_it_again(runtime: Runtime, clock: ManualClock):
    app = ScriptedApp(500, 500, 200)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=2, runtime=runtime)
    assert await ask(breaker, 3) == [500, 500, 503]
    clock.shift(60)
    assert await ask(breaker, 3) == [200, 200, 200]


async def test_a_failed_probe_opens_it_for_another_full_period(runtime: Runtime, clock: ManualClock):
    app = ScriptedApp(500)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, runtime=runtime)
    await ask(breaker)
    clock.shift(75)
    assert (await ask(breaker), len(app.calls)) == ([500], 2)
    clock.shift(59.9)
    assert (await ask(breaker), len(app.calls)) == ([503], 2)
    clock.shift(0.1)
    assert (await ask(breaker), len(app.calls)) == ([500], 3)


@pytest.mark.parametrize("probes", [1, 3])
async def test_of_a_hundred_at_once_exactly_the_probes_reach_the_service(
    probes: int, runtime: Runtime, clock: ManualClock
):
    gate = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await ScriptedApp(200)(scope, receive, send)

    app = ScriptedApp(500, waiting)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, probes=probes, runtime=runtime)
    await ask(breaker)
    clock.shift(60)
    tasks = [asyncio.ensure_future(request(breaker)) for _ in range(100)]
    await settle()
    gate.set()
    statuses = [(await task).status for task in tasks]
    assert len(app.calls) == 1 + probes
    assert sorted(statuses) == [200] * probes + [503] * (100 - probes)


@pytest.mark.parametrize("status", [200, 301, 400, 404, 408, 429])
async def test_what_is_not_a_server_error_is_a_success(status: int, runtime: Runtime):
    breaker = CircuitBreakerMiddleware(ScriptedApp(500, status, 500), failure_threshold=2, runtime=runtime)
    assert await ask(breaker, 4) == [500, status, 500, 500]


async def test_the_statuses_that_count_can_be_chosen(runtime: Runtime):
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(429), failure_threshold=1, failure_statuses=["429", "502-504"], runtime=runtime
    )
    assert await ask(breaker, 2) == [429, 503]
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(500), failure_threshold=1, failure_statuses=[503], runtime=runtime
    )
    assert await ask(breaker, 3) == [500, 500, 500]


async def test_a_failed_connection_counts_whatever_the_statuses(runtime: Runtime):
    unreachable = Problem(502, Failure("connect", "upstream"), "unreachable")
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(unreachable), failure_threshold=1, failure_statuses=[500], runtime=runtime
    )
    assert await ask(breaker, 2) == [502, 503]


@pytest.mark.parametrize(
    "neutral",
    [
        Problem(503, Failure("overloaded", "gateway"), "busy"),
        Problem(429, Failure("rate_limited", "gateway"), "slower"),
        Problem(400, Failure("bad_request", "client"), "what?"),
        silent,
        ClientDisconnected(),
        breaking_off(ClientDisconnected()),
        breaking_off(ResponseAborted(CLIENT_LEFT)),
    ],
    ids=["overloaded", "rate limited", "bad request", "silent", "gone", "gone later", "aborted later"],
)
async def test_our_refusals_and_clients_that_leave_are_no_failures(neutral: Any, runtime: Runtime):
    breaker = CircuitBreakerMiddleware(ScriptedApp(neutral), failure_threshold=1, runtime=runtime)
    await ask(breaker, 3)
    assert breaker.policy.state(runtime.clock.monotonic()) == "closed"


async def test_a_refusal_of_our_own_is_no_success_either(runtime: Runtime):
    busy = Problem(503, Failure("overloaded", "gateway"), "busy")
    breaker = CircuitBreakerMiddleware(ScriptedApp(500, busy, 500, 200), failure_threshold=2, runtime=runtime)
    assert await ask(breaker, 4) == [500, 503, 500, 503]
    assert breaker.policy.state(runtime.clock.monotonic()) == "open"


async def test_a_neutral_probe_gives_its_place_to_the_next(runtime: Runtime, clock: ManualClock):
    app = ScriptedApp(500, silent, 200)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, runtime=runtime)
    await ask(breaker)
    clock.shift(60)
    assert await ask(breaker, 2) == [0, 200]


async def test_an_exception_counts_and_goes_on(runtime: Runtime):
    breaker = CircuitBreakerMiddleware(ScriptedApp(KeyError("bug")), failure_threshold=1, runtime=runtime)
    with pytest.raises(KeyError):
        await request(breaker)
    assert (await request(breaker)).status == 503


@pytest.mark.parametrize("error", [ResponseAborted(RESET), OSError("gone")], ids=str)
async def test_answers_that_break_off_open_it(error: Exception, runtime: Runtime):
    app = ScriptedApp(breaking_off(error))
    breaker = CircuitBreakerMiddleware(app, runtime=runtime)
    assert await ask(breaker, 7) == [0] * 5 + [503] * 2
    assert len(app.calls) == 5


START: Message = {"type": "http.response.start", "status": 200, "headers": []}
LAST: Message = {"type": "http.response.body", "body": b"whole"}
TRAILERS: Message = {"type": "http.response.trailers", "headers": []}


def raising_after(*messages: Message) -> ASGIApp:
    """An app that says all this and then has a bug, as a background task of a framework may."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise KeyError("bug")

    return app


@pytest.mark.parametrize(
    "messages",
    [
        (START, LAST),
        (START, {"type": "http.response.pathsend", "path": "/file"}),
        ({**START, "trailers": True}, LAST, TRAILERS),
    ],
    ids=["body", "file", "trailers"],
)
async def test_what_goes_wrong_after_a_whole_answer_is_no_failure(
    messages: tuple[Message, ...], runtime: Runtime
):
    breaker = CircuitBreakerMiddleware(raising_after(*messages), failure_threshold=1, runtime=runtime)
    with pytest.raises(KeyError):
        await request(breaker)
    assert breaker.policy.state(runtime.clock.monotonic()) == "closed"


@pytest.mark.parametrize(
    "messages",
    [
        (START,),
        (START, {**LAST, "more_body": True}),
        ({**START, "trailers": True}, LAST),
        ({**START, "trailers": True}, LAST, {**TRAILERS, "more_trailers": True}),
    ],
    ids=["no body", "part of a body", "no trailers", "part of the trailers"],
)
async def test_what_goes_wrong_before_the_last_of_an_answer_is_one(
    messages: tuple[Message, ...], runtime: Runtime
):
    breaker = CircuitBreakerMiddleware(raising_after(*messages), failure_threshold=1, runtime=runtime)
    assert await ask(breaker, 2) == [0, 503]


async def test_a_whole_answer_forgives_broken_ones_whatever_comes_after_it(runtime: Runtime):
    broken, whole = breaking_off(ResponseAborted(RESET)), raising_after(START, LAST)
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(broken, whole, broken, 200), failure_threshold=2, runtime=runtime
    )
    assert await ask(breaker, 4) == [0, 0, 0, 200]


async def test_answers_that_end_whole_forgive_broken_ones(runtime: Runtime):
    broken = breaking_off(ResponseAborted(RESET))
    app = ScriptedApp(broken, 200, broken, 200, broken, 200)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=2, runtime=runtime)
    assert await ask(breaker, 6) == [0, 200] * 3


async def test_an_answer_that_the_client_cut_short_forgives_nothing(runtime: Runtime):
    async def cut_short(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope[EXCHANGE].failure = CLIENT_LEFT

    broken = breaking_off(ResponseAborted(RESET))
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(broken, cut_short, broken), failure_threshold=2, runtime=runtime
    )
    assert await ask(breaker, 4) == [0, 200, 0, 503]


async def test_a_long_stream_closes_it_when_it_begins(runtime: Runtime, clock: ManualClock):
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    breaker = CircuitBreakerMiddleware(ScriptedApp(500, stream, 200), failure_threshold=1, runtime=runtime)
    await ask(breaker)
    clock.shift(60)
    async with Conversation(breaker, http_scope()) as talk:
        await talk.next()
        assert await ask(breaker, 3) == [200, 200, 200]


async def test_a_cancelled_probe_is_no_verdict_and_frees_its_place(runtime: Runtime, clock: ManualClock):
    app = ScriptedApp(500, endless, 200)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, runtime=runtime)
    await ask(breaker)
    clock.shift(60)
    async with Conversation(breaker, http_scope()) as talk:
        await asyncio.sleep(0)
        assert await ask(breaker) == [503]
        talk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await talk.finish()
    assert await ask(breaker) == [200]


async def test_a_call_that_a_time_limit_further_out_cancels_is_a_failure(
    runtime: Runtime, clock: ManualClock
):
    breaker = CircuitBreakerMiddleware(ScriptedApp(endless), failure_threshold=1, runtime=runtime)
    limited = TimeoutMiddleware(breaker, total=10, runtime=runtime)
    async with Conversation(limited, http_scope()) as talk:
        await clock.advance(10)
        assert (await talk.finish()).status == 504
    assert breaker.policy.state(clock.monotonic()) == "open"


async def test_a_failure_that_is_cancelled_while_it_is_told_counts_once(runtime: Runtime):
    async def stuck(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    breaker = CircuitBreakerMiddleware(Problem(502, RESET, "reset"), failure_threshold=2, runtime=runtime)
    task = asyncio.ensure_future(breaker(http_scope(), endless, stuck))  # type: ignore[arg-type]
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.policy.state(runtime.clock.monotonic()) == "closed"


async def test_a_late_answer_from_before_the_outage_changes_nothing(runtime: Runtime):
    gate = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await ScriptedApp(200)(scope, receive, send)

    breaker = CircuitBreakerMiddleware(ScriptedApp(slow, 500), failure_threshold=2, runtime=runtime)
    async with Conversation(breaker, http_scope()) as talk:
        await asyncio.sleep(0)
        assert await ask(breaker, 2) == [500, 500]
        gate.set()
        talk.body()
        assert (await talk.finish()).status == 200
    assert await ask(breaker) == [503]


async def test_around_a_retry_it_counts_one_outcome_a_request(clock: ManualClock):
    runtime = Runtime(clock=clock)
    app = ScriptedApp(503)
    retry = RetryMiddleware(app, attempts=3, backoff=Backoff(initial=0), runtime=runtime)
    breaker = CircuitBreakerMiddleware(retry, failure_threshold=2, runtime=runtime)
    assert await ask(breaker, 3) == [503] * 3
    assert len(app.calls) == 6


async def test_inside_a_retry_it_counts_each_attempt(clock: ManualClock):
    runtime = Runtime(clock=clock)
    app = ScriptedApp(503)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=2, runtime=runtime)
    retry = RetryMiddleware(breaker, attempts=4, backoff=Backoff(initial=0), runtime=runtime)
    answer = await request(retry)
    assert len(app.calls) == 2
    assert answer.header("x-gateway-error") == "circuit_open"


async def test_transitions_are_told(clock: ManualClock):
    events: list[Event] = []
    runtime = Runtime(clock=clock, emit=events.append, service="ai")
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(500, 500, 200), failure_threshold=1, break_duration=30, runtime=runtime
    )
    await ask(breaker, 2)
    clock.shift(30)
    await ask(breaker)
    clock.shift(30)
    await ask(breaker, 2)
    assert events == [
        CircuitOpened("ai", 30.0),
        CircuitHalfOpened("ai"),
        CircuitOpened("ai", 30.0),
        CircuitHalfOpened("ai"),
        CircuitClosed("ai"),
    ]


async def test_its_state_is_known_to_the_service_it_guards(clock: ManualClock):
    runtime = Runtime(clock=clock).scoped_to("ai")
    breaker = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, runtime=runtime)
    assert runtime.services["ai"].breaker_state(clock.monotonic()) == "closed"
    await ask(breaker)
    assert runtime.services["ai"].breaker_state(clock.monotonic()) == "open"


async def test_outside_a_service_it_is_nobodys(runtime: Runtime):
    CircuitBreakerMiddleware(ScriptedApp(200), runtime=runtime)
    assert runtime.services == {}


async def test_the_exchange_learns_the_state_that_was_met(runtime: Runtime, clock: ManualClock):
    breaker = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, runtime=runtime)
    states = []
    for seconds in (0, 1, 59):
        clock.shift(seconds)
        exchange = Exchange()
        await request(breaker, **{EXCHANGE: exchange})
        states.append(exchange.breaker_state)
    assert states == ["closed", "open", "half_open"]


async def test_it_passes_every_message_on_as_it_is():
    messages: list[Message] = [
        {"type": "http.response.early_hint", "links": [b"</a>"]},
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
        {"type": "http.response.trailers", "headers": []},
    ]
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def send(message: Message) -> None:
        sent.append(message)

    await CircuitBreakerMiddleware(app)(http_scope(), endless, send)  # type: ignore[arg-type]
    assert all(got is given for got, given in zip(sent, messages, strict=True))


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_scopes_pass_through_an_open_breaker(kind: str, runtime: Runtime):
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        raise RuntimeError

    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, runtime=runtime)
    await ask(breaker)
    with pytest.raises(RuntimeError):
        await breaker({"type": kind}, endless, endless)  # type: ignore[arg-type]
    assert seen == ["http", kind]


async def shake_hands(app: ASGIApp, *, denial: bool = True) -> list[Message]:
    """What is sent when a WebSocket handshake is tried."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    extensions = {"websocket.http.response": {}} if denial else {}
    await app({"type": "websocket", "path": "/", "headers": [], "extensions": extensions}, endless, send)  # type: ignore[arg-type]
    return sent


def handshake(*messages: Message) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


@pytest.mark.parametrize(
    ("app", "state"),
    [
        (handshake({"type": "websocket.accept"}), "closed"),
        (handshake({"type": "websocket.close", "code": 1000}), "closed"),
        (handshake({"type": "websocket.http.response.start", "status": 401, "headers": []}), "closed"),
        (handshake({"type": "websocket.http.response.start", "status": 500, "headers": []}), "open"),
        (Problem(502, RESET, "broken"), "open"),
    ],
)
async def test_a_websocket_is_judged_by_its_handshake(app: ASGIApp, state: str, runtime: Runtime):
    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, runtime=runtime)
    await shake_hands(breaker)
    assert breaker.policy.state(runtime.clock.monotonic()) == state


async def test_a_websocket_that_ends_badly_after_its_handshake_is_no_failure(runtime: Runtime):
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise OSError

    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, runtime=runtime)
    with pytest.raises(OSError):
        await shake_hands(breaker)
    assert breaker.policy.state(runtime.clock.monotonic()) == "closed"


async def test_an_open_breaker_refuses_a_handshake(runtime: Runtime):
    breaker = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, runtime=runtime)
    await ask(breaker)
    assert (await shake_hands(breaker))[0]["status"] == 503
    assert (await shake_hands(breaker, denial=False))[0]["type"] == "websocket.close"


# Ratios, slow calls, fallbacks, shadow


async def test_a_share_of_failures_opens_it(runtime: Runtime):
    app = ScriptedApp(200, 500, 200, 500, 200)
    breaker = CircuitBreakerMiddleware(
        app, failure_threshold=None, failure_ratio=0.5, minimum_calls=4, runtime=runtime
    )
    assert await ask(breaker, 5) == [200, 500, 200, 500, 503]
    assert len(app.calls) == 4


async def test_a_service_of_which_every_answer_breaks_off_has_failed_every_time(runtime: Runtime):
    app = ScriptedApp(breaking_off(ResponseAborted(RESET)))
    breaker = CircuitBreakerMiddleware(
        app, failure_threshold=None, failure_ratio=1, minimum_calls=4, runtime=runtime
    )
    assert await ask(breaker, 5) == [0, 0, 0, 0, 503]


async def test_slow_answers_open_it(runtime: Runtime, clock: ManualClock):
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        clock.shift(2)
        await ScriptedApp(200)(scope, receive, send)

    breaker = CircuitBreakerMiddleware(
        slow,
        failure_threshold=None,
        slow_call_ratio=1,
        slow_call_duration="2s",  # type: ignore[arg-type]
        minimum_calls=3,
        runtime=runtime,
    )
    assert await ask(breaker, 4) == [200, 200, 200, 503]


async def test_the_time_it_stays_open_grows_and_is_told(runtime: Runtime, clock: ManualClock):
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(500), failure_threshold=1, break_duration=10, break_growth=2, runtime=runtime
    )
    waits = []
    for _ in range(3):
        assert await ask(breaker) == [500]
        refused = await request(breaker)
        waits.append(int(refused.header("retry-after")))
        clock.shift(waits[-1])
    assert waits == [10, 20, 40]


async def test_jitter_comes_from_the_runtimes_chance(clock: ManualClock):
    runtime = Runtime(clock=clock, random=lambda: 1.0)
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(500), failure_threshold=1, break_duration=10, jitter=0.5, runtime=runtime
    )
    await ask(breaker)
    assert (await request(breaker)).header("retry-after") == "15"


async def test_a_fixed_answer_stands_in_while_it_is_open(runtime: Runtime):
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(500),
        failure_threshold=1,
        fallback={"status": 200, "body": {"models": []}, "headers": {"X-From": "breaker"}},
        runtime=runtime,
    )
    await ask(breaker)
    answer = await request(breaker)
    assert (answer.status, answer.body) == (200, b'{"models": []}')
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-from") == "breaker"
    assert "x-gateway-error" not in dict(answer.headers)


async def test_another_app_stands_in_while_it_is_open(runtime: Runtime):
    spare = ScriptedApp(203)
    breaker = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, fallback=spare, runtime=runtime)
    assert await ask(breaker, 3) == [500, 203, 203]
    assert len(spare.calls) == 2


async def test_another_service_stands_in_while_it_is_open(clock: ManualClock):
    runtime = Runtime(clock=clock, chains={"spare": ScriptedApp(203)})
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(500), failure_threshold=1, fallback="spare", runtime=runtime
    )
    exchange = Exchange()
    assert await ask(breaker, 2, **{EXCHANGE: exchange}) == [500, 203]
    assert (exchange.service, exchange.breaker_state) == ("spare", "open")


async def test_a_fixed_answer_is_not_retried(runtime: Runtime):
    app = ScriptedApp(500)
    breaker = CircuitBreakerMiddleware(
        app, failure_threshold=1, fallback={"status": 503, "body": "later"}, runtime=runtime
    )
    retry = RetryMiddleware(breaker, backoff=Backoff(initial=0))
    exchange = Exchange()
    assert (await request(retry, **{EXCHANGE: exchange})).body == b"later"
    assert exchange.attempts == 2  # the app's failure, and the fixed answer once


async def test_in_shadow_mode_it_refuses_nothing_and_tells_what_it_would_have(clock: ManualClock):
    runtime = Runtime(clock=clock, service="ai")
    app = ScriptedApp(500)
    breaker = CircuitBreakerMiddleware(app, failure_threshold=1, mode="shadow", runtime=runtime)
    exchange = Exchange()
    assert await ask(breaker, 3, **{EXCHANGE: exchange}) == [500] * 3
    assert exchange.would_reject == ("circuit_breaker",) * 2
    assert runtime.counter("shadow_rejected_total", middleware="circuit_breaker").value == 2
    assert runtime.service_status.breakers == []  # nobody takes the service for unusable


async def test_refusals_are_counted(clock: ManualClock):
    runtime = Runtime(clock=clock, service="ai")
    breaker = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, runtime=runtime)
    await ask(breaker, 3)
    assert runtime.counter("circuit_breaker_rejected_total").value == 2


@pytest.mark.parametrize(
    "options",
    [
        {"failure_threshold": None},
        {"slow_call_ratio": 0.5},
        {"probes_to_close": 2},
        {"break_growth": 2, "max_break_duration": 1},
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match=r"must|need|nothing"):
        CircuitBreakerMiddleware(ScriptedApp(200), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"failure_threshold": 0},
        {"failure_ratio": 0},
        {"mode": "off"},
        {"fallback": {"status": 99}},
        {"break_duration": 0},
        {"probes": 0},
        {"failure_statuses": ["6xx"]},
        {"treshold": 5},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]):
    with pytest.raises(ValidationError):
        CircuitBreakerMiddleware(ScriptedApp(200), **options)


def test_durations_are_written_as_in_yaml():
    breaker = CircuitBreakerMiddleware(ScriptedApp(200), break_duration="2m")  # type: ignore[arg-type]
    assert breaker.policy.break_duration == 120.0


async def test_a_gauge_tells_the_state_as_it_is_when_asked(clock: ManualClock):
    runtime = Runtime(clock=clock, service="ai")
    breaker = CircuitBreakerMiddleware(
        ScriptedApp(500, 200), failure_threshold=1, break_duration=10, runtime=runtime
    )
    [gauge] = runtime.metrics.gauges
    assert (gauge.name, gauge.labels, gauge.value) == ("circuit_breaker_state", (("service", "ai"),), 0)
    await ask(breaker, 1)
    assert gauge.value == 1
    await clock.advance(10)
    assert gauge.value == 2
    await ask(breaker, 1)
    assert gauge.value == 0


async def test_of_several_breakers_the_gauge_tells_the_worst_state(clock: ManualClock):
    runtime = Runtime(clock=clock, service="ai")
    inner = CircuitBreakerMiddleware(ScriptedApp(500), failure_threshold=1, runtime=runtime)
    outer = CircuitBreakerMiddleware(inner, failure_threshold=9, runtime=runtime)
    shadow = CircuitBreakerMiddleware(outer, mode="shadow", runtime=runtime)
    await ask(shadow, 1)
    assert {gauge.labels[0]: gauge.value for gauge in runtime.metrics.gauges} == {
        ("service", "ai"): 1,
        ("mode", "shadow"): 0,
    }
