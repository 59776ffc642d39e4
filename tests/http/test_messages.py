"""Methods, framing and the order of messages: one answer for each request, and nobody else's bytes."""

import asyncio
import gzip
import json

import pytest

from asgi_gateway.testing import Handler, behaviours
from tests.http.conftest import Wire, answering, get
from tests.http.wire import Reply

CLOSE = b"Connection: close"
CHUNKED = b"Transfer-Encoding: chunked"

# Methods


@pytest.mark.parametrize(
    "method", [b"PUT", b"DELETE", b"PATCH", b"PROPFIND", b"REPORT", b"M-SEARCH", b"PURGE", b"LINK", b"TRACE"]
)
async def test_a_method_that_the_server_knows_passes(wire: Wire, method: bytes) -> None:
    assert (await wire.sent(get(b"/plain/x", method=method))).method == method.decode()


@pytest.mark.parametrize("method", [b"BREW", b"get", b"GETX", b"G\x7fT"])
async def test_a_method_that_it_does_not_is_refused(wire: Wire, method: bytes) -> None:
    reply, requests = await wire.ask(get(b"/plain/x", method=method))
    assert (reply.status, reply.closed, requests) == (400, True, [])


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"OPTIONS", b"POST", b"HEAD"])
@pytest.mark.parametrize(
    ("line", "body"), [(b"Content-Length: 4", b"body"), (CHUNKED, b"4\r\nbody\r\n0\r\n\r\n")]
)
async def test_a_body_passes_whatever_the_method(wire: Wire, method: bytes, line: bytes, body: bytes) -> None:
    sent = await wire.sent(get(b"/plain/x", line, method=method) + body)
    assert (sent.content, sent.ended) == (b"body", "complete")
    assert len(sent.all("content-length")) + len(sent.all("transfer-encoding")) == 1


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (get(b"gate:443", method=b"CONNECT", host=b"gate:443"), 501),
        (get(b"/plain/x", method=b"CONNECT"), 501),
        (get(b"*"), 400),
        (get(b"*", method=b"TRACE"), 400),
    ],
    ids=["authority", "path", "star", "trace star"],
)
async def test_connect_and_a_star_out_of_place_are_refused(wire: Wire, raw: bytes, status: int) -> None:
    before = wire.upstream.connections.total
    reply, requests = await wire.ask(raw)
    assert (reply.status, reply.closed, requests) == (status, True, [])
    assert wire.upstream.connections.total == before


async def test_the_server_as_a_whole_answers_for_itself(wire: Wire) -> None:
    for target in (b"*", b"http://a.example"):
        reply, requests = await wire.ask(get(target, method=b"OPTIONS", host=b"a.example"))
        assert (reply.status, reply.header("content-length"), requests) == (200, b"0", [])


# Max-Forwards (RFC 9110 section 7.6.2)


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
async def test_max_forwards_is_lowered_and_ends_here(wire: Wire, method: bytes) -> None:
    sent = await wire.sent(get(b"/plain/x", b"Max-Forwards: 3", method=method))
    assert sent.all("max-forwards") == [b"2"]
    reply, requests = await wire.ask(get(b"/plain/x", b"Max-Forwards: 0", method=method))
    assert (reply.status, requests) == (200, [])
    reply, requests = await wire.ask(get(b"/plain/x", b"Max-Forwards: -1", method=method))
    assert (reply.status, requests) == (400, [])


async def test_options_that_ends_here_is_told_the_routes_methods(wire: Wire) -> None:
    reply, _ = await wire.ask(get(b"/methods", b"Max-Forwards: 0", method=b"OPTIONS"))
    assert (reply.status, reply.header("allow")) == (200, b"GET, OPTIONS")


async def test_trace_that_ends_here_shows_no_secret(wire: Wire) -> None:
    secrets = [b"Authorization: secret", b"Cookie: a=secret", b"X-Api-Key: secret", b"X-User-Id: secret"]
    lines = [*secrets, b"Via: 1.1 first", b"Max-Forwards: 0"]
    reply, _ = await wire.ask(get(b"/plain/x?y", *lines, method=b"TRACE"))
    assert reply.header("content-type") == b"message/http"
    assert reply.body == (
        b"TRACE /plain/x?y HTTP/1.1\r\nhost: gate\r\nvia: 1.1 first\r\nmax-forwards: 0\r\n\r\n"
    )


# Requests one after the other


async def test_pipelined_requests_are_judged_and_answered_one_by_one(wire: Wire) -> None:
    wire.switch.handler = behaviours.answer()
    before = len(wire.upstream.requests)
    good = get(b"/admin/1", b"Authorization: Bearer good")
    async with wire.client() as client:
        client.say(good + get(b"/admin/2") + good.replace(b"/admin/1", b"/admin/3"))
        statuses = [(await client.reply()).status for _ in range(3)]
    assert statuses == [200, 401, 200]
    assert [request.target for request in wire.upstream.requests[before:]] == [b"/admin/1", b"/admin/3"]


async def test_pipelined_requests_are_counted_one_by_one(wire: Wire) -> None:
    wire.switch.handler = behaviours.answer()
    async with wire.client() as client:
        client.say(get(b"/counted/x", b"X-Case: pipelined") * 3 + get(b"/plain/x"))
        statuses = [(await client.reply()).status for _ in range(4)]
    assert statuses == [200, 429, 429, 200]


@pytest.mark.parametrize(
    "lines", [[b"Expect: 100-continue"], [b"expect: 100-Continue", CLOSE]], ids=["kept", "closing"]
)
async def test_who_waits_for_100_is_told_to_go_on_by_the_gateway(wire: Wire, lines: list[bytes]) -> None:
    wire.switch.handler = behaviours.answer()
    before = len(wire.upstream.requests)
    async with wire.client() as client:
        client.say(get(b"/plain/x", b"Content-Length: 4", *lines, method=b"POST"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.say(b"body")
        assert (await client.reply()).status == 200
    (sent,) = wire.upstream.requests[before:]
    assert (sent.header("expect"), sent.content) == (None, b"body")


async def test_who_waits_for_100_and_is_refused_keeps_the_body(wire: Wire) -> None:
    reply, requests = await wire.ask(
        get(b"/admin/x", b"Content-Length: 4", b"Expect: 100-continue", method=b"POST")
    )
    assert (reply.status, reply.interim, reply.closed, requests) == (401, [], True, [])


async def test_an_expectation_that_nobody_knows_is_417(wire: Wire) -> None:
    reply, requests = await wire.ask(get(b"/plain/x", b"Expect: a-reply", method=b"POST"))
    assert (reply.status, requests) == (417, [])


@pytest.mark.parametrize("closes", [False, True])
async def test_what_is_left_of_a_refused_upload_is_no_request(wire: Wire, closes: bool) -> None:
    """The service answers 413 in the middle of 100 MB."""
    wire.switch.handler = behaviours.early_answer(413, b"enough", close=closes)
    before = len(wire.upstream.requests)
    async with wire.client() as client:
        client.say(get(b"/plain/up", b"Content-Length: 100000000", method=b"POST") + b"x" * 100_000)
        client.say(get(b"/plain/smuggled") * 100)
        reply = await client.reply()
        assert (reply.status, reply.body) == (413, b"enough")
        assert await client.reader.read() == b""
    reply, _ = await wire.ask(get(b"/plain/next"))
    assert reply.status == 200
    assert [request.target for request in wire.upstream.requests[before:]] == [b"/plain/up", b"/plain/next"]


@pytest.mark.parametrize(
    ("answer", "length"),
    [
        (behaviours.chunked(b"one", b"two"), None),
        (behaviours.close_delimited(b"onetwo"), None),
        (behaviours.answer(body=b"onetwo"), b"6"),
    ],
    ids=["chunked", "close-delimited", "counted"],
)
@pytest.mark.parametrize("line", [b"X: 1", b"Connection: keep-alive"])
async def test_a_client_of_http_1_0_gets_no_chunks_and_the_end(
    wire: Wire, answer: Handler, length: bytes | None, line: bytes
) -> None:
    reply, (sent,) = await wire.ask(b"GET /plain/x HTTP/1.0\r\n%b\r\n\r\n" % line, answer)
    assert (reply.body, reply.header("transfer-encoding"), reply.closed) == (b"onetwo", None, True)
    assert (reply.header("content-length"), sent.http_version) == (length, "1.1")


# Answers


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_a_status_without_a_body_has_none(wire: Wire, status: int) -> None:
    lines = [b"Content-Length: 0"] if status == 205 else []
    wire.switch.handler = answering(status, *lines, b"X: 1")
    async with wire.client() as client:
        client.say(get(b"/plain/x") * 2)
        replies = [await client.reply(), await client.reply()]
    assert [(reply.status, reply.body, reply.header("x")) for reply in replies] == [(status, b"", b"1")] * 2
    assert all(reply.header("transfer-encoding") is None for reply in replies)


async def test_head_keeps_the_length_and_brings_no_body(wire: Wire) -> None:
    for line in (b"Content-Length: 1000", CHUNKED):
        wire.switch.handler = answering(200, line)
        async with wire.client() as client:
            client.say(get(b"/plain/x", method=b"HEAD") * 2)
            replies = [await client.reply(b"HEAD"), await client.reply(b"HEAD")]
        length = b"1000" if line != CHUNKED else None
        assert [(reply.status, reply.header("content-length")) for reply in replies] == [(200, length)] * 2


STOLEN = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
SURPLUS = {
    "after a body": (b"GET", answering(200, b"Content-Length: 2", body=b"ok" + STOLEN)),
    "after the last chunk": (b"GET", answering(200, CHUNKED, body=b"2\r\nok\r\n0\r\n\r\n" + STOLEN)),
    "after HEAD": (
        b"HEAD",
        behaviours.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 52\r\n\r\n" + STOLEN, close=False),
    ),
    "after 204": (b"GET", answering(204, body=STOLEN)),
    "after 304": (b"GET", answering(304, b"Content-Length: 52", body=STOLEN)),
}


@pytest.mark.parametrize(("method", "answer"), SURPLUS.values(), ids=SURPLUS.keys())
async def test_one_users_surplus_bytes_reach_no_other(wire: Wire, method: bytes, answer: Handler) -> None:
    reply, _ = await wire.ask(get(b"/plain/one", method=method), answer)
    assert reply.status in (200, 204, 304)
    assert b"stolen" not in reply.body
    for _ in range(3):
        reply, _ = await wire.ask(get(b"/plain/other"), behaviours.answer(body=b"mine"))
        assert (reply.status, reply.body) == (200, b"mine")


@pytest.mark.parametrize("statuses", [(103,), (100,), (102, 103, 103)])
async def test_interim_answers_do_not_disturb_the_final_one(wire: Wire, statuses: tuple[int, ...]) -> None:
    """103 is passed on; ASGI has no message for the others."""
    reply, _ = await wire.ask(get(b"/plain/x"), behaviours.interim(statuses))
    assert (reply.status, reply.body, reply.header("link")) == (200, b"ok", None)
    assert reply.interim == [status for status in statuses if status == 103]


@pytest.mark.parametrize(
    "answer",
    [
        behaviours.close_delimited(b"whole" * 1000),
        behaviours.raw(b"HTTP/1.0 200 OK\r\n\r\n" + b"whole" * 1000),
    ],
    ids=["HTTP/1.1", "HTTP/1.0"],
)
async def test_an_answer_that_ends_with_its_connection_arrives_whole_and_framed(
    wire: Wire, answer: Handler
) -> None:
    wire.switch.handler = answer
    async with wire.client() as client:
        client.say(get(b"/plain/x") * 2)
        replies = [await client.reply(), await client.reply()]
    assert [(reply.body, reply.header("transfer-encoding")) for reply in replies] == [
        (b"whole" * 1000, b"chunked")
    ] * 2


@pytest.mark.parametrize("asked", [[], [b"Accept-Encoding: gzip"], [b"Accept-Encoding: identity"]])
async def test_a_compressed_answer_is_not_touched(wire: Wire, asked: list[bytes]) -> None:
    """Nor is a bomb inflated: what is small on the wire stays small."""
    packed = gzip.compress(bytes(10_000_000))
    answer = answering(200, b"Content-Encoding: gzip", b"Content-Length: %d" % len(packed), body=packed)
    reply, _ = await wire.ask(get(b"/plain/x", *asked), answer)
    assert (reply.body, reply.header("content-encoding")) == (packed, b"gzip")
    assert reply.header("content-length") == b"%d" % len(packed)


async def test_trailers_never_become_headers(wire: Wire) -> None:
    body = b"2\r\nok\r\n0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\n\r\n"
    answer = answering(200, CHUNKED, b"Trailer: X-Sum", body=body)
    for line in (b"X: 1", b"TE: trailers\r\nConnection: TE"):
        reply, (sent,) = await wire.ask(get(b"/plain/x", line), answer)
        assert (reply.body, reply.header("x-sum"), reply.header("set-cookie")) == (b"ok", None, None)
        asked = line.startswith(b"TE")
        assert (sent.header("te"), reply.trailers) == ((b"trailers", [b"x-sum: 1"]) if asked else (None, []))
        assert (reply.header("trailer"), sent.trailers) == (None, [])
    upload = get(b"/plain/x", CHUNKED, b"Trailer: X-User-Id", method=b"POST")
    sent = await wire.sent(upload + b"2\r\nok\r\n0\r\nX-User-Id: root\r\nAuthorization: root\r\n\r\n")
    assert (sent.content, sent.trailers) == (b"ok", [])
    assert [sent.header(name) for name in ("x-user-id", "authorization", "trailer")] == [None] * 3


MALFORMED = {
    "space before the colon": b"Content-Length : 2",
    "no colon": b"nonsense",
    "empty name": b": empty",
    "space in a name": b"X Y: 1",
    "non-ASCII name": b"X\xe9: 1",
    "NUL": b"X: a\0b",
    "bare CR": b"X: a\rSet-Cookie: b",
    "control character": b"X: a\x01b",
    "folded": b"X: a\r\n b",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "length and coding": b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    "other coding": b"Transfer-Encoding: gzip, chunked",
}


@pytest.mark.parametrize("lines", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_head_of_an_answer_is_502_and_never_relayed(wire: Wire, lines: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\nX-Theirs: 1\r\n" + lines + b"\r\nContent-Length: 2\r\n\r\nok"
    reply, _ = await wire.ask(get(b"/plain/x"), behaviours.raw(raw, close=False))
    problem = json.loads(reply.body)
    assert (reply.status, problem["code"], reply.header("x-theirs")) == (502, "upstream_protocol", None)
    assert problem["request_id"].encode() == reply.header("x-request-id")


async def test_two_clients_at_once_get_each_their_own(wire: Wire) -> None:
    async def echo(request, connection) -> None:
        await request.body()
        await connection.respond(200, body=request.target)

    wire.switch.handler = echo

    async def one(number: int) -> Reply:
        async with wire.client() as client:
            client.say(get(b"/plain/%d" % number))
            return await client.reply()

    replies = await asyncio.gather(*map(one, range(50)))
    assert [reply.body for reply in replies] == [b"/plain/%d" % number for number in range(50)]
