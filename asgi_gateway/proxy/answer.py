"""One HTTP/1.1 answer, read by llhttp and held to what RFC 9112 asks beyond it. No input, no output.

Parser callbacks only record; whoever feeds the bytes looks afterwards at what is known. The rules:

- What llhttp lets pass and RFC 9112 does not is refused here: see `_check_framing`.
- Everything has a bound: the head, a header, the number of headers, of trailers, of interim answers,
  and what lies between two pieces of the body.
- What follows an answer is somebody else's: it is noticed, and the connection must not be used again
  (RFC 9112 section 6.3).
"""

from __future__ import annotations

from typing import Any

import httptools

from asgi_gateway.asgi.headers import get_all
from asgi_gateway.types import Headers

MAX_HEAD = 64 * 1024
"""Bytes of an answer's head, the interim answers before it included."""

MAX_LINE = 32 * 1024
"""Bytes of one header."""

MAX_HEADERS = 256
"""Headers of an answer, and again as many trailers."""

MAX_BODILESS = 16 * 1024
"""Bytes that may come in a row without bringing any of the body: trailers and chunk extensions."""

MAX_INTERIM = 16
"""Interim (1xx) answers before the final one."""


class AnswerReader:
    """What has arrived of the answer to one request after another on one connection."""

    __slots__ = (
        "_bodiless",
        "_bodyless_status",
        "_buffered",
        "_chunks",
        "_complete",
        "_early_hints",
        "_ends_at_close",
        "_interim",
        "_is_head",
        "_keep_alive",
        "_parser",
        "_received",
        "_usual",
        "headers",
        "status",
        "trailers",
    )

    def __init__(self) -> None:
        self._parser: Any = None
        self._begin_answer(is_head=False, wants_hints=False)

    def _begin_answer(self, *, is_head: bool, wants_hints: bool) -> None:
        """Expect the answer to a new request, to HEAD or not; early hints are kept where they are wanted."""
        self.status = 0
        self.headers: Headers = []
        self.trailers: Headers = []
        self._is_head = is_head
        self._early_hints: list[Headers] | None = [] if wants_hints else None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._received = 0
        self._bodiless = 0
        self._bodyless_status = False
        self._usual = True
        self._interim = 0
        self._complete = False
        self._keep_alive = False
        self._ends_at_close = False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)

    @property
    def untouched(self) -> bool:
        """Whether the service said nothing at all since the request was sent."""
        return self._received == 0

    def _feed(self, data: bytes) -> str | None:
        """Read on; returns what is wrong with the answer, if anything is."""
        if not self._received and not data.startswith(b"HTTP/1.1 "):
            self._usual = False
            if not b"HTTP/1.".startswith(data[:7]):
                return "the answer is not HTTP/1"
        self._received += len(data)
        if self.status:
            self._bodiless += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return "the service switched protocols unasked"
        except httptools.HttpParserError as error:
            self._keep_alive = False
            return None if self._complete else f"the answer is not valid HTTP: {error}"
        return None if self._complete else self._overlong()

    def _overlong(self) -> str | None:
        """Which bound an unfinished answer has passed, if any."""
        if not self.status:
            return "the head of the answer is too large" if self._received > MAX_HEAD else None
        if self._bodiless > MAX_BODILESS:
            return "the trailers or chunk extensions of the answer are too large"
        return None

    def _ended(self) -> bool:
        """Whether all of the answer is here."""
        return self._complete

    def _end_of_input(self, *, clean: bool) -> None:
        """The connection is closed, which is what ends some bodies (RFC 9112 section 6.3, item 8)."""
        if clean and self.status and self._ends_at_close:
            self._complete = True

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            self.headers.append((name.lower(), value))
        elif not self._complete:
            self._add_trailer(name.lower(), value)

    def _add_trailer(self, name: bytes, value: bytes) -> None:
        self.trailers.append((name, value))
        if len(self.trailers) > MAX_HEADERS or _size(self.trailers) > MAX_BODILESS:
            raise ValueError("too many trailers")

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        status: int = self._parser.get_status_code()
        if status < 200:
            self._add_interim(status)
            return
        if self._received > MAX_LINE:
            self._check_size()
        self._check_framing(status)
        self.status = status
        self._keep_alive = self._parser.should_keep_alive()
        if self._is_head:
            self._complete = True
            self._parser = None

    def _add_interim(self, status: int) -> None:
        self._interim += 1
        if status < 100 or status == 101 or self._interim > MAX_INTERIM:
            raise ValueError("unexpected interim answer")
        if status == 103 and self._early_hints is not None:
            self._early_hints.append(self.headers)
        self.headers = []

    def _check_size(self) -> None:
        if _size(self.headers) > MAX_HEAD:
            raise ValueError("head too large")
        if any(len(name) + len(value) > MAX_LINE for name, value in self.headers):
            raise ValueError("header too large")

    def _check_framing(self, status: int) -> None:
        """Refuse what llhttp lets pass: its own checks are those of the lengths and of every character."""
        headers = self.headers
        if status > 999 or len(headers) > MAX_HEADERS:
            raise ValueError("status out of range, or too many headers")
        version = "1.1" if self._usual and not self._interim else self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise ValueError("not HTTP/1.0 or 1.1")
        fields = dict(headers)
        if b"transfer-encoding" in fields:
            codings = get_all(headers, b"transfer-encoding")
            if len(codings) > 1 or codings[0].lower() != b"chunked" or version == "1.0":
                raise ValueError("unknown transfer coding")
        elif b"content-length" not in fields:
            self._ends_at_close = True
        elif status == 204:
            self.headers = [pair for pair in headers if pair[0] != b"content-length"]
        self._bodyless_status = status == 205  # RFC 9110 section 15.3.6; llhttp knows the others

    def on_body(self, body: bytes) -> None:
        if self._complete:
            self._keep_alive = False
            return
        if self._bodyless_status:
            raise ValueError("205 with a body")
        self._chunks.append(body)
        self._buffered += len(body)
        self._bodiless = 0

    def on_message_complete(self) -> None:
        if self.status:
            self._complete = True


def _size(headers: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)
