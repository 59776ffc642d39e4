"""How a service is told who asked: by X-Forwarded fields, by Forwarded (RFC 7239), or by both."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias

from asgi_gateway.asgi.forwarded import elements_from_right, made_element, without_port
from asgi_gateway.proxy.headers import Ended, forwarded_headers
from asgi_gateway.types import Headers

Style: TypeAlias = Literal["x_forwarded", "rfc7239", "both"]


class MakeForwarded(Protocol):
    """Makes the fields from the socket, and where the peer is trusted from its own, found in `ended`."""

    def __call__(
        self, ended: Ended, *, peer: bytes, scheme: bytes, host: bytes, prefix: bytes, trusted: bool
    ) -> Headers: ...


def both_headers(
    ended: Ended, *, peer: bytes, scheme: bytes, host: bytes, prefix: bytes, trusted: bool
) -> Headers:
    """The X-Forwarded fields, and Forwarded, which grows by an element; it never says ``by=``."""
    elements = [made_element(peer, host=host, proto=scheme)]
    if trusted:
        elements = [*_earlier(ended), *elements]
    made = forwarded_headers(ended, peer=peer, scheme=scheme, host=host, prefix=prefix, trusted=trusted)
    return [*made, (b"forwarded", b", ".join(elements))]


def rfc7239_headers(
    ended: Ended, *, peer: bytes, scheme: bytes, host: bytes, prefix: bytes, trusted: bool
) -> Headers:
    """Forwarded alone, but for a stripped prefix, for which RFC 7239 has no parameter."""
    made = both_headers(ended, peer=peer, scheme=scheme, host=host, prefix=prefix, trusted=trusted)
    return [pair for pair in made if pair[0] in (b"forwarded", b"x-forwarded-prefix")]


def _earlier(ended: Ended) -> list[bytes]:
    """What a trusted peer says of those before it.

    X-Forwarded-For comes first: where both are there, a peer that knows only this one may have let a
    client's Forwarded through. It is converted as RFC 7239 section 7.4 has it.
    """
    addresses = ended.get(b"x-forwarded-for")
    if not addresses:
        return [*elements_from_right(b",".join(ended.get(b"forwarded", ())))][::-1]
    nodes = [without_port(entry.decode("latin-1")) for entry in b",".join(addresses).split(b",")]
    first, *others = [node.encode("latin-1") for node in nodes]
    host, proto = (ended.get(name, [None])[0] for name in (b"x-forwarded-host", b"x-forwarded-proto"))
    return [made_element(first, host=host, proto=proto), *map(made_element, others)]


STYLES: Final[Mapping[Style, MakeForwarded]] = MappingProxyType(
    {"x_forwarded": forwarded_headers, "rfc7239": rfc7239_headers, "both": both_headers}
)
