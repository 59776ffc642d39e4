"""Paths: how a request's path is read, matched and shortened without changing a byte of the rest.

Matching works on the path decoded once with its dot segments resolved; what is sent to a service
are the client's own bytes. A path whose spelling and whose resolution do not agree on where it
leads is ambiguous and refused by the router, so no encoding trick chooses a service or skips a
rule that the plain spelling would not.
"""

from __future__ import annotations

from urllib.parse import quote

from asgi_gateway.context import STRIPPED_PREFIX
from asgi_gateway.types import Scope

_QUESTION_MARK = ord("?")
_HEX = b"0123456789abcdefABCDEF"


def request_path(scope: Scope) -> str:
    """The decoded path below the mount point (``root_path``), as spelled."""
    path: str = scope["path"]
    root: str | None = scope.get("root_path")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :] or "/"
    return path


def service_path(scope: Scope) -> str:
    """The path that the service is shown, dot segments resolved: without the prefix that the route stripped.

    The router refuses a path that begins with the prefix only as it is spelled, or only resolved.
    """
    path = resolved(request_path(scope))
    prefix: bytes | None = scope.get(STRIPPED_PREFIX)
    return path.removeprefix(prefix.decode("utf-8")) or "/" if prefix else path


def raw_request_path(scope: Scope) -> bytes:
    """The path's original bytes below the mount point; quoted anew where the server kept none."""
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        return quote(request_path(scope), safe="/%:@!$&'()*+,;=~-._").encode("ascii")
    if _QUESTION_MARK in raw:
        raw = raw.partition(b"?")[0]
    if scope.get("root_path"):
        root: bytes = scope["root_path"].encode("utf-8")
        if raw.startswith(root) and raw[len(root) : len(root) + 1] in (b"", b"/"):
            return raw[len(root) :] or b"/"
    return raw


def resolved(path: str) -> str:
    """The path as a lenient service may read it (RFC 3986 section 5.2.4).

    Empty, ``.`` and ``..`` segments are resolved, a backslash counts as a slash, and the
    ``;parameters`` of a segment are dropped. A NUL ends the path.
    """
    if "//" not in path and "/." not in path and "\\" not in path and ";" not in path and "\0" not in path:
        return path
    kept: list[str] = []
    segments = path.partition("\0")[0].replace("\\", "/").split("/")[1:]
    for segment in segments:
        name = segment.partition(";")[0]
        if name == "..":
            if kept:
                kept.pop()
        elif name not in ("", "."):
            kept.append(name)
    ends_in_slash = segments[-1].partition(";")[0] in ("", ".", "..")
    return "/" + "/".join(kept) + ("/" if ends_in_slash and kept else "")


def climbs_out(path: str) -> bool:
    """Whether a lenient service may read the path as one above where it starts, such as ``/a/../../b``."""
    depth = 0
    for segment in path.replace("\\", "/").split("/"):
        name = segment.partition(";")[0]
        if name == "..":
            depth -= 1
            if depth < 0:
                return True
        elif name not in ("", "."):
            depth += 1
    return False


def without_prefix(raw: bytes, prefix: bytes) -> bytes | None:
    """The raw path after a plain prefix such as ``/api/ai``, always beginning with one slash.

    The client may have percent-encoded any of the prefix's characters. None where the raw path
    does not spell the prefix out.
    """
    rest: bytes | None = raw[len(prefix) :] if raw.startswith(prefix) else _rest_after_encoded(raw, prefix)
    if not rest:
        return None if rest is None else b"/"
    return rest if rest.startswith(b"/") else None


def _rest_after_encoded(raw: bytes, prefix: bytes) -> bytes | None:
    at = 0
    for wanted in prefix:
        width = 3 if raw[at : at + 1] == b"%" else 1
        piece = raw[at : at + width]
        if width == 3 and not (len(piece) == 3 and piece[1] in _HEX and piece[2] in _HEX):
            return None
        if (int(piece[1:], 16) if width == 3 else piece[0] if piece else None) != wanted:
            return None
        at += width
    return raw[at:]


class PathPattern:
    """``/health`` matches itself; ``/health/*`` matches ``/health`` and whatever is below it."""

    __slots__ = ("below", "exact", "prefix")

    def __init__(self, pattern: str) -> None:
        if not pattern.startswith("/"):
            raise ValueError(f"the path {pattern!r} must begin with a slash")
        self.below = pattern.endswith("/*")
        self.exact = pattern[:-2] if self.below else pattern
        if "*" in self.exact:
            raise ValueError(f"the path {pattern!r} may have a * only as its last segment")
        self.prefix = self.exact + "/"

    def matches(self, path: str) -> bool:
        """Whether a resolved path is matched."""
        return path == self.exact or (self.below and path.startswith(self.prefix))

    def __repr__(self) -> str:
        return f"<PathPattern {self.exact}{'/*' if self.below else ''}>"
