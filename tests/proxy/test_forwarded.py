"""How a service is told who asked, in each style, from a stranger and from a trusted peer."""

from typing import Any

import pytest

from asgi_gateway.asgi.headers import get_all
from asgi_gateway.proxy.forwarded import STYLES, Style
from asgi_gateway.types import Headers

X_FORWARDED = [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"]
SPOOFED: Headers = [(b"forwarded", b"for=6.6.6.6"), (b"x-forwarded-for", b"6.6.6.6")]


def made(style: Style, ended: Headers = (), **more: Any) -> Headers:  # type: ignore[assignment]
    facts = {"peer": b"10.0.0.1", "scheme": b"http", "host": b"gate", "prefix": b"", "trusted": False}
    by_name = {name: get_all(ended, name) for name, _ in ended}
    return STYLES[style](by_name, **{**facts, **more})


@pytest.mark.parametrize(
    ("style", "names"),
    [("x_forwarded", X_FORWARDED), ("rfc7239", [b"forwarded"]), ("both", [*X_FORWARDED, b"forwarded"])],
)
def test_each_style_has_its_fields(style: Style, names: list[bytes]) -> None:
    headers = made(style, SPOOFED)
    assert [name for name, _ in headers] == names
    assert all(b"6.6.6.6" not in value for _, value in headers)


@pytest.mark.parametrize(
    ("facts", "value"),
    [
        ({}, b"for=10.0.0.1;host=gate;proto=http"),
        ({"peer": b"2001:db8::1"}, b'for="[2001:db8::1]";host=gate;proto=http'),
        ({"peer": b"unknown"}, b"for=unknown;host=gate;proto=http"),
        ({"host": b"gate:3000", "scheme": b"https"}, b'for=10.0.0.1;host="gate:3000";proto=https'),
        ({"host": b""}, b"for=10.0.0.1;proto=http"),
    ],
)
def test_forwarded_says_who_asked_for_what_and_how(facts: dict[str, Any], value: bytes) -> None:
    assert made("rfc7239", **facts) == [(b"forwarded", value)]


OURS = b"for=10.0.0.1;host=gate;proto=http"


@pytest.mark.parametrize(
    ("ended", "chain"),
    [
        ([], b""),
        ([(b"forwarded", b"for=1.1.1.1")], b"for=1.1.1.1, "),
        (
            [(b"forwarded", b"for=1.1.1.1;proto=https,for=2.2.2.2"), (b"forwarded", b"for=3.3.3.3")],
            b"for=1.1.1.1;proto=https, for=2.2.2.2, for=3.3.3.3, ",
        ),
        ([(b"forwarded", b'for="6.6.6.6, for=1.1.1.1')], b"for=1.1.1.1, "),
        (
            [(b"x-forwarded-for", b"1.1.1.1, 2001:db8::1"), (b"x-forwarded-for", b"2.2.2.2:80, what")],
            b'for=1.1.1.1, for="[2001:db8::1]", for=2.2.2.2, for=unknown, ',
        ),
        (
            [
                (b"x-forwarded-for", b"1.1.1.1, 2.2.2.2"),
                (b"x-forwarded-proto", b"https"),
                (b"x-forwarded-host", b"a.example"),
            ],
            b"for=1.1.1.1;host=a.example;proto=https, for=2.2.2.2, ",
        ),
        ([(b"x-forwarded-for", b"1.1.1.1"), (b"forwarded", b"for=6.6.6.6")], b"for=1.1.1.1, "),
    ],
    ids=["none", "one", "lines", "malformed", "converted", "edge", "both"],
)
def test_a_trusted_peers_chain_is_continued(ended: Headers, chain: bytes) -> None:
    assert made("rfc7239", ended, trusted=True) == [(b"forwarded", chain + OURS)]


@pytest.mark.parametrize("style", ["rfc7239", "both"])
def test_a_stripped_prefix_is_told_in_every_style(style: Style) -> None:
    headers = made(style, [(b"x-forwarded-prefix", b"/outer")], prefix=b"/api", trusted=True)
    assert get_all(headers, b"x-forwarded-prefix") == [b"/outer/api"]
