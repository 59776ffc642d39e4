"""The head of a request, read in exactly one way or refused (RFC 9112 sections 2 to 6)."""

from __future__ import annotations

import re
from typing import Final

from asgi_gateway.types import Headers

_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]*")
_LENGTH_DIGITS: Final = 18


class Refused(Exception):
    """The client's bytes are not a request that may reach an app."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Head:
    """The headers of a request that decide where it ends and where it goes."""

    __slots__ = ("chunked", "expects_continue", "host", "length", "upgrade", "version")

    def __init__(self, version: str) -> None:
        self.version = version
        self.host: bytes | None = None
        self.length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.upgrade: bytes | None = None

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    def take_host(self, value: bytes) -> None:
        if self.host is not None:
            raise Refused(400, "it has more than one Host")
        self.host = value

    def take_length(self, value: bytes) -> None:
        if self.length is not None or not value.isdigit() or len(value) > _LENGTH_DIGITS:
            raise Refused(400, "its Content-Length is not one number")
        self.length = int(value)

    def take_coding(self, value: bytes) -> None:
        if self.chunked or value.lower() != b"chunked" or self.version == "1.0":
            raise Refused(400, "its Transfer-Encoding is not chunked")
        self.chunked = True

    def take_expectation(self, value: bytes) -> None:
        if value.lower() != b"100-continue":
            raise Refused(417, "it expects what nobody can meet")
        self.expects_continue = self.version == "1.1"

    def take_upgrade(self, value: bytes) -> None:
        self.upgrade = value.lower()


TAKE: Final = {
    b"host": Head.take_host,
    b"content-length": Head.take_length,
    b"transfer-encoding": Head.take_coding,
    b"expect": Head.take_expectation,
    b"upgrade": Head.take_upgrade,
}


def read_head(version: str, watched: Headers, good_host: bytes | None) -> Head:
    """The headers in `TAKE`, in the order they came; raises `Refused`.

    `good_host` is a Host that this connection has had checked before.
    """
    if version not in ("1.1", "1.0"):
        raise Refused(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    head = Head(version)
    for name, value in watched:
        TAKE[name](head, value)
    if head.length is not None and head.chunked:
        raise Refused(400, "it has both a Content-Length and a Transfer-Encoding")
    if head.host is None and version == "1.1":
        raise Refused(400, "it has no Host")
    if head.host is not None and head.host != good_host and not _HOST.fullmatch(head.host):
        raise Refused(400, "its Host is not a host")
    return head


def read_target(method: bytes, target: bytes, host: bytes | None) -> tuple[str, bytes]:
    """Path and query of a target in any of its forms (RFC 9112 section 3.2); raises `Refused`."""
    if not _TARGET.fullmatch(target):
        raise Refused(400, "its target holds a character that no URL has")
    if method == b"CONNECT":
        raise Refused(501, "CONNECT is not served")
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return "*", b""
        target = _path_of_absolute(target, host)
    path, _, query = target.partition(b"?")
    return path.decode("ascii"), query


def _path_of_absolute(target: bytes, host: bytes | None) -> bytes:
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Refused(400, "its target is neither a path nor a URL")
    if host is not None and absolute[1].lower() != host.lower():
        raise Refused(400, "its target and its Host disagree")
    return absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
