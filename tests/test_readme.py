"""Every command and every example of the README and the guides is run as it is written."""

import asyncio
import inspect
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from asgi_gateway.config import parse_config, warnings_of
from asgi_gateway.testing import serve

ROOT = Path(__file__).parent.parent
PACKAGE = {"PYTHONPATH": str(ROOT)}
PAGES = ("README.md", "docs/standalone.md", "docs/architecture.md")


class Block(NamedTuple):
    """One fenced piece of a page."""

    page: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for language, text in re.findall(
            r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
        ):
            yield Block(page, language, text)


BLOCKS = list(blocks())
COMMANDS = [line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()]
PYTHON = [block for block in BLOCKS if block.language == "python"]
YAML = [block.text for block in BLOCKS if block.language == "yaml"]
INSTALL_AND_TRY, INSTALL_AND_TEST = COMMANDS[:2]


def of(block: Block) -> str:
    return f"{block.page}:{block.text.splitlines()[0]}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as ``pip install .`` installs it but for the compiling, in a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(ROOT)]
    environment = {**os.environ, "HATCH_BUILD_NO_HOOKS": "true"}
    subprocess.run([*pip, *options], check=True, timeout=120, cwd=target, env=environment)
    return target


class Shell:
    """A terminal in a folder with the README's gateway.yaml, where the package is installed."""

    def __init__(self, installed: Path, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(installed),
            "PATH": os.pathsep.join(
                [str(installed / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "PORT": "0",
        }

    def output(self, command: str) -> str:
        """What a command that succeeds prints."""
        ended = subprocess.run(
            command,
            shell=True,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return ended.stdout

    async def serve(self, command: str, path: str) -> httpx.Response:
        """Run a command that serves, ask for a path at the URL that it prints, and end it with Ctrl-C."""
        process = await asyncio.create_subprocess_shell(
            f"exec env {command}",
            cwd=self._folder,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
                async for line in process.stdout:
                    if found := re.search(r"http://127\.0\.0\.1:\d+", line.decode()):
                        break
                answer = await client.get(found[0] + path)
                process.send_signal(signal.SIGINT)
                await process.stdout.read()
                assert await process.wait() == 0
                return answer
        finally:
            if process.returncode is None:
                process.kill()


@pytest.fixture
def shell(installed: Path, tmp_path: Path) -> Shell:
    (tmp_path / "gateway.yaml").write_text(YAML[0])
    return Shell(installed, tmp_path)


def test_every_command_of_the_pages_is_run_by_a_test() -> None:
    source = inspect.getsource(sys.modules[__name__])
    named = [INSTALL_AND_TRY, INSTALL_AND_TEST]
    assert [line for line in COMMANDS if line not in named and f'"{line}"' not in source] == []


async def test_install_and_try(shell: Shell) -> None:
    install, _, demo = INSTALL_AND_TRY.partition(" && ")
    assert install == "pip install ."  # done by the fixture `installed`
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert shell.output("asgi-gateway --version") == f"asgi-gateway {version}, not compiled\n"
    answer = await shell.serve(f"{demo} --port 0", "/health")
    assert (answer.status_code, answer.json()["version"]) == (200, version)


def test_install_and_test_is_what_ci_runs() -> None:
    assert INSTALL_AND_TEST in (ROOT / ".ci" / "run").read_text()


def test_check_and_routes(shell: Shell) -> None:
    assert "ok: 2 services, 2 routes" in shell.output("asgi-gateway check gateway.yaml")
    assert "/api/ai/*" in shell.output("asgi-gateway routes gateway.yaml")


@pytest.mark.parametrize(
    "command",
    [
        "asgi-gateway run gateway.yaml",
        "ASGI_GATEWAY_CONFIG=gateway.yaml uvicorn --factory asgi_gateway:create_app --no-proxy-headers --port 3000",  # noqa: E501
    ],
)
async def test_serving(shell: Shell, command: str) -> None:
    answer = await shell.serve(f"{command} --port 0", "/health/ready")
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("text", YAML)
def test_configurations_are_clean(text: str) -> None:
    config = parse_config(text, environ={})
    assert config.services
    assert warnings_of(config) == []


@pytest.mark.parametrize("block", PYTHON, ids=of)
async def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is run; an app that it makes is served, a test that it has is passed."""
    (tmp_path / "gateway.yaml").write_text(YAML[0])
    monkeypatch.chdir(tmp_path)
    if "django" in block.text:  # whose settings are a process's only ones
        subprocess.run([sys.executable, "-c", block.text], check=True, timeout=60, env=os.environ | PACKAGE)
        return
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block.text, of(block), "exec"), names)
    tests: list[Callable[[], Any]] = [value for name, value in names.items() if name.startswith("test_")]
    app = names.get("application") or names.get("app")
    assert tests or app
    for passes in tests:
        await passes()
    if app:
        async with serve(app) as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            answer = await client.get("/hello")
        assert answer.status_code in (200, 404)
        if "existing_app" in names:
            assert answer.json() == {"hello": "world"}
            assert answer.headers["x-request-id"]


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=str)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_readme_stays_short_and_names_every_middleware() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) < 200
    for file in (ROOT / "asgi_gateway" / "middleware").glob("[a-z]*.py"):
        assert f"[`{file.stem}`](docs/middleware/{file.stem}.md)" in readme
