"""The admin socket: a Unix socket that speaks a little HTTP, so that `curl` can use it too.

``POST /reload`` reloads and says what came of it, ``GET /status`` says how all stands; both in JSON. Who may
open the socket may do both: it is made for its owner alone.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

from asgi_gateway.clock import SystemClock
from asgi_gateway.server.launch import CannotStart

Answer: TypeAlias = Callable[[], Awaitable[tuple[int, dict[str, Any]]]]

PATIENCE = 10.0
"""Seconds that a client has to send its request."""

ANSWER_WITHIN = 90.0
"""Seconds that `ask` waits for an answer; a reload waits 30 s for a worker."""


class AdminSocket:
    """A socket at a path, mode 0600, in place of what an ended process left. Raises `CannotStart`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path.is_socket():
                _clear(path)
            before = os.umask(0o177)
            try:
                self.listener.bind(str(path))
            finally:
                os.umask(before)
            self._file = path.stat().st_ino
        except OSError as error:
            self.listener.close()
            raise CannotStart(
                f"cannot listen on the admin socket {path}: {error.strerror or error}"
            ) from error

    def refuse(self) -> None:
        """Accept nobody any more: the place may be taken."""
        with suppress(OSError):  # nobody ever listened
            self.listener.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, and take it out of the file system unless a successor has put its own there."""
        self.listener.close()
        with suppress(OSError):
            if self._path.stat().st_ino == self._file:
                self._path.unlink()


def _clear(path: Path) -> None:
    """Take away what an ended process has left; raises `OSError` where one still listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there, suppress(ConnectionRefusedError):
        there.settimeout(0)
        there.connect(str(path))
        raise OSError(errno.EADDRINUSE, "another process listens there")
    path.unlink()


async def answer_requests(admin: AdminSocket | None, answers: Mapping[str, Answer]) -> asyncio.Server | None:
    """Answer each request line among `answers`, until the server that is returned is closed."""
    if admin is None:
        return None

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with SystemClock.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            line = head.partition(b"\r\n")[0].decode("latin-1").rpartition(" ")[0]
            answer = answers.get(line)
            status, members = await answer() if answer else (404, {"there_is": list(answers)})
            body = json.dumps(members).encode() + b"\n"
            writer.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"connection: close\r\n\r\n%b"
                % (status, HTTPStatus(status).phrase.encode("ascii"), len(body), body)
            )
            await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            return  # nobody there who could be told
        finally:
            writer.close()

    # A duplicate, as closing the server closes what it listens on, and the path is still needed then.
    return await asyncio.start_unix_server(serve, sock=admin.listener.dup())


def ask(path: str, line: str) -> dict[str, Any]:
    """Ask the process that listens at `path`: ``POST /reload``; raises `OSError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_WITHIN)
        connection.connect(path)
        connection.sendall(f"{line} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        with connection.makefile("rb") as answer:
            body = answer.read().partition(b"\r\n\r\n")[2]
    try:
        answered: dict[str, Any] = json.loads(body)
    except ValueError:
        raise ConnectionResetError(errno.ECONNRESET, "it gave no answer") from None
    return answered
