"""What a client of our server may send, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one connection. Sizes are bytes, durations seconds."""

    max_target: int = 16 * 1024
    """A request target; more is 414."""
    max_header: int = 32 * 1024
    """One header's value; more is 431."""
    max_headers: int = 128
    """How many headers a request may have, and its trailers; more is 431."""
    max_head: int = 64 * 1024
    """A request's whole head, and trailers and chunk extensions at a time; more is 431."""
    max_pipelined: int = 64
    """Requests that may wait behind the one in progress; more is 400."""
    read_ahead: int = 8
    """Requests behind the one in progress until reading stops; from then on a client's end is not seen."""
    head_timeout: float = 10.0
    """From a new connection, or a head's first byte, to the head's end."""
    body_interval: float = 10.0
    """In which a body that somebody waits for must bring `body_minimum`."""
    body_minimum: int = 2400
    """With the interval of 10 s, 240 bytes a second."""
    write_interval: float = 60.0
    """In which a client must take `write_minimum` of an answer that waits for it."""
    write_minimum: int = 14400
    """With the interval of 60 s, 240 bytes a second."""
    linger: float = 2.0
    """In which a client that still uploads may read an answer that ends the connection."""
    buffer: int = 64 * 1024
    """What of a body waits for the app before reading stops."""


BOUNDS = Bounds()
"""The defaults."""
