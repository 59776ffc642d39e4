"""What tells of the client: its names, and the Forwarded header (RFC 7239), read from the right and made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from asgi_gateway.asgi.headers import names_of
from asgi_gateway.types import Header

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_PAIR: Final = rb"(%b)=(%b|%b)" % (_TOKEN, _TOKEN, _QUOTED)
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rb"%b(?:[ \t]*;[ \t]*%b)*" % (_PAIR, _PAIR))
_PLAIN = re.compile(_TOKEN)
_IPV4 = re.compile(rb"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_IPV6 = re.compile(rb"[0-9A-Fa-f:.]{2,45}")

_LONGEST: Final = 1024
"""Bytes of an element; more is none."""


def tells_of_client(name: bytes) -> bool:
    """Whether proxies tell who asked by a header of this name, in any case and with underscores too."""
    name = name.lower().replace(b"_", b"-")
    return name.startswith(b"x-forwarded-") or name in (b"forwarded", b"x-real-ip")


def without_forwarded(headers: Iterable[Header], *, but: bytes | None = None) -> Iterable[Header]:
    """The headers less those that tell of the client, though with the one named `but`, in lower case."""
    names = names_of(headers)
    if b"forwarded" not in names and b"x-real-ip" not in names:
        return headers
    return [pair for pair in headers if not tells_of_client(pair[0]) or pair[0].lower() == but]


def elements_from_right(line: bytes) -> Iterator[bytes]:
    """The elements of all lines joined by commas, the last first; ends before what is malformed.

    What stands left of an element cannot change how it is read: a client's opening quote does not
    swallow what a proxy put behind it.
    """
    start = end = len(line)
    while start >= 0 and end - start <= _LONGEST:
        start = line.rfind(b",", 0, start)
        piece = line[start + 1 : end].strip(b" \t")
        if not piece:
            end = start
        elif _ELEMENT.fullmatch(piece):
            yield piece
            end = start
        # else the comma may stand inside quotes


def node_of(element: bytes) -> bytes:
    """Who sent the request that the element tells of (``for=``); empty where it does not say, or says two."""
    values = [value for name, value in _PAIRS.findall(element) if name.lower() == b"for"]
    if len(values) != 1:
        return b""
    value: bytes = values[0]
    if value.startswith(b'"'):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
    return value


def without_port(node: str) -> str:
    """The address of a node such as ``[::1]:443`` or ``10.0.0.1:443``, without port and brackets."""
    node = node.strip(" \t")
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node


def made_element(address: bytes, *, host: bytes | None = None, proto: bytes | None = None) -> bytes:
    """One element. What is no IP address is ``unknown``; brackets and quotes stand where they must."""
    pairs = [b"for=" + _node(address)]
    if host:
        pairs.append(b"host=" + _value(host))
    if proto:
        pairs.append(b"proto=" + _value(proto))
    return b";".join(pairs)


def _node(address: bytes) -> bytes:
    address = address.partition(b"%")[0]  # a zone means nothing to anybody else
    if _IPV4.fullmatch(address):
        return address
    return b'"[%b]"' % address if b":" in address and _IPV6.fullmatch(address) else b"unknown"


def _value(text: bytes) -> bytes:
    if _PLAIN.fullmatch(text):
        return text
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
