"""The files in config/deploy do what they say, as far as that shows without a container or systemd."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from asgi_gateway.cli import parser
from asgi_gateway.config import Shutdown
from asgi_gateway.server.supervisor import KILL_AFTER

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "config" / "deploy"
DOCKERFILE = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["gateway"]
UNIT = configparser.ConfigParser(interpolation=None)
UNIT.optionxform = str  # type: ignore[assignment,method-assign]
UNIT.read(FOLDER / "asgi-gateway.service")

COPIED = [
    copied.split()
    for copied in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
    if not copied.startswith("config/")
]


def test_whoever_kills_waits_for_longer_than_the_end_takes() -> None:
    defaults = Shutdown()
    longest = defaults.accept_grace + defaults.drain_timeout + KILL_AFTER
    waits = [
        re.findall(r"--stop-timeout (\d+)", DOCKERFILE)[0],
        COMPOSE["stop_grace_period"].removesuffix("s"),
        UNIT["Service"]["TimeoutStopSec"],
    ]
    assert all(int(seconds) > longest for seconds in waits)


@pytest.mark.parametrize(
    "command",
    [
        re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0],
        UNIT["Service"]["ExecStart"],
    ],
)
def test_the_command_is_one(command: str) -> None:
    program, *arguments = yaml.safe_load(command) if command.startswith("[") else shlex.split(command)
    assert Path(program).name == "asgi-gateway"
    options = parser().parse_args(arguments)
    assert options.config.endswith("gateway.yaml")


def test_what_the_image_copies_is_enough_to_install(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for *froms, to in COPIED:
        for name in froms:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / to)
            else:
                shutil.copy(ROOT / name, source / to)
    project = tomllib.loads((source / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    assert (source / hook["path"]).exists()
    [extras] = re.findall(r"'\.\[(.*?)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    environment = {**os.environ, "HATCH_BUILD_NO_HOOKS": "true"}
    subprocess.run([*pip, *options], check=True, timeout=120, cwd=tmp_path, env=environment)
    assert (target / "asgi_gateway" / "py.typed").exists()


def test_compose_builds_and_mounts_what_is_there() -> None:
    context = FOLDER / COMPOSE["build"]["context"]
    assert (context / COMPOSE["build"]["dockerfile"]).samefile(FOLDER / "Dockerfile")
    [mounted] = [volume.split(":") for volume in COMPOSE["volumes"]]
    assert (FOLDER / mounted[0] / "gateway.yaml").exists()
    [folder] = re.findall(r"^WORKDIR (/etc/.*)$", DOCKERFILE, re.MULTILINE)
    assert mounted[1] == folder
    variables = set(re.findall(r"\$\{(\w+_SERVICE_URL)", (ROOT / "config" / "gateway.yaml").read_text()))
    assert variables == set(COMPOSE["environment"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one(tmp_path: Path) -> None:
    unit = tmp_path / "asgi-gateway.service"
    unit.write_text(
        (FOLDER / unit.name).read_text().replace("/opt/asgi-gateway/bin/asgi-gateway", "/bin/true")
    )
    ended = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False
    )
    assert [line for line in ended.stderr.splitlines() if unit.name in line] == []
