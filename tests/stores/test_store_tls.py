"""A store over TLS, with a password: real certificates, a real server behind a door that speaks TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trustme

from asgi_gateway.errors import StoreUnavailable
from asgi_gateway.events import Event
from asgi_gateway.policies.limit import COUNTERS, Limit
from asgi_gateway.stores.store import Store
from tests.stores.servers import running

Open = Callable[..., Store]
LIMIT = [Limit(COUNTERS["fixed_window"], 100, 60)]


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """The Valkey of this build has no TLS of its own, so something in front of it speaks it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", behind.port)
        await asyncio.gather(carry(reader, back), carry(there, writer))

    with running(tmp_path / "data", "--requirepass", "s3cret") as behind:
        door = await asyncio.start_server(opened, "localhost", 0, ssl=context, family=2)
        yield door.sockets[0].getsockname()[1]
        door.close()


async def test_it_counts_over_tls(port: int, tmp_path: Path, open_store: Open):
    store = open_store(f"rediss://:s3cret@localhost:{port}/0?ssl_ca_certs={tmp_path}/ca.pem", timeout=5)
    assert (await store.limiter("one", LIMIT, 1)("a")).remaining == 99
    assert "s3cret" not in repr(store)
    await store.aclose()


async def test_a_server_that_nobody_vouches_for_is_not_believed(port: int, open_store: Open):
    store = open_store(f"rediss://:s3cret@localhost:{port}/0", timeout=5)
    with pytest.raises(StoreUnavailable):
        await store.limiter("one", LIMIT, 1)("a")


async def test_a_wrong_password_is_a_failure_that_does_not_tell_it(
    port: int, tmp_path: Path, open_store: Open, events: list[Event]
):
    store = open_store(f"rediss://:wr0ng@localhost:{port}/0?ssl_ca_certs={tmp_path}/ca.pem", timeout=5)
    with pytest.raises(StoreUnavailable):
        await store.limiter("one", LIMIT, 1)("a")
    assert events
    assert "wr0ng" not in repr(events)
