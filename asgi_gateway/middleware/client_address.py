"""Find out who is asking, believing only proxies that are known."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.forwarded import elements_from_right, node_of, without_forwarded, without_port
from asgi_gateway.asgi.headers import get_all
from asgi_gateway.context import CLIENT_ADDRESS, TRUSTED_PEER, UNIX
from asgi_gateway.options import validated
from asgi_gateway.types import ASGIApp, Headers, Receive, Scope, Send, mypyc_attr

_HOPS: Final = 64
"""Entries of X-Forwarded-For that are looked at, from the right; one more where it is the first."""

_LONGEST: Final = 45
"""Characters of the longest IPv6 address; nothing longer is read, or remembered."""

_KNOWN: Final = 4096
"""Addresses whose reading is remembered."""


class _Peer(NamedTuple):
    address: str
    trusted: bool
    readable: bool


def _proxies(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        if entry != UNIX:
            ip_network(entry)
    return entries


@mypyc_attr(allow_interpreted_subclasses=True)
class ClientAddressMiddleware:
    """Put the client's address in scope: the peer's, or what a trusted proxy says of it.

    Where the peer is one of `trusted_proxies`, `header` is walked from the right past the
    trusted ones; it ends at the first that is not, and before the first that is no address. From any
    other peer the forwarded headers are dropped: ``Forwarded``, ``X-Real-IP``, all ``X-Forwarded-*``,
    and their spellings with underscores. IPv4 addresses mapped into IPv6 are told as IPv4.

        ClientAddressMiddleware(app, trusted_proxies=["10.0.0.0/8"])
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        trusted_proxies: Annotated[
            tuple[str, ...],
            AfterValidator(_proxies),
            Field(
                description="Addresses and networks (10.0.0.0/8) whose forwarded headers are believed; "
                "unix for peers on a Unix socket."
            ),
        ] = (),
        header: Annotated[
            Literal["X-Forwarded-For", "Forwarded"],
            Field(
                description="Where the trusted proxies say who asked. With Forwarded (RFC 7239) their "
                "X-Forwarded-* are dropped."
            ),
        ] = "X-Forwarded-For",
    ) -> None:
        self.app = direct(app)
        self._trusts_unix = UNIX in trusted_proxies
        self._networks = [ip_network(entry) for entry in trusted_proxies if entry != UNIX]
        self._reads_rfc7239 = header == "Forwarded"
        self._known = lru_cache(_KNOWN)(self._read)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The same without a frame of its own; see `asgi_gateway.asgi.calls`."""
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        client = scope.get("client")
        peer = self._known(client[0]) if client else _Peer(UNIX, self._trusts_unix, readable=True)
        headers, address = scope["headers"], peer.address
        if peer.trusted:
            address = self._forwarded(headers, address)
            if self._reads_rfc7239:
                headers = without_forwarded(headers, but=b"forwarded")
        else:
            headers = without_forwarded(headers)
        inner = {**scope, CLIENT_ADDRESS: address, TRUSTED_PEER: peer.trusted, "headers": headers}
        return self.app(inner, receive, send)

    def _forwarded(self, headers: Headers, address: str) -> str:
        for entry in self._entries(headers):
            text = without_port(entry.decode("latin-1"))
            hop = self._known(text) if len(text) <= _LONGEST else None
            if hop is None or not hop.readable:
                break
            address = hop.address
            if not hop.trusted:
                break
        return address

    def _entries(self, headers: Headers) -> Iterable[bytes]:
        """What is said of the senders before the peer, the last first."""
        if self._reads_rfc7239:
            elements = elements_from_right(b",".join(get_all(headers, b"forwarded")))
            return map(node_of, islice(elements, _HOPS))
        line = b",".join(get_all(headers, b"x-forwarded-for"))
        return reversed(line.rsplit(b",", _HOPS))  # the leftmost holds all the rest

    def _read(self, text: str) -> _Peer:
        """An address normalised and judged; text that is none stays as it is and is not trusted."""
        try:
            address: IPv4Address | IPv6Address = ip_address(text)
        except ValueError:
            return _Peer(text, trusted=False, readable=False)
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or IPv6Address(int(address))  # the latter drops a zone
        return _Peer(str(address), any(address in network for network in self._networks), readable=True)


validated(ClientAddressMiddleware)
