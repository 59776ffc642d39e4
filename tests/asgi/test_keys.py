from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.asgi.keys import (
    by_client_address,
    by_cookie,
    by_function,
    by_header,
    key_function,
    key_name,
)
from asgi_gateway.context import CLIENT_ADDRESS, SERVICE, UNIX
from asgi_gateway.testing import http_scope


def by_plan(scope: Any) -> str | None:
    """A key function as a user writes it."""
    return scope.get("plan")


def of_client(address: str | None) -> Any:
    return by_client_address(http_scope(client=(address, 1) if address else None))


def test_an_ipv4_address_is_its_own_key():
    assert of_client("192.0.2.1") == "192.0.2.1"
    assert of_client("192.0.2.1") != of_client("192.0.2.2")


def test_ipv6_addresses_of_one_64_share_a_key():
    assert of_client("2001:db8:1:2::1") == of_client("2001:0DB8:1:2:ffff::9")
    assert of_client("2001:db8:1:2::1") != of_client("2001:db8:1:3::1")
    assert of_client("fe80::1%eth0") == of_client("fe80::2")


def test_a_mapped_ipv4_address_is_the_ipv4_address():
    assert of_client("::ffff:192.0.2.1") == "192.0.2.1"
    assert of_client("::ffff:192.0.2.1") != of_client("::ffff:192.0.2.2")


def test_what_is_no_address_is_counted_as_it_is():
    assert of_client("testclient") == "testclient"
    assert of_client("un:ix") == "un:ix"


def test_a_client_without_an_address_has_no_key():
    assert of_client(None) is None
    assert by_client_address(http_scope(client=None, **{CLIENT_ADDRESS: UNIX})) is None


def test_the_address_that_an_outer_layer_found_goes_before_the_peer():
    assert by_client_address(http_scope(**{CLIENT_ADDRESS: "192.0.2.7"})) == "192.0.2.7"


def test_a_header_is_read_whatever_its_case():
    key = by_header("X-Api-Key")
    assert key(http_scope(headers=[(b"x-api-key", b"one")])) == "one"
    assert key(http_scope(headers=[(b"X-API-Key", b"one")])) == "one"


@pytest.mark.parametrize("headers", [[], [(b"x-api-key", b"")]])
def test_an_absent_or_empty_header_is_no_key(headers: list[tuple[bytes, bytes]]):
    assert by_header("X-Api-Key")(http_scope(headers=headers)) is None


def test_spellings_of_one_path_share_a_key():
    key = key_function("path")
    assert key(http_scope(path="/a//b/../c")) == key(http_scope(path="/a/c"))
    assert key(http_scope(path="/mounted/a", root_path="/mounted")) == "/a"


def test_the_service_is_the_routers():
    key = key_function("service")
    assert key(http_scope(**{SERVICE: "ai"})) == "ai"
    assert key(http_scope()) is None


def test_a_dotted_function_is_imported():
    key = key_function(f"{__name__}:by_plan")
    assert key(http_scope(plan="gold")) == "gold"
    assert key(http_scope()) is None


def test_a_long_value_is_kept_short_and_apart():
    key = by_function(lambda scope: scope["plan"])
    first, second = (key(http_scope(plan="x" * 9000 + end)) for end in "ab")
    assert isinstance(first, str)
    assert len(first) < 130
    assert first != second


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ip", "expected client_address, path, service"),
        ("header:", "expected client_address, path, service"),
        ("no.such.module:key", "cannot import the key function no.such.module:key"),
        ("asgi_gateway.asgi.keys:nothing", "cannot import the key function"),
        ("asgi_gateway.asgi.keys:_LONGEST", "is not a function"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        key_function(name)


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ([b"sid=one"], "one"),
        ([b"a=1;sid=one; sid=two"], "one"),
        ([b"a=1", b"b=2; sid=a=b"], "a=b"),
        ([b"xsid=one"], None),
        ([b"sid="], None),
        ([b"sid"], None),
        ([], None),
    ],
)
def test_a_cookie_is_found_in_any_field(fields: list[bytes], value: str | None) -> None:
    assert by_cookie("sid")(http_scope(headers=[(b"Cookie", field) for field in fields])) == value


def with_headers(*values: str | None) -> Any:
    pairs = zip((b"x-a", b"x-b", b"x-c"), values, strict=False)
    return http_scope(headers=[(name, value.encode("latin-1")) for name, value in pairs if value is not None])


ALL = ["header:X-A", "header:X-B", "header:X-C"]
VALUES = st.tuples(*[st.text("ab,'\\\0 ()", max_size=3)] * 3)


@given(one=VALUES, other=VALUES)
def test_a_key_of_several_parts_is_the_same_only_where_each_part_is(
    one: tuple[str, str, str], other: tuple[str, str, str]
):
    key = key_function(ALL)
    keys = [key(with_headers(*values)) for values in (one, other)]
    assert [found is None for found in keys] == ["" in values for values in (one, other)]
    assert None in keys or (keys[0] == keys[1]) == (one == other)


@pytest.mark.parametrize("absent", range(3))
def test_without_one_of_its_parts_there_is_no_key(absent: int):
    values: list[str | None] = ["a", "b", "c"]
    assert key_function(ALL)(with_headers(*values)) is not None
    values[absent] = None
    assert key_function(ALL)(with_headers(*values)) is None


def test_names_and_functions_can_be_parts_of_one_key():
    key = key_function(["client_address", by_plan, "path"])
    assert key(http_scope(plan="gold", path="/a/../b")) == ("127.0.0.1", "gold", "/b")


def test_a_list_of_one_is_that_one():
    assert key_function(["path"])(http_scope(path="/a")) == "/a"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("path", "path"),
        (by_plan, f"{__name__}:by_plan"),
        (["path", by_plan], ["path", f"{__name__}:by_plan"]),
    ],
)
def test_a_key_is_known_by_what_every_process_writes_alike(key: Any, name: Any):
    assert key_name(key) == name


@pytest.mark.parametrize("text", ["wrong syntax here", "undefined_name", "raise SystemExit(1)"])
def test_a_module_that_fails_is_a_mistake_of_whoever_names_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback, nor the end of a gateway that reloads."""
    (tmp_path / "failing_keys.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"cannot import the key function failing_keys:plan: [A-Z]"):
        key_function("failing_keys:plan")
