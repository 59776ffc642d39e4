"""Scripts that a store runs as one step (Lua, as Valkey and Redis have it)."""

from __future__ import annotations

import hashlib
from asyncio import Future
from pathlib import Path
from typing import Any

from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.stores.links import Link


class Script:
    """A Lua file beside this module. It is sent by its digest, and whole where the store does not know it."""

    def __init__(self, name: str) -> None:
        self._text = Path(__file__).with_name(name).read_bytes()
        self._digest = hashlib.sha1(self._text, usedforsecurity=False).hexdigest().encode()

    async def run(self, link: Link, keys: tuple[bytes, ...], arguments: tuple[bytes, ...]) -> Any:
        """What the script says. Raises `StoreUnavailable`."""
        rest = (b"%d" % len(keys), *keys, *arguments)
        try:
            return await link.send(keys[0], b"EVALSHA", self._digest, *rest)
        except StoreUnavailable as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await link.send(keys[0], b"EVAL", self._text, *rest)

    def post(self, link: Link, keys: tuple[bytes, ...], arguments: tuple[bytes, ...]) -> Future[Any]:
        """The same at once, of a store that knows the script already: nobody has to wait for what it says."""
        return link.post(keys[0], b"EVALSHA", self._digest, b"%d" % len(keys), *keys, *arguments)
