import json
import logging
from typing import Any

import pytest

from asgi_gateway.context import EXCHANGE, Exchange, request_id_var
from asgi_gateway.errors import ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.middleware import ErrorsMiddleware, RequestIdMiddleware
from asgi_gateway.testing import Conversation, http_scope, request, serve, websocket_scope
from asgi_gateway.types import ASGIApp, Message, Receive, Scope, Send

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
MORE: Message = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST: Message = {"type": "http.response.body", "body": b"last"}


class Secret(Exception):
    pass


def failing_after(*messages: Message, error: BaseException | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise error or Secret("s3cret /etc/passwd")

    return app


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("asgi_gateway")]


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


async def test_a_bug_before_the_answer_is_a_problem_that_tells_nothing(
    caplog: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    answer = await request(ErrorsMiddleware(failing_after()), "POST", "/p", **{EXCHANGE: exchange})
    assert (answer.status, answer.header("content-type")) == (500, "application/problem+json")
    assert answer.header("x-gateway-error") == "internal"
    assert json.loads(answer.body)["code"] == "internal"
    for leak in (b"s3cret", b"Secret", b"passwd", b"Traceback", b"test_errors"):
        assert leak not in answer.body
    assert exchange.failure == Failure("internal", "gateway")
    [record] = logged(caplog)
    assert (record.name, record.levelname) == ("asgi_gateway.errors", "ERROR")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Secret)
    assert (record.__dict__["method"], record.__dict__["path"]) == ("POST", "/p")


async def test_head_is_answered_without_a_body() -> None:
    answer = await request(ErrorsMiddleware(failing_after()), "HEAD")
    assert (answer.status, answer.body) == (500, b"")


@pytest.mark.parametrize("sent", [[START], [START, MORE], [{**START, "trailers": True}, LAST]])
async def test_a_bug_inside_the_answer_breaks_it_off(
    sent: list[Message], caplog: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    async with Conversation(
        ErrorsMiddleware(failing_after(*sent)), http_scope(**{EXCHANGE: exchange})
    ) as talk:
        with pytest.raises(ResponseAborted) as caught:
            await talk.finish()
    assert caught.value.failure.code == "internal"
    assert isinstance(caught.value.__cause__, Secret)
    assert talk.answer.messages == sent
    assert exchange.failure == Failure("internal", "gateway")
    assert len(logged(caplog)) == 1


TRAILERS: Message = {"type": "http.response.trailers", "headers": []}


@pytest.mark.parametrize("sent", [[START, LAST], [{**START, "trailers": True}, LAST, TRAILERS]])
async def test_a_bug_after_the_answer_is_logged_and_takes_nothing_back(
    sent: list[Message], caplog: pytest.LogCaptureFixture
) -> None:
    answer = await request(ErrorsMiddleware(failing_after(*sent)))
    assert answer.messages == sent
    assert len(logged(caplog)) == 1


async def test_a_message_that_begins_no_answer_does_not_stop_one() -> None:
    app = failing_after({"type": "http.response.early_hint", "links": []}, {"type": "http.response.debug"})
    assert (await request(ErrorsMiddleware(app))).status == 500


@pytest.mark.parametrize("sent", [[], [START, MORE]])
async def test_an_abort_passes_unlogged(sent: list[Message], caplog: pytest.LogCaptureFixture) -> None:
    aborted = ResponseAborted(Failure("reset", "upstream"))
    async with Conversation(ErrorsMiddleware(failing_after(*sent, error=aborted)), http_scope()) as talk:
        with pytest.raises(ResponseAborted) as caught:
            await talk.finish()
    assert caught.value is aborted
    assert logged(caplog) == []


async def test_a_client_that_left_is_nobodys_mistake(
    caplog: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    app = ErrorsMiddleware(failing_after(error=ClientDisconnected()))
    answer = await request(app, **{EXCHANGE: exchange})
    assert answer.messages == []
    assert exchange.failure == Failure("client_disconnected", "client")
    assert logged(caplog) == []


class FrameworksOwn(Exception):
    """Such as Starlette's ClientDisconnect, which it raises where `send` fails."""


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_server_that_cannot_send_is_a_client_that_left(
    wrapped: bool, caplog: pytest.LogCaptureFixture, exchange: Exchange
) -> None:
    async def gone(message: Message) -> None:
        raise BrokenPipeError

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
        except OSError as error:
            if wrapped:
                raise FrameworksOwn from error
            raise

    async def nothing() -> Message:
        return {"type": "http.request"}

    await ErrorsMiddleware(app)(http_scope(**{EXCHANGE: exchange}), nothing, gone)
    assert exchange.failure == Failure("client_disconnected", "client")
    assert logged(caplog) == []


async def test_the_apps_own_os_error_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    answer = await request(ErrorsMiddleware(failing_after(error=FileNotFoundError("config"))))
    assert answer.status == 500
    assert len(logged(caplog)) == 1


async def test_outside_the_layer_that_made_the_id_the_answer_and_the_log_still_have_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids: list[str | None] = []

    class Watching(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            ids.append(request_id_var.get())
            return True

    watching = Watching()
    logger = logging.getLogger("asgi_gateway.errors")
    logger.addFilter(watching)
    try:
        app = ErrorsMiddleware(RequestIdMiddleware(failing_after()))
        answer = await request(app, headers=[(b"x-request-id", b"kept")])
    finally:
        logger.removeFilter(watching)
    assert answer.all("x-request-id") == ["kept"]
    assert json.loads(answer.body)["request_id"] == "kept"
    assert ids == ["kept"]


async def test_inside_it_the_id_is_there_once() -> None:
    app = RequestIdMiddleware(ErrorsMiddleware(failing_after()))
    answer = await request(app, headers=[(b"x-request-id", b"kept")])
    assert answer.all("x-request-id") == ["kept"]
    assert json.loads(answer.body)["request_id"] == "kept"


async def test_a_handshake_is_refused() -> None:
    async with Conversation(ErrorsMiddleware(failing_after()), websocket_scope()) as talk:
        start = await talk.next()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 500)
        await talk.finish()
    async with Conversation(ErrorsMiddleware(failing_after()), websocket_scope(denial=False)) as talk:
        assert (await talk.next())["type"] == "websocket.close"
        await talk.finish()


ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}


async def test_an_open_websocket_is_broken_off_and_a_closed_one_left_alone() -> None:
    async with Conversation(ErrorsMiddleware(failing_after(ACCEPT)), websocket_scope()) as talk:
        with pytest.raises(ResponseAborted):
            await talk.finish()
    async with Conversation(ErrorsMiddleware(failing_after(ACCEPT, CLOSE)), websocket_scope()) as talk:
        await talk.finish()


async def test_the_lifespan_of_an_app_may_fail() -> None:
    with pytest.raises(Secret):
        await ErrorsMiddleware(failing_after())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_a_real_server_breaks_the_connection_so_that_no_body_looks_whole(
    http: str, caplog: pytest.LogCaptureFixture
) -> None:
    import httpx

    app = ErrorsMiddleware(failing_after(START, MORE))
    settings: dict[str, Any] = {"lifespan": "off", "http": http}
    async with serve(app, **settings) as server, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)
