"""Header fields on their way: which pass, which stay on their hop, which are the gateway's to say."""

import json

import pytest

from asgi_gateway.types import Headers
from tests.http.conftest import TRUSTED, Wire, answering, get

HOP_BY_HOP = [
    b"Keep-Alive: timeout=5",
    b"Proxy-Authenticate: Basic",
    b"Proxy-Authorization: Basic c2VjcmV0",
    b"Proxy-Connection: keep-alive",
    b"TE: deflate",  # that we can use trailers ourselves is said anew: see test_messages.py
    b"Trailer: X-Sum",
    b"Upgrade: h2c",
]


def names(headers: Headers) -> set[str]:
    return {name.decode().lower() for name, _ in headers}


async def test_a_client_that_says_little_is_made_to_say_no_more(wire: Wire) -> None:
    """No Accept, User-Agent, Accept-Encoding, Cookie, nor a Connection (RFC 9110 section 7.7)."""
    sent = await wire.sent(get(b"/plain/x"))
    assert [name for name, _ in sent.headers] == [
        b"host",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"via",
        b"traceparent",
    ]
    assert sent.header("host") == b"localhost:%d" % wire.upstream.port


@pytest.mark.parametrize("line", HOP_BY_HOP, ids=lambda line: line.partition(b":")[0].decode())
async def test_hop_by_hop_fields_stay_on_their_hop_both_ways(wire: Wire, line: bytes) -> None:
    name = line.partition(b":")[0].decode().lower()
    answer = answering(200, line, b"X-Kept: 1", b"Content-Length: 0")
    reply, (sent,) = await wire.ask(get(b"/plain/x", line, b"X-Kept: 1"), answer)
    assert (sent.header(name), sent.header("x-kept")) == (None, b"1")
    assert (reply.header(name), reply.header("x-kept")) == (None, b"1")


NAMED = {
    "one": [b"Connection: X-Mine"],
    "with close": [b"Connection: close, x-mine"],
    "spaces and case": [b"Connection:   X-MINE  ,\tkeep-alive"],
    "several lines": [b"Connection: keep-alive", b"connection: Foo,x-mInE,,"],
}


@pytest.mark.parametrize("lines", NAMED.values(), ids=NAMED.keys())
async def test_what_connection_names_goes_with_it_both_ways(wire: Wire, lines: list[bytes]) -> None:
    answer = answering(200, *lines, b"x-Mine: 1", b"X-Kept: 1", b"Content-Length: 0")
    reply, (sent,) = await wire.ask(get(b"/plain/x", *lines, b"X-mine: 1", b"X-Kept: 1"), answer)
    assert (sent.all("x-mine"), sent.all("connection"), sent.header("x-kept")) == ([], [], b"1")
    assert (reply.all("x-mine"), reply.header("x-kept")) == ([], b"1")
    assert set(reply.all("connection")) <= {b"close"}


@pytest.mark.parametrize("spelled", [bytes.lower, bytes.upper, bytes.title])
async def test_connection_takes_off_nothing_that_the_gateway_says(wire: Wire, spelled: object) -> None:
    """CVE-2024-45410 and its like: the verified user, and all that tells of the client."""
    ours = [
        b"host",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-request-id",
        b"traceparent",
        b"via",
        b"x-user-id",
    ]
    named = spelled(b", ".join(ours))  # type: ignore[operator]
    lines = [b"Connection: " + named, b"Authorization: Bearer good", b"X-User-Id: root", b"X-Request-ID: abc"]
    sent = await wire.sent(get(b"/admin/x", *lines))
    assert all(len(sent.all(name.decode())) == 1 for name in ours)
    assert (sent.header("x-user-id"), sent.header("x-request-id")) == (b"alice", b"abc")


async def test_the_rules_of_fields_hold_for_a_handshake_of_websocket_too(wire: Wire) -> None:
    lines = [
        b"Connection: Upgrade, X-User-Id, X-Forwarded-For, X-Mine",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"X-Mine: 1",
        b"X-User-Id: root",
        b"X_User_Id: root",
        b"X-Forwarded-For: 6.6.6.6",
    ]
    reply, requests = await wire.ask(get(b"/admin/x", *lines))
    assert (reply.status, requests) == (401, [])
    good = [*lines, b"Authorization: Bearer good"]
    reply, (sent,) = await wire.ask(get(b"/admin/x", *good), answering(403, b"Content-Length: 0"))
    assert reply.status == 403
    assert [sent.all(name) for name in ("x-user-id", "x_user_id", "x-mine")] == [[b"alice"], [], []]
    assert sent.all("x-forwarded-for") == [b"127.0.0.1"]
    via = b"Via: " + b", ".join([b"1.1 asgi-gateway"] * 8)
    reply, requests = await wire.ask(get(b"/admin/x", *good, via))
    assert (reply.status, requests) == (508, [])


async def test_only_the_verified_identity_arrives_however_the_clients_own_is_spelled(wire: Wire) -> None:
    own = [b"X-User-Id: root", b"x-user-id: root", b"X-USER-ID: root", b"X_User_Id: root", b"x_user-id: root"]
    sent = await wire.sent(get(b"/admin/x", b"Authorization: Bearer good", *own))
    identities = [pair for pair in sent.headers if pair[0].lower().replace(b"_", b"-") == b"x-user-id"]
    assert identities == [(b"x-user-id", b"alice")]


STRANGERS_WORD = [
    b"X-Forwarded-For: 6.6.6.6",
    b"x-forwarded-for: 6.6.6.7",
    b"X-Forwarded-Host: evil.example",
    b"X-Forwarded-Proto: gopher",
    b"X-Forwarded-Port: 666",
    b"X-Forwarded-Prefix: /evil",
    b"X-Forwarded-Uri: /evil",
    b"X-Forwarded-Method: EVIL",
    b"X-Forwarded-User: evil",
    b"X-Real-IP: 6.6.6.6",
    b"Forwarded: for=6.6.6.6",
    b"X_Forwarded_For: 6.6.6.6",
    b"x_forwarded-host: evil.example",
    b"X_Real_IP: 6.6.6.6",
    b"X_Request_ID: evil",
]


async def test_a_strangers_word_of_where_it_comes_from_is_replaced_by_ours(wire: Wire) -> None:
    sent = await wire.sent(get(b"/api/x", *STRANGERS_WORD))
    theirs = {line.partition(b":")[0].decode().lower() for line in STRANGERS_WORD}
    assert [pair for pair in sent.headers if pair[0].decode() in theirs] == [
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"gate"),
        (b"x-forwarded-prefix", b"/api"),
    ]
    assert all(b"evil" not in value and b"6.6.6" not in value for _, value in sent.headers)


@pytest.mark.parametrize(
    ("lines", "chain"),
    [
        ([], b"127.0.0.2"),
        ([b"X-Forwarded-For: 1.1.1.1"], b"1.1.1.1, 127.0.0.2"),
        (
            [b"X-Forwarded-For: 1.1.1.1, 2.2.2.2", b"X-Forwarded-For: 3.3.3.3"],
            b"1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.2",
        ),
        (
            [b"X-Forwarded-For: ::ffff:10.0.0.1, [::1]:80, what"],
            b"::ffff:10.0.0.1, [::1]:80, what, 127.0.0.2",
        ),
        ([b"X-Forwarded-For: " + b", ".join([b"1.1.1.1"] * 1000)], b"1.1.1.1, " * 1000 + b"127.0.0.2"),
    ],
    ids=["none", "one", "lines", "odd", "thousand"],
)
async def test_a_trusted_peers_chain_grows_by_the_peer(wire: Wire, lines: list[bytes], chain: bytes) -> None:
    more = [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: edge.example", b"X-Forwarded-Client-Cert: cn=a"]
    more += [b"X-Real-IP: 1.1.1.1", b"X-Forwarded-Port: 443", b"X_Real_IP: 6.6.6.6"]
    sent = await wire.sent(get(b"/plain/x", *lines, *more), source=TRUSTED)
    assert sent.all("x-forwarded-for") == [chain]
    assert sent.all("x-forwarded-proto") == [b"https"]
    assert sent.all("x-forwarded-host") == [b"edge.example"]
    assert sent.all("x-forwarded-client-cert") == [b"cn=a"]
    assert (sent.all("x-real-ip"), sent.all("x-forwarded-port")) == ([b"1.1.1.1"], [b"443"])
    assert sent.all("x_real_ip") == []


@pytest.mark.parametrize(
    ("source", "lines", "value"),
    [
        ("127.0.0.1", [b"Forwarded: for=6.6.6.6"], b"for=127.0.0.1;host=gate;proto=http"),
        (TRUSTED, [b"Forwarded: for=1.1.1.1"], b"for=1.1.1.1, for=127.0.0.2;host=gate;proto=http"),
    ],
    ids=["stranger", "trusted"],
)
async def test_a_service_that_asks_for_it_is_told_by_forwarded(
    wire: Wire, source: str, lines: list[bytes], value: bytes
) -> None:
    sent = await wire.sent(get(b"/rfc7239/x", *lines), source=source)
    assert sent.all("forwarded") == [value]
    assert {name for name in names(sent.headers) if name.startswith("x-forwarded")} == {"x-forwarded-prefix"}
    sent = await wire.sent(get(b"/both/x", *lines), source=source)
    assert sent.all("forwarded") == [value]
    assert sent.all("x-forwarded-for") == [source.encode()]


ALIASES = [b"Content_Length", b"Transfer_Encoding", b"Keep_Alive", b"proxy_authorization", b"X-Forwarded_For"]


@pytest.mark.parametrize("name", ALIASES, ids=bytes.decode)
async def test_what_ends_here_ends_here_with_underscores_too(wire: Wire, name: bytes) -> None:
    """The name is the same to a service that speaks CGI or WSGI."""
    sent = await wire.sent(get(b"/plain/x", name + b": 9", b"X_Own: 9"))
    assert [pair for pair in sent.headers if pair[1] == b"9"] == [(b"x_own", b"9")]


PASSED = [
    b"Authorization: Bearer theirs",
    b"Cookie: a=1; b=2",
    b"Cookie: c=3",
    b'If-None-Match: W/"1"',
    b"If-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT",
    b"Range: bytes=0-1,5-",
    b'If-Range: "1"',
    b"Cache-Control: no-cache, max-age=0",
    b"Pragma: no-cache",
    b"Accept-Encoding: gzip;q=1.0, identity; q=0.5",
    b"User-Agent: \xc3\xa9 (x)",
    b"X-HTTP-Method-Override: DELETE",
    b"X-Many: 1",
    b"x-many: 2",
    b"X-Other: between",
    b"X-Many: 3",
    b"X-Empty: ",
    b"x_own: 1",
    b"Max-Forwards: 0",
]


async def test_end_to_end_fields_of_a_request_pass_in_number_and_order(wire: Wire) -> None:
    sent = await wire.sent(get(b"/plain/x", *PASSED))
    expected = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in PASSED)]
    ours = {b"host", b"via", b"traceparent", b"x-request-id"}
    passed = [pair for pair in sent.headers if pair[0] not in ours and not pair[0].startswith(b"x-forwarded")]
    assert passed == expected


ANSWERS = {
    "whole": (200, [b"Date: Sat, 29 Oct 1994 19:43:31 GMT", b"Age: 7", b"Server: theirs/1", b'ETag: W/"1"']),
    "cookies": (200, [b"Set-Cookie: a=1; Path=/", b"X: 1", b"Set-Cookie: b=2, c", b"set-cookie: a=3"]),
    "caching": (200, [b"Cache-Control: no-store", b"Cache-Control: private", b"Expires: 0", b"Vary: *"]),
    "part": (206, [b"Content-Range: bytes 0-1/9", b"Accept-Ranges: bytes"]),
    "range": (416, [b"Content-Range: bytes */9"]),
    "condition": (412, [b'ETag: "2"']),
    "login": (401, [b'WWW-Authenticate: Basic realm="a", Bearer', b"WWW-Authenticate: Digest x=1"]),
    "method": (405, [b"Allow: GET, , PUT"]),
    "later": (503, [b"Retry-After: 120"]),
    "moved": (302, [b"Location: http://evil.example/a%0d%0ab"]),
    "kept moved": (307, [b"Location: //other.example/"]),
    "odd status": (799, [b"X: \xe9"]),
    "own problem": (500, [b"Content-Type: application/problem+json"]),
}


@pytest.mark.parametrize(("status", "lines"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_end_to_end_fields_of_an_answer_pass_in_number_and_order(
    wire: Wire, status: int, lines: list[bytes]
) -> None:
    """Redirects too: followed by nobody, so no credential goes anywhere else."""
    raw = get(b"/plain/x", b"Authorization: Bearer theirs", b"Cookie: a=1")
    reply, requests = await wire.ask(raw, answering(status, *lines, b"Content-Length: 2", body=b"ab"))
    pairs = [line.split(b": ", 1) for line in lines]
    known = {name.lower() for name, _ in pairs}
    assert [pair for pair in reply.headers if pair[0] in known] == [(n.lower(), value) for n, value in pairs]
    assert (reply.status, reply.body, len(requests)) == (status, b"ab", 1)
    ours = {b"x-request-id", b"x-gateway-service", b"x-gateway-response-time", b"x-gateway-attempts", b"date"}
    assert {name for name, _ in reply.headers} - known - ours == {b"content-length"}
    assert len(reply.all("date")) == 1


async def test_304_passes_with_the_length_of_what_it_stands_for(wire: Wire) -> None:
    answer = answering(304, b'ETag: "1"', b"Content-Length: 1000")
    reply, _ = await wire.ask(get(b"/plain/x", b'If-None-Match: "1"'), answer)
    assert (reply.status, reply.header("etag"), reply.header("content-length")) == (304, b'"1"', b"1000")


async def test_one_clients_cookies_are_not_sent_for_another(wire: Wire) -> None:
    """The service is named localhost, for which some cookie jars hold."""
    cookies = [b"Set-Cookie: a=1", b"Set-Cookie: b=2; Domain=localhost", b"Set-Cookie: c=3; Path=/plain"]
    await wire.ask(get(b"/plain/x"), answering(200, *cookies, b"Content-Length: 0"))
    redirect = answering(302, b"Location: /plain/z", b"Set-Cookie: d=4", b"Content-Length: 0")
    await wire.ask(get(b"/plain/x"), redirect)
    assert (await wire.sent(get(b"/plain/y"))).header("cookie") is None


async def test_via_tells_the_way(wire: Wire) -> None:
    lines = [b"Via: 1.0 fred, 1.1 p.example.net (a, b)", b"via: HTTP/2 asgi-gateway"]
    sent = await wire.sent(get(b"/plain/x", *lines))
    assert sent.all("via") == [line.split(b": ")[1] for line in lines] + [b"1.1 asgi-gateway"]
    sent = await wire.sent(b"GET /plain/x HTTP/1.0\r\n\r\n")
    assert sent.all("via") == [b"1.0 asgi-gateway"]


async def test_a_route_that_leads_back_to_the_gateway_ends(wire: Wire) -> None:
    reply, _ = await wire.ask(get(b"/circle/x"))
    problem = json.loads(reply.body)
    assert (reply.status, problem["code"], problem["service"]) == (508, "loop_detected", "circle")
    via = b"Via: " + b", ".join([b"1.1 asgi-gateway"] * 8)
    reply, requests = await wire.ask(get(b"/plain/x", via, b"Connection: via"))
    assert (reply.status, reply.header("x-gateway-error"), requests) == (508, b"loop_detected", [])


BAD_IDS = {
    "long": [b"a" * 10_000],
    "non-ASCII": [b"caf\xe9"],
    "two": [b"one", b"two"],
    "two equal": [b"one", b"one"],
    "empty": [b""],
    "space": [b"a b"],
    "quote": [b'"},{"'],
    "escape": [b"%0d%0a"],
}


@pytest.mark.parametrize("values", BAD_IDS.values(), ids=BAD_IDS.keys())
async def test_one_id_is_in_log_service_and_answer_whatever_the_client_says(
    wire: Wire, values: list[bytes]
) -> None:
    parents = [b"traceparent: 00-%b-%b-01" % (b"0" * 32, b"1" * 16), b"traceparent: " + b"x" * 10_000]
    ids = [b"X-Request-ID: " + value for value in values]
    reply, (sent,) = await wire.ask(get(b"/plain/x", *ids, *parents))
    (made,) = sent.all("x-request-id")
    assert made not in values
    assert len(made) == 36
    assert reply.all("x-request-id") == [made]
    (parent,) = sent.all("traceparent")
    await wire.process.wait_for_line(
        f'"request_id": ?"{made.decode()}".*"trace_id": ?"{parent[3:35].decode()}"'
    )


async def test_nothing_that_a_client_says_breaks_the_line_of_the_log(wire: Wire) -> None:
    nasty = b"/plain/%0a%1b[31m%0d%0a{}%22%e2%80%a8%ff" + b"x" * 10_000
    reply, (sent,) = await wire.ask(
        get(nasty + b"?api_key=secret", b'User-Agent: \x1b[31m\t"}', b"Authorization: secret").replace(
            b"\x1b", b""
        )
    )
    assert reply.status == 200
    made = sent.all("x-request-id")[0].decode()
    match = await wire.process.wait_for_line(f'.*"request_id": ?"{made}".*')
    assert json.loads(match[0])["path"].startswith("/plain/\n\x1b[31m\r\n")
    assert match[0].isascii()
    assert "\x1b" not in match[0]
    assert "secret" not in "\n".join(wire.process.output)


@pytest.mark.parametrize(
    "target", [b"/nowhere%0d%0aSet-Cookie:x=1", b"/plain/%0d%0aSet-Cookie:x=1?%0d%0aX:1"]
)
async def test_an_encoded_line_end_splits_nothing(wire: Wire, target: bytes) -> None:
    async def reflecting(request, connection) -> None:
        await connection.respond(302, [(b"Location", request.target)])

    reply, requests = await wire.ask(get(target), reflecting)
    assert reply.header("set-cookie") is None
    assert b"\r\nX:1" not in reply.raw_head
    assert [request.target for request in requests] in ([], [target])
    assert reply.header("location") == (target if requests else None)
