"""How a connection comes about: names, addresses, families, Unix sockets."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from asgi_gateway import Gateway
from asgi_gateway.clock import SystemClock
from asgi_gateway.proxy import dial
from asgi_gateway.proxy.dial import interleaved, race
from asgi_gateway.proxy.transport import Origin, UpstreamError, parse_url
from asgi_gateway.testing import ManualClock, Upstream, behaviours, refused_url, request, settle
from tests.proxy.conftest import MakeTransport, fetch

V4, V6 = socket.AF_INET, socket.AF_INET6


class Names:
    """Name resolution as a test wants it; `asked` counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
        self.addresses = list(addresses)
        self.asked = 0
        self.hosts: list[str] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self)

    async def __call__(self, host: str, port: int, **_: object) -> list[tuple]:
        self.asked += 1
        self.hosts.append(host)
        return [
            (V6 if ":" in ip else V4, socket.SOCK_STREAM, 6, "", (ip, port)) for ip, port in self.addresses
        ]


def test_families_take_turns_beginning_with_the_systems_favourite() -> None:
    addresses = [
        (V6, ("a", 1)),
        (V6, ("b", 1)),
        (V6, ("b", 1)),
        (V4, ("c", 1)),
        (V6, ("d", 1)),
        (V4, ("e", 1)),
    ]
    assert [address[1][0] for address in interleaved(addresses)] == ["a", "c", "b", "e", "d"]
    assert interleaved([]) == []


async def test_every_address_is_tried(make_http1: MakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_url() as url:
        refused = int(url.rpartition(":")[2])
        async with Upstream(behaviours.answer()) as upstream:
            names = Names(
                monkeypatch, ("127.0.0.1", refused), ("127.0.0.2", refused), ("127.0.0.1", upstream.port)
            )
            async with make_http1(0, origin=Origin("service.example", 80)) as transport:
                assert await fetch(transport) == b"ok"
    assert names.asked == 1


async def test_the_last_error_is_reported(make_http1: MakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_url() as url:
        refused = int(url.rpartition(":")[2])
        Names(monkeypatch, ("127.0.0.1", refused), ("127.0.0.2", refused))
        async with make_http1(0, origin=Origin("service.example", 80)) as transport:
            with pytest.raises(UpstreamError, match=r"127\.0\.0\.2") as caught:
                await fetch(transport)
    assert (caught.value.failure.code, caught.value.failure.request_sent) == ("upstream_connect", False)


async def test_a_name_is_resolved_anew_for_every_connection(
    make_http1: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Upstream(behaviours.answer(body=b"old")) as old,
        Upstream(behaviours.answer(body=b"new")) as new,
    ):
        names = Names(monkeypatch, ("127.0.0.1", old.port))
        async with make_http1(
            0, origin=Origin("service.example", 80), connections={"max_requests": 2}
        ) as transport:
            assert [await fetch(transport) for _ in range(2)] == [b"old", b"old"]
            assert names.asked == 1
            names.addresses = [("127.0.0.1", new.port)]
            assert await fetch(transport) == b"new"


async def test_who_asks_during_a_lookup_shares_it(
    make_http1: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()

    class SlowNames(Names):
        async def __call__(self, *args: Any, **options: Any) -> list[tuple]:
            found = await super().__call__(*args, **options)
            await answered.wait()
            return found

    async with Upstream(behaviours.answer()) as upstream:
        names = SlowNames(monkeypatch, ("127.0.0.1", upstream.port))
        async with make_http1(0, origin=Origin("service.example", 80)) as transport:
            impatient, patient = (asyncio.ensure_future(fetch(transport)) for _ in range(2))
            await settle()
            impatient.cancel()
            await settle()
            answered.set()
            assert await patient == b"ok"
            assert impatient.cancelled()
    assert names.asked == 1


async def test_an_unknown_name_is_a_failed_connection(make_http1: MakeTransport) -> None:
    for host in ("nowhere.invalid", "x" * 64 + ".invalid", "a..b"):
        async with make_http1(0, origin=Origin(host, 80)) as transport:
            with pytest.raises(UpstreamError) as caught:
                await fetch(transport)
            assert caught.value.failure.kind == "connect"
            assert transport.in_flight == 0


class Race:
    """Attempts that end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts: dict[str, asyncio.Future[socket.socket]] = {}
        self.cancelled: list[str] = []
        monkeypatch.setattr(dial, "_connected", self.connect)

    async def connect(self, address) -> socket.socket:
        self.attempts[address[1][0]] = future = asyncio.get_running_loop().create_future()
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled.append(address[1][0])
            raise


ADDRESSES = [(V4, (name, 80)) for name in "abc"]


async def test_each_address_has_a_head_start_and_the_first_to_connect_wins(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Race(monkeypatch)
    winner = asyncio.ensure_future(race(ADDRESSES, clock))
    await clock.advance(0.24)
    assert list(attempts.attempts) == ["a"]
    await clock.advance(0.01)
    assert list(attempts.attempts) == ["a", "b"]
    await clock.advance(0.25)
    assert list(attempts.attempts) == ["a", "b", "c"]
    with socket.socket() as opened:
        attempts.attempts["a"].set_result(opened)
        assert await winner is opened
    assert sorted(attempts.cancelled) == ["b", "c"]


async def test_a_failure_ends_the_head_start(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Race(monkeypatch)
    winner = asyncio.ensure_future(race(ADDRESSES, clock))
    await settle()
    attempts.attempts["a"].set_exception(ConnectionRefusedError())
    await settle()
    assert list(attempts.attempts) == ["a", "b"]
    winner.cancel()
    await asyncio.wait([winner])
    assert attempts.cancelled == ["b"]


async def test_two_that_connect_at_once_leave_one_open(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Race(monkeypatch)
    winner = asyncio.ensure_future(race(ADDRESSES[:2], clock))
    await clock.advance(0.3)
    opened = {"a": socket.socket(), "b": socket.socket()}
    for name, each in opened.items():
        attempts.attempts[name].set_result(each)
    won = await winner
    assert [each is won for each in opened.values() if each.fileno() != -1] == [True]
    won.close()


async def test_a_black_hole_does_not_hold_up_the_next_address(
    make_http1: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener whose queue is full answers nobody: as near as one machine gets to a dead address."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        async with Upstream(behaviours.answer()) as upstream:
            Names(monkeypatch, hole.getsockname(), ("127.0.0.1", upstream.port))
            async with make_http1(0, origin=Origin("service.example", 80)) as transport:
                assert await asyncio.wait_for(fetch(transport), 2) == b"ok"
            async with make_http1(
                0, origin=Origin(*hole.getsockname()), timeouts={"connect": 0.1}
            ) as transport:
                with pytest.raises(UpstreamError) as caught:
                    await fetch(transport)
        for filler in fillers:
            filler.close()
    assert (caught.value.failure.code, caught.value.failure.request_sent) == ("upstream_timeout", False)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_both_event_loops_dial(make_http1: MakeTransport, tmp_path: Path, loop: Callable) -> None:
    async def dials() -> None:
        path = str(tmp_path / "app.sock")
        async with Upstream(behaviours.answer()) as upstream:
            for host in ("127.0.0.1", "localhost"):
                async with make_http1(0, origin=Origin(host, upstream.port)) as transport:
                    assert await fetch(transport) == b"ok"
            with refused_url() as url:
                refused = int(url.rpartition(":")[2])
                addresses = [(V4, ("127.0.0.1", refused)), (V4, ("127.0.0.1", upstream.port))]
                (await race(addresses, SystemClock())).close()
        async with Upstream(behaviours.answer(), path=path) as upstream:
            async with make_http1(0, origin=parse_url(upstream.url)[0]) as transport:
                assert await fetch(transport) == b"ok"

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(dials())


@pytest.mark.parametrize("transport", ["http1", "httpx"])
async def test_a_unix_socket_is_a_service_like_any_other(tmp_path: Path, transport: str) -> None:
    path = str(tmp_path / "app.sock")
    quoted = path.replace("/", "%2F")
    services = {
        "plain": {"url": f"unix:{path}", "routes": [{"path": "/plain/*"}], "transport": transport},
        "based": {
            "url": f"http+unix://{quoted}/base",
            "routes": [{"path": "/based/*"}],
            "transport": transport,
        },
    }
    async with Upstream(behaviours.answer(), path=path) as upstream:
        gateway = Gateway({"version": 1, "services": services})
        for name in services:
            answer = await request(gateway, path=f"/{name}/x")
            assert (answer.status, answer.body) == (200, b"ok")
        for proxy in gateway._live.proxies:
            await proxy.aclose()
    assert [(sent.target, sent.all("host")) for sent in upstream.requests] == [
        (b"/plain/x", [b"localhost"]),
        (b"/base/based/x", [b"localhost"]),
    ]


async def test_a_missing_unix_socket_is_a_failed_connection(make_http1: MakeTransport) -> None:
    async with make_http1(0, origin=parse_url("unix:/nowhere/app.sock")[0]) as transport:
        with pytest.raises(UpstreamError) as caught:
            await fetch(transport)
        assert repr(transport) == "<Http1Transport unix:/nowhere/app.sock 0 in flight, 0 idle, 0 waiting>"
    assert caught.value.failure.code == "upstream_connect"


def test_urls_are_read() -> None:
    assert parse_url("http://a") == (Origin("a", 80), "")
    assert parse_url("https://[::1]:8443/x") == (Origin("::1", 8443, tls=True), "/x")
    assert parse_url("unix:///run/a.sock") == parse_url("unix:/run/a.sock")
    for wrong in ("unix:a.sock", "unix://host/a.sock", "http+unix:///a", "http+unix://a.sock/", "unix:"):
        with pytest.raises(ValueError, match="expected a URL"):
            parse_url(wrong)


async def test_an_address_in_a_zone_is_what_is_resolved_and_not_its_name(
    make_http1: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream(behaviours.answer()) as upstream:
        names = Names(monkeypatch, ("127.0.0.1", upstream.port))
        async with make_http1(0, origin=Origin("service.example", 80, address="fe80::1%eth0")) as transport:
            await fetch(transport)
    assert names.hosts == ["fe80::1%eth0"]
