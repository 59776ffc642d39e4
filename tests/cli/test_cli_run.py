"""``run``, as a process on a real port."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from asgi_gateway.testing import Upstream, behaviours, run_process

Write = Callable[..., str]

ROOT = str(Path(__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}


def config(url: str, port: int | str = 0) -> str:
    return (
        f"version: 1\nlisten: {{port: {port}}}\nmiddleware: [request_id, access_log]\n"
        f"services: {{data: {{url: '{url}', routes: [{{path: /api/*, strip_prefix: /api}}]}}}}\n"
    )


def failed(*arguments: str, **env: str) -> str:
    """Run a command that fails and return the lines that say why."""
    ended = subprocess.run(
        [sys.executable, "-m", "asgi_gateway", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=ENVIRONMENT | env,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended.stderr


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_what_it_serves_serves_it_and_ends_cleanly(write: Write, how: signal.Signals) -> None:
    async with Upstream(behaviours.answer(body=b"here")) as upstream:
        path = write(config(upstream.url))
        async with run_process(["run", path], env=ENVIRONMENT) as gateway:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"{gateway.url}/api/thing")
            code = await gateway.stop(how)
    assert answer.text == "here"
    assert upstream.requests[0].target == b"/thing"
    assert code == 0
    first, second, *rest = gateway.output
    assert first.endswith(f" on {gateway.url} from {path}")
    assert second.split() == ["/api/*", "data", upstream.url]
    assert all(line.startswith("{") for line in rest), "nothing but JSON lines after the start-up"


async def test_options_win_over_the_file(write: Write, taken: int) -> None:
    async with Upstream(behaviours.answer(body=b"here")) as upstream:
        path = write(config(upstream.url, taken))
        arguments = ["run", path, "--host", "127.0.0.1", "--port", "0", "--log-level", "error"]
        async with (
            run_process(arguments, env=ENVIRONMENT) as gateway,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            assert (await client.get(f"{gateway.url}/api/thing")).status_code == 200
    assert gateway.port != taken
    assert not [line for line in gateway.output if '"level":"info"' in line]


async def test_the_file_falls_back_to_the_environment(write: Write) -> None:
    path = write(config("http://127.0.0.1:9"), "other.yaml")
    environment = ENVIRONMENT | {"ASGI_GATEWAY_CONFIG": path}
    async with run_process(["run"], env=environment) as gateway:
        assert gateway.output[0].endswith(f"from {path}")


async def test_and_then_to_gateway_yaml(write: Write) -> None:
    folder = str(Path(write(config("http://127.0.0.1:9"))).parent)
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "ASGI_GATEWAY_CONFIG"}
    async with run_process(["run"], env=environment, cwd=folder) as gateway:
        assert gateway.output[0].endswith("from gateway.yaml")


async def test_several_workers_share_the_port(write: Write) -> None:
    async with Upstream(behaviours.answer(body=b"here")) as upstream:
        path = write(config(upstream.url))
        async with run_process(["run", path, "--workers", "2"], env=ENVIRONMENT) as gateway:
            for _ in range(8):
                async with httpx.AsyncClient(trust_env=False) as client:
                    assert (await client.get(f"{gateway.url}/api/thing")).text == "here"
            code = await gateway.stop(signal.SIGTERM)
    assert code == 0
    assert any("each of the 2 workers" in line for line in gateway.output)
    assert not any("Traceback" in line for line in gateway.output)


def test_a_port_in_use_is_one_line(write: Write, taken: int) -> None:
    said = failed("run", write(config("http://127.0.0.1:9", taken)))
    assert said == f"asgi-gateway: cannot listen on 127.0.0.1:{taken}: the port is in use\n"


def test_a_missing_file_is_one_line() -> None:
    said = failed("run", "/nowhere/gateway.yaml")
    assert said == "/nowhere/gateway.yaml: cannot read the file: No such file or directory\n"


def test_mistakes_are_told_and_nothing_is_started(write: Write, taken: int) -> None:
    text = config("http://127.0.0.1:9", taken).replace("request_id", "reqest_id").replace("/api/*", "api")
    said = failed("run", write(text), "--workers", "2").splitlines()
    assert len(said) == 2
    assert "did you mean 'request_id'?" in said[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_app_that_fails_to_start_is_one_line(write: Write, tmp_path: Path, workers: str) -> None:
    (tmp_path / "broken.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    path = write(
        "version: 1\nlisten: {port: 0}\nservices: {mine: {app: 'broken:app', routes: [{path: /*}]}}\n"
    )
    said = failed("run", path, "--workers", workers, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert said.splitlines()[-1] == "asgi-gateway: the start-up failed, the log says why"


async def test_a_hangup_reloads_or_says_every_mistake(write: Write) -> None:
    async with (
        Upstream(behaviours.answer(body=b"one")) as one,
        Upstream(behaviours.answer(body=b"two")) as two,
    ):
        path = write(config(one.url))
        async with (
            run_process(["run", path], env=ENVIRONMENT) as gateway,
            httpx.AsyncClient(trust_env=False) as client,
        ):
            assert (await client.get(f"{gateway.url}/api/thing")).text == "one"
            write(config(two.url))
            gateway.process.send_signal(signal.SIGHUP)
            await gateway.wait_for_line("the configuration was reloaded")
            assert (await client.get(f"{gateway.url}/api/thing")).text == "two"
            write(config(one.url).replace("request_id", "reqest_id").replace("/api/*", "api"))
            gateway.process.send_signal(signal.SIGHUP)
            await gateway.wait_for_line("the one before is kept")
            await gateway.wait_for_line("did you mean 'request_id'")
            await gateway.wait_for_line("routes.*path")
            assert (await client.get(f"{gateway.url}/api/thing")).text == "two"
            code = await gateway.stop()
    assert code == 0


async def test_a_hangup_during_the_start_ends_nothing(write: Write, tmp_path: Path) -> None:
    """Its default is the end of the process, and the apps of a gateway may take seconds to start."""
    (tmp_path / "impatient.py").write_text(
        "import os, signal\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.shutdown.complete'})\n"
    )
    path = write(
        "version: 1\nlisten: {port: 0}\nservices: {mine: {app: 'impatient:app', routes: [{path: /*}]}}\n"
    )
    async with run_process(["run", path], env={**ENVIRONMENT, "PYTHONPATH": f"{ROOT}:{tmp_path}"}) as gateway:
        assert await gateway.stop() == 0
