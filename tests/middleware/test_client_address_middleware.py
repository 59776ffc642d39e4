from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asgi_gateway.asgi.headers import get_all
from asgi_gateway.context import CLIENT_ADDRESS, TRUSTED_PEER
from asgi_gateway.middleware import ClientAddressMiddleware
from asgi_gateway.testing import ScriptedApp, request
from asgi_gateway.types import Headers, Receive, Scope, Send

XFF = b"x-forwarded-for"


async def inner_scope(
    *lines: bytes,
    peer: str | None = "10.0.0.1",
    trusted: tuple[str, ...] = ("10.0.0.0/8",),
    header: Any = "X-Forwarded-For",
    **scope: Any,
) -> Scope:
    app = ScriptedApp(200)
    headers = [*scope.pop("headers", ()), *((XFF, line) for line in lines)]
    client = None if peer is None else (peer, 5)
    middleware = ClientAddressMiddleware(app, trusted_proxies=trusted, header=header)
    await request(middleware, headers=headers, client=client, **scope)
    return app.calls[0]


async def address_of(*lines: bytes, **options: Any) -> object:
    return (await inner_scope(*lines, **options))[CLIENT_ADDRESS]


FORWARDED: Headers = [
    (b"X-Forwarded-For", b"1.2.3.4"),
    (b"x-forwarded-host", b"evil"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-port", b"443"),
    (b"x-forwarded-prefix", b"/x"),
    (b"x-forwarded-uri", b"/admin"),
    (b"x-forwarded-method", b"GET"),
    (b"x-forwarded-client-cert", b"cn=admin"),
    (b"X-Real-IP", b"1.2.3.4"),
    (b"Forwarded", b"for=1.2.3.4"),
    (b"X_Forwarded_For", b"1.2.3.4"),
    (b"x_forwarded-host", b"evil"),
    (b"X_Real_IP", b"1.2.3.4"),
]
KEPT: Headers = [(b"host", b"testserver"), (b"x-other", b"1"), (b"from", b"a@b"), (b"x-forwarding", b"1")]


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)])
async def test_from_an_untrusted_peer_forwarded_headers_are_dropped(trusted: tuple[str, ...]) -> None:
    scope = await inner_scope(peer="198.51.100.7", trusted=trusted, headers=[*FORWARDED, *KEPT])
    assert (scope[CLIENT_ADDRESS], scope[TRUSTED_PEER]) == ("198.51.100.7", False)
    assert scope["headers"] == KEPT


async def test_from_a_trusted_peer_they_are_kept_and_believed() -> None:
    scope = await inner_scope(headers=[*FORWARDED, *KEPT])
    assert (scope[CLIENT_ADDRESS], scope[TRUSTED_PEER]) == ("1.2.3.4", True)
    assert scope["headers"] == [*FORWARDED, *KEPT]


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([], "10.0.0.1"),
        ([b""], "10.0.0.1"),
        ([b"203.0.113.9"], "203.0.113.9"),
        ([b"203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ([b"6.6.6.6, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ([b"6.6.6.6", b"203.0.113.9", b"10.0.0.2"], "203.0.113.9"),
        ([b"6.6.6.6, 203.0.113.9", b"10.0.0.2, 10.0.0.3"], "203.0.113.9"),
        ([b"10.0.0.9, 10.0.0.2"], "10.0.0.9"),
        ([b" \t203.0.113.9\t "], "203.0.113.9"),
        ([b"203.0.113.9:4711"], "203.0.113.9"),
        ([b"[2001:DB8::1]:4711"], "2001:db8::1"),
        ([b"[2001:db8::1]"], "2001:db8::1"),
        ([b"2001:db8:0::1"], "2001:db8::1"),
        ([b"::ffff:203.0.113.9"], "203.0.113.9"),
        ([b"203.0.113.9, ::ffff:10.0.0.2"], "203.0.113.9"),
        ([b"fe80::1%eth0"], "fe80::1"),
        ([b"unknown, 10.0.0.2"], "10.0.0.2"),
        ([b"203.0.113.9, _hidden"], "10.0.0.1"),
        ([b"203.0.113.9, , 10.0.0.2"], "10.0.0.2"),
        ([b"203.0.113.9, 10.0.0.256"], "10.0.0.1"),
        ([b"203.0.113.9, 0x0a000001"], "10.0.0.1"),
        ([b"203.0.113.9, caf\xe9"], "10.0.0.1"),
        ([b"203.0.113.9, 10.0.0.2\x00"], "10.0.0.1"),
        ([b"1" * 10_000], "10.0.0.1"),
    ],
)
async def test_the_chain_is_walked_from_the_right(lines: list[bytes], address: str) -> None:
    assert await address_of(*lines) == address


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([], "10.0.0.1"),
        ([b"for=203.0.113.9"], "203.0.113.9"),
        ([b"for=6.6.6.6, for=203.0.113.9;proto=https, for=10.0.0.2"], "203.0.113.9"),
        ([b"for=6.6.6.6", b'for="203.0.113.9:4711"', b"for=10.0.0.2"], "203.0.113.9"),
        ([b'for="[2001:DB8::1]:4711"'], "2001:db8::1"),
        ([b'for="[::ffff:203.0.113.9]"'], "203.0.113.9"),
        ([b"for=unknown, for=10.0.0.2"], "10.0.0.2"),
        ([b"for=203.0.113.9, for=_hidden"], "10.0.0.1"),
        ([b"for=203.0.113.9, proto=http"], "10.0.0.1"),
        ([b"for=203.0.113.9, nonsense"], "10.0.0.1"),
        ([b'for=", for=203.0.113.9'], "203.0.113.9"),
        ([b"for=" + b"1" * 900], "10.0.0.1"),
        ([b"for=6.6.6.6" + b", for=10.0.0.2" * 100], "10.0.0.2"),
    ],
)
async def test_forwarded_is_walked_where_it_is_asked_for(lines: list[bytes], address: str) -> None:
    headers = [(b"Forwarded", line) for line in lines]
    assert await address_of(b"6.6.6.6", headers=headers, header="Forwarded") == address


async def test_with_forwarded_believed_nothing_else_is() -> None:
    scope = await inner_scope(headers=[*FORWARDED, *KEPT], header="Forwarded")
    assert (scope[CLIENT_ADDRESS], scope[TRUSTED_PEER]) == ("1.2.3.4", True)
    assert scope["headers"] == [(b"Forwarded", b"for=1.2.3.4"), *KEPT]


async def test_forwarded_alone_is_not_believed_unasked() -> None:
    assert await address_of(headers=[(b"forwarded", b"for=6.6.6.6")]) == "10.0.0.1"


async def test_a_single_address_may_be_trusted() -> None:
    assert await address_of(b"1.2.3.4", peer="2001:db8::1", trusted=("2001:db8::1",)) == "1.2.3.4"
    assert await address_of(b"1.2.3.4", peer="2001:db8::2", trusted=("2001:db8::1",)) == "2001:db8::2"


@pytest.mark.parametrize(
    ("peer", "address", "trusted"),
    [
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::FFFF:192.0.2.1", "192.0.2.1", False),
        ("2001:0DB8::1", "2001:db8::1", False),
        ("fe80::1%eth0", "fe80::1", False),
        ("testclient", "testclient", False),
        (None, "unix", False),
    ],
)
async def test_the_peers_address_is_told_in_one_way(peer: str | None, address: str, trusted: bool) -> None:
    scope = await inner_scope(peer=peer)
    assert (scope[CLIENT_ADDRESS], scope[TRUSTED_PEER]) == (address, trusted)


async def test_a_peer_on_a_unix_socket_is_trusted_where_unix_is() -> None:
    scope = await inner_scope(b"203.0.113.9", peer=None, trusted=("unix",))
    assert (scope[CLIENT_ADDRESS], scope[TRUSTED_PEER]) == ("203.0.113.9", True)


async def test_a_thousand_trusted_hops_are_not_all_walked() -> None:
    walked: list[str] = []
    middleware = ClientAddressMiddleware(ScriptedApp(200), trusted_proxies=["10.0.0.0/8"])
    known = middleware._known
    middleware._known = lambda text: walked.append(text) or known(text)  # type: ignore[func-returns-value, assignment]
    hops = b", ".join(b"10.0.%d.%d" % divmod(n, 256) for n in range(1000))
    await request(middleware, headers=[(XFF, b"6.6.6.6, " + hops)], client=("10.0.0.1", 1))
    assert len(walked) == 65  # the peer and 64 hops


async def test_what_is_too_long_for_an_address_is_not_remembered() -> None:
    middleware = ClientAddressMiddleware(ScriptedApp(200), trusted_proxies=["10.0.0.0/8"])
    for length in range(46, 60):
        await request(middleware, headers=[(XFF, b"f" * length)], client=("10.0.0.1", 1))
    assert middleware._known.cache_info().currsize == 1


async def test_what_is_remembered_is_bounded() -> None:
    middleware = ClientAddressMiddleware(ScriptedApp(200))
    for n in range(5000):
        middleware._known(f"10.0.{n // 256}.{n % 256}")
    assert middleware._known.cache_info().currsize == 4096


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "10.0.0.1/8", "localhost", "", "*", "10.0.0.1:80"])
def test_what_is_no_network_is_refused(entry: str) -> None:
    with pytest.raises(ValidationError):
        ClientAddressMiddleware(ScriptedApp(200), trusted_proxies=[entry])


def test_one_entry_alone_must_still_be_a_list() -> None:
    with pytest.raises(ValidationError):
        ClientAddressMiddleware(ScriptedApp(200), trusted_proxies="10.0.0.0/8")


@pytest.mark.parametrize("headers", [(), ((b"x-own", b"1"),), ([b"x-real-ip", b"6.6.6.6"], [b"x-own", b"1"])])
async def test_headers_need_be_no_list(headers: Any) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope = {"type": "http", "headers": headers, "client": None}
    await ClientAddressMiddleware(app)(scope, None, None)  # type: ignore[arg-type]
    assert [*map(tuple, seen[0]["headers"])] == [(b"x-own", b"1")] * bool(headers)


async def test_a_websocket_is_treated_alike() -> None:
    scope = await inner_scope(b"203.0.113.9", type="websocket")
    assert scope[CLIENT_ADDRESS] == "203.0.113.9"


ENTRIES = st.lists(
    st.one_of(
        st.ip_addresses().map(str),
        st.sampled_from(["10.0.0.7", "", "unknown"]),
        st.text("0123456789abcdef.:[]% "),
    ),
    max_size=8,
)


@given(ENTRIES)
async def test_a_trusted_peer_always_gives_an_address_from_the_chain_or_its_own(entries: list[str]) -> None:
    """Never text, never anything left of the first untrusted entry."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[CLIENT_ADDRESS])

    line = ",".join(entries).encode()
    scope = {"type": "http", "headers": [(XFF, line)], "client": ("10.0.0.1", 1)}
    await ClientAddressMiddleware(app, trusted_proxies=["10.0.0.0/8"])(scope, None, None)  # type: ignore[arg-type]
    assert str(ip_address(seen[0])) == seen[0]


async def test_headers_keep_their_order_and_the_scope_is_a_copy() -> None:
    headers = [(b"b", b"2"), (b"a", b"1"), (b"b", b"3")]
    scope = await inner_scope(peer="192.0.2.1", headers=headers)
    assert [pair for pair in scope["headers"] if pair[0] != b"host"] == headers
    assert get_all(scope["headers"], XFF) == []
