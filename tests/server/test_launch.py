"""The server around any app: addresses, settings, and how a process ends."""

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from asgi_gateway.config import parse_config
from asgi_gateway.server import (
    CannotStart,
    HttpProtocol,
    WebSocketLimits,
    bind,
    close,
    server_config,
    url_of,
)
from asgi_gateway.testing import ScriptedApp

SCRIPT = """
import sys
from asgi_gateway.server import CannotStart, Server, bind, end_on_signals, server_config, url_of

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if "fail" in sys.argv:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            raise RuntimeError("no database")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("closed", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

end_on_signals()
sockets = bind("127.0.0.1", 0)
try:
    Server(server_config(app, {"version": 1}), lambda: print(url_of(sockets), flush=True)).run(sockets)
except CannotStart as error:
    sys.exit(str(error))
"""

QUIET: dict[str, Any] = {"version": 1, "disable_existing_loggers": False}
"""A configuration of logging that leaves the loggers of other tests as they are."""


@contextmanager
def served(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_the_app_and_ends_the_process_with_0(number: signal.Signals) -> None:
    with served() as process:
        url = process.stdout.readline().strip()
        answer = httpx.get(url, trust_env=False)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "closed\n", "")
    assert answer.text == "served"
    assert len(answer.headers.get_list("date")) == 1
    assert "server" not in answer.headers


def test_a_failed_start_up_is_one_line() -> None:
    with served("fail") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "the start-up failed, the log says why"
    assert "Traceback" not in err


def test_a_port_in_use_cannot_be_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(CannotStart, match=f"cannot listen on 127.0.0.1:{number}: the port is in use"):
            bind("127.0.0.1", number)


def test_an_unknown_host_cannot_be_bound() -> None:
    with pytest.raises(CannotStart, match="cannot listen on no-such-host"):
        bind("no-such-host.invalid", 0)


def test_a_free_port_is_named_by_the_url() -> None:
    sockets = bind("127.0.0.1", 0)
    try:
        assert url_of(sockets) == f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        assert sockets[0].getsockname()[1] != 0
    finally:
        close(sockets)


def test_every_address_of_a_name_is_bound_to_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_addresses(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.1", "127.0.0.2")
        ]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    sockets = bind("both", 0)
    try:
        hosts, ports = zip(*(listener.getsockname() for listener in sockets), strict=True)
        assert hosts == ("127.0.0.1", "127.0.0.2")
        assert len(set(ports)) == 1
    finally:
        close(sockets)


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_an_address_that_the_system_has_not_is_left_out_where_there_is_another(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """``localhost`` is ::1 too, by the hosts file, where IPv6 is switched off."""

    def two_addresses(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *rest: Any, **named: Any) -> None:
            if family == socket.AF_INET6 and number == errno.EAFNOSUPPORT:
                raise OSError(number, os.strerror(number))
            super().__init__(family, *rest, **named)

        def bind(self, address: Any) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(number, os.strerror(number))
            super().bind(address)

    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    sockets = bind("localhost", 0)
    try:
        assert [listener.getsockname()[0] for listener in sockets] == ["127.0.0.1"]
    finally:
        close(sockets)


def test_an_address_that_the_system_has_not_cannot_be_bound_alone() -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on 192.0.2.1:0: cannot assign requested address"):
        bind("192.0.2.1", 0)


def test_the_server_is_set_up_for_a_proxy() -> None:
    config = server_config(ScriptedApp(), QUIET)
    assert config.timeout_keep_alive > 5
    assert (config.proxy_headers, config.server_header, config.access_log) == (False,) * 3
    assert config.http is HttpProtocol
    assert config.lifespan == "on"


def limits(*services: dict[str, Any]) -> WebSocketLimits:
    named = {
        f"s{number}": {"routes": [{"path": f"/{number}/*"}], **service}
        for number, service in enumerate(services)
    }
    return WebSocketLimits.of(parse_config({"version": 1, "services": named}))


def test_the_service_that_allows_most_decides_what_the_server_lets_through() -> None:
    url = "http://localhost:8000"
    small = {"url": url, "websocket": {"max_message": "1MiB"}, "timeouts": {"idle": "5s"}}
    large = {"url": url, "websocket": {"max_message": "64MiB"}, "timeouts": {"idle": "10m"}}
    assert limits(small) == WebSocketLimits(2**20, 5 + 20)
    assert limits(small, large) == WebSocketLimits(64 * 2**20, 600 + 20)
    assert limits(small, {"app": "starlette.responses:Response"}) == WebSocketLimits(16 * 2**20, 60 + 20)
    assert limits() == WebSocketLimits()


def test_the_limits_are_uvicorns() -> None:
    config = server_config(ScriptedApp(), QUIET, websocket=WebSocketLimits(5, 6.0))
    assert (config.ws_max_size, config.ws_ping_timeout) == (5, 6.0)
