"""The server's side of a connection: an HTTP/1.1 protocol class for uvicorn, hardened and lean.

uvicorn stays the server: it owns processes, signals, the lifespan, TLS and WebSocket. It is given
this class by its own ``http=`` setting, and gets the same ASGI from it as from its own class. What
differs:

- Ambiguity is refused before any app runs: framing, Host and target that two readers could read
  in two ways end in 400 and a closed connection (RFC 9112 sections 3.2, 6.1 and 6.3).
- The head has bounds: its lines, their number, the whole.
- Slowness has bounds: a head must be complete in `head_timeout`, a body must keep coming, an answer must
  be taken, an idle connection ends. One timer a connection, moved rather than made anew.
- Request trailers are dropped, never merged into the headers (RFC 9110 section 6.5.1).
- A response that cannot be finished ends the connection so that no client takes it for whole.
- Early hints go out before the answer (RFC 8297), trailers behind it to a client that asked for them
  (RFC 9110 section 6.5).
- The head of a response waits for its first piece of body, if that comes before the event loop's
  next turn: one system call for a small answer instead of two.
- An app's own `Date` and `Server` headers are not doubled by the server's defaults.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from asgi_gateway.context import ON_DISCONNECT
from asgi_gateway.server.bounds import BOUNDS, Bounds
from asgi_gateway.server.cycle import Cycle
from asgi_gateway.server.head import PLAIN, Head, Refused, read_head, read_target
from asgi_gateway.server.refusal import answer_to, log_refusal
from asgi_gateway.server.unread import Unread
from asgi_gateway.types import ASGIApp, Header, Headers

if TYPE_CHECKING:
    from uvicorn import Config
    from uvicorn.server import ServerState

_METHODS: Final = {
    method.encode("ascii"): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}


class HttpProtocol(asyncio.Protocol):
    """One client connection; see the head of this file.

    Other bounds are set by ``functools.partial(HttpProtocol, bounds=Bounds(...))``, which uvicorn takes for
    its class.
    """

    # With more than 30 attributes a dictionary would take 2 KiB a connection.
    __slots__ = (
        "_ahead",
        "_base",
        "_between",
        "_closing",
        "_context",
        "_cycle",
        "_due",
        "_farewell",
        "_good_host",
        "_handshake",
        "_headers",
        "_last",
        "_parser",
        "_plain",
        "_read_paused",
        "_received",
        "_receiving",
        "_refusal",
        "_segment",
        "_small",
        "_timer",
        "_timer_due",
        "_trailers",
        "_url",
        "_waiting",
        "app_state",
        "bounds",
        "config",
        "good_names",
        "loop",
        "on_message_begin",
        "on_url",
        "server_state",
        "transport",
        "unread",
        "write_paused",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds = BOUNDS,
    ) -> None:
        """What a connection knows, in one place and long for it.

        First what the server hands in, then the request whose head arrives, those in progress, and time.
        """
        if not config.loaded:
            config.load()
        self.config: Any = config  # compiled code would hold it to its annotations, and 0.5 s is no int
        self.bounds = bounds
        self.server_state = server_state
        self.app_state = app_state
        self.loop = loop = _loop or asyncio.get_event_loop()
        self.transport: Any = None
        self.write_paused = False
        self.unread: Any = None
        """What the client has not taken; made when writing is first paused, or a close has to wait."""
        self.good_names = b""
        """The names of a response's headers that were looked at last."""
        self._small = min(bounds.max_target, bounds.max_header)
        """Bytes of a head in which nothing can be too long."""
        asked = config.limit_concurrency is not None or config.reset_contextvars
        self._plain = not asked and loop.get_task_factory() is None
        self._parser: Any = None
        self._base: dict[str, Any] = {}
        self._context: Any = None
        """The server's, for what is begun while a request's own is the current one."""
        self._good_host = b""
        self._read_paused = False
        self._farewell: Callable[[], None] | None = None
        # The request whose head arrives. Two of the parser's callbacks are methods of lists, which cost
        # less than any of Python.
        self._between = [True]
        """Holds something from the end of a request to the first byte of the next."""
        self.on_message_begin = self._between.clear
        self._url: list[bytes] = []
        self.on_url = self._url.append
        self._headers: Headers | deque[Any] = []
        self._trailers: deque[Any] | None = None
        self._segment = 0
        self._received = 0
        """Bytes of it, those that came in one segment with the end of the request before not counted."""
        self._ahead = 0
        """Bytes that may have to be added to that."""
        self._refusal: Refused | None = None
        # The requests in progress: the one being answered, the one being received, those that wait
        self._cycle: Cycle | None = None
        self._receiving: Cycle | None = None
        self._waiting: list[Cycle] = []
        self._closing = False
        self._last = False
        """Whether the next request is the last."""
        self._handshake = b""
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._context = contextvars.copy_context()
        self.server_state.connections.add(self)  # type: ignore[arg-type] # a union of its own classes
        self._base = {
            "type": "http",
            "asgi": {"version": self.config.asgi_version, "spec_version": "2.3"},
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "scheme": "https" if is_ssl(self.transport) else "http",
            "root_path": self.config.root_path,
            "extensions": {"http.response.early_hint": {}},
            ON_DISCONNECT: self.on_disconnect,
            # Filled in for each request: a copy of all keys costs a quarter of what adding them does.
            "http_version": "1.1",
            "method": "",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "headers": [],
            "state": {},
        }
        if self._base["scheme"] == "https":
            # asyncio's 512 KiB go out all at once: a slow client would seem to take nothing for long.
            self.transport.set_write_buffer_limits(64 * 1024)
        self._parser = httptools.HttpRequestParser(self)
        self._expect_within(self.bounds.head_timeout)

    def data_received(self, data: bytes) -> None:
        if self._closing or self._refusal is not None:
            return  # only the end of the connection is of interest now
        self._segment = size = len(data)
        if self._between:
            begins = True
            self._ahead = 0
            self._received = size
        else:
            begins = False
            self._received += size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError as error:
            # What a callback of ours raised comes as the context of the parser's own.
            cause = error.__context__
            self._refuse(cause if isinstance(cause, Refused) else Refused(400, str(error)))
        else:
            if not self._between:
                self._unfinished(begins=begins)

    def _unfinished(self, *, begins: bool) -> None:
        if self._received > self.bounds.max_head:
            self._refuse(Refused(431, "the head, or what lies between two pieces of body, is too large"))
        elif begins or self._due is None:  # or the one before it ended in the same segment
            bounds = self.bounds
            self._expect_within(bounds.head_timeout if self._receiving is None else bounds.body_interval)

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
        if self.unread is not None:
            self.unread.forget()
        self._parser = None
        self._base = {}
        farewell, self._farewell = self._farewell, None
        if farewell is not None:
            farewell()

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when the client of the request in progress leaves; returns what takes that back.

        It is what `receive` would tell, for an app that would need a task to wait there.
        """

        def forget() -> None:
            if self._farewell is callback:
                self._farewell = None

        self._farewell = callback
        if self._parser is None:
            self.loop.call_soon(callback)
        return forget

    def pause_writing(self) -> None:
        self.write_paused = True
        self._made_unread().pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.unread is not None:
            self.unread.resume()

    def _made_unread(self) -> Unread:
        if self.unread is None:
            self.unread = Unread(self.transport, self.loop, self.bounds)
        unread: Unread = self.unread
        return unread

    def _close(self) -> None:
        """Close as soon as the client has taken what is written, or takes no more of it."""
        if self.transport.get_write_buffer_size():
            self._made_unread().watch()
        self.transport.close()

    def pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._read_paused and not self._waiting:
            self._read_paused = False
            # asyncio calls for what is read in the context that reading was resumed in.
            self._context.run(self.transport.resume_reading)
            cycle = self._receiving
            if cycle is not None:
                cycle.judged = cycle.received
                self.expect_body()

    @property
    def idle(self) -> bool:
        """Whether nothing of a request is here."""
        return self._cycle is None and bool(self._between)

    def shutdown(self) -> None:
        """Called by the server: end now if idle, else after the request that is here or arriving."""
        self._last = True
        if self._cycle is not None:
            self._cycle.keep_alive = False
        elif self._between:
            self._close()

    def end_stream(self) -> None:
        """Break off an answer in progress that may go on for ever."""
        if self._cycle is not None and self._cycle.streams:
            self.abort(self._cycle)

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser leaves white space behind a value (RFC 9112 section 5.1).
        self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        url = self._url
        target = b"".join(url)
        url.clear()
        headers: Headers = self._headers  # type: ignore[assignment] # no deque before a chunked body
        self._headers = []
        if self._received + self._ahead > self._small or len(headers) > self.bounds.max_headers:
            self._check_size(target, headers)
        self._received = 0
        self._due = None  # the head's own, if it came in pieces
        parser = self._parser
        version: str = parser.get_http_version()
        method: bytes = parser.get_method()
        host: bytes | None = self._good_host
        head = read_head(version, headers, self._good_host)
        if head is not PLAIN:
            host = head.host
            self._good_host = host or b""
            if self._takes_over(head, method, target, headers):
                return
        path, query = read_target(method, target, host)
        text = path.decode("ascii")
        scope = self._base.copy()
        scope["method"] = _METHODS.get(method) or method.decode("ascii")
        scope["path"] = unquote(text) if "%" in text else text
        scope["raw_path"] = path
        scope["query_string"] = query
        scope["headers"] = headers
        scope["state"] = self.app_state.copy()
        if root := self.config.root_path:
            scope["path"] = root + scope["path"]
            scope["raw_path"] = root.encode("utf-8") + path
        self._receiving = cycle = Cycle(self, scope, parser.should_keep_alive() and not self._last)
        if head is not PLAIN:
            self._prepare(cycle, head, version)
        if self._cycle is None:
            self._start(cycle)
        else:
            self._queue(cycle)

    def _takes_over(self, head: Head, method: bytes, target: bytes, headers: Headers) -> bool:
        """Whether the request is for another protocol that is spoken here, WebSocket."""
        if not self._parser.should_upgrade():
            return False
        if head.has_body:
            raise Refused(400, "a request to change the protocol has a body")
        if head.upgrade != b"websocket" or head.version == "1.0" or self.config.ws_protocol_class is None:
            return False
        if self._cycle is not None:
            raise Refused(400, "a request to change the protocol comes before the one in front is answered")
        path, query = read_target(method, target, head.host)
        if not target.startswith(b"/"):  # a whole URL, which is no path to the class that it goes to
            target = b"%b?%b" % (path, query) if query else path
        request_line = b"%b %b HTTP/1.1" % (method, target)
        self._handshake = b"\r\n".join([request_line, *map(b": ".join, headers), b"\r\n"])
        return True

    def _prepare(self, cycle: Cycle, head: Head, version: str) -> None:
        """See to what few requests ask for."""
        cycle.scope["http_version"] = version
        if version != "1.1" or self._parser.should_upgrade():
            cycle.keep_alive = False
        if version == "1.0":
            cycle.scope["extensions"] = {}
        elif head.takes_trailers:
            cycle.scope["extensions"] = {"http.response.early_hint": {}, "http.response.trailers": {}}
        cycle.expects_continue = head.expects_continue
        if head.chunked:
            self._headers = self._trailers = deque(
                maxlen=self.bounds.max_headers + 1
            )  # which are only counted

    def _check_size(self, target: bytes, headers: Headers) -> None:
        if len(target) > self.bounds.max_target:
            raise Refused(414, "the request target is too long")
        if len(headers) > self.bounds.max_headers:
            raise Refused(431, "too many headers")
        if any(len(value) > self.bounds.max_header for _, value in headers):
            raise Refused(431, "a header is too large")
        if sum(len(name) + len(value) + 4 for name, value in headers) > self.bounds.max_head:
            raise Refused(431, "the head is too large")

    def on_body(self, body: bytes) -> None:
        self._received = 0
        cycle = self._receiving
        if cycle is not None:
            cycle.give(body)

    def on_message_complete(self) -> None:
        if self._trailers is not None:
            self._end_trailers(self._trailers)
        self._between.append(True)
        self._ahead = self._segment
        self._due = None
        cycle = self._receiving
        if cycle is not None:
            self._receiving = None
            cycle.more = False
            if self._read_paused:
                self.resume_reading()  # there is no more of it to hold back, and a client's end to be seen
            if cycle.waiters:
                cycle.wake()

    def _end_trailers(self, trailers: deque[Header]) -> None:
        self._trailers = None
        self._headers = []
        self._received = 0
        size = sum(len(name) + len(value) for name, value in trailers)
        if len(trailers) > self.bounds.max_headers or size > self.bounds.max_head:
            raise Refused(431, "too many or too large trailers")

    # Requests in turn

    def _queue(self, cycle: Cycle) -> None:
        """Let a request that came before its turn wait, and read no more until it is answered."""
        self._waiting.append(cycle)
        if len(self._waiting) > self.bounds.read_ahead:
            self.pause_reading()
        if len(self._waiting) > self.bounds.max_pipelined:
            raise Refused(400, "too many requests at once")

    def _start(self, cycle: Cycle) -> None:
        self._cycle = cycle
        if self._plain:
            # That it is given a name spares a task the making of its own, a quarter of its price.
            task = asyncio.Task(cycle.run(self.config.loaded_app), loop=self.loop, name="request")
        else:
            task = self._make_task(cycle)
        cycle.task = task
        self.server_state.tasks.add(task)

    def _make_task(self, cycle: Cycle) -> asyncio.Task[None]:
        """A task where limits, contexts or the loop's own kind of task have been asked for."""
        app: ASGIApp = self.config.loaded_app
        limit, state = self.config.limit_concurrency, self.server_state
        if limit is not None and (len(state.connections) >= limit or len(state.tasks) >= limit):
            app = service_unavailable  # type: ignore[assignment]
        context = contextvars.Context() if self.config.reset_contextvars else None
        return self.loop.create_task(cycle.run(app), context=context)

    def answered(self, cycle: Cycle) -> None:
        """The response of the request in progress is written whole."""
        self.server_state.total_requests += 1
        self._cycle = None
        if self.transport.is_closing():
            return
        if not cycle.keep_alive or cycle is self._receiving:
            self._end(lingering=cycle is self._receiving)
        elif self._waiting:
            self._context.copy().run(self._start, self._waiting.pop(0))
            self.resume_reading()
        elif self._refusal is not None:
            self._answer_refusal(self._refusal)
        else:
            if self._read_paused:
                self.resume_reading()
            if self._between:
                self._expect_within(self.config.timeout_keep_alive)

    def _end(self, *, lingering: bool) -> None:
        """Close; with `lingering` let a client that still sends read what it was told first."""
        self._closing = True
        if not lingering or not self.transport.can_write_eof():
            self._close()
            return
        self._read_paused = False
        self.transport.resume_reading()
        self.transport.write_eof()
        self._expect_within(self.bounds.linger)

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
            self._close()

    # Refusing

    def _refuse(self, refusal: Refused) -> None:
        """Answer so in the turn of the request that is arriving, which is not run, and listen no more."""
        log_refusal(refusal, self._base.get("client"), self.server_state, self.loop.time())
        self._refusal = refusal
        self._due = None
        cycle = self._receiving
        self._receiving = None
        if cycle is not None:
            cycle.disconnect()
            if cycle is self._cycle:
                self._cycle = None
                if cycle.started:
                    self.abort(cycle)
                    return
            elif self._waiting and self._waiting[-1] is cycle:
                self._waiting.pop()
        if self._cycle is None:
            self._answer_refusal(refusal)

    def _answer_refusal(self, refusal: Refused) -> None:
        self.transport.write(answer_to(refusal))
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
        if self.unread is not None:
            self.unread.forget()
        ws_class: Any = self.config.ws_protocol_class
        protocol = ws_class(config=self.config, server_state=self.server_state, app_state=self.app_state)
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

    def expect_body(self) -> None:
        """Somebody waits for the body that is arriving, from now on."""
        self._expect_within(self.bounds.body_interval)

    def _on_timer(self) -> None:
        self._timer = None
        if self._due is None:
            return
        left = self._due - self.loop.time()
        if left > 0:
            self._timer_due = self._due
            self._timer = self.loop.call_later(left, self._on_timer)
        elif self._closing:
            self.transport.abort()
        elif self._between:
            self._close()
        elif self._receiving is not None:
            self._judge_upload(self._receiving)
        else:
            self._refuse(Refused(408, "the head did not arrive in time"))

    def _judge_upload(self, cycle: Cycle) -> None:
        brought, cycle.judged = cycle.received - cycle.judged, cycle.received
        if self._read_paused or cycle.expects_continue or brought >= self.bounds.body_minimum:
            self.expect_body()
        else:
            self._refuse(Refused(408, "the body comes too slowly"))
