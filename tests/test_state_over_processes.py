"""State that workers and gateways share, with real processes."""

import asyncio
import contextlib
import signal
import statistics
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx

from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.testing import Connection, Request, Upstream, behaviours, run_process
from tests.cli.test_cli_run import ENVIRONMENT


def config(url: str, more: str = "") -> str:
    return (
        f"version: 1\nlisten: {{port: 0}}\n{more}middleware: [{{rate_limit: {{limit: 100/hour}}}}]\n"
        f"services: {{data: {{url: '{url}', routes: [{{path: /*}}]}}}}\n"
    )


async def statuses(urls: list[str], count: int) -> Counter[int]:
    """`count` requests, a hundred at a time, each over a connection of its own."""
    gate = asyncio.Semaphore(100)
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:

        async def one(number: int) -> int:
            async with gate:
                return (await client.get(urls[number % len(urls)])).status_code

        return Counter(await asyncio.gather(*map(one, range(count))))


async def test_two_workers_share_one_limit_exactly_in_a_valkey_of_their_own(tmp_path: Path):
    async with Upstream(behaviours.answer()) as upstream:
        path = tmp_path / "gateway.yaml"
        path.write_text(config(upstream.url, "state: {url: embedded, timeout: 1}\n"))
        environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
        async with run_process(["run", str(path), "--workers", "2"], env=environment) as gateway:
            assert await statuses([gateway.url], 1000) == {200: 100, 429: 900}
            assert len(list(tmp_path.glob("asgi-gateway-*/state.sock"))) == 1
            assert await gateway.stop(signal.SIGTERM) == 0
        assert not list(tmp_path.glob("asgi-gateway-*"))


async def test_two_workers_settle_what_the_answers_say_that_they_cost(tmp_path: Path):
    """Of 5000 each answer takes 200 for good, so 1000 more fit until 21 have passed."""
    kind = [(b"Content-Type", b"application/json")]
    async with Upstream(behaviours.answer(body=b'{"usage": {"total": 200}}', headers=kind)) as upstream:
        path = tmp_path / "gateway.yaml"
        limit = "limit: 5000/hour, strategy: fixed_window, cost: 1000, cost_from: 'json:usage.total'"
        path.write_text(
            config(upstream.url, "state: {url: embedded, timeout: 1}\n").replace("limit: 100/hour", limit)
        )
        environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
        async with run_process(["run", str(path), "--workers", "2"], env=environment) as gateway:
            passed = refused = 0
            while refused < 10:  # in a row: one worker may be asked before the other has settled
                if await statuses([gateway.url], 1) == {200: 1}:
                    passed, refused = passed + 1, 0
                else:
                    refused += 1
            assert passed == 21
            assert len(upstream.requests) == 21


@contextlib.asynccontextmanager
async def two_gateways(path: Path, text: Callable[[str], str]) -> AsyncIterator[list[str]]:
    """The URLs of two gateways on ports of their own, two workers each, that share one Valkey."""
    server = EmbeddedServer()
    server.start()
    try:
        path.write_text(text(f"state: {{url: '{server.url}', timeout: 1, prefix: '{uuid.uuid4().hex}'}}\n"))
        arguments = ["run", str(path), "--workers", "2"]
        async with (
            run_process(arguments, env=ENVIRONMENT) as one,
            run_process(arguments, env=ENVIRONMENT) as two,
        ):
            yield [one.url, two.url]
    finally:
        server.stop()


async def test_two_gateways_of_two_workers_share_one_limit_exactly(tmp_path: Path):
    async with Upstream(behaviours.answer()) as upstream:
        async with two_gateways(tmp_path / "gateway.yaml", lambda state: config(upstream.url, state)) as urls:
            assert await statuses(urls, 1000) == {200: 100, 429: 900}


async def delays_until_open(urls: list[str], times: int) -> list[float]:
    """How long after one worker has opened its circuit the last of all has, each of some times."""
    async with contextlib.AsyncExitStack() as stack:
        # Each has one connection, so one worker; there are so many that each worker has some.
        one_each = httpx.Limits(max_connections=1)
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(trust_env=False, base_url=url, timeout=60, limits=one_each)
            )
            for url in urls * 5
        ]

        async def time_of(client: httpx.AsyncClient, status: int) -> float:
            async with asyncio.timeout(30):
                while (await client.get("/well")).status_code != status:
                    await asyncio.sleep(0.001)
            return time.monotonic()

        delays = []
        for turn in range(times):
            await asyncio.gather(*(time_of(client, 200) for client in clients))
            assert (await clients[turn % len(clients)].get("/failing")).status_code == 500
            began = time.monotonic()
            delays.append(max(await asyncio.gather(*(time_of(client, 503) for client in clients))) - began)
        return delays


async def test_a_circuit_that_one_worker_opens_is_soon_open_in_all(tmp_path: Path):
    async def answer(request: Request, connection: Connection) -> None:
        await behaviours.answer(500 if request.target == b"/failing" else 200)(request, connection)

    async with Upstream(answer) as upstream:

        def text(state: str) -> str:
            breaker = "{circuit_breaker: {failure_threshold: 1, break_duration: 500ms, shared: true}}"
            return (
                f"version: 1\nlisten: {{port: 0}}\n{state}services: {{data: {{url: '{upstream.url}', "
                f"routes: [{{path: /*}}], middleware: [{breaker}]}}}}\n"
            )

        async with two_gateways(tmp_path / "gateway.yaml", text) as urls:
            delays = await delays_until_open(urls, 5)
    assert statistics.median(delays) < 0.1, delays


async def test_memory_with_workers_is_a_loud_warning(tmp_path: Path):
    path = tmp_path / "gateway.yaml"
    path.write_text(config("http://127.0.0.1:9", "state: memory://\n"))
    async with run_process(["run", str(path), "--workers", "2"], env=ENVIRONMENT) as gateway:
        pass
    assert any(line.startswith("WARNING: with state: memory://") for line in gateway.output)


async def test_the_embedded_server_dies_with_a_gateway_that_is_killed(tmp_path: Path):
    path = tmp_path / "gateway.yaml"
    path.write_text(config("http://127.0.0.1:9", "state: embedded\n"))
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
    async with run_process(["run", str(path)], env=environment) as gateway:
        (place,) = tmp_path.glob("asgi-gateway-*/state.sock")
        assert place.parent.stat().st_mode & 0o777 == 0o700
        gateway.process.kill()
        async with asyncio.timeout(10):
            while place.exists():
                await asyncio.sleep(0.01)
