"""The log says why a service cannot be reached; the client is told no more than that it cannot."""

import asyncio
import datetime as dt
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from asgi_gateway import Gateway
from asgi_gateway.errors import Failure
from asgi_gateway.logs import ContextFilter
from asgi_gateway.proxy.failure_log import FailureLog
from asgi_gateway.proxy.transport import UpstreamError
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    Upstream,
    behaviours,
    refused_url,
    request,
    websocket_scope,
)

ID = (b"x-request-id", b"this-request")


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What the proxy logs, with the ids of the request that it belongs to."""
    seen: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Keeping()
    handler.addFilter(ContextFilter())
    logger = logging.getLogger("asgi_gateway.proxy")
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


def gateway(url: str, runtime: Runtime | None = None, **service: Any) -> Gateway:
    entry = {"url": url, "routes": [{"path": "/*"}], **service}
    settings = {"version": 1, "middleware": ["request_id"], "services": {"s": entry}}
    return Gateway(settings, **({} if runtime is None else {"runtime": runtime}))


def served(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


EXPIRED = {"not_after": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}
TLS: dict[str, tuple[Any, bool, str]] = {
    "expired": (lambda ca: served(ca, "127.0.0.1", **EXPIRED), True, "certificate has expired"),
    "wrong name": (lambda ca: served(ca, "127.0.0.2"), True, "certificate is not valid for '127.0.0.1'"),
    "unknown authority": (
        lambda ca: served(ca, "127.0.0.1"),
        False,
        "unable to get local issuer certificate",
    ),
}


@pytest.mark.parametrize("websocket", [False, True], ids=["http", "websocket"])
@pytest.mark.parametrize(("context", "trusted", "reason"), TLS.values(), ids=TLS.keys())
async def test_the_log_says_what_was_wrong_with_tls(
    lines: list[logging.LogRecord], tmp_path: Path, context: Any, trusted: bool, reason: str, websocket: bool
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = {"ca": str(tmp_path / "ca.pem")} if trusted else {}
    async with Upstream(behaviours.answer(), tls=context(authority)) as upstream:
        url = upstream.url.replace("http:", "https:")
        app = gateway(url, tls=tls, timeouts={"connect": "2s"})
        status, body = await asked(app, websocket=websocket)
    (line,) = lines
    assert reason in line.getMessage()
    assert line.getMessage().startswith(f"127.0.0.1:{upstream.port}: no connection: ")
    fields = vars(line)
    assert (fields["levelname"], fields["request_id"]) == ("WARNING", "this-request")
    assert (fields["endpoint"], fields["failure"]) == (f"127.0.0.1:{upstream.port}", "upstream_connect")
    assert status == 502
    assert b"certificate" not in body.lower()
    assert b"ssl" not in body.lower()


async def asked(app: Any, *, websocket: bool = False) -> tuple[int, bytes]:
    if not websocket:
        answer = await request(app, headers=[ID])
        return answer.status, answer.body
    async with Conversation(app, websocket_scope("/", headers=[ID])) as talk:
        talk.give({"type": "websocket.connect"})
        start, body = await talk.next(), await talk.next()
    return start["status"], body["body"]


async def test_the_log_says_that_a_service_speaks_no_tls(lines: list[logging.LogRecord]) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await asked(gateway(f"https://127.0.0.1:{port}")))[0] == 502
    assert lines[0].getMessage().startswith(f"127.0.0.1:{port}: no connection: SSLError(")


async def test_the_log_says_that_a_connection_took_too_long(lines: list[logging.LogRecord]) -> None:
    async with Upstream(behaviours.hang()) as upstream:  # which waits for the rest of the greeting
        url = upstream.url.replace("http:", "https:")
        assert (await asked(gateway(url, timeouts={"connect": "50ms"})))[0] == 504
    assert lines[0].getMessage() == f"127.0.0.1:{upstream.port}: no connection in time"


@pytest.mark.parametrize("transport", ["http1", "http2"])
async def test_the_log_says_that_a_connection_was_refused(
    lines: list[logging.LogRecord], transport: str
) -> None:
    with refused_url() as url:
        assert (await asked(gateway(url, transport=transport)))[0] == 502
    assert url.removeprefix("http://") in lines[0].getMessage()
    assert "connect" in lines[0].getMessage().lower()


async def test_the_log_says_that_a_name_is_unknown(lines: list[logging.LogRecord]) -> None:
    assert (await asked(gateway("http://no-such-host.invalid")))[0] == 502
    assert lines[0].getMessage().startswith("no-such-host.invalid:80: no connection: gaierror(")


async def test_one_line_tells_of_many_failures(lines: list[logging.LogRecord], clock: ManualClock) -> None:
    with refused_url() as url:
        app = gateway(url, Runtime(clock=clock))
        for _ in range(100):
            assert (await asked(app))[0] == 502
        assert len(lines) == 1
        await clock.advance(61)
        await asked(app)
    assert [vars(line)["unlogged"] for line in lines] == [0, 99]


async def test_another_reason_is_told_within_a_second_and_reasons_in_turn_are_no_storm(
    lines: list[logging.LogRecord], clock: ManualClock
) -> None:
    log = FailureLog(clock)
    for number in range(100):
        log.tell("e:1", UpstreamError(Failure("connect", "upstream"), f"reason {number % 2}"))
        await clock.advance(0.1)
    assert len(lines) == 10  # in ten seconds
    assert {line.getMessage() for line in lines} == {"e:1: reason 0", "e:1: reason 1"}


@pytest.mark.parametrize(
    "failure", [Failure("overloaded", "gateway"), Failure("protocol", "upstream", request_sent=True)]
)
async def test_what_is_no_failed_connection_is_not_told(
    lines: list[logging.LogRecord], clock: ManualClock, failure: Failure
) -> None:
    FailureLog(clock).tell("e:1", UpstreamError(failure, "Set-Cookie: secret"))
    assert lines == []
