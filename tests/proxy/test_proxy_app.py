"""The proxy app by raw ASGI messages in front of a real service on a socket, over both transports."""

import asyncio
import gzip
from typing import Any

import pytest

from asgi_gateway.context import EXCHANGE, STRIPPED_PREFIX, TRUSTED_PEER, Exchange
from asgi_gateway.errors import ResponseAborted
from asgi_gateway.proxy.pool import Http1Transport
from asgi_gateway.testing import Conversation, Upstream, behaviours, http_scope, refused_url, request
from asgi_gateway.testing.connection import Connection
from asgi_gateway.testing.received import Request
from tests.proxy.conftest import MakeProxy


async def test_request_reaches_the_service_byte_for_byte(make_proxy: MakeProxy) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, "GET", "/a/b c//d", raw_path=b"/a%2Fb%20c//d%7e;v=1", query=b"b=2&a=1&a=%20&c")
    assert upstream.requests[0].target == b"/a%2Fb%20c//d%7e;v=1?b=2&a=1&a=%20&c"


@pytest.mark.parametrize(
    ("raw_path", "query"), [(b"/admin#x", b""), (b"/x", b"a#b"), (b"/x HTTP/1.1", b""), (b"/x", b"a b")]
)
async def test_what_is_no_target_reaches_no_service(
    make_proxy: MakeProxy, raw_path: bytes, query: bytes
) -> None:
    """h11 and hypercorn leave a fragment in the path; a service that cuts it off reads another path."""
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        answer = await request(proxy, path="/x", raw_path=raw_path, query=query)
    assert (answer.status, upstream.requests) == (400, [])


async def test_stripped_prefix_and_base_path_leave_the_rest_untouched(make_proxy: MakeProxy) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_proxy(upstream.port, base_path=b"/base/") as proxy,
    ):
        await request(
            proxy, path="/api/ai/v1/x", raw_path=b"/%61pi/ai/v1%2Fx", **{STRIPPED_PREFIX: b"/api/ai"}
        )
    sent = upstream.requests[0]
    assert sent.target == b"/base/v1%2Fx"
    assert sent.header("x-forwarded-prefix") == b"/api/ai"


async def test_answer_comes_back_with_repeated_headers_in_order(make_proxy: MakeProxy) -> None:
    headers = [(b"Set-Cookie", b"a=1"), (b"X-Thing", b"\xe9"), (b"Set-Cookie", b"b=2")]
    async with (
        Upstream(behaviours.answer(201, headers, b"made")) as upstream,
        make_proxy(upstream.port) as proxy,
    ):
        answer = await request(proxy)
    assert (answer.status, answer.body) == (201, b"made")
    assert [pair for pair in answer.headers if pair[0] != b"content-length"] == [
        (b"set-cookie", b"a=1"),
        (b"x-thing", b"\xe9"),
        (b"set-cookie", b"b=2"),
    ]


async def test_nothing_is_added_that_the_client_did_not_say(make_proxy: MakeProxy) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=[(b"host", b"public.example")])
    assert [name.lower() for name, _ in upstream.requests[0].headers] == [
        b"host",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"via",
    ]


async def test_hop_by_hop_headers_stay_on_their_hop_both_ways(make_proxy: MakeProxy) -> None:
    hop = [
        (b"connection", b"X-Mine , close"),
        (b"x-mine", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"proxy-authorization", b"secret"),
        (b"proxy-connection", b"keep-alive"),
        (b"x-kept", b"1"),
    ]
    async with Upstream(behaviours.answer(headers=hop)) as upstream, make_proxy(upstream.port) as proxy:
        answer = await request(proxy, headers=hop)
    sent = {name.lower() for name, _ in upstream.requests[0].headers}
    assert sent.isdisjoint({name for name, _ in hop} - {b"x-kept", b"connection"})
    assert b"x-kept" in sent
    assert {name for name, _ in answer.headers} == {b"x-kept", b"content-length"}


async def test_connection_cannot_remove_what_the_gateway_says(make_proxy: MakeProxy) -> None:
    headers = [(b"connection", b"x-forwarded-for, X-Request-ID, via, host"), (b"x-request-id", b"abc")]
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=headers)
    sent = upstream.requests[0]
    assert sent.header("x-forwarded-for") == b"127.0.0.1"
    assert sent.header("x-request-id") == b"abc"
    assert sent.header("via") == b"1.1 asgi-gateway"


async def test_forwarded_headers_of_a_stranger_are_replaced(make_proxy: MakeProxy) -> None:
    spoofed = [
        (b"host", b"public.example"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-forwarded-uri", b"/admin"),
        (b"X_Forwarded_Client_Cert", b"cn=admin"),
    ]
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=spoofed, client=("9.9.9.9", 1))
    sent = upstream.requests[0]
    assert sent.all("x-forwarded-for") == [b"9.9.9.9"]
    assert sent.all("x-forwarded-host") == [b"public.example"]
    assert sent.all("x-forwarded-proto") == [b"http"]
    assert {name.lower() for name, _ in sent.headers if b"forwarded" in name.lower()} == {
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    }


STRANGE: list[list[tuple[bytes, bytes]]] = [
    [(b"x-forwarded-user", b"root")],
    [(b"X-Forwarded-Groups", b"admin")],
    [(b"x-forwarded-port", b"666"), (b"x-forwarded-for", b"1.2.3.4")],
    [(b"x-real-ip", b"6.6.6.6")],
    [(b"X-Real-IP", b"6.6.6.6"), (b"x-real-ip", b"6.6.6.7")],
    [(b"x_forwarded_email", b"root@example.com")],
    [(b"X_Forwarded-User", b"root"), (b"x_real-ip", b"6.6.6.6")],
]


@pytest.mark.parametrize("headers", STRANGE)
async def test_what_nobody_has_looked_at_is_not_said_of_the_client(
    make_proxy: MakeProxy, headers: list[tuple[bytes, bytes]]
) -> None:
    """Without client_address whoever asks may call itself anything: no name of the family passes."""
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=[*headers, (b"x-own", b"1"), (b"x-forwarding", b"1")])
    sent = upstream.requests[0]
    told = [name.lower().replace(b"_", b"-") for name, _ in sent.headers]
    assert {name for name in told if name.startswith((b"x-forwarded-", b"x-real-"))} == {
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
    }
    assert (sent.all("x-own"), sent.all("x-forwarding")) == ([b"1"], [b"1"])
    assert sent.all("x-forwarded-for") == [b"127.0.0.1"]


@pytest.mark.parametrize("connection", [b"close", b"x-real-ip, X-Forwarded-Port, x-forwarded-user"])
async def test_what_a_trusted_peer_says_of_the_client_arrives(
    make_proxy: MakeProxy, connection: bytes
) -> None:
    said = [(b"x-real-ip", b"1.2.3.4"), (b"x-forwarded-port", b"443"), (b"x-forwarded-user", b"ann")]
    aliases = [(b"x_real_ip", b"6.6.6.6"), (b"x_forwarded_email", b"root@example.com")]
    headers = [(b"connection", connection), *said, *aliases]
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=headers, **{TRUSTED_PEER: True})
    sent = upstream.requests[0]
    assert [sent.all(name.decode()) for name, _ in said] == [[value] for _, value in said]
    assert not [name for name, _ in sent.headers if b"_" in name]


async def test_behind_client_address_a_middleware_may_say_more_of_a_stranger(make_proxy: MakeProxy) -> None:
    """There a client's own are gone, so what is there was put there."""
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=[(b"x-forwarded-user", b"ann")], **{TRUSTED_PEER: False})
    assert upstream.requests[0].all("x-forwarded-user") == [b"ann"]


async def test_underscored_aliases_of_what_the_gateway_says_are_dropped(make_proxy: MakeProxy) -> None:
    aliases = [(b"x_forwarded_for", b"1.2.3.4"), (b"X_Request-ID", b"x"), (b"content_length", b"9")]
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=[*aliases, (b"x_other", b"kept")])
    sent = {name.lower() for name, _ in upstream.requests[0].headers}
    assert sent.isdisjoint({name.lower() for name, _ in aliases})
    assert b"x_other" in sent


@pytest.mark.parametrize(
    ("more", "host", "name", "value"),
    [
        ({"client": ("10.0.0.2", 1)}, b"one", "x-forwarded-for", b"10.0.0.2"),
        ({"scheme": "https"}, b"one", "x-forwarded-proto", b"https"),
        ({"http_version": "2"}, b"one", "via", b"2 asgi-gateway"),
        ({STRIPPED_PREFIX: b"/x"}, b"one", "x-forwarded-prefix", b"/x"),
        ({}, b"two", "x-forwarded-host", b"two"),
    ],
    ids=["address", "scheme", "version", "prefix", "host"],
)
async def test_what_is_said_of_one_client_is_not_said_of_the_next(
    make_proxy: MakeProxy, more: dict[str, Any], host: bytes, name: str, value: bytes
) -> None:
    """The gateway's own headers are remembered from request to request."""
    one = {"client": ("10.0.0.1", 1), "path": "/x/y"}
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        for _ in range(2):
            await request(proxy, headers=[(b"host", b"one")], **one)
            await request(proxy, headers=[(b"host", host)], **{**one, **more})
    values = [sent.header(name) for sent in upstream.requests]
    assert values[1::2] == [value, value]
    assert value not in values[::2]


async def test_forwarded_headers_of_a_trusted_peer_are_continued(make_proxy: MakeProxy) -> None:
    headers = [
        (b"host", b"inner"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-for", b"5.6.7.8"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"public.example"),
    ]
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, headers=headers, client=("10.0.0.1", 1), **{TRUSTED_PEER: True})
    sent = upstream.requests[0]
    assert sent.all("x-forwarded-for") == [b"1.2.3.4, 5.6.7.8, 10.0.0.1"]
    assert sent.all("x-forwarded-proto") == [b"https"]
    assert sent.all("x-forwarded-host") == [b"public.example"]


async def test_host_is_the_services_own_unless_it_is_to_be_preserved(make_proxy: MakeProxy) -> None:
    async with Upstream(behaviours.answer()) as upstream:
        async with make_proxy(upstream.port) as proxy:
            await request(proxy, headers=[(b"host", b"public.example")])
        async with make_proxy(upstream.port, preserve_host=True) as proxy:
            await request(proxy, headers=[(b"host", b"public.example")])
    assert [sent.all("host") for sent in upstream.requests] == [
        [f"127.0.0.1:{upstream.port}".encode()],
        [b"public.example"],
    ]


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "PATCH"])
async def test_counted_body_arrives_counted(make_proxy: MakeProxy, method: str) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, method, headers=[(b"content-length", b"5")], body=b"hello")
    sent = upstream.requests[0]
    assert (sent.method, sent.content, sent.all("content-length")) == (method, b"hello", [b"5"])


async def test_empty_counted_body_is_still_counted(make_proxy: MakeProxy) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, "POST", headers=[(b"content-length", b"0")])
    assert upstream.requests[0].all("content-length") == [b"0"]


async def test_streamed_uploads_keep_their_framing(make_proxy: MakeProxy) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        await request(proxy, "POST", headers=[(b"transfer-encoding", b"chunked")], body=[b"ab", b"", b"cd"])
        await request(proxy, "POST", headers=[(b"content-length", b"4")], body=[b"ab", b"cd"])
    chunked, counted = upstream.requests
    assert (chunked.content, chunked.all("transfer-encoding"), chunked.ended) == (
        b"abcd",
        [b"chunked"],
        "complete",
    )
    assert (counted.content, counted.all("content-length"), counted.ended) == (b"abcd", [b"4"], "complete")


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_pass(make_proxy: MakeProxy, status: int) -> None:
    async with Upstream(behaviours.answer(status, body=b"")) as upstream, make_proxy(upstream.port) as proxy:
        answers = [await request(proxy), await request(proxy)]
    assert [(answer.status, answer.body, answer.complete) for answer in answers] == [(status, b"", True)] * 2


async def test_head_keeps_the_length_and_has_no_body(make_proxy: MakeProxy) -> None:
    async with Upstream(behaviours.answer(body=b"12345")) as upstream, make_proxy(upstream.port) as proxy:
        first = await request(proxy, "HEAD")
        second = await request(proxy, "GET")
    assert (first.body, first.header("content-length")) == (b"", "5")
    assert second.body == b"12345"


async def test_compressed_bodies_pass_unchanged(make_proxy: MakeProxy) -> None:
    body = gzip.compress(b"x" * 1000)
    headers = [(b"Content-Encoding", b"gzip")]
    async with (
        Upstream(behaviours.answer(headers=headers, body=body)) as upstream,
        make_proxy(upstream.port) as proxy,
    ):
        answer = await request(proxy)
    assert (answer.body, answer.header("content-encoding")) == (body, "gzip")


async def test_close_delimited_answer_arrives_whole(make_proxy: MakeProxy) -> None:
    async with (
        Upstream(behaviours.close_delimited(b"until the end")) as upstream,
        make_proxy(upstream.port) as proxy,
    ):
        answer = await request(proxy)
    assert (answer.body, answer.complete) == (b"until the end", True)


async def test_interim_answers_are_swallowed(make_proxy: MakeProxy) -> None:
    async with Upstream(behaviours.interim((100, 103))) as upstream, make_proxy(upstream.port) as proxy:
        answers = [await request(proxy), await request(proxy)]
    assert [(answer.status, answer.body, answer.header("link")) for answer in answers] == [
        (200, b"ok", None)
    ] * 2


async def test_first_chunk_arrives_before_the_last_is_made(make_proxy: MakeProxy) -> None:
    release = asyncio.Event()

    async def handler(_, connection) -> None:
        await connection.send_head(200, [(b"Transfer-Encoding", b"chunked")])
        await connection.send_chunk(b"first")
        await release.wait()
        await connection.send_chunk(b"last")
        await connection.send_chunk(b"")

    async with (
        Upstream(handler) as upstream,
        make_proxy(upstream.port) as proxy,
        Conversation(proxy, http_scope()) as talk,
    ):
        assert (await talk.next())["status"] == 200
        assert (await talk.next())["body"] == b"first"
        release.set()
        answer = await talk.finish()
    assert answer.body == b"firstlast"


async def test_upload_is_passed_on_while_it_comes_in(make_proxy: MakeProxy) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_proxy(upstream.port) as proxy,
        Conversation(proxy, http_scope("POST", headers=[(b"transfer-encoding", b"chunked")])) as talk,
    ):
        talk.body(b"first", more=True)
        await upstream.wait_for(lambda: upstream.requests and upstream.requests[0].content == b"first")
        talk.body(b"last")
        await talk.finish()
    assert upstream.requests[0].content == b"firstlast"


REFUSALS = [
    (behaviours.reset_before_headers(), 502, "upstream_reset"),
    (behaviours.close_before_headers(), 502, "upstream_reset"),
    (behaviours.raw(b"not HTTP at all\r\n\r\n"), 502, "upstream_protocol"),
    (behaviours.raw(b"HTTP/1.1 abc OK\r\n\r\n"), 502, "upstream_protocol"),
    (behaviours.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"), 502, "upstream_protocol"),
    (behaviours.raw(b"HTTP/1.1 200 OK\r\nBad\0Name: 1\r\n\r\n"), 502, "upstream_protocol"),
    (
        behaviours.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        502,
        "upstream_protocol",
    ),
]


@pytest.mark.parametrize(("behaviour", "status", "code"), REFUSALS)
async def test_failure_before_the_answer_is_a_problem(
    transport_kind: type, make_proxy: MakeProxy, behaviour, status: int, code: str
) -> None:
    exchange = Exchange()
    async with Upstream(behaviour) as upstream, make_proxy(upstream.port) as proxy:
        answer = await request(
            proxy, "POST", headers=[(b"content-length", b"1")], body=b"x", **{EXCHANGE: exchange}
        )
        await upstream.wait_for(lambda: upstream.connections.open == 0)
    assert (answer.status, answer.header("x-gateway-error")) == (status, code)
    assert exchange.failure is not None
    assert (exchange.failure.source, exchange.failure.request_sent) == ("upstream", True)


async def test_refused_connection_is_a_502_that_says_nothing_was_sent(make_proxy: MakeProxy) -> None:
    exchange = Exchange()
    with refused_url() as url:
        async with make_proxy(int(url.rpartition(":")[2])) as proxy:
            answer = await request(proxy, **{EXCHANGE: exchange})
    assert (answer.status, answer.header("x-gateway-error")) == (502, "upstream_connect")
    assert exchange.failure is not None
    assert not exchange.failure.request_sent


async def test_no_answer_in_time_is_a_504_and_breaks_the_connection(make_proxy: MakeProxy) -> None:
    async with (
        Upstream(behaviours.hang()) as upstream,
        make_proxy(upstream.port, timeouts={"first_byte": 0.05}) as proxy,
    ):
        answer = await request(proxy)
        await upstream.wait_for(lambda: upstream.connections.open == 0, 1)
    assert (answer.status, answer.header("x-gateway-error")) == (504, "upstream_timeout")


BROKEN = [
    behaviours.too_short(),
    behaviours.chunked_cut(b"part"),
    behaviours.reset_inside_body(),
    behaviours.reset_inside_body(length=1000),
    behaviours.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n"),
]


@pytest.mark.parametrize("behaviour", BROKEN)
async def test_break_inside_the_body_aborts_and_never_ends_cleanly(make_proxy: MakeProxy, behaviour) -> None:
    exchange = Exchange()
    async with (
        Upstream(behaviour) as upstream,
        make_proxy(upstream.port) as proxy,
        Conversation(proxy, http_scope(**{EXCHANGE: exchange})) as talk,
    ):
        with pytest.raises(ResponseAborted):
            await talk.finish()
        await upstream.wait_for(lambda: upstream.connections.open == 0)
    assert not talk.answer.complete
    assert exchange.failure is not None
    assert exchange.failure.source == "upstream"


async def test_stall_inside_the_body_is_cut_by_the_idle_timeout(make_proxy: MakeProxy) -> None:
    async with (
        Upstream(behaviours.hang_inside_body()) as upstream,
        make_proxy(upstream.port, timeouts={"idle": 0.05}) as proxy,
        Conversation(proxy, http_scope()) as talk,
    ):
        with pytest.raises(ResponseAborted, match="upstream_timeout"):
            await talk.finish()
        await upstream.wait_for(lambda: upstream.connections.open == 0, 1)


async def test_client_who_leaves_before_the_answer_ends_the_upstream_request(make_proxy: MakeProxy) -> None:
    exchange = Exchange()
    async with (
        Upstream(behaviours.hang()) as upstream,
        make_proxy(upstream.port) as proxy,
        Conversation(proxy, http_scope(**{EXCHANGE: exchange})) as talk,
    ):
        await upstream.wait_for(lambda: upstream.requests)
        talk.disconnect()
        await talk.finish(1)
        await upstream.wait_for(lambda: upstream.connections.open == 0, 1)
    assert talk.answer.messages == []
    assert exchange.failure is not None
    assert exchange.failure.code == "client_disconnected"


async def test_client_who_leaves_inside_the_answer_ends_the_upstream_request(make_proxy: MakeProxy) -> None:
    async with (
        Upstream(behaviours.hang_inside_body()) as upstream,
        make_proxy(upstream.port) as proxy,
        Conversation(proxy, http_scope()) as talk,
    ):
        await talk.next()
        await talk.next()
        talk.disconnect()
        await talk.finish(1)
        await upstream.wait_for(lambda: upstream.connections.open == 0, 1)
    assert not talk.answer.complete


@pytest.mark.parametrize("framing", [(b"transfer-encoding", b"chunked"), (b"content-length", b"9")])
async def test_cut_upload_is_aborted_and_never_finished(
    make_proxy: MakeProxy, framing: tuple[bytes, bytes]
) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_proxy(upstream.port) as proxy,
        Conversation(proxy, http_scope("POST", headers=[framing])) as talk,
    ):
        talk.body(b"part", more=True)
        await upstream.wait_for(lambda: upstream.requests and upstream.requests[0].content == b"part")
        talk.disconnect()
        await talk.finish(1)
        await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted", 1)


@pytest.mark.parametrize("transport_kind", [Http1Transport])
async def test_an_upload_is_whole_when_its_length_is_reached(make_proxy: MakeProxy) -> None:
    """granian and hypercorn say so only by another, empty message."""
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        for _ in range(2):
            async with Conversation(proxy, http_scope("POST", headers=[(b"content-length", b"4")])) as talk:
                talk.body(b"body", more=True)
                assert (await talk.finish(1)).status == 200
    assert [request.content for request in upstream.requests] == [b"body", b"body"]
    assert upstream.connections.total == 1  # the first request was sent whole, so its connection was kept


async def test_upload_shorter_than_declared_is_aborted(make_proxy: MakeProxy) -> None:
    async with (
        Upstream(behaviours.answer()) as upstream,
        make_proxy(upstream.port) as proxy,
        Conversation(proxy, http_scope("POST", headers=[(b"content-length", b"9")])) as talk,
    ):
        talk.body(b"part", more=True)
        talk.body(b"s")
        await talk.finish(1)
        await upstream.wait_for(lambda: upstream.requests[0].ended == "aborted", 1)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"1"), (b"content-length", b"2")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"1" * 5000)],
        [(b"x-thing", b"a\r\nx-other: b")],
        [(b"x-thing", b"a\0b")],
    ],
)
async def test_ambiguous_request_is_refused_and_reaches_no_service(make_proxy: MakeProxy, headers) -> None:
    async with Upstream(behaviours.answer()) as upstream, make_proxy(upstream.port) as proxy:
        answer = await request(proxy, "POST", headers=headers, body=b"x")
    assert (answer.status, answer.header("x-gateway-error")) == (400, "bad_request")
    assert upstream.requests == []


async def test_cancelled_exchange_leaves_nothing_behind(make_proxy: MakeProxy) -> None:
    before = asyncio.all_tasks()
    async with Upstream(behaviours.hang()) as upstream, make_proxy(upstream.port) as proxy:
        async with Conversation(proxy, http_scope()) as talk:
            await upstream.wait_for(lambda: upstream.requests)
            talk.cancel()
            with pytest.raises(asyncio.CancelledError):
                await talk.finish()
        await upstream.wait_for(lambda: upstream.connections.open == 0, 1)
    assert asyncio.all_tasks() == before


async def test_hundred_abandoned_exchanges_leave_the_pool_free(make_proxy: MakeProxy) -> None:
    behave = behaviours.hang()

    async def handler(received: Request, connection: Connection) -> None:
        await behave(received, connection)  # by time, as some that are abandoned never get here

    async with Upstream(handler) as upstream, make_proxy(upstream.port, connections={"max": 5}) as proxy:
        for _ in range(20):
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(_abandon(proxy))
        behave = behaviours.answer()
        answer = await request(proxy)
    assert (answer.status, answer.body) == (200, b"ok")


async def _abandon(proxy) -> None:
    async with Conversation(proxy, http_scope()) as talk:
        talk.disconnect()
        await talk.finish(2)


async def test_full_pool_refuses_as_overloaded_and_recovers(make_proxy: MakeProxy) -> None:
    async with (
        Upstream.script(behaviours.hang(), behaviours.answer()) as upstream,
        make_proxy(upstream.port, connections={"max": 1, "max_pending": 0}) as proxy,
    ):
        async with Conversation(proxy, http_scope()):
            await upstream.wait_for(lambda: upstream.requests)
            refused = await request(proxy)
        answer = await request(proxy)
    assert (refused.status, refused.header("x-gateway-error")) == (503, "overloaded")
    assert answer.status == 200


async def test_bytes_after_an_answer_reach_nobody(make_proxy: MakeProxy) -> None:
    async with (
        Upstream.script(behaviours.extra_bytes(), behaviours.answer(body=b"mine")) as upstream,
        make_proxy(upstream.port) as proxy,
    ):
        first, second = await request(proxy), await request(proxy)
    assert (first.body, second.body) == (b"ok", b"mine")
    assert upstream.connections.total == 2


@pytest.mark.parametrize("junk", [b"body", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"])
async def test_body_after_head_reaches_nobody(make_proxy: MakeProxy, junk: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    async with (
        Upstream.script(
            behaviours.raw(head + junk, close=False), behaviours.answer(body=b"mine")
        ) as upstream,
        make_proxy(upstream.port) as proxy,
    ):
        await request(proxy, "HEAD")
        second = await request(proxy)
    assert second.body == b"mine"


async def test_websocket_is_refused_before_it_is_accepted(make_proxy: MakeProxy) -> None:
    async with make_proxy(1) as proxy, Conversation(proxy, {**http_scope(), "type": "websocket"}) as talk:
        await talk.finish()
    assert talk.answer.messages[0]["type"] == "websocket.close"
