"""Start a proxy and wait for its first answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.peers import Peer, Place
from tests.benchmarks.processes import PROXY_CORE, free_port, running

COMPLETIONS = "/v1/chat/completions"
PROMPT = (
    '{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a helpful assistant."},'
    '{"role":"user","content":"Hello!"}]}'
)
JSON_HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer sk-1234"}


@dataclass(frozen=True)
class Target:
    """A proxy that answers, or the service itself."""

    name: str
    port: int
    session: int | None = None
    prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 0.0
    speaks_json_only: bool = False

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}{path}"


def direct(service: int) -> Target:
    """The service without a proxy: what the others add is counted from here."""
    return Target("direct", service)


@contextmanager
def started(peer: Peer, directory: Path, service: int) -> Iterator[Target]:
    """The proxy on its core, once it has answered."""
    place = Place(directory, free_port(), service)
    env = {
        **peer.env,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(directory),  # what a program writes there goes when it does
        **({peer.service_env: f"http://127.0.0.1:{service}"} if peer.service_env else {}),
    }
    headers = peer.headers(place)
    log = directory / f"{place.port}.log"
    command = peer.command(place)
    began = time.perf_counter()
    with running(command, place.port, core=PROXY_CORE, env=env, log=log) as session:
        _first_answer(place.port, peer.prefix, headers, log)
        seconds = time.perf_counter() - began
        yield Target(peer.name, place.port, session, peer.prefix, headers, seconds, peer.speaks_json_only)


def _first_answer(port: int, prefix: str, headers: Mapping[str, str], log: Path) -> None:
    fields = {**JSON_HEADERS, **headers, "Content-Length": str(len(PROMPT)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"POST {prefix}{COMPLETIONS} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}\r\n{PROMPT}".encode()
    until = time.monotonic() + 60
    answer = b""
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(request)
                answer = client.recv(65536)
        except OSError as error:
            answer = repr(error).encode()
        if answer.startswith(b"HTTP/1.1 200"):
            return
        time.sleep(0.01)
    raise RuntimeError(f"no good answer: {answer!r}\n{log.read_text(errors='replace')[-2000:]}")
