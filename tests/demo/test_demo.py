"""``asgi-gateway demo`` as a person meets it: every command that it prints does what it says."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from asgi_gateway.demo.tour import Addresses, tour
from asgi_gateway.testing import Process, run_process

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "DEMO_BREAK_DURATION": "1s"}


async def printed(demo: Process) -> list[str]:
    """The commands of the list, in order."""
    await demo.wait_for_line("^Ctrl-C ends")
    return [line.strip() for line in demo.output if line.startswith("     ")]


async def run(command: str) -> list[tuple[float, str]]:
    """Run a command in a shell; its lines and when each of them came."""
    shell = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    now = asyncio.get_running_loop().time
    lines = [(now(), line.decode().rstrip()) async for line in shell.stdout]
    assert await shell.wait() == 0
    return lines


async def said(command: str) -> list[str]:
    return [line for _, line in await run(command)]


async def statuses(command: str) -> list[tuple[int, float]]:
    """What the loops print: a status and how long it took."""
    found = [re.fullmatch(r"(\d+) after ([\d.]+) s", line) for line in await said(command)]
    return [(int(match[1]), float(match[2])) for match in found]


def status_and_headers(lines: list[str]) -> tuple[str, dict[str, str]]:
    fields = lines[1 : lines.index("")]
    return lines[0], {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}


async def test_every_printed_command_does_what_is_promised() -> None:
    async with run_process(["demo", "--port", "0"], env=ENVIRONMENT) as demo:
        commands = iter(await printed(demo))

        events = [(time, line) for time, line in await run(next(commands)) if line]
        assert events[-1][1] == "data: [DONE]"
        assert events[-1][0] - events[0][0] > 1, "the words come one by one"

        status, headers = status_and_headers(await said(next(commands)))
        assert (status, headers["x-gateway-attempts"]) == ("HTTP/1.1 200 OK", "3")

        assert [status for status, _ in await statuses(next(commands))] == [200] * 5 + [429]
        status, headers = status_and_headers(await said(next(commands)))
        assert status == "HTTP/1.1 429 Too Many Requests"
        assert 1 <= int(headers["retry-after"]) <= 10

        assert await said(next(commands)) == ['{"mode": "fail"}']
        tried = await statuses(next(commands))
        assert [status for status, _ in tried] == [500, 500, 500, 503]
        assert tried[-1][1] < 0.1 < min(seconds for _, seconds in tried[:3])
        assert breaker_of_data(await said(next(commands))) == "open"
        await said(next(commands))
        status, _ = status_and_headers(await said(next(commands)))
        assert status == "HTTP/1.1 200 OK"
        assert breaker_of_data(await said(next(commands))) == "closed"
        assert next(commands, None) is None


def breaker_of_data(health: list[str]) -> str:
    return json.loads("".join(health))["services"]["data"]["breaker"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_ends_all_of_it(how: signal.Signals) -> None:
    async with run_process(["demo", "--port", "0"], env=ENVIRONMENT) as demo:
        commands = await printed(demo)
        ports = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", " ".join(commands))}
        stream = await asyncio.create_subprocess_shell(
            commands[0], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        await stream.stdout.readline()
        code = await demo.stop(how)
        rest = await stream.stdout.read()
        await stream.wait()
    assert code == 0
    assert rest.rstrip().endswith(b"data: [DONE]"), "what is under way is finished first"
    assert len(ports) == 2, "the gateway and the service with the switch"
    assert not [line for line in demo.output if "Traceback" in line or "never retrieved" in line]
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "asgi_gateway", "demo", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=ENVIRONMENT,
        )
    said = f"asgi-gateway: cannot listen on 127.0.0.1:{port}: the port is in use\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", said)


def test_the_list_names_the_real_break_duration() -> None:
    lines = list(tour(Addresses("http://g", "http://a", "http://d", "gateway.yaml", 2.5)))
    assert any("sleep 2.5" in line for line in lines)
    assert all(len(line) <= 130 for line in lines)
