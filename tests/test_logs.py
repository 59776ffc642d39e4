import asyncio
import copy
import io
import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asgi_gateway.context import request_id_var, trace_id_var
from asgi_gateway.errors import Failure, ResponseAborted
from asgi_gateway.logs import (
    ContextFilter,
    JsonFormatter,
    TurnHandler,
    direct_handler,
    json_handler,
    log_config,
)

ABORTED = ResponseAborted(Failure("reset", "upstream"))


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """A logger named ``test`` that writes to the stream given here."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(ContextFilter())
    logger = logging.getLogger("test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)
    logger.propagate = True


def only_line(stream: io.StringIO) -> dict[str, Any]:
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert text.isascii()
    assert text[:-1].isprintable()
    value: dict[str, Any] = json.loads(text)
    return value


def test_a_record_is_one_object_with_keys_in_a_fixed_order(lines: io.StringIO) -> None:
    logging.getLogger("test").warning("hello %s", "you", extra={"service": "ai", "attempts": 2})
    line = only_line(lines)
    assert list(line) == [
        "time", "level", "logger", "message", "request_id", "trace_id", "service", "attempts",
    ]  # fmt: skip
    assert (line["level"], line["logger"], line["message"]) == ("warning", "test", "hello you")
    assert (line["service"], line["attempts"]) == ("ai", 2)
    assert (line["request_id"], line["trace_id"]) == (None, None)


def test_time_is_iso_8601_in_utc() -> None:
    record = logging.LogRecord("n", logging.INFO, "", 0, "m", None, None)
    record.created = 1_700_000_000.0004
    assert json.loads(JsonFormatter().format(record))["time"] == "2023-11-14T22:13:20.000Z"


def test_the_ids_of_the_request_are_on_every_record(lines: io.StringIO) -> None:
    request_token, trace_token = request_id_var.set("r-1"), trace_id_var.set("t-1")
    try:
        logging.getLogger("test").info("inside")
    finally:
        request_id_var.reset(request_token)
        trace_id_var.reset(trace_token)
    line = only_line(lines)
    assert (line["request_id"], line["trace_id"]) == ("r-1", "t-1")


def test_a_record_that_names_its_request_keeps_the_name(lines: io.StringIO) -> None:
    logging.getLogger("test").info("later", extra={"request_id": "r-2", "trace_id": "t-2"})
    line = only_line(lines)
    assert (line["request_id"], line["trace_id"]) == ("r-2", "t-2")


@pytest.mark.parametrize(
    "nasty", ["a\r\nb", "\x1b[31mred", "\u2028", "\x00", '"}\n{"level":"x', "é", "a lone \\ud800"]
)
def test_no_text_breaks_the_line(nasty: str) -> None:
    nasty = nasty.replace("\\ud800", "\ud800")  # which no report of a test could carry
    record = logging.LogRecord("n", logging.INFO, "", 0, "said %s", (nasty,), None)
    record.__dict__.update({"path": nasty, nasty: 1})
    text = JsonFormatter().format(record)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["message"] == f"said {nasty}"
    assert json.loads(text)["path"] == nasty


def test_a_traceback_is_one_string(lines: io.StringIO) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        logging.getLogger("test").exception("failed")
    line = only_line(lines)
    assert line["exc_info"].startswith("Traceback")
    assert "KeyError: 'gone'" in line["exc_info"]


def test_values_json_does_not_know_are_written_all_the_same(lines: io.StringIO) -> None:
    logging.getLogger("test").info(
        "odd", extra={"failure": Failure("reset", "upstream"), "data": b"x", "o": object}
    )
    assert only_line(lines)["failure"] == {"kind": "reset", "source": "upstream", "request_sent": False}


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Puts back what `dictConfig` changes."""
    names = ["", "uvicorn", "uvicorn.error", "uvicorn.access", "asgi_gateway"]
    before = {name: copy.copy(logging.getLogger(name).__dict__) for name in names}
    for name, state in before.items():
        logging.getLogger(name).__dict__.update(
            handlers=list(state["handlers"]), filters=list(state["filters"])
        )
    yield
    for name, state in before.items():
        logging.getLogger(name).__dict__.update(state)
        logging.getLogger(name).manager._clear_cache()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("untouched_logging")
def test_the_configuration_writes_json_lines_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    logging.config.dictConfig(log_config("warning"))
    logging.getLogger("asgi_gateway.events").info("quiet")
    logging.getLogger("uvicorn.access").error("never")
    logging.getLogger("asgi_gateway.events").warning("opened")
    logging.getLogger("uvicorn.error").warning("loud", extra={"color_message": "\x1b[1mloud"})
    logging.getLogger("other").error("also")
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in written] == ["opened", "loud", "also"]
    assert "color_message" not in written[1]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("untouched_logging")
def test_the_server_does_not_report_our_own_signal_as_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    logging.config.dictConfig(log_config())
    server = logging.getLogger("uvicorn.error")
    server.error("Exception in ASGI application\n", exc_info=ABORTED)
    assert stream.getvalue() == ""
    server.error("Exception in ASGI application\n", exc_info=KeyError("bug"))
    assert "KeyError" in json.loads(stream.getvalue())["exc_info"]


async def test_the_lines_of_one_turn_of_the_loop_are_one_write() -> None:
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    handler = TurnHandler(Stream())
    for number in range(3):
        handler.handle(logging.makeLogRecord({"msg": f"line {number}"}))
    assert writes == []
    await asyncio.sleep(0)
    assert writes == ["line 0\nline 1\nline 2\n"]


async def test_finished_lines_are_kept_in_their_turn_with_the_others() -> None:
    stream = io.StringIO()
    handler = TurnHandler(stream)
    handler.keep("one\n")
    handler.handle(logging.makeLogRecord({"msg": "two"}))
    handler.keep("three\n")
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert stream.getvalue() == "one\ntwo\nthree\n"
    handler.keep("four\n")
    await asyncio.sleep(0)
    assert stream.getvalue().endswith("four\n")


def test_a_finished_line_without_a_loop_is_written_at_once() -> None:
    stream = io.StringIO()
    handler = TurnHandler(stream)

    async def stop_at_once() -> None:
        handler.keep("one\n")
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    task = loop.create_task(stop_at_once())
    loop.run_forever()
    loop.close()
    assert task.done()
    handler.keep("two\n")
    assert stream.getvalue() == "one\ntwo\n"


def test_a_stream_that_fails_is_nobodys_exception(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = TurnHandler(stream)
    stream.close()
    handler.keep("one\n")
    assert "Logging error" in capsys.readouterr().err


@pytest.mark.usefixtures("untouched_logging")
def test_a_stream_that_fails_is_tried_once_for_what_was_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """What the loop logs of a callback that fails would come here again, and again, for ever."""
    flushed = 0

    class Gone(io.StringIO):
        def flush(self) -> None:
            nonlocal flushed
            flushed += 1
            raise BrokenPipeError

    async def log() -> None:
        logging.getLogger().handlers[:] = [json_handler(Gone())]
        logging.getLogger("test").warning("nobody reads this")
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(log())
    assert flushed == 1
    assert "BrokenPipeError" in capsys.readouterr().err


def test_no_line_of_any_thread_is_lost() -> None:
    stream = io.StringIO()
    handler = TurnHandler(stream)

    async def keep(name: str) -> None:
        for number in range(1000):
            handler.keep(f"{name} {number}\n")
            if number % 10 == 0:
                await asyncio.sleep(0)

    def log(name: str) -> None:
        for number in range(1000):
            handler.handle(logging.makeLogRecord({"msg": f"{name} {number}"}))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(asyncio.run, keep(name)) for name in "ab"]
        running += [pool.submit(log, name) for name in "cd"]
        for one in running:
            one.result()
    lines = stream.getvalue().splitlines()
    assert sorted(lines) == sorted(f"{name} {number}" for name in "abcd" for number in range(1000))


class ChangedLogger(logging.Logger):
    pass


class ChangedHandler(TurnHandler):
    pass


Change = Callable[[pytest.MonkeyPatch, logging.Logger, TurnHandler], object]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _, logger, handler: logger.addFilter(ContextFilter()), id="filter"),
        pytest.param(lambda patch, logger, _: patch.setattr(logger, "disabled", True), id="disabled"),
        pytest.param(
            lambda patch, logger, _: patch.setattr(logger, "propagate", False), id="no handler in reach"
        ),
        pytest.param(lambda _, logger, handler: logger.addHandler(logging.NullHandler()), id="handler below"),
        pytest.param(
            lambda _, logger, handler: logger.parent.addHandler(logging.NullHandler()), id="handler beside"
        ),
        pytest.param(
            lambda _, logger, handler: logger.parent.parent.addHandler(logging.NullHandler()),
            id="handler above",
        ),
        pytest.param(lambda patch, logger, _: patch.setattr(logger, "parent", None), id="no parent"),
        pytest.param(lambda patch, logger, _: patch.setattr(logger, "__class__", ChangedLogger), id="class"),
        pytest.param(lambda _, logger, handler: handler.addFilter(ContextFilter()), id="handler's filter"),
        pytest.param(lambda _, logger, handler: handler.filters.clear(), id="handler's missing filter"),
        pytest.param(lambda _, logger, handler: handler.setFormatter(None), id="formatter"),
        pytest.param(lambda _, logger, handler: handler.setFormatter(JsonFormatter()), id="other formatter"),
        pytest.param(lambda _, logger, handler: handler.setLevel(logging.WARNING), id="level"),
        pytest.param(
            lambda patch, _, handler: patch.setattr(handler, "__class__", ChangedHandler),
            id="handler's class",
        ),
        pytest.param(
            lambda patch, *_: patch.setattr(logging.Logger, "callHandlers", lambda *_: None), id="monitoring"
        ),
        pytest.param(
            lambda patch, *_: patch.setattr(logging, "_logRecordFactory", logging.makeLogRecord),
            id="factory",
        ),
    ],
)
def test_a_record_is_made_where_anything_but_its_text_may_be_wanted(
    change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, above, logger = (logging.Logger(name) for name in ("a", "a.b", "a.b.c"))
    logger.parent, above.parent = above, top
    handler = json_handler(io.StringIO())
    above.addHandler(handler)
    assert direct_handler(logger) is handler
    change(monkeypatch, logger, handler)
    assert direct_handler(logger) is None


CAME_BEFORE = """
import logging, types
class Proxy:  # as wrapt's are
    __class__ = types.FunctionType
    def __init__(self, wrapped): self.wrapped = wrapped
    def __getattr__(self, name): return getattr(self.wrapped, name)
before = logging.Logger.callHandlers
logging.Logger.callHandlers = {tool}
from asgi_gateway.logs import direct_handler, stdout_handler
logging.getLogger().addHandler(stdout_handler())
assert direct_handler(logging.getLogger("a")) is None
"""


@pytest.mark.parametrize("tool", ["lambda self, record: before(self, record)", "Proxy(before)"])
def test_a_tool_that_came_before_us_gets_its_records(tool: str) -> None:
    subprocess.run([sys.executable, "-c", CAME_BEFORE.format(tool=tool)], check=True)


def test_without_a_loop_every_line_is_written_at_once() -> None:
    stream = io.StringIO()
    handler = TurnHandler(stream)
    handler.handle(logging.makeLogRecord({"msg": "one"}))
    assert stream.getvalue() == "one\n"


def test_a_loop_that_ended_early_keeps_no_line_back() -> None:
    stream = io.StringIO()
    handler = TurnHandler(stream)

    async def log_and_stop() -> None:
        handler.handle(logging.makeLogRecord({"msg": "one"}))
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    task = loop.create_task(log_and_stop())
    loop.run_forever()
    loop.close()
    assert task.done()
    handler.handle(logging.makeLogRecord({"msg": "two"}))
    assert stream.getvalue() == "one\ntwo\n"
