"""What a request is counted by: key functions, by the names that the configuration gives them."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Hashable, Sequence
from importlib import import_module
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, Field, WithJsonSchema

from asgi_gateway.asgi.headers import get_all, get_header
from asgi_gateway.asgi.paths import request_path, resolved
from asgi_gateway.context import CLIENT_ADDRESS, SERVICE, UNIX
from asgi_gateway.types import Scope

KeyFunction: TypeAlias = Callable[[Scope], Hashable | None]
"""The key of a request, None where it has none."""

_LONGEST: Final = 128
_MAPPED_IPV4: Final = bytes(10) + b"\xff\xff"


def _checked(part: str | Callable[[Scope], str | None]) -> str | Callable[[Scope], str | None]:
    key_function(part)
    return part


KeyPart: TypeAlias = Annotated[
    str | Callable[[Scope], str | None],
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "examples": ["client_address", "header:X-Api-Key", "path", "service"]}),
]
Key: TypeAlias = KeyPart | Annotated[list[KeyPart], Field(min_length=1)]
"""The option of a middleware: a name, in Python a function too, or several that are a key together."""


def key_function(key: Key) -> KeyFunction:
    """The function for ``client_address``, ``path``, ``service``, ``header:<name>`` or ``module:function``.

    For several it is `by_all` of them. Raises `ValueError` for any other name, and where the function
    cannot be imported.
    """
    if isinstance(key, list):
        return by_all([key_function(part) for part in key])
    return _named(key) if isinstance(key, str) else by_function(key)


def has_part(key: Key | None, name: str) -> bool:
    """Whether a name is the key or one of several."""
    return name in key if isinstance(key, list) else name == key


def key_name(key: Key) -> str | list[str]:
    """What a key is known by in every process that is configured alike."""
    if isinstance(key, list):
        return [str(key_name(part)) for part in key]
    if isinstance(key, str):
        return key
    return f"{key.__module__}:{getattr(key, '__qualname__', type(key).__qualname__)}"


def _named(name: str) -> KeyFunction:
    known = {"client_address": by_client_address, "path": by_path, "service": by_service}
    if name in known:
        return known[name]
    kind, _, rest = name.partition(":")
    if kind == "header" and rest:
        return by_header(rest)
    if kind and rest:
        return by_function(_imported(kind, rest))
    raise ValueError(
        f"expected client_address, path, service, header:<name> or <package.module>:<function>, not {name!r}"
    )


def by_client_address(scope: Scope) -> Hashable | None:
    """The client's address, IPv6 by its /64: one customer holds at least that many addresses.

    A peer on a Unix socket has none.
    """
    address: str | None = scope.get(CLIENT_ADDRESS)
    if address is None:
        client = scope.get("client")
        address = client[0] if client else UNIX
    if address == UNIX:
        return None
    return _network(address) if ":" in address else address


def by_path(scope: Scope) -> Hashable | None:
    """The path, decoded and with its dot segments resolved."""
    return _bounded(resolved(request_path(scope)))


def by_service(scope: Scope) -> Hashable | None:
    """The name of the service that the request is routed to."""
    service: str | None = scope.get(SERVICE)
    return service


def by_header(name: str) -> KeyFunction:
    """The value of a request header; an absent or an empty one is no key."""
    wanted = name.lower().encode("latin-1")

    def key(scope: Scope) -> Hashable | None:
        value = get_header(scope["headers"], wanted)
        return _bounded(value.decode("latin-1")) if value else None

    return key


def by_cookie(name: str) -> KeyFunction:
    """The value of a cookie of the request; an absent or an empty one is no key."""
    wanted = name.encode("latin-1")

    def key(scope: Scope) -> Hashable | None:
        for field in get_all(scope["headers"], b"cookie"):
            for pair in field.split(b";"):
                found, _, value = pair.strip().partition(b"=")
                if found == wanted and value:
                    return _bounded(value.decode("latin-1"))
        return None

    return key


def by_function(function: Callable[[Scope], str | None]) -> KeyFunction:
    """Whatever a function of the scope returns; None is no key."""

    def key(scope: Scope) -> Hashable | None:
        value = function(scope)
        return None if value is None else _bounded(value)

    return key


def by_all(parts: Sequence[KeyFunction]) -> KeyFunction:
    """What all of the functions say together, one apart for each combination; no key where one has none."""
    if len(parts) == 1:
        return parts[0]

    def key(scope: Scope) -> Hashable | None:
        # A tuple, so that what a client writes into one part is never taken for another part.
        values = tuple([part(scope) for part in parts])
        return None if None in values else values

    return key


def _imported(module: str, name: str) -> Callable[[Scope], str | None]:
    try:
        function: Callable[[Scope], str | None] = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever the module does
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"cannot import the key function {module}:{name}: {reason}") from error
    if not callable(function):
        raise ValueError(f"{module}:{name} is not a function")  # noqa: TRY004 - pydantic reports ValueError
    return function


def _network(address: str) -> Hashable:
    """The /64 of an IPv6 address, the IPv4 address of a mapped one, anything else as it is."""
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    if packed.startswith(_MAPPED_IPV4):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return packed[:8]


def _bounded(text: str) -> str:
    """A key of bounded length: a client chooses how long a header is, not how much of it is kept."""
    if len(text) <= _LONGEST:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
