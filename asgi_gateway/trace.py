"""W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/): ids in, ids out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from asgi_gateway.ids import RandomHex

SAMPLED: Final = 0x01
"""The one flag that is defined; all others are sent as zero (its "Other Flags")."""

_STATE_MEMBERS: Final = 32
_STATE_LENGTH: Final = 512
_LONG_MEMBER: Final = 128

_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MEMBER = re.compile(
    rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class TraceContext(NamedTuple):
    """A place in a trace: which trace, which span of it, its flags and the vendors' state."""

    trace_id: str
    span_id: str
    flags: int
    state: bytes = b""

    @classmethod
    def begin(cls, ids: RandomHex) -> TraceContext:
        """A new trace with random ids, sampled."""
        return cls(ids(32), ids(16), SAMPLED)

    def child(self, ids: RandomHex) -> TraceContext:
        """A new span of the same trace."""
        return TraceContext(self.trace_id, ids(16), self.flags, self.state)

    def header(self) -> bytes:
        """The value of ``traceparent`` that names this span as the parent."""
        return self.child_header(self.span_id)

    def child_header(self, span_id: str) -> bytes:
        """The value of ``traceparent`` for another span of the trace, such as one attempt upstream."""
        return f"00-{self.trace_id}-{span_id}-{self.flags:02x}".encode("ascii")


def parse_traceparent(value: bytes) -> TraceContext | None:
    """The caller's place in its trace, without the state; None where the header is not valid.

    A later version than 00 is read as far as 00 goes ("Versioning of traceparent").
    """
    match = _PARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if trace_id == b"0" * 32 or span_id == b"0" * 16:
        return None
    return TraceContext(trace_id.decode(), span_id.decode(), int(flags, 16) & SAMPLED)


def parse_tracestate(lines: Iterable[bytes]) -> bytes:
    """The vendors' state of all header lines in one; empty where any of it is malformed.

    More than 512 bytes are cut down by whole members, those of over 128 bytes first, then from the
    end ("tracestate Limits").
    """
    members = [member for line in lines for part in line.split(b",") if (member := part.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > _STATE_MEMBERS or len(keys) != len(members):
        return b""
    if not all(_MEMBER.fullmatch(member) for member in members):
        return b""
    return b",".join(_shortened(members))


def _shortened(members: list[bytes]) -> list[bytes]:
    expendable = [member for member in members if len(member) <= _LONG_MEMBER]
    expendable += [member for member in members if len(member) > _LONG_MEMBER]
    while len(b",".join(members)) > _STATE_LENGTH:
        members.remove(expendable.pop())
    return members
