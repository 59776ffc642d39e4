"""An HTTP/2 service on a socket that answers by frames, right or wrong, as a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self, TypeAlias

import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes, Settings

from asgi_gateway.types import Headers

OK: Headers = [(b":status", b"200")]


class Stream:
    """One request, and the way back to whoever sent it."""

    def __init__(self, link: Link, number: int, headers: Headers) -> None:
        self.link = link
        self.number = number
        self.headers = dict(headers)
        self.body = b""
        self.ended = asyncio.Event()
        self.reset = asyncio.Event()

    @property
    def path(self) -> bytes:
        return self.headers[b":path"]

    def head(self, *more: tuple[bytes, bytes]) -> None:
        """200, and whatever headers, checked by nobody."""
        self.link.h2.send_headers(self.number, [*OK, *more])
        self.link.flush()

    def data(self, data: bytes, *, end: bool = False) -> None:
        self.link.h2.send_data(self.number, data, end_stream=end)
        self.link.flush()

    def answer(self, body: bytes = b"ok") -> None:
        self.head()
        self.data(body, end=True)

    def go_away(self, last: int, error: int = 0) -> None:
        """Serve nothing past the stream `last` (RFC 9113 section 6.8), and leave."""
        self.link.h2.close_connection(error, last_stream_id=last)
        self.link.flush()
        self.link.writer.close()

    def raw(self, kind: int, payload: bytes = b"", *, stream: int | None = None) -> None:
        """A frame of any kind, without a flag; on this request's stream unless told otherwise."""
        number = self.number if stream is None else stream
        head = len(payload).to_bytes(3, "big") + bytes([kind, 0]) + number.to_bytes(4, "big")
        self.link.writer.write(head + payload)


Handler: TypeAlias = Callable[[Stream], Awaitable[None]]


class Link:
    """One connection."""

    def __init__(
        self, service: H2Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.service = service
        self.reader = reader
        self.writer = writer
        self.streams: dict[int, Stream] = {}
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=False,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def serve(self) -> None:
        if self.service.room is not None:
            settings = {SettingCodes.MAX_CONCURRENT_STREAMS: self.service.room}
            self.h2.local_settings = Settings(client=False, initial_values=settings)
        self.h2.initiate_connection()
        self.flush()
        async with asyncio.TaskGroup() as group:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._take(event, group)
                self.flush()
            for stream in self.streams.values():
                stream.reset.set()

    def _take(self, event: h2.events.Event, group: asyncio.TaskGroup) -> None:
        if isinstance(event, h2.events.RequestReceived):
            stream = Stream(self, event.stream_id, event.headers)
            self.streams[event.stream_id] = stream
            self.service.streams.append(stream)
            group.create_task(self.service.handler(stream))
        elif isinstance(event, h2.events.DataReceived):
            self.streams[event.stream_id].body += event.data
            if self.service.takes:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].ended.set()
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].reset.set()


class H2Service:
    """Runs a handler for every request from its head on.

    `takes` says whether uploads get further windows, `room` how many streams a connection may have.
    """

    def __init__(self, handler: Handler, *, takes: bool = True, room: int | None = None) -> None:
        self.handler = handler
        self.takes = takes
        self.room = room
        self.streams: list[Stream] = []
        self.links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, reader, writer)
        self.links.append(link)
        self._tasks.add(asyncio.current_task())
        try:
            await link.serve()
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)
