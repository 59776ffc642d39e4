"""The server's side of a connection: an HTTP/1.1 protocol class for uvicorn, hardened and lean.

uvicorn stays the server: it owns processes, signals, the lifespan, TLS and WebSocket. It is given
this class by its own ``http=`` setting, and gets the same ASGI from it as from its own class. What
differs:

- Ambiguity is refused before any app runs: framing, Host and target that two readers could read
  in two ways end in 400 and a closed connection (RFC 9112 sections 3.2, 6.1 and 6.3).
- The head has bounds: its lines, their number, the whole.
- Slowness has bounds: a head must be complete in `head_timeout`, a body must keep coming, an idle
  connection ends. One timer a connection, moved rather than made anew.
- Request trailers are dropped, never merged into the headers (RFC 9110 section 6.5.1).
- A response that cannot be finished ends the connection so that no client takes it for whole.
- The head of a response waits for its first piece of body, if that comes before the event loop's
  next turn: one system call for a small answer instead of two.
- An app's own `Date` and `Server` headers are not doubled by the server's defaults.
"""

from __future__ import annotations

import asyncio
import contextvars
import http
import logging
import socket
import struct
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from asgi_gateway.server.cycle import STATUS_LINES, Cycle
from asgi_gateway.server.head import Refused, read_head, read_target
from asgi_gateway.types import ASGIApp, Header, Headers, Scope

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

_METHODS: Final = {
    method.encode("ascii"): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
_NOWHERE: Final[deque[Any]] = deque(maxlen=0)
"""Where trailers go that cannot be: whatever is appended is gone."""


class HttpProtocol(asyncio.Protocol):
    """One client connection; see the head of this file. Subclass it to set other bounds."""

    max_target = 16 * 1024
    """Bytes of a request target; more is 414."""
    max_header = 32 * 1024
    """Bytes of one header's value; more is 431."""
    max_headers = 128
    """Headers of a request, and its trailers; more is 431."""
    max_head = 64 * 1024
    """Bytes of a request's whole head, and of trailers and chunk extensions at a time; more is 431."""
    max_pipelined = 64
    """Requests that may wait behind the one in progress; more is 400."""
    read_ahead = 8
    """Requests behind the one in progress until reading stops; from then on a client's end is not seen."""
    head_timeout = 10.0
    """Seconds from a new connection, or a head's first byte, to the head's end."""
    body_interval = 10.0
    """Seconds in which a body that somebody waits for must bring `body_minimum`."""
    body_minimum = 2400
    """Bytes; with the interval of 10 s, 240 a second."""
    linger = 2.0
    """Seconds in which a client that still uploads may read an answer that ends the connection."""
    buffer = 64 * 1024
    """Bytes of a body that wait for the app before reading stops."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_event_loop()
        self.logger = logging.getLogger("uvicorn.error")
        self.app: ASGIApp = config.loaded_app
        self.transport: Any = None
        self.write_paused = False
        self._ws_class: Any = config.ws_protocol_class
        self._parser: Any = None
        self._base: Scope = {}
        self._root = config.root_path
        self._good_host: bytes | None = None
        self._drained: list[asyncio.Future[None]] = []
        self._read_paused = False
        # The request whose head arrives
        self._target = b""
        self._headers: Headers | deque[Any] = []
        self._segment = 0
        self._received = 0
        """Bytes of it, those that came in one segment with the end of the request before not counted."""
        self._ahead = 0
        """Bytes that may have to be added to that."""
        self._in_head = False
        self._refusal: Refused | None = None
        # The requests in progress: the one being answered, the one being received, those that wait
        self._cycle: Cycle | None = None
        self._receiving: Cycle | None = None
        self._waiting: deque[Cycle] = deque()
        self._closing = False
        self._handshake = b""
        # Time
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._body_bytes = 0

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.server_state.connections.add(self)  # type: ignore[arg-type] # a union of its own classes
        self._base = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "scheme": "https" if is_ssl(self.transport) else "http",
            "root_path": self.config.root_path,
        }
        self._parser = httptools.HttpRequestParser(self)
        self._expect_within(self.head_timeout)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        begins = self._receiving is None and not self._in_head
        if begins:
            self._in_head = True
            self._ahead = 0
        self._segment = len(data)
        self._received += self._segment
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or Refused(400, str(error)))
        else:
            if self._in_head or self._receiving is not None:
                self._unfinished(begins=begins)

    def _unfinished(self, *, begins: bool) -> None:
        if self._received > self.max_head:
            self._refuse(Refused(431, "the head, or what lies between two pieces of body, is too large"))
        elif begins:
            self._expect_within(self.head_timeout if self._in_head else self.body_interval)

    def eof_received(self) -> None:
        """The client sends no more; the transport closes, as a client that half-closes counts as gone."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for cycle in (self._cycle, self._receiving, *self._waiting):
            if cycle is not None:
                cycle.disconnect()
        self._waiting.clear()
        self.resume_writing()
        self._parser = None

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    async def writable(self) -> None:
        """Return when the client has taken enough of what was written."""
        waiter = self.loop.create_future()
        self._drained.append(waiter)
        await waiter

    def pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused and not self._waiting:
            self._read_paused = False
            self.transport.resume_reading()

    def shutdown(self) -> None:
        """Called by the server: end now if idle, else after the request in progress."""
        if self._cycle is None:
            self.transport.close()
        else:
            self._cycle.keep_alive = False

    # What the parser calls

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self.max_target:
            raise self._refused(414, "the request target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser leaves white space behind a value (RFC 9112 section 5.1).
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers, self._headers = self._headers, _NOWHERE
        try:
            self._read_head(headers)  # type: ignore[arg-type] # the list of `on_message_begin`
            self._received = 0
        except Refused as refusal:
            self._refusal = refusal  # the parser's own exception takes this one's place
            raise

    def _read_head(self, headers: Headers) -> None:
        self._check_size(headers)
        parser = self._parser
        version: str = parser.get_http_version()
        method: bytes = parser.get_method()
        head = read_head(version, headers, self._good_host)
        self._good_host = head.host
        path, query = read_target(method, self._target, head.host)
        upgrades = parser.should_upgrade()
        if upgrades:
            if head.has_body:
                raise Refused(400, "a request to change the protocol has a body")
            if head.upgrade == b"websocket" and self._ws_class is not None:
                request_line = b"%b %b HTTP/1.1" % (method, self._target)
                self._handshake = b"\r\n".join([request_line, *map(b": ".join, headers), b"\r\n"])
                return
        text = path.decode("ascii")
        scope = {
            **self._base,
            "http_version": version,
            "method": _METHODS.get(method) or method.decode("ascii"),
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
        }
        if self._root:
            scope["path"] = self._root + scope["path"]
            scope["raw_path"] = self._root.encode("utf-8") + path
        keeps = version == "1.1" and not upgrades and parser.should_keep_alive()
        cycle = Cycle(self, scope, keep_alive=keeps)
        if head.expects_continue:
            cycle.expects_continue = True
        if head.chunked:
            self._headers = deque(maxlen=self.max_headers + 1)  # for trailers, which are only counted
        self._receiving = cycle
        if self._cycle is None:
            self._start(cycle)
        else:
            self._queue(cycle)

    def _check_size(self, headers: Headers) -> None:
        if len(headers) > self.max_headers:
            raise Refused(431, "too many headers")
        if self._received + self._ahead > self.max_header:  # else nothing in it can be longer
            if any(len(value) > self.max_header for _, value in headers):
                raise Refused(431, "a header is too large")
            if sum(len(name) + len(value) + 4 for name, value in headers) > self.max_head:
                raise Refused(431, "the head is too large")

    def _check_trailers(self, trailers: Collection[Header]) -> None:
        size = sum(len(name) + len(value) for name, value in trailers)
        if len(trailers) > self.max_headers or size > self.max_head:
            raise self._refused(431, "too many or too large trailers")

    def on_body(self, body: bytes) -> None:
        self._received = 0
        cycle = self._receiving
        if cycle is not None and not cycle.complete:
            self._body_bytes += len(body)
            cycle.give(body)

    def on_message_complete(self) -> None:
        if self._headers:
            self._check_trailers(self._headers)
        cycle = self._receiving
        self._receiving = None
        self._received = 0
        self._ahead = self._segment
        self._due = None
        if cycle is not None:
            cycle.end_of_body()

    # Requests in turn

    def _queue(self, cycle: Cycle) -> None:
        """Let a request that came before its turn wait, and read no more until it is answered."""
        self._waiting.append(cycle)
        if len(self._waiting) > self.read_ahead:
            self.pause_reading()
        if len(self._waiting) > self.max_pipelined:
            raise Refused(400, "too many requests at once")

    def _start(self, cycle: Cycle) -> None:
        self._cycle = cycle
        app = self.app
        config, state = self.config, self.server_state
        limit = config.limit_concurrency
        if limit is not None and (len(state.connections) >= limit or len(state.tasks) >= limit):
            app = service_unavailable  # type: ignore[assignment]
        context = contextvars.Context() if config.reset_contextvars else None
        cycle.task = task = self.loop.create_task(cycle.run(app), context=context)
        state.tasks.add(task)

    def answered(self, cycle: Cycle) -> None:
        """The response of the request in progress is written whole."""
        self.server_state.total_requests += 1
        self._cycle = None
        if self.transport.is_closing():
            return
        if not cycle.keep_alive or cycle is self._receiving:
            self._end(lingering=cycle is self._receiving)
        elif self._waiting:
            self._start(self._waiting.popleft())
            self.resume_reading()
        elif self._refusal is not None:
            self._answer_refusal(self._refusal)
        else:
            self.resume_reading()
            if not self._in_head:
                self._expect_within(self.config.timeout_keep_alive)

    def _end(self, *, lingering: bool) -> None:
        """Close; with `lingering` let a client that still sends read what it was told first."""
        self._closing = True
        if not lingering or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._read_paused = False
        self.transport.resume_reading()
        self.transport.write_eof()
        self._expect_within(self.linger)

    def abort(self, cycle: Cycle) -> None:
        """Break the connection so that the response in progress cannot be taken for whole.

        Where only the end of the connection ends a body, that end has to be a reset.
        """
        if cycle.complete:
            return  # whoever comes next on the connection has no part in this
        if cycle.ends_at_close:
            handle = self.transport.get_extra_info("socket")
            if handle is not None:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    # Refusing

    def _refused(self, status: int, reason: str) -> Refused:
        """Remember why, since the parser's own exception takes this one's place."""
        self._refusal = Refused(status, reason)
        return self._refusal

    def _refuse(self, refusal: Refused) -> None:
        self._refusal = refusal
        cycle = self._receiving
        self._receiving = None
        if cycle is not None:
            cycle.disconnect()
            if cycle is self._cycle:
                self._cycle = None
                if cycle.started:
                    self.abort(cycle)
                    return
        if self._cycle is None:
            self._answer_refusal(refusal)
        else:
            self.pause_reading()

    def _answer_refusal(self, refusal: Refused) -> None:
        self.logger.info("refused a request: %s", refusal)
        status = refusal.status
        body = (
            b'{"type":"urn:problem-type:asgi-gateway:bad_request","title":"%b","status":%d,'
            b'"detail":"The request was refused.","code":"bad_request"}'
        ) % (http.HTTPStatus(status).phrase.encode("ascii"), status)
        self.transport.write(
            b"%b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"x-gateway-error: bad_request\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINES[status], len(body), body)
        )
        self._end(lingering=True)

    # WebSocket

    def _upgrade(self) -> None:
        """The head asked for another protocol; WebSocket is handed over, all else was answered as HTTP."""
        if not self._handshake:
            return
        self.server_state.connections.discard(self)
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        protocol = self._ws_class(
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.connection_made(self.transport)
        protocol.data_received(self._handshake)
        self.transport.set_protocol(protocol)

    # Time

    def _expect_within(self, seconds: float) -> None:
        self._due = due = self.loop.time() + seconds
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left = self._due - self.loop.time()
        if left > 0:
            self._timer_due = self._due
            self._timer = self.loop.call_later(left, self._on_timer)
        elif self._in_head and self._received and not self._closing:
            self._refuse(Refused(408, "the head did not arrive in time"))
        elif self._receiving is not None and not self._closing:
            self._judge_upload()
        else:
            self.transport.abort() if self._closing else self.transport.close()

    def _judge_upload(self) -> None:
        brought, self._body_bytes = self._body_bytes, 0
        if self._read_paused or brought >= self.body_minimum:
            self._expect_within(self.body_interval)
        else:
            self._refuse(Refused(408, "the body comes too slowly"))
