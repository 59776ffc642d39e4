"""Which headers cross the gateway, in which direction, and which it sets itself.

RFC 9110 section 7.6: hop-by-hop fields and those that `Connection` names stay on their hop, `Via`
tells the way. The X-Forwarded fields speak for the socket; a client's own are believed only where
the peer is trusted (`client_address`).
"""

from __future__ import annotations

from asgi_gateway.asgi.headers import get_all, get_header
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
VOUCHED = frozenset(
    {
        b"x-forwarded-client-cert",
        b"x-forwarded-method",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-forwarded-ssl",
        b"x-forwarded-uri",
    }
)
"""What a trusted peer may say, and nobody else; we have no word of our own to put in its place."""

FORWARDED = VOUCHED | frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
OURS = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""Set by middlewares for the service; a client cannot have them removed by naming them in Connection."""

ALIASED = HOP_BY_HOP | FRAMING | FORWARDED | OURS
ENDS_HERE = HOP_BY_HOP | FRAMING | FORWARDED | {b"via"}
ENDS_HERE_TRACED = ENDS_HERE | {b"traceparent"}
"""Where we are a span of the trace, the service's parent is ours to name."""
DROPPED_FROM_RESPONSE = HOP_BY_HOP | {b"x-gateway-error"}


def split_request(
    headers: Headers, exchange: Exchange | None = None, *, traced: bool = False
) -> tuple[Headers, Headers]:
    """A client's headers in two: those that go on, and those that end here.

    The second list, names in lower case, holds what is this hop's, what frames, and what only we
    may say of the client; our own are made from it. ``X_Forwarded_For`` and its like, which are the
    same name to a service that speaks CGI, are in neither; nor is any other name with an underscore
    that is there with hyphens too. What the client sent, and so all that its Connection can take
    off, is known to the `exchange`; without one it is everything.
    """
    ends_here = ENDS_HERE_TRACED if traced else ENDS_HERE
    passed: Headers = []
    ended: Headers = []
    underscored = False
    for pair in headers:
        name = pair[0].lower()
        if name in ends_here:
            ended.append((name, pair[1]))
        elif b"_" not in name:
            passed.append(pair)
        elif name.replace(b"_", b"-") not in ALIASED:
            passed.append(pair)
            underscored = True
    if underscored:
        passed = _without_aliases(passed)
    return _without_named(passed, ended, exchange), ended


def end_to_end_response(headers: Headers) -> Headers:
    """A service's headers, names in lower case, less what is that hop's."""
    kept = [pair for pair in headers if pair[0] not in DROPPED_FROM_RESPONSE]
    if len(kept) != len(headers):
        kept = _without_named(kept, headers, None, protected=frozenset())
    return kept


def _without_named(
    passed: Headers, ended: Headers, exchange: Exchange | None, protected: frozenset[bytes] = OURS
) -> Headers:
    """Less what `Connection` names: of what was received, not of what a middleware put beside it."""
    values = get_all(ended, b"connection")
    if not values or values in ([b"keep-alive"], [b"close"]):
        return passed
    named = {token.strip().lower() for value in values for token in value.split(b",")} - protected
    received = exchange.received if exchange is not None else None
    theirs = {id(pair) for pair in (passed if received is None else received)}
    return [pair for pair in passed if pair[0].lower() not in named or id(pair) not in theirs]


def _without_aliases(passed: Headers) -> Headers:
    """Less what is the same as another name to a service that speaks CGI: the one with hyphens stays."""
    names = {name.lower() for name, _ in passed}
    return [
        pair for pair in passed if b"_" not in pair[0] or pair[0].lower().replace(b"_", b"-") not in names
    ]


def forwarded_headers(
    ended: Headers, *, peer: bytes, scheme: bytes, host: bytes, prefix: bytes, trusted: bool
) -> Headers:
    """X-Forwarded-For, -Proto, -Host and, below a stripped prefix, -Prefix.

    From the socket alone; a trusted peer's own values are continued: For and Prefix grow by ours,
    Proto and Host stay as the peer saw them at the edge.
    """
    if not trusted:
        made = [(b"x-forwarded-for", peer), (b"x-forwarded-proto", scheme), (b"x-forwarded-host", host)]
        if prefix:
            made.append((b"x-forwarded-prefix", prefix))
        return made
    chain = b", ".join([*get_all(ended, b"x-forwarded-for"), peer])
    prefix = (get_header(ended, b"x-forwarded-prefix") or b"").rstrip(b"/") + prefix
    made = [
        (b"x-forwarded-for", chain),
        (b"x-forwarded-proto", get_header(ended, b"x-forwarded-proto") or scheme),
        (b"x-forwarded-host", get_header(ended, b"x-forwarded-host") or host),
    ]
    if prefix:
        made.append((b"x-forwarded-prefix", prefix))
    return made
