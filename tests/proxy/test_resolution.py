"""A name with several addresses: each is an endpoint, and they come and go with the name."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from asgi_gateway import Gateway
from asgi_gateway.proxy.endpoints import EndpointsApp
from asgi_gateway.runtime import Runtime
from asgi_gateway.testing import (
    Conversation,
    ManualClock,
    Upstream,
    behaviours,
    http_scope,
    request,
    websocket_scope,
)
from asgi_gateway.testing.clock import settle

FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Zone:
    """What the name leads to; nothing is a lookup that fails."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        assert host == "service.test"
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(2, 1, 6, "", (address, port)) for address in self.addresses]


@pytest.fixture
async def zone(monkeypatch: pytest.MonkeyPatch) -> Zone:
    made = Zone(FIRST, SECOND)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", made.getaddrinfo)
    return made


@asynccontextmanager
async def gateway(port: int, clock: ManualClock, **service: Any) -> AsyncIterator[Gateway]:
    data = {
        "url": f"http://service.test:{port}/base",
        "resolve": "all",
        "balance": "round_robin",
        "routes": [{"path": "/*"}],
        **service,
    }
    made = Gateway({"version": 1, "services": {"data": data}}, runtime=Runtime(clock=clock))
    try:
        yield made
    finally:
        for proxy in made._live.proxies:
            await proxy.aclose()


def app_of(gateway: Gateway) -> EndpointsApp:
    [app] = gateway._live.proxies
    assert isinstance(app, EndpointsApp)
    return app


def names(gateway: Gateway) -> list[str]:
    return [endpoint.name.partition(":")[0] for endpoint in app_of(gateway)._endpoints]


async def test_every_address_of_a_name_is_an_endpoint(zone: Zone) -> None:
    async with Upstream(behaviours.answer()) as one:
        async with Upstream(behaviours.answer(), host=SECOND, port=one.port) as other:
            async with gateway(one.port, ManualClock()) as made:
                app_of(made).start()
                await settle()
                assert names(made) == [FIRST, SECOND]
                for _ in range(6):
                    assert (await request(made, path="/x")).status == 200
    assert (len(one.requests), len(other.requests)) == (3, 3)
    assert one.requests[0].header("host") == f"service.test:{one.port}".encode()
    assert one.requests[0].target == b"/base/x"


async def test_until_the_name_is_known_it_is_connected_to(zone: Zone) -> None:
    zone.addresses = []
    async with gateway(80, ManualClock()) as made:
        assert (await request(made, path="/x")).status == 502
        assert names(made) == ["service.test"]


async def test_addresses_come_and_go_and_those_that_stay_keep_what_is_known(zone: Zone) -> None:
    clock = ManualClock()
    async with gateway(80, clock) as made:
        app_of(made).start()
        await settle()
        first, second = app_of(made)._endpoints
        assert (first.weight, second.weight) == (0.5, 0.5)
        zone.addresses = [SECOND, THIRD, FIRST]
        await clock.advance(29)
        assert names(made) == [FIRST, SECOND]
        await clock.advance(1)
        assert names(made) == [FIRST, SECOND, THIRD]
        assert app_of(made)._endpoints[:2] == (first, second)
        zone.addresses = [SECOND]
        await clock.advance(30)
        assert app_of(made)._endpoints == (second,)
        assert second.weight == 1


async def test_a_lookup_that_fails_changes_nothing(zone: Zone, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with gateway(80, clock) as made:
        app_of(made).start()
        await settle()
        zone.addresses = []
        await clock.advance(60)
        assert names(made) == [FIRST, SECOND]
        assert len(caplog.records) == 2


async def test_each_address_is_checked_and_no_longer_when_it_is_gone(zone: Zone) -> None:
    clock = ManualClock()
    check = {"path": "/up", "interval": "7s", "jitter": 0, "unhealthy_threshold": 1}
    async with Upstream(behaviours.answer()) as one:
        async with Upstream(behaviours.answer(500), host=SECOND, port=one.port) as other:
            async with gateway(one.port, clock, health_check=check) as made:
                app_of(made).start()
                await other.wait_for(lambda: other.requests)
                async with asyncio.timeout(5):
                    while [status.state for status in app_of(made).statuses()] != ["usable", "unhealthy"]:
                        await asyncio.sleep(0.001)
                zone.addresses = [FIRST]
                await clock.advance(30)
                asked = len(other.requests)
                await clock.advance(30)
                assert names(made) == [FIRST]
                assert len(other.requests) == asked


async def test_addresses_stand_where_their_name_stood(zone: Zone) -> None:
    entries = [{"url": "http://service.test:80"}, {"url": "http://service.test:81", "weight": 4}]
    async with gateway(80, ManualClock(), url=None, endpoints=entries) as made:
        app_of(made).start()
        await settle()
        found = [(endpoint.name, endpoint.weight) for endpoint in app_of(made)._endpoints]
    assert found == [(f"{FIRST}:80", 0.5), (f"{SECOND}:80", 0.5), (f"{FIRST}:81", 2), (f"{SECOND}:81", 2)]


async def test_a_websocket_to_an_address_that_the_name_has_lost_is_closed_with_the_others(zone: Zone) -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    zone.addresses, clock = [FIRST], ManualClock()
    async with serve_websocket(handler, FIRST, 0) as upstream:
        async with gateway(upstream.sockets[0].getsockname()[1], clock) as made:
            app_of(made).start()
            await settle()
            async with Conversation(made, websocket_scope()) as talk:
                talk.give({"type": "websocket.connect"})
                assert (await talk.next())["type"] == "websocket.accept"
                assert (await talk.next())["text"] == "hello"
                for address in (SECOND, THIRD):
                    zone.addresses = [address]
                    await clock.advance(30)
                assert (names(made), app_of(made).in_flight) == ([THIRD], 1)
                made.end_websockets()
                assert await talk.next() == {"type": "websocket.close", "code": 1001, "reason": ""}
                await talk.finish()
            assert app_of(made).in_flight == 0


@pytest.mark.parametrize("stays", [True, False])
async def test_an_answer_from_such_an_address_has_the_time_that_its_service_has(
    zone: Zone, *, stays: bool
) -> None:
    zone.addresses, clock = [FIRST], ManualClock()
    async with Upstream(behaviours.hang()) as upstream:
        service = {"url": None, "timeouts": {"first_byte": 600}, "routes": [{"path": "/*"}]}
        service |= {"resolve": "all", "balance": "round_robin"}
        named = [{"url": f"http://service.test:{upstream.port}"}]
        async with gateway(upstream.port, clock, **service, endpoints=named) as made:
            app_of(made).start()
            await settle()
            async with Conversation(made, http_scope()) as talk:
                talk.body()
                await upstream.wait_for(lambda: upstream.requests)
                zone.addresses = [SECOND]
                await clock.advance(30)
                app, other = app_of(made), [{"url": "http://127.0.0.1:9"}]
                services = {"data": {**service, "endpoints": other}} if stays else {}
                drain = {"drain_timeout": "10s"}
                await made.reload({"version": 1, "services": services, "reload": drain})
                assert (app in made._live.proxies) is stays
                await clock.advance(9)
                assert upstream.connections.open == 1
                await clock.advance(1)
                assert (await talk.finish()).header("x-gateway-error") == "draining"


async def test_an_address_that_is_new_in_the_middle_of_a_renewal_is_taken_with_the_files_as_they_were(
    zone: Zone, tmp_path: Path
) -> None:
    """In the middle of it the new certificate lies beside the old key."""
    authority = trustme.CA()
    ours, other = authority.issue_cert("gateway.test"), authority.issue_cert("gateway.test")
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    ours.cert_chain_pems[0].write_to_path(str(certificate))
    ours.private_key_pem.write_to_path(str(key))
    tls = {"certificate": str(certificate), "key": str(key)}
    clock = ManualClock()
    zone.addresses = [FIRST]
    async with gateway(443, clock, url="https://service.test:443", tls=tls) as made:
        app_of(made).start()
        await settle()
        other.cert_chain_pems[0].write_to_path(str(certificate))
        zone.addresses = [FIRST, SECOND]
        await clock.advance(30)
        assert names(made) == [FIRST, SECOND]


async def test_a_host_that_is_no_name_is_a_lookup_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with gateway(80, clock, url="http://a..b:80") as made:
        app_of(made).start()
        async with asyncio.timeout(5):
            while len(caplog.records) < 2:
                await asyncio.sleep(0.001)  # the resolver has a thread of its own
                await clock.advance(30)
        assert names(made) == ["a..b"]


async def test_every_address_has_its_connections_opened_ahead_and_the_name_none(zone: Zone) -> None:
    clock = ManualClock()
    zone.addresses = [FIRST]
    async with Upstream(behaviours.answer()) as one:
        async with Upstream(behaviours.answer(), host=SECOND, port=one.port) as other:
            async with gateway(one.port, clock, connections={"warm": 2}) as made:
                await app_of(made).warm()
                await one.wait_for(lambda: one.connections.open == 2)
                zone.addresses = [FIRST, SECOND]
                await clock.advance(30)
                await other.wait_for(lambda: other.connections.open == 2)
                assert (one.connections.total, other.connections.total) == (2, 2)
