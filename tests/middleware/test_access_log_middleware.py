import asyncio
import inspect
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPMethod, HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asgi_gateway.context import (
    CLIENT_ADDRESS,
    EXCHANGE,
    ROUTE,
    SERVICE,
    Exchange,
    request_id_var,
    trace_id_var,
)
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.logs import ContextFilter, JsonFormatter, encode, json_handler
from asgi_gateway.middleware import AccessLogMiddleware
from asgi_gateway.middleware._access_lines import AccessLines, Seen
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    ScriptedApp,
    http_scope,
    read_body,
    request,
    settle,
    websocket_scope,
)
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

FIELDS = [
    "request_id", "trace_id", "method", "path", "route", "service", "endpoint", "status",
    "upstream_status", "attempts", "duration_ms", "upstream_ms", "first_byte_ms", "bytes_in",
    "bytes_out", "client_address", "failure", "breaker_state", "would_reject", "fallbacks",
]  # fmt: skip

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}


class Written(io.StringIO):
    """A stream that has what its handler still keeps, too."""

    handler: logging.Handler

    def getvalue(self) -> str:
        self.handler.flush()
        return super().getvalue()


def record_handler(stream: io.StringIO) -> logging.Handler:
    """A handler as an application may have made it, which wants records."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(ContextFilter())
    return handler


@contextmanager
def logger_to(
    make: Callable[[Any], logging.Handler], name: str = "access.test"
) -> Iterator[tuple[logging.Logger, Written]]:
    stream = Written()
    handler = stream.handler = make(stream)
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger, stream
    logger.removeHandler(handler)
    logger.propagate = True


@pytest.fixture(params=[json_handler, record_handler], ids=["text", "records"])
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Where the logger ``access.test`` writes, by either way there is."""
    with logger_to(request.param) as (_, stream):
        yield stream


def logging_to_stream(app: ASGIApp, **options: Any) -> AccessLogMiddleware:
    return AccessLogMiddleware(app, logger="access.test", **options)


def line(stream: io.StringIO) -> dict[str, Any]:
    """The one line there is."""
    [text] = stream.getvalue().splitlines()
    value: dict[str, Any] = json.loads(text)
    return value


def sending(*messages: Message, error: BaseException | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    return app


async def test_one_line_says_what_became_of_a_request(stream: io.StringIO, clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        exchange = scope[EXCHANGE]
        exchange.route, exchange.service, exchange.endpoint = "/api/ai/*", "ai", "10.0.0.1:80"
        exchange.upstream_status, exchange.attempts, exchange.breaker_state = 503, 2, "closed"
        exchange.upstream_seconds, exchange.first_byte_seconds = 0.2, 0.0501234
        exchange.would_reject += ("rate_limit",)
        exchange.fallbacks += ("before",)
        clock.shift(0.25)
        await send({**START, "status": 503})
        await send(PART)
        await send({"type": "http.response.body", "body": b"last"})

    tokens = request_id_var.set("r-1"), trace_id_var.set("t-1")
    await request(
        logging_to_stream(app, runtime=Runtime(clock=clock)),
        "POST",
        "/api/ai/x",
        body=[b"abc", b"de"],
        query=b"key=s3cret",
        headers=[(b"authorization", b"s3cret")],
        **{CLIENT_ADDRESS: "192.0.2.1"},
    )
    request_id_var.reset(tokens[0])
    trace_id_var.reset(tokens[1])
    logged = line(stream)
    assert logged.pop("time")
    assert logged == {
        "level": "info",
        "logger": "access.test",
        "message": "POST /api/ai/x 503",
        "request_id": "r-1",
        "trace_id": "t-1",
        "method": "POST",
        "path": "/api/ai/x",
        "route": "/api/ai/*",
        "service": "ai",
        "endpoint": "10.0.0.1:80",
        "status": 503,
        "upstream_status": 503,
        "attempts": 2,
        "duration_ms": 250.0,
        "upstream_ms": 200.0,
        "first_byte_ms": 50.123,
        "bytes_in": 5,
        "bytes_out": 8,
        "client_address": "192.0.2.1",
        "failure": None,
        "breaker_state": "closed",
        "would_reject": ["rate_limit"],
        "fallbacks": ["before"],
    }
    assert [key for key in logged if key in FIELDS] == FIELDS
    assert "s3cret" not in stream.getvalue()


async def test_standing_alone_it_logs_what_it_sees(stream: io.StringIO) -> None:
    await request(logging_to_stream(ScriptedApp(201)), "GET", "/x")
    logged = line(stream)
    assert (logged["status"], logged["client_address"], logged["bytes_out"]) == (201, "127.0.0.1", 2)
    assert (logged["service"], logged["request_id"], logged["attempts"]) == (None, None, 0)
    assert logged["duration_ms"] > 0


async def test_a_refusal_is_named(stream: io.StringIO) -> None:
    refusal = Problem(429, Failure("rate_limited", "gateway"), "Later.")
    await request(logging_to_stream(refusal))
    assert (line(stream)["status"], line(stream)["failure"]) == (429, "rate_limited")


ABORTED = ResponseAborted(Failure("reset", "upstream"))


@pytest.mark.parametrize(
    ("sent", "error", "status", "failure"),
    [
        ([], KeyError("bug"), 500, "internal"),
        ([START, PART], KeyError("bug"), 200, "internal"),
        ([START, PART], ABORTED, 200, "upstream_reset"),
        ([], ABORTED, 500, "upstream_reset"),
        ([], ClientDisconnected(), 499, "client_disconnected"),
        ([], asyncio.CancelledError(), 499, "client_disconnected"),
        ([START], asyncio.CancelledError(), 200, "client_disconnected"),
        ([], SystemExit(), 500, "internal"),
    ],
)
async def test_an_exception_is_logged_and_goes_on(
    sent: list[Message], error: BaseException, status: int, failure: str, stream: io.StringIO
) -> None:
    async def nothing() -> Message:
        return {"type": "http.request"}

    async def ignore(message: Message) -> None:
        pass

    with pytest.raises(type(error)) as caught:
        await logging_to_stream(sending(*sent, error=error))(http_scope(), nothing, ignore)
    assert caught.value is error
    assert (line(stream)["status"], line(stream)["failure"]) == (status, failure)


async def test_no_answer_at_all_is_a_mistake_of_the_app(stream: io.StringIO) -> None:
    await request(logging_to_stream(sending()))
    assert (line(stream)["status"], line(stream)["failure"]) == (500, "internal")


async def test_a_client_that_leaves_before_its_answer_is_499(stream: io.StringIO) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ConnectionError):
            await read_body(receive)
        await send(START)  # to nobody, as many frameworks do

    async with Conversation(logging_to_stream(app), http_scope("POST")) as talk:
        talk.body(b"half", more=True)
        await settle()
        talk.disconnect()
        await talk.finish()
    logged = line(stream)
    assert (logged["status"], logged["failure"], logged["bytes_in"]) == (499, "client_disconnected", 4)


async def test_a_client_that_leaves_inside_its_answer_keeps_the_status(stream: io.StringIO) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await receive()

    async with Conversation(logging_to_stream(app), http_scope()) as talk:
        await talk.next()
        talk.disconnect()
        await talk.finish()
    assert (line(stream)["status"], line(stream)["failure"]) == (200, "client_disconnected")


async def test_a_disconnect_after_the_answer_is_no_failure(stream: io.StringIO) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ScriptedApp(200)(scope, receive, send)
        assert (await receive())["type"] == "http.disconnect"

    async with Conversation(logging_to_stream(app), http_scope()) as talk:
        talk.body(b"")
        talk.disconnect()
        await talk.finish()
    assert (line(stream)["status"], line(stream)["failure"]) == (200, None)


@pytest.mark.parametrize("path", ["/a\r\nb", "/\x1b[31m", '/"}\n{"x":"', "/\u2028", "/" + "é" * 10_000])
async def test_no_path_breaks_the_line(path: str, stream: io.StringIO) -> None:
    await request(logging_to_stream(ScriptedApp(200)), path=path, raw_path=b"/")
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.isascii()
    assert line(stream)["path"] == path
    assert line(stream)["message"].isprintable()


async def test_a_websocket_is_one_line_at_its_end(stream: io.StringIO) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        await receive()
        await send({"type": "websocket.send", "text": "é"})
        await send({"type": "websocket.send", "bytes": b"123", "text": None})
        await send({"type": "websocket.close", "code": 1000})

    async with Conversation(logging_to_stream(app), websocket_scope("/ws")) as talk:
        await talk.next()
        assert stream.getvalue() == ""
        talk.give({"type": "websocket.receive", "text": "four"})
        talk.give({"type": "websocket.receive", "bytes": b"12345"})
        await talk.finish()
    logged = line(stream)
    assert (logged["method"], logged["path"], logged["status"]) == ("GET", "/ws", 101)
    assert (logged["bytes_in"], logged["bytes_out"], logged["failure"]) == (9, 5, None)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({"type": "websocket.close", "code": 1008}, 403),
        ({"type": "websocket.http.response.start", "status": 429, "headers": []}, 429),
    ],
)
async def test_a_refused_handshake_is_logged_with_its_status(
    message: Message, status: int, stream: io.StringIO
) -> None:
    async with Conversation(logging_to_stream(sending(message)), websocket_scope()) as talk:
        await talk.finish()
    assert line(stream)["status"] == status


NUMBERS = st.integers(0, 10**12)
SECONDS = st.floats(0, 10**6)
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["/a%sb", "%", '"', "\\", "é", "\ud800", "\n"]))
ODD = st.sampled_from([None, b"bytes", 1.5, object, ("a", "b"), ["a"], HTTPStatus.OK, HTTPMethod.PUT])
"""What no value should be, and a line must be written for all the same."""

optional = st.none().__or__


COMPILED = not inspect.isfunction(AccessLines.write)
"""The compiled core refuses values of a wrong type where they are set."""


def wrong_at_times(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values if COMPILED else st.one_of(values, values, values, ODD)


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    exchange = Exchange()
    for name in ("route", "service", "endpoint", "breaker_state"):
        setattr(exchange, name, draw(wrong_at_times(optional(TEXTS))))
    exchange.attempts = draw(wrong_at_times(NUMBERS))
    exchange.upstream_status = draw(wrong_at_times(optional(NUMBERS)))
    exchange.upstream_seconds = draw(optional(SECONDS))
    exchange.first_byte_seconds = draw(optional(SECONDS))
    exchange.failure = draw(st.sampled_from([None, None, Failure("reset", "upstream")]))
    return exchange


SCOPES = st.fixed_dictionaries(
    {"path": TEXTS},
    optional={
        "method": wrong_at_times(st.one_of(st.sampled_from(["GET", "POST"]), TEXTS)),
        ROUTE: optional(TEXTS),
        SERVICE: optional(TEXTS),
        CLIENT_ADDRESS: wrong_at_times(optional(TEXTS)),
        "client": optional(st.tuples(wrong_at_times(TEXTS), NUMBERS)),
    },
)


@given(
    scope=SCOPES,
    exchange=exchanges(),
    seconds=SECONDS,
    status=wrong_at_times(NUMBERS),
    sizes=st.tuples(NUMBERS, NUMBERS),
    ids=st.tuples(optional(TEXTS), optional(TEXTS)),
)
def test_a_line_without_a_record_says_what_the_record_would(
    scope: Scope,
    exchange: Exchange,
    seconds: float,
    status: int,
    sizes: tuple[int, int],
    ids: tuple[str | None, str | None],
) -> None:
    tokens = request_id_var.set(ids[0]), trace_id_var.set(ids[1])
    texts = []
    for make in (json_handler, record_handler):
        with logger_to(make, "access.both") as (logger, stream):
            seen = Seen(None, None)  # type: ignore[arg-type]
            seen.status, seen.bytes_in, seen.bytes_out = status, *sizes
            AccessLines(logger).write(scope, exchange, seen, seconds)
            texts.append(stream.getvalue())
    request_id_var.reset(tokens[0])
    trace_id_var.reset(tokens[1])
    texts = [TIME.sub('{"time":"",', text) for text in texts]
    # Only the zeros at the end of a number may differ: they are gone once it is read and written again.
    assert encode(json.loads(texts[0])) + "\n" == texts[1]


TIME = re.compile(r'^\{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",')


async def test_no_record_is_made_where_only_its_text_is_wanted(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.shift(0.25)
        await ScriptedApp(200)(scope, receive, send)

    with logger_to(json_handler) as (logger, stream):
        middleware = logging_to_stream(app, runtime=Runtime(clock=clock))
        await request(middleware)
        logger.addFilter(lambda record: bool(setattr(record, "path", "/changed")) or True)
        await request(middleware, path="/x")
        logger.filters.clear()
        await request(middleware, path="/y")
    durations = re.findall(r'"path":"(.*?)".*"duration_ms":(.*?),', stream.getvalue())
    assert durations == [("/", "250.000"), ("/x", "250.0"), ("/y", "250.000")]


@given(st.lists(st.one_of(st.floats(0, 10), st.floats(0, 10**10)), min_size=1))
def test_the_time_of_a_line_is_that_of_a_record_wherever_the_clock_jumps(times: list[float]) -> None:
    record = logging.makeLogRecord({})
    for_records, expected = JsonFormatter(), []
    for record.created in times:
        expected.append(json.loads(for_records.format(record))["time"])
    with logger_to(json_handler) as (logger, stream):
        lines = AccessLines(logger, iter(times).__next__)
        for _ in times:
            lines.write({"path": "/"}, Exchange(), Seen(None, None), 0.0)  # type: ignore[arg-type]
    assert [json.loads(text)["time"] for text in stream.getvalue().splitlines()] == expected


async def test_what_is_remembered_of_requests_is_bounded() -> None:
    with logger_to(json_handler) as (logger, stream):
        lines = AccessLines(logger)
        for number in range(2_000):
            seen = Seen(None, None)  # type: ignore[arg-type]
            lines.write({"path": "/", "method": f"M{number}"}, Exchange(), seen, 0.0)
    assert len(lines._templates) <= 256
    assert json.loads(stream.getvalue().splitlines()[-1])["method"] == "M1999"


async def test_nothing_is_done_for_a_logger_that_is_off(stream: io.StringIO) -> None:
    logging.getLogger("access.test").setLevel(logging.WARNING)
    app = ScriptedApp(200)
    await request(logging_to_stream(app))
    assert stream.getvalue() == ""
    assert EXCHANGE not in app.calls[0]


async def test_an_application_may_change_the_level_later(stream: io.StringIO) -> None:
    middleware = logging_to_stream(ScriptedApp(200))
    await request(middleware)
    logging.getLogger("access.test").setLevel(logging.WARNING)
    await request(middleware)
    assert len(stream.getvalue().splitlines()) == 1


async def test_a_configured_logger_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("access.above.below")
    above = logging.getLogger("access.above")
    above.addHandler(logging.NullHandler())
    caplog.set_level(logging.INFO)
    await request(AccessLogMiddleware(ScriptedApp(200), logger=logger.name))
    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)
    [record] = [record for record in caplog.records if record.name == logger.name]
    assert record.__dict__["status"] == 200


async def test_the_applications_own_kind_of_record_is_used(stream: io.StringIO) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.__dict__["tenant"] = "t"
        return record

    logging.setLogRecordFactory(factory)
    try:
        await request(logging_to_stream(ScriptedApp(200)))
    finally:
        logging.setLogRecordFactory(before)
    assert line(stream)["tenant"] == "t"


ALONE = """
import asyncio, logging, sys
from asgi_gateway.middleware import AccessLogMiddleware
from asgi_gateway.testing import ScriptedApp, request
middleware = AccessLogMiddleware(ScriptedApp(200))
assert not logging.getLogger("asgi_gateway.access").handlers, "a constructor must not configure logging"
async def main():
    await request(middleware, path="/one")
    await request(AccessLogMiddleware(ScriptedApp(200)), path="/two")
    logging.basicConfig(stream=sys.stdout, level="INFO")
    await request(middleware, path="/three")
asyncio.run(main())
"""


def test_where_nobody_configures_logging_the_lines_go_to_standard_output() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert [line["path"] for line in lines] == ["/one", "/two", "/three"]
    assert done.stderr == ""


CONFIGURED_AT_STARTUP = """
import asyncio, logging, sys
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from asgi_gateway.middleware import AccessLogMiddleware
from asgi_gateway.testing import request
@asynccontextmanager
async def lifespan(app):
    logging.basicConfig(stream=sys.stderr, level="INFO", format="%(name)s")
    yield
app = Starlette(lifespan=lifespan)
app.add_middleware(AccessLogMiddleware)
async def main():
    events = asyncio.Queue()
    started = asyncio.Event()
    async def send(message):
        started.set()
    running = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, events.get, send))
    await events.put({"type": "lifespan.startup"})
    await started.wait()
    await request(app)
    await events.put({"type": "lifespan.shutdown"})
    await running
asyncio.run(main())
"""


def test_an_application_may_configure_logging_as_it_starts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED_AT_STARTUP], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "asgi_gateway.access\n")


def test_a_logger_needs_a_name() -> None:
    with pytest.raises(ValidationError):
        AccessLogMiddleware(ScriptedApp(200), logger="")
