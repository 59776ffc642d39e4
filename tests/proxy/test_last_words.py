"""A service that answers an upload and hangs up on the rest of it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from asgi_gateway.proxy.transport import UpstreamError, UpstreamRequest
from tests.proxy.conftest import MakeTransport

ANSWER = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much"


class HangsUp:
    """A service that takes the head of one upload, says something and closes, so that TCP resets."""

    def __init__(self, said: bytes) -> None:
        self.said = said
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    async def upload(self) -> AsyncIterator[bytes]:
        """All of it happens while the event loop is held up, so that it learns of the end by writing."""
        yield b"x" * 1000
        connection = self.listener.accept()[0]
        with self.listener, connection:
            assert connection.recv(10)
            connection.sendall(self.said)
        time.sleep(0.05)  # for the reset to arrive
        yield b"x" * 1000
        yield b"x" * 1000


async def exchange(make_http1: MakeTransport, said: bytes) -> tuple[int, bytes]:
    service = HangsUp(said)
    async with make_http1(service.port) as transport:
        request = UpstreamRequest(b"POST", b"/", [(b"host", b"service")], service.upload(), 3000)
        response = await transport.exchange(request)
        try:
            body, more = await response.read()
            while more:
                piece, more = await response.read()
                body += piece
        finally:
            await response.aclose()
        return response.status, body


LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_the_answer_before_the_reset_is_the_answer(make_http1: MakeTransport, loop: Callable) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(exchange(make_http1, ANSWER)) == (413, b"too much")


@LOOPS
@pytest.mark.parametrize("said", [b"", ANSWER[:-2], ANSWER[:20], b"nonsense"])
def test_half_an_answer_before_the_reset_is_none(
    make_http1: MakeTransport, loop: Callable, said: bytes
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(UpstreamError):
        runner.run(exchange(make_http1, said))
