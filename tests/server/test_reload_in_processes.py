"""Reload of a running gateway: by change, by signal and by request, in one process and in several."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from asgi_gateway.cli.run import admin_path
from asgi_gateway.config import Files, load_config
from asgi_gateway.gateway import Gateway
from asgi_gateway.server import AdminSocket, Settings, Supervisor, ask
from asgi_gateway.stores import embedded
from asgi_gateway.testing import RawClient, Upstream, behaviours
from tests.load import open_files, resident_kilobytes, under_load
from tests.server.running import ENVIRONMENT, Running, running

NO_WATCH = "{watch: false}"
ANSWER_ONE, ANSWER_TWO = behaviours.answer(body=b"one"), behaviours.answer(body=b"two")


async def get(gateway: Running, path: str = "/") -> str:
    """The body, over a connection of its own."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(gateway.process.url + path)).text


async def test_a_hundred_reloads_under_load_lose_no_request_and_leak_nothing(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one, Upstream(ANSWER_TWO) as two:
        async with running(tmp_path, one.url, reload=NO_WATCH) as gateway:
            pid = gateway.process.process.pid

            async def reloads(times: int) -> None:
                for number in range(times):
                    gateway.write((two, one)[number % 2].url)
                    assert await gateway.reload() == []

            async def settled() -> tuple[int, int, int]:
                """Kilobytes, descriptors and tasks, once what was removed is closed."""
                await gateway.until(lambda reports: reports[0]["tasks"] <= tasks)
                return resident_kilobytes(pid), open_files(pid), (await gateway.workers())[0]["tasks"]

            tasks = (await gateway.workers())[0]["tasks"]
            async with under_load(gateway.process.port, clients=4) as load:
                await reloads(20)
            before = await settled()
            async with under_load(gateway.process.port, clients=4) as more:
                await reloads(100)
            after = await settled()
    outcomes = load.outcomes + more.outcomes
    assert set(outcomes) == {"200"}
    assert min(more.bodies.values()) > 50
    assert after[0] - before[0] < 3000
    assert after[1] - before[1] <= 6
    assert after[2] <= tasks


async def test_a_change_of_the_file_is_served_within_two_seconds(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one, Upstream(ANSWER_TWO) as two:
        async with running(tmp_path, one.url) as gateway:
            assert await get(gateway) == "one"
            begun = time.monotonic()
            gateway.write(two.url)
            while await get(gateway) != "two":
                await asyncio.sleep(0.02)
            assert time.monotonic() - begun < 2
            gateway.file.write_text(gateway.file.read_text().replace("health", "helth"))
            await gateway.process.wait_for_line("did you mean 'health'")
            report = await gateway.ask("GET /status")
            assert report["generation"] == 2
            assert report["last_reload"]["ok"] is False
            assert await get(gateway) == "two"
            gateway.write(one.url)
            await gateway.until(lambda reports: reports[0]["generation"] == 3)
            assert await get(gateway) == "one"


async def test_a_symbolic_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes replaces what a ConfigMap holds: the link of the folder is swapped."""
    async with Upstream(ANSWER_ONE) as one, Upstream(ANSWER_TWO) as two:
        for name, upstream in (("first", one), ("second", two)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "more.yaml").write_text(
                f"services: {{more: {{url: '{upstream.url}', routes: [{{path: /more}}]}}}}"
            )
        (tmp_path / "data").symlink_to("first")
        include = "[data/more.yaml]"
        async with running(tmp_path, one.url, include=include, reload="{interval: 100ms}") as gateway:
            assert await get(gateway, "/more") == "one"
            (tmp_path / "next").symlink_to("second")
            (tmp_path / "next").rename(tmp_path / "data")
            await gateway.until(lambda reports: reports[0]["generation"] == 2)
            assert await get(gateway, "/more") == "two"


async def test_every_worker_reloads_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one, Upstream(ANSWER_TWO) as two:
        async with running(tmp_path, one.url, workers=2, reload=NO_WATCH) as gateway:
            assert {await get(gateway) for _ in range(8)} == {"one"}
            gateway.write(two.url)
            gateway.process.process.send_signal(signal.SIGHUP)
            await gateway.until(lambda reports: {one["generation"] for one in reports} == {2})
            assert {await get(gateway) for _ in range(16)} == {"two"}
            gateway.file.write_text("version: 2\n")
            assert any("version" in mistake for mistake in await gateway.reload())
            pids = {report["pid"] for report in await gateway.workers()}
            killed = min(pids)
            os.kill(killed, signal.SIGKILL)
            await gateway.until(lambda reports: len({report["pid"] for report in reports} - {killed}) == 2)
            await gateway.process.wait_for_line(f"worker {killed} ended")
            kept = (pids - {killed}).pop()
            os.kill(kept, signal.SIGKILL)
            await gateway.until(lambda reports: not {report["pid"] for report in reports} & pids)
            # The file is broken, but what serves is what was good.
            assert {await get(gateway) for _ in range(8)} == {"two"}
            assert await gateway.process.stop(signal.SIGTERM) == 0


async def test_the_first_limit_is_refused_where_workers_could_not_count_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, workers that have nothing to count start all the same."""
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    path, files = tmp_path / "gateway.yaml", Files()
    path.write_text("version: 1\n")
    gateway = Gateway(load_config(str(path), files=files))
    supervisor = Supervisor(Settings(str(path)), gateway, files, 2, [])
    path.write_text("version: 1\nmiddleware: [health]\n")
    assert (await supervisor.reloader.reload()).mistakes == ()
    path.write_text("version: 1\nmiddleware: [rate_limit]\n")
    [mistake] = (await supervisor.reloader.reload()).mistakes
    assert "extra 'embedded'" in mistake


async def test_reloads_of_workers_under_load_lose_nothing(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one, Upstream(ANSWER_TWO) as two:
        async with running(tmp_path, one.url, workers=2, reload=NO_WATCH) as gateway:
            async with under_load(gateway.process.port) as load:
                for number in range(20):
                    gateway.write((two, one)[number % 2].url)
                    assert await gateway.reload() == []
    assert set(load.outcomes) == {"200"}
    assert min(load.bodies.values()) > 20


async def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one:
        async with running(tmp_path, one.url, workers=2) as gateway:
            pids = [report["pid"] for report in await gateway.workers()]
            gateway.process.process.kill()
            async with asyncio.timeout(10):
                while any(_runs(pid) for pid in pids):
                    await asyncio.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


async def command(*arguments: str) -> tuple[int, str]:
    """The exit code of a command and all it wrote."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "asgi_gateway", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
        env=ENVIRONMENT,
    )
    return ended.returncode, ended.stdout


async def test_the_command_reloads_and_says_what_came_of_it(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one, Upstream(ANSWER_TWO) as two:
        async with running(tmp_path, one.url, reload=NO_WATCH) as gateway:
            path = str(gateway.file)
            assert stat.S_IMODE(gateway.socket.stat().st_mode) == 0o600
            gateway.write(two.url)
            assert await command("reload", path) == (0, f"{path}: reloaded, generation 2\n")
            assert await get(gateway) == "two"
            gateway.write(one.url, more="  other: {url: nonsense}")
            code, said = await command("reload", path)
            assert code == 1
            assert f"{path}:" in said
            assert await get(gateway) == "two"
            gateway.write(one.url, more="  other: {url: '${NOT_SET_HERE:-http://127.0.0.1:9}'}")
            code, said = await command("reload", path, "--socket", str(gateway.socket))
            assert code == 1
            assert said.startswith("asgi-gateway: the one before is kept:\n")
            assert "services.other: nothing leads to it" in said
            assert (await gateway.ask("GET /elsewhere"))["there_is"] == ["POST /reload", "GET /status"]
        assert not gateway.socket.exists()
        gateway.write(one.url)
        code, said = await command("reload", path)
        assert (code, said.count("\n")) == (1, 1)
        assert "no gateway answers at" in said


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_command_names_what_takes_a_restart(tmp_path: Path, workers: int) -> None:
    async with running(tmp_path, "http://127.0.0.1:9", workers=workers, reload=NO_WATCH) as gateway:
        path = str(gateway.file)
        text = gateway.file.read_text()
        changed = text.replace("port: 0", "port: 1").replace(f"workers: {workers}", "workers: 3")
        gateway.file.write_text(changed)
        code, said = await command("reload", path, "--socket", str(gateway.socket))
        assert (code, said.splitlines()) == (
            0,
            [
                "warning: listen was changed, which takes a restart",
                "warning: workers was changed, which takes a restart",
                f"{path}: reloaded, generation 2",
            ],
        )
        last = (await gateway.ask("GET /status"))["last_reload"]
        assert [restart.partition(" ")[0] for restart in last["restarts"]] == ["listen", "workers"]
        gateway.file.write_text(text + "state: valkey://127.0.0.1:9\n")
        code, said = await command("reload", path)
        assert code == 1
        assert "no reload changes the state, start the gateway anew" in said


async def test_a_reload_that_brings_the_first_limit_to_workers_that_share_nothing_says_so(
    tmp_path: Path,
) -> None:
    keys = {"workers": 2, "reload": NO_WATCH, "state": "memory://"}
    async with running(tmp_path, "http://127.0.0.1:9", **keys) as gateway:
        gateway.chain = "[health, rate_limit]"
        gateway.write("http://127.0.0.1:9")
        for _ in range(2):
            [warning] = (await gateway.ask("POST /reload"))["restarts"]
            assert warning.startswith(
                "with state: memory:// each of the 2 workers counts its own rate limits"
            )


async def test_the_level_of_the_log_changes_and_what_takes_a_restart_is_said(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one:
        async with running(tmp_path, one.url, reload=NO_WATCH) as gateway:
            text = gateway.file.read_text()
            gateway.file.write_text(text.replace("port: 0", "port: 1"))
            assert await gateway.reload() == []
            await gateway.process.wait_for_line("listen was changed, which takes a restart")
            gateway.file.write_text(text + "logging: {level: error}\n")
            lines = len(gateway.process.output)
            assert await gateway.reload() == []
            assert await gateway.reload() == []
    assert not [line for line in gateway.process.output[lines:] if "was reloaded" in line]


async def test_the_level_of_the_servers_own_log_changes_too(tmp_path: Path) -> None:
    async with running(tmp_path, "http://127.0.0.1:9", reload=NO_WATCH, logging="{level: debug}") as gateway:
        await gateway.process.wait_for_line("Application startup complete")
        gateway.file.write_text(gateway.file.read_text().replace("debug", "error"))
        assert await gateway.reload() == []
        lines = len(gateway.process.output)
        await gateway.process.stop()
    assert gateway.process.output[lines:] == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_admin_socket_that_cannot_be_made_is_one_line(tmp_path: Path, workers: int) -> None:
    gateway = Running(tmp_path, workers=workers)
    gateway.socket = tmp_path / "missing" / "admin"
    gateway.write("http://127.0.0.1:9")
    code, said = await command("run", str(gateway.file))
    assert code == 1
    assert said.startswith(f"asgi-gateway: cannot listen on the admin socket {gateway.socket}: ")
    assert said.count("\n") == 1


def test_a_socket_that_a_successor_has_put_there_is_left(tmp_path: Path) -> None:
    first = AdminSocket(tmp_path / "admin")
    second = AdminSocket(tmp_path / "admin")
    first.close()
    assert (tmp_path / "admin").is_socket()
    second.close()
    assert not (tmp_path / "admin").exists()


async def test_the_socket_of_a_gateway_that_runs_is_not_taken(tmp_path: Path) -> None:
    async with Upstream(ANSWER_ONE) as one, running(tmp_path, one.url) as gateway:
        code, said = await command("run", str(gateway.file), "--port", "0")
        why = "another process listens there"
        assert (code, said) == (
            1,
            f"asgi-gateway: cannot listen on the admin socket {gateway.socket}: {why}\n",
        )
        assert (await gateway.ask("GET /status"))["pid"] == gateway.process.process.pid


async def test_the_socket_of_a_gateway_that_ends_may_be_taken(tmp_path: Path) -> None:
    """Its port is free from then on, too."""
    async with Upstream(behaviours.hang()) as upstream, running(tmp_path, upstream.url) as gateway:
        async with RawClient(gateway.process.url) as client:
            await client.send(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
            await upstream.wait_for(lambda: upstream.requests)
            gateway.process.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while not await _refuses(gateway.socket):
                    await asyncio.sleep(0.01)
            AdminSocket(gateway.socket).close()
            assert gateway.process.process.returncode is None


async def _refuses(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except ConnectionRefusedError:
        return True
    writer.transport.abort()
    return False


def test_a_process_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_gateway.server.admin.ANSWER_WITHIN", 0.1)
    admin = AdminSocket(tmp_path / "admin")
    admin.listener.listen()
    with pytest.raises(TimeoutError):
        ask(str(tmp_path / "admin"), "GET /status")
    admin.close()


def test_the_socket_is_in_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gateway.yaml").write_text("version: 1\nadmin: {socket: admin}\n")
    monkeypatch.chdir("/")
    assert admin_path(load_config(tmp_path / "gateway.yaml")) == tmp_path / "admin"


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_report_adds_up_counters_and_tells_how_the_last_reload_went(
    tmp_path: Path, workers: int
) -> None:
    mock = "{mock: {answers: [{status: 200}]}}"
    fault = "{fault: {abort: {status: 503}}}"
    async with running(tmp_path, "http://127.0.0.1:9", workers=workers, reload=NO_WATCH) as gateway:
        gateway.chain = f"[{fault}, {mock}]"
        gateway.write("http://127.0.0.1:9")
        assert await gateway.reload() == []
        for _ in range(6):
            await get(gateway)
        gateway.file.write_text("version: 2\n")
        assert await gateway.reload() != []
        report = await gateway.ask("GET /status")
        told = {(one["name"], *one["labels"].values()): one["value"] for one in report["counters"]}
        assert told["faults_total", "abort"] == 6
        assert told["config_reloads_total", "success"] == told["config_reloads_total", "failure"] == 1
        assert [gauge["value"] for gauge in report["gauges"]] == [0]
        gateway.write("http://127.0.0.1:9")
        assert await gateway.reload() == []
        assert [gauge["value"] for gauge in (await gateway.ask("GET /status"))["gauges"]] == [1]
