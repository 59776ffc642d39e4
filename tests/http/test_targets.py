"""Where a request goes: targets byte for byte, one reading of a path, no way to choose the service."""

import posixpath
from urllib.parse import unquote_to_bytes

import pytest

from asgi_gateway.testing import Upstream, behaviours
from tests.http.conftest import Wire, get

TARGETS = [
    b"/",
    b"/a",
    b"/a/",
    b"/a//b",
    b"//a",
    b"/a/./b",
    b"/a/b/../c",
    b"/a/b/%2e%2e/c",
    b"/a%2Fb",
    b"/a%2fb%2Fc",
    b"/a%5Cb",
    b"/a\\b",
    b"/a;v=1/b;w",
    b"/a,b",
    b"/a=b&c",
    b"/a+b%2B%20c",
    b"/~a/%7Ea/%7ea",
    b"/%41%61",
    b"/|^{}",
    b'/"<>`',
    b"/a:b@c",
    b"/a!$'()*",
    b"/[::1]",
    b"/%zz",
    b"/%",
    b"/%2",
    b"/%00",
    b"/%25",
    b"/%2525",
    b"/%c3%a9",
    b"/%e9",
    b"/%ff%fe",
    b"/%c0%af",
    b"/%E2%80%8B",
    b"/http://evil.example/x",
    b"/@evil.example",
    b"/a?",
    b"/a??b",
    b"/a?x=1&x=2&y",
    b"/a?x=%zz&%00=%",
    b"/a?x=1;y=2",
    b"/a?/../b",
    b"/a?http://evil.example/?b",
    b"/a?" + b"&".join(b"p%d=1" % number for number in range(1500)),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:30].decode("latin-1"))
async def test_a_target_arrives_byte_for_byte(wire: Wire, target: bytes) -> None:
    """Behind the URL's path and less the prefix, or as it is; an empty query is none."""
    kept = target.removesuffix(b"?") if target.endswith(b"/a?") else target
    assert (await wire.sent(get(b"/api" + target))).target == b"/base" + kept
    assert (await wire.sent(get(b"/plain" + target))).target == b"/plain" + kept


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/plain/\xc3\xa9", 400),
        (b"/plain/#x", 400),
        (b"/plain/a b", 400),
        (b"/plain/?" + b"a=1&" * 10_001, 414),
    ],
)
async def test_what_is_no_target_or_too_long_is_refused(wire: Wire, target: bytes, status: int) -> None:
    reply, requests = await wire.ask(get(target))
    assert (reply.status, reply.closed, requests) == (status, True, [])


# Guarded paths


def normalised(target: bytes) -> bytes:
    """The path as a service reads it that decodes once and resolves all that some service resolves."""
    path = unquote_to_bytes(target.partition(b"?")[0]).partition(b"\0")[0].replace(b"\\", b"/")
    path = b"/".join(segment.partition(b";")[0] for segment in path.split(b"/"))
    return b"/" + posixpath.normpath(path).lstrip(b"/")


TRICKS = [
    b"/public/../admin/x",
    b"/public/%2e%2e/admin/x",
    b"/public/%2E./admin/x",
    b"/public%2f..%2fadmin/x",
    b"/public/..%2fadmin%2fx",
    b"/public..%2fadmin/x",
    b"/public../admin/x",
    b"/public;/../admin/x",
    b"/public/..;/admin/x",
    b"/public/..;a=b/admin/x",
    b"/public/.;/..;/admin/x",
    b"/public/%2e%2e;/admin/x",
    b"/public/..%3b/admin/x",
    b"/public/x/../../admin/x",
    b"/public//../admin/x",
    b"/public/..//admin/x",
    b"/public/..\\admin/x",
    b"/public/..%5cadmin/x",
    b"/public%5c..%5cadmin/x",
    b"/public/../../admin/x",
    b"/../admin/x",
    b"/./admin/x",
    b"//admin/x",
    b"///admin/x",
    b"/%2fadmin/x",
    b"/%5cadmin/x",
    b"/\\admin/x",
    b"/;/admin/x",
    b"/%61dmin/x",
    b"/%61%64%6d%69%6e/x",
    b"/admin;/x",
    b"/admin;x=1/x",
    b"/admin/./x",
    b"/admin//x",
    b"/admin/../public/x",
    b"/admin/%2e%2e/public/x",
    b"/admin/..;/public/x",
    b"/admin/..%2fpublic/x",
    b"/admin%2f..%2fpublic/x",
    b"/admin%2fx",
    b"/ADMIN/x",
    b"/admin%00/x",
    b"/admin%00",
    b"/admin%20/x",
    b"/admin./x",
    b"/adminx",
    b"/%252e%252e/admin/x",
    b"/public/%252e%252e/admin/x",
    b"/public/..%252fadmin/x",
    b"/public/%c0%ae%c0%ae/admin/x",
    b"/public/%uff0e%uff0e/admin/x",
    b"/public/%ef%bc%8e%ef%bc%8e/admin/x",
    b"/admin#x",
    b"/public/x?/../admin/x",
    b"/public/x#/../admin/x",
    b"/public/../public/../admin/x",
    b"/admin/../public/../admin/x",
    b"/api/../admin/x",
    b"/api/../../admin/x",
    b"/api/../api/../../admin/x",
]


@pytest.mark.parametrize("host", [b"gate", b"a.example"], ids=["closed", "open"])
@pytest.mark.parametrize("target", TRICKS, ids=lambda target: target.decode())
async def test_no_spelling_leads_past_the_guard(wire: Wire, target: bytes, host: bytes) -> None:
    """Judged by a service that reads the target as it is, and by one that normalises it.

    With one of the hosts every path that has no other route leads to an open service.
    """
    reply, requests = await wire.ask(get(target, host=host))
    assert reply.status in (200, 400, 401, 404)
    assert (reply.status == 200) is bool(requests)
    for request in requests:
        for reading in (request.target, normalised(request.target)):
            assert not (reading + b"/").startswith(b"/admin/")


@pytest.mark.parametrize("target", [b"/admin/x", b"/%61dmin/x", b"/admin/./x", b"/admin//x"])
async def test_the_guard_lets_through_whom_it_knows(wire: Wire, target: bytes) -> None:
    """So the guard, and no other part, is what keeps the others out."""
    sent = await wire.sent(get(target, b"Authorization: Bearer good"))
    assert sent.target == target


CLIMBS = [
    b"/api/../api/x",
    b"/api/../../x",
    b"/api/%2e%2e/api/x",
    b"/api/..%2fapi%2fx",
    b"/api//../api/x",
    b"/api/a/../../api/x",
    b"/api/..;/api/x",
]


@pytest.mark.parametrize("target", CLIMBS, ids=lambda target: target.decode())
async def test_no_spelling_leads_out_of_the_path_of_the_services_url(wire: Wire, target: bytes) -> None:
    reply, requests = await wire.ask(get(target))
    assert (reply.status, reply.header("x-gateway-error"), requests) == (400, b"bad_request", [])


PREFIXES = [
    (b"/api", b"/base/"),
    (b"/api/", b"/base/"),
    (b"/api?x", b"/base/?x"),
    (b"/api/api", b"/base/api"),
    (b"/%61pi/x", b"/base/x"),
    (b"/api//evil.example", b"/base//evil.example"),
    (b"/apifoo", None),
    (b"/api.", None),
    (b"/api..", None),
    (b"/api%20", None),
    (b"/api%2e", None),
    (b"/API/x", None),
    (b"/apiapi/x", None),
    (b"//api/x", None),
]


@pytest.mark.parametrize(("target", "sent"), PREFIXES, ids=[target.decode() for target, _ in PREFIXES])
async def test_a_prefix_comes_off_at_the_end_of_a_segment(
    wire: Wire, target: bytes, sent: bytes | None
) -> None:
    reply, requests = await wire.ask(get(target, b"X-Forwarded-Prefix: /evil"))
    assert [request.target for request in requests] == ([sent] if sent else [])
    assert [request.all("x-forwarded-prefix") for request in requests] == ([[b"/api"]] if sent else [])
    assert reply.status == 200 if sent else reply.status in (400, 404)
    assert reply.header("location") is None


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        (b"a.example", True),
        (b"A.eXample", True),
        (b"a.example.", True),
        (b"a.example:80", True),
        (b"a.example.:8080", True),
        (b"[2001:db8::1]", True),
        (b"[2001:DB8::1]:80", True),
        (b"b.example", False),
        (b"a.example.evil", False),
        (b"xa.example", False),
        (b"a.exampl%65", False),
    ],
)
async def test_a_host_is_matched_in_every_spelling(wire: Wire, host: bytes, matches: bool) -> None:
    reply, requests = await wire.ask(get(b"/elsewhere", host=host))
    assert (reply.status, len(requests)) == ((200, 1) if matches else (404, 0))


EXEMPT = b"/counted/free/x"
NOT_EXEMPT = {
    "plain": get(b"/counted/x"),
    "query": get(b"/counted/x?" + EXEMPT),
    "encoded query": get(b"/counted/x%3f" + EXEMPT),
    "agent": get(b"/counted/x", b"User-Agent: " + EXEMPT),
    "forwarded uri": get(b"/counted/x", b"X-Forwarded-Uri: " + EXEMPT),
    "original url": get(b"/counted/x", b"X-Original-URL: " + EXEMPT, b"X-Rewrite-URL: " + EXEMPT),
    "referer": get(b"/counted/x", b"Referer: " + EXEMPT),
    "below it and out": get(b"/counted/free/../x"),
    "encoded out": get(b"/counted/free/%2e%2e%2fx"),
    "beside it and in": get(b"/counted/x/../free/x"),
    "longer": get(b"/counted/freedom"),
}


@pytest.mark.parametrize("raw", NOT_EXEMPT.values(), ids=NOT_EXEMPT.keys())
async def test_an_exemption_sees_the_path_and_nothing_else(
    wire: Wire, raw: bytes, request: pytest.FixtureRequest
) -> None:
    raw = raw.replace(b"\r\n\r\n", b"\r\nX-Case: %b\r\n\r\n" % request.node.name.encode())
    assert [(await wire.ask(raw))[0].status for _ in range(2)] == [200, 429]


async def test_what_is_exempt_is_not_counted(wire: Wire) -> None:
    raw = get(EXEMPT, b"X-Case: exempt")
    assert [(await wire.ask(raw))[0].status for _ in range(2)] == [200, 200]


async def test_nothing_in_a_request_chooses_where_it_goes(wire: Wire) -> None:
    async with Upstream(behaviours.answer()) as evil:
        there = b"127.0.0.1:%d" % evil.port
        url = b"http://" + there + b"/plain/x"
        body = b'{"api_base": "%b"}' % url
        lengthy = b"Content-Length: %d" % len(body)
        asked = [
            get(b"/plain/x", host=there),
            get(url, host=there),
            get(url),
            get(b"//" + there + b"/plain/x"),
            get(b"/plain//" + there),
            get(b"/plain/@" + there),
            get(b"/plain/x?url=" + url),
            get(b"@" + there),
            get(b"/kept-host/x", host=there),
            get(b"/plain/x", b"X-Forwarded-Host: " + there, b"Forwarded: host=" + there),
            get(b"/plain/x", b"X-Original-Host: " + there, b"X-Upstream: " + url),
            get(b"/plain/x", b"Proxy: " + url, b"Referer: " + url),
            get(b"/plain/x", lengthy, method=b"POST") + body,
            get(there, method=b"CONNECT", host=there),
        ]
        for raw in asked:
            _, requests = await wire.ask(raw)
            assert all(request.target.startswith((b"/plain", b"/kept-host")) for request in requests)
            kept = [request.target.startswith(b"/kept-host") for request in requests]
            hosts = [request.header("host") for request in requests]
            assert hosts == [there if keeps else b"localhost:%d" % wire.upstream.port for keeps in kept]
        assert evil.connections.total == 0


@pytest.mark.parametrize(
    "target", [b"http://gate/plain/x?y", b"HTTP://GATE/plain/x?y", b"https://gate/plain/x?y"]
)
async def test_a_target_in_absolute_form_arrives_in_origin_form(wire: Wire, target: bytes) -> None:
    sent = await wire.sent(get(target))
    assert (sent.target, sent.header("x-forwarded-host")) == (b"/plain/x?y", b"gate")


@pytest.mark.parametrize(
    "line", [b"X-HTTP-Method-Override: GET", b"X-Method-Override: GET", b"X-HTTP-Method: GET"]
)
async def test_no_header_stands_in_for_the_method(wire: Wire, line: bytes) -> None:
    reply, requests = await wire.ask(get(b"/methods?_method=GET", line, method=b"DELETE"))
    assert (reply.status, reply.header("allow"), requests) == (405, b"GET, OPTIONS", [])
