"""The head of a request, read in exactly one way or refused (RFC 9112 sections 2 to 6)."""

from __future__ import annotations

import re
from typing import Final

from asgi_gateway.ids import RandomHex, uuid4
from asgi_gateway.types import Headers

_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_LENGTH_DIGITS: Final = 18


class Refused(Exception):
    """The client's bytes are not a request that may reach an app; `request_id` is made for the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.request_id = uuid4(RandomHex())


class Head:
    """The headers of a request that decide where it ends and where it goes."""

    __slots__ = ("chunked", "expects_continue", "host", "length", "takes_trailers", "upgrade", "version")

    def __init__(self, version: str) -> None:
        self.version = version
        self.host: bytes | None = None
        self.length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.upgrade: bytes | None = None
        self.takes_trailers = False

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

    def take_te(self, value: bytes) -> None:
        if self.version == "1.1" and b"trailers" in {coding.strip().lower() for coding in value.split(b",")}:
            self.takes_trailers = True


_TAKE: Final = {
    b"host": Head.take_host,
    b"content-length": Head.take_length,
    b"transfer-encoding": Head.take_coding,
    b"expect": Head.take_expectation,
    b"upgrade": Head.take_upgrade,
    b"te": Head.take_te,
}


PLAIN: Final = Head("1.1")
"""Any head that holds the known Host, perhaps a good Content-Length, and nothing else that decides."""

_SPECIAL: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"te"})


def read_head(version: str, headers: Headers, good_host: bytes) -> Head:
    """What the headers, names in lower case, say of a request's end and way; raises `Refused`.

    `good_host` is the Host that this connection has had checked before, empty if none was. `PLAIN` is
    returned for most requests after the first of a connection, which need no further look.
    """
    fields = dict(headers)
    if (
        fields.get(b"host") == good_host
        and len(fields) == len(headers)
        and _SPECIAL.isdisjoint(fields)
        and version == "1.1"
        and good_host
    ):
        length = fields.get(b"content-length")
        if length is None or (len(length) <= _LENGTH_DIGITS and length.isdigit()):
            return PLAIN
    return _read_with_care(version, headers, fields)


def _read_with_care(version: str, headers: Headers, fields: dict[bytes, bytes]) -> Head:
    if version not in ("1.1", "1.0"):
        raise Refused(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    head = Head(version)
    if len(fields) == len(headers):
        for name in _TAKE.keys() & fields.keys():
            _TAKE[name](head, fields[name])
    else:
        for name, value in headers:
            if name in _TAKE:
                _TAKE[name](head, value)
    if head.chunked and head.length is not None:
        raise Refused(400, "it has both a Content-Length and a Transfer-Encoding")
    host = head.host
    if host is None:
        if version == "1.1":
            raise Refused(400, "it has no Host")
    elif not _HOST.fullmatch(host):
        raise Refused(400, "its Host is not a host")
    return head


def read_target(method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """Path and query of a target in any of its forms (RFC 9112 section 3.2); raises `Refused`."""
    if 35 in target or not target.isascii():  # 35 is '#'; llhttp lets neither a control nor a space through
        raise Refused(400, "its target holds a character that no URL has")
    if method == b"CONNECT":
        raise Refused(501, "CONNECT is not served")
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return b"*", b""
        target = _path_of_absolute(target, host)
        if not target and method == b"OPTIONS":  # the server as a whole (RFC 9112 section 3.2.4)
            return b"*", b""
        if not target.startswith(b"/"):
            target = b"/" + target
    path, _, query = target.partition(b"?")
    return path, query


def _path_of_absolute(target: bytes, host: bytes | None) -> bytes:
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise Refused(400, "its target is neither a path nor a URL")
    if host is not None and absolute[1].lower() != host.lower():
        raise Refused(400, "its target and its Host disagree")
    return absolute[2]
