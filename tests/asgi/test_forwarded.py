import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.asgi.forwarded import elements_from_right, made_element, node_of, without_port


def nodes(line: bytes) -> list[bytes]:
    return [node_of(element) for element in elements_from_right(line)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"", []),
        (b" , ,", []),
        (b"for=192.0.2.60", [b"192.0.2.60"]),
        (b"for=192.0.2.43, for=198.51.100.17", [b"198.51.100.17", b"192.0.2.43"]),
        (b'For="[2001:db8:cafe::17]:4711"', [b"[2001:db8:cafe::17]:4711"]),
        (b"for=192.0.2.60;proto=http;by=203.0.113.43", [b"192.0.2.60"]),
        (b'proto=http ; host="a,b";FOR=1.1.1.1,,for=_hidden', [b"_hidden", b"1.1.1.1"]),
        (b'for="1.1.1.1\\"\\\\"', [b'1.1.1.1"\\']),
        (b"proto=http", [b""]),
        (b"for=1.1.1.1;for=2.2.2.2", [b""]),
        (b"for=1.1.1.1, nonsense", []),
        (b"nonsense, for=1.1.1.1", [b"1.1.1.1"]),
        (b"for=1.1.1.1;, for=2.2.2.2", [b"2.2.2.2"]),
        (b"for = 1.1.1.1", []),
        (b"for=[::1]", []),
        (b"for=1.1.1.1\x00", []),
        # What a client puts in front cannot swallow what a proxy put behind it.
        (b'for=", for=1.1.1.1', [b"1.1.1.1"]),
        (b'for=6.6.6.6;x=", for="[::1]"', [b"[::1]"]),
        (b'x="\\, for=1.1.1.1;host="a:80"', [b"1.1.1.1"]),
        (b'for="' + b"," * 5000, []),
    ],
)
def test_elements_are_read_from_the_right(line: bytes, found: list[bytes]) -> None:
    assert nodes(line) == found


@pytest.mark.parametrize(
    ("node", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        (" 10.0.0.1:443 ", "10.0.0.1"),
        ("[::1]:443", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("unknown", "unknown"),
    ],
)
def test_a_port_comes_off(node: str, address: str) -> None:
    assert without_port(node) == address


@pytest.mark.parametrize(
    ("address", "more", "element"),
    [
        (b"192.0.2.1", {}, b"for=192.0.2.1"),
        (b"2001:db8::1", {}, b'for="[2001:db8::1]"'),
        (b"fe80::1%eth0", {}, b'for="[fe80::1]"'),
        (b"::ffff:192.0.2.1", {}, b'for="[::ffff:192.0.2.1]"'),
        (b"testclient", {}, b"for=unknown"),
        (b"evil, for=6.6.6.6", {}, b"for=unknown"),
        (b"1.1.1.1", {"host": b"a.example", "proto": b"https"}, b"for=1.1.1.1;host=a.example;proto=https"),
        (b"1.1.1.1", {"host": b"a.example:80"}, b'for=1.1.1.1;host="a.example:80"'),
        (b"1.1.1.1", {"host": b'a";by="\\'}, b'for=1.1.1.1;host="a\\";by=\\"\\\\"'),
        (b"1.1.1.1", {"host": b"", "proto": b""}, b"for=1.1.1.1"),
    ],
)
def test_an_element_is_made(address: bytes, more: dict[str, bytes], element: bytes) -> None:
    assert made_element(address, **more) == element


@given(st.binary(max_size=40), st.ip_addresses().map(str), st.text('ab.:",;=\\', max_size=12))
def test_what_is_made_is_read_again_whatever_stands_before_it(before: bytes, address: str, host: str) -> None:
    element = made_element(address.encode(), host=host.encode())
    first = next(elements_from_right(before + b"," + element))
    assert first == element
    assert without_port(node_of(first).decode()) == address
