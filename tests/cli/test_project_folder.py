"""What the project in the working directory holds can be named in its file, as under uvicorn."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

COMMAND = f"""\
import sys

sys.path.append({str(ROOT)!r})  # where the package is not installed

from asgi_gateway.cli import main

if __name__ == "__main__":  # workers import it too
    sys.exit(main())
"""
"""What pip makes of the entry point: a script in another folder than the project's."""

PROJECT = {
    "myproject/__init__.py": "",
    "myproject/asgi.py": """\
from starlette.responses import PlainTextResponse

application = PlainTextResponse("from the project")
""",
    "myproject/stamp.py": """\
class Stamp:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def stamped(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", b"yes")]
            await send(message)

        await self.app(scope, receive, stamped)
""",
    "gateway.yaml": """\
version: 1
listen: {port: 0}
state: memory://
admin: {socket: admin.sock}
middleware: [{use: "myproject.stamp:Stamp"}]
services: {mine: {app: "myproject.asgi:application", routes: [{path: /*}]}}
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a project that nobody installed, and beside it the command."""
    for name, text in {**PROJECT, "../bin/asgi-gateway": COMMAND}.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "project"


def command(project: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(project.parent / "bin" / "asgi-gateway"), *arguments]


def output(project: Path, *arguments: str) -> str:
    """What a command that succeeds says."""
    ended = subprocess.run(
        command(project, *arguments),
        cwd=project,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def running(project: Path, *arguments: str) -> Iterator[str]:
    """`run`, and the URL where it serves."""
    process = subprocess.Popen(
        command(project, "run", *arguments),
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = process.stderr.readline()
        found = re.search(r"http://[\d.]+:\d+", first)
        assert found, first + process.communicate(timeout=30)[1]
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_it_is_checked_and_shown(project: Path) -> None:
    assert "1 service, 1 route" in output(project, "check", "gateway.yaml")
    assert "app myproject.asgi:application" in output(project, "routes", "gateway.yaml")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_is_served_and_reloaded(project: Path, workers: str) -> None:
    with (
        running(project, "--workers", workers) as url,
        httpx.Client(transport=httpx.HTTPTransport(retries=6)) as client,  # workers may not listen yet
    ):
        answer = client.get(url)
        assert (answer.text, answer.headers["x-stamp"]) == ("from the project", "yes")
        assert "reloaded" in output(project, "reload", "gateway.yaml")
