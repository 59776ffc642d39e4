"""Which headers cross the gateway, in which direction, and which it sets itself.

RFC 9110 section 7.6: hop-by-hop fields and those that `Connection` names stay on their hop, `Via`
tells the way. The X-Forwarded fields speak for the socket; a client's own are believed only where
the peer is trusted (`client_address`). Any other field of that family, for which the gateway has no
word of its own, passes only behind `client_address`, which lets none of a stranger's through.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, Final, TypeAlias

from asgi_gateway.asgi.forwarded import tells_of_client, without_forwarded
from asgi_gateway.asgi.headers import fields_of, get_all
from asgi_gateway.context import Exchange
from asgi_gateway.types import Headers

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
FRAMING = frozenset({b"content-length", b"expect", b"host"})
FORWARDED = frozenset(
    {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-prefix", b"x-forwarded-proto"}
)
"""What we say of the client ourselves."""

OURS = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""Set by middlewares for the service; a client cannot have them removed by naming them in Connection."""


def _with_aliases(names: frozenset[bytes]) -> frozenset[bytes]:
    """The names, and each with any of its hyphens as underscores: the same to a service that speaks CGI."""
    spelled = (product(*(b"-_" if byte == ord("-") else [byte] for byte in name)) for name in names)
    return frozenset(bytes(letters) for each in spelled for letters in each)


ENDS_HERE = HOP_BY_HOP | FRAMING | FORWARDED | {b"via"}
ENDS_HERE_TRACED = ENDS_HERE | {b"traceparent"}
"""Where we are a span of the trace, the service's parent is ours to name."""
ALIASES = _with_aliases(ENDS_HERE | OURS) - ENDS_HERE - OURS
DROPPED_FROM_RESPONSE = HOP_BY_HOP | {b"x-gateway-error"}

_USUAL_CONNECTION = frozenset({b"close", b"keep-alive", b"Close", b"Keep-Alive"})
"""Values of Connection that name no header."""

_UNDERSCORE: Final = ord("_")
"""A byte is found in a tenth of the time that a string of one byte takes."""

Ended: TypeAlias = dict[bytes, list[bytes]]
"""A client's headers that end here, by their names in lower case."""


def split_request(
    headers: Headers, exchange: Exchange | None = None, *, traced: bool = False, vouched: bool = False
) -> tuple[Headers, Ended]:
    """A client's headers in two: those that go on, and those that end here.

    The second part holds what is this hop's, what frames, and what only we may say of the client;
    our own are made from it. ``X_Forwarded_For`` and its like, which are the same name to a service
    that speaks CGI, are in neither; nor is any other name with an underscore that is there with
    hyphens too, nor what else tells of the client, unless it is `vouched` for. What the client sent,
    and so all that its Connection can take off, is known to the `exchange`; without one it is
    everything.
    """
    ends_here = ENDS_HERE_TRACED if traced else ENDS_HERE
    fields = fields_of(headers)
    if fields is not None and fields.get(b"connection", b"close") in _USUAL_CONNECTION:
        ended = {name: [fields.pop(name)] for name in ends_here.intersection(fields)}
        if not vouched:
            fields.pop(b"x-real-ip", None)
        left = b"".join(fields)
        if _UNDERSCORE not in left and (vouched or b"x-forwarded-" not in left):
            return [*fields.items()], ended
    return _split_with_care(headers, exchange, ends_here, vouched=vouched)


def _split_with_care(
    headers: list[Any], exchange: Exchange | None, ends_here: frozenset[bytes], *, vouched: bool
) -> tuple[Headers, Ended]:
    """The same for headers in which names repeat, are not in lower case, or have to be looked at."""
    passed: list[Any] = []
    ended: Ended = {}
    for pair in headers:
        name = pair[0].lower()
        if name in ends_here:
            ended.setdefault(name, []).append(pair[1])
        elif name not in ALIASES:
            passed.append(pair)
    if not vouched:
        passed = [*without_forwarded(passed)]
    if any(_UNDERSCORE in name for name, _ in passed):
        passed = _without_aliases(passed)
    if b"connection" in ended and not _USUAL_CONNECTION.issuperset(ended[b"connection"]):
        passed = _without_named(passed, ended[b"connection"], exchange)
    return passed, ended


def end_to_end_response(headers: Headers) -> Headers:
    """A service's headers, names in lower case, less what is that hop's."""
    fields = dict(headers)
    if DROPPED_FROM_RESPONSE.isdisjoint(fields):
        return headers
    kept = [pair for pair in headers if pair[0] not in DROPPED_FROM_RESPONSE]
    if fields.get(b"connection") in _USUAL_CONNECTION and len(fields) == len(headers):
        return kept
    named = _names_in(get_all(headers, b"connection"))
    return [pair for pair in kept if pair[0] not in named]


def _without_named(passed: list[Any], connection: list[bytes], exchange: Exchange | None) -> Headers:
    """Less what `Connection` names: of what was received, not of what a middleware put beside it."""
    named = {name for name in _names_in(connection) if name not in OURS and not tells_of_client(name)}
    received = exchange.received if exchange is not None else None
    sent: Iterable[Any] = passed if received is None else received
    theirs = {(id(name), id(value)) for name, value in sent}
    return [
        (name, value)
        for name, value in passed
        if name.lower() not in named or (id(name), id(value)) not in theirs
    ]


def _names_in(connection: list[bytes]) -> set[bytes]:
    """The names that the values of Connection hold (RFC 9110 section 7.6.1)."""
    return {token.strip().lower() for value in connection for token in value.split(b",")}


def _without_aliases(passed: list[Any]) -> Headers:
    """Less what is the same as another name to a service that speaks CGI: the one with hyphens stays.

    What tells of the client has only the one with hyphens.
    """
    names = {name.lower() for name, _ in passed}
    kept: list[Any] = []
    for pair in passed:
        if _UNDERSCORE in pair[0]:
            name = pair[0].lower().replace(b"_", b"-")
            if name in names or tells_of_client(name):
                continue
        kept.append(pair)
    return kept


def forwarded_headers(
    ended: Ended, *, peer: bytes, scheme: bytes, host: bytes, prefix: bytes, trusted: bool
) -> Headers:
    """X-Forwarded-For, -Proto, -Host and, below a stripped prefix, -Prefix.

    From the socket alone; a trusted peer's own values are continued: For and Prefix grow by ours,
    Proto and Host stay as the peer saw them at the edge.
    """
    if trusted:
        peer = b", ".join([*ended.get(b"x-forwarded-for", ()), peer])
        scheme = _first(ended, b"x-forwarded-proto") or scheme
        host = _first(ended, b"x-forwarded-host") or host
        prefix = _first(ended, b"x-forwarded-prefix").rstrip(b"/") + prefix
    made = [(b"x-forwarded-for", peer), (b"x-forwarded-proto", scheme), (b"x-forwarded-host", host)]
    if prefix:
        made.append((b"x-forwarded-prefix", prefix))
    return made


def _first(ended: Ended, name: bytes) -> bytes:
    """The first value of a header, empty where it is absent."""
    return ended[name][0] if name in ended else b""
