"""What a service said before it hung up on an upload, where a failed write was noticed first.

A service that refuses an upload answers and closes with some of it unread, which TCP turns into a reset.
An event loop that finds out by writing gives the connection up, with the answer still unread in its
socket. RFC 9112 section 9.5: a client ought to look for an answer while it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

_MOST: Final = 64 * 1024
"""Bytes; such an answer is a short one, and a longer one is seen to be cut."""


def last_words(transport: asyncio.BaseTransport) -> bytes:
    """The bytes that wait in the socket of a connection that has just been lost, none where it is TLS."""
    handle = transport.get_extra_info("socket")
    if handle is None or transport.get_extra_info("sslcontext") is not None:
        return b""
    said = b""
    with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(handle.fileno())) as same:
        while len(said) < _MOST and (piece := same.recv(_MOST - len(said), socket.MSG_DONTWAIT)):
            said += piece
    return said
