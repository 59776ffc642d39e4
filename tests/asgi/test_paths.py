import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgi_gateway.asgi.paths import (
    PathPattern,
    climbs_out,
    raw_request_path,
    request_path,
    resolved,
    without_prefix,
)
from asgi_gateway.testing import http_scope


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/../../b", "/b"),
        ("//a///b", "/a/b"),
        ("/a/..;x=1/b", "/b"),
        ("/a;v=1/b;w", "/a/b"),
        ("/a\\..\\b", "/b"),
        ("/a/...", "/a/..."),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/b\0/../c", "/a/b"),
    ],
)
def test_dot_and_empty_segments_are_resolved(path: str, expected: str) -> None:
    assert resolved(path) == expected


@given(st.text(alphabet="/.;\\ab\0", max_size=20))
def test_resolving_is_final_and_never_climbs_out(path: str) -> None:
    once = resolved("/" + path)
    assert resolved(once) == once
    assert once.startswith("/")
    assert not {"..", "."} & {segment.partition(";")[0] for segment in once.split("/")}


@given(st.text(alphabet="/.;\\ab", max_size=20))
def test_a_path_that_stays_inside_is_below_any_base(path: str) -> None:
    assert climbs_out("/" + path) is not resolved("/base/" + path).startswith("/base")


@pytest.mark.parametrize(
    ("raw", "rest"),
    [
        (b"/api/ai", b"/"),
        (b"/api/ai/", b"/"),
        (b"/api/ai/x%2Fy", b"/x%2Fy"),
        (b"/api/ai//x", b"//x"),
        (b"/%61pi%2fai/x", b"/x"),
        (b"/api/aix", None),
        (b"/api", None),
        (b"/other", None),
        (b"/api/a%", None),
        (b"/api/a%zz", None),
    ],
)
def test_prefix_comes_off_and_the_rest_keeps_its_bytes(raw: bytes, rest: bytes | None) -> None:
    assert without_prefix(raw, b"/api/ai") == rest


@given(st.binary(max_size=20), st.lists(st.booleans(), min_size=7, max_size=7))
def test_any_spelling_of_the_prefix_comes_off(rest: bytes, encoded: list[bool]) -> None:
    spelled = b"".join(b"%%%02x" % c if e else bytes([c]) for c, e in zip(b"/api/ai", encoded, strict=True))
    assert without_prefix(spelled + b"/" + rest, b"/api/ai") == b"/" + rest


def test_paths_are_read_below_the_mount_point() -> None:
    scope = http_scope(path="/root/x y", raw_path=b"/root/x%20y", root_path="/root")
    assert request_path(scope) == "/x y"
    assert raw_request_path(scope) == b"/x%20y"


def test_root_path_that_is_no_prefix_is_left_alone() -> None:
    scope = http_scope(path="/rooted/x", raw_path=b"/rooted/x", root_path="/root")
    assert request_path(scope) == "/rooted/x"
    assert raw_request_path(scope) == b"/rooted/x"


def test_path_is_quoted_anew_where_the_server_kept_no_bytes() -> None:
    scope = http_scope(path="/a b/é")
    del scope["raw_path"]
    assert raw_request_path(scope) == b"/a%20b/%C3%A9"


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/health", "/health", True),
        ("/health", "/health/live", False),
        ("/health/*", "/health", True),
        ("/health/*", "/health/live", True),
        ("/health/*", "/healthy", False),
        ("/*", "/", True),
        ("/*", "/anything", True),
    ],
)
def test_patterns_match_whole_segments(pattern: str, path: str, matches: bool) -> None:
    assert PathPattern(pattern).matches(path) is matches


@pytest.mark.parametrize("pattern", ["health", "/a/*/b", "/a*", "*"])
def test_other_stars_and_relative_paths_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"must begin|only as its last"):
        PathPattern(pattern)
