"""What every command has in common: exit codes, and one clear line in place of a traceback."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_gateway import router
from asgi_gateway.cli import main

Write = Callable[..., str]


def exit_code_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("serve",),
        ("run", "--no-such-option"),
        ("run", "gateway.yaml", "--por", "3000"),
        ("run", "--port", "70000"),
        ("run", "--port", "http"),
        ("run", "--workers", "0"),
        ("run", "--log-level", "loud"),
        ("check",),
        ("routes",),
        ("schema", "gateway.yaml"),
        ("demo", "--port", "-1"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_answered_with_usage_and_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: asgi-gateway")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("--help") == 0
    help_text = capsys.readouterr().out
    assert all(f"\n    {command} " in help_text for command in ("run", "check", "routes", "schema", "demo"))


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of("--version") == 0
    build = "not compiled" if router.__file__.endswith(".py") else "compiled"
    assert re.fullmatch(rf"asgi-gateway \S+, {build}\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["check", "routes"])
def test_a_missing_file_is_one_line_and_1(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "missing.yaml")
    assert main([command, path]) == 1
    assert capsys.readouterr() == ("", f"{path}: cannot read the file: No such file or directory\n")


@pytest.mark.parametrize("command", ["check", "routes"])
def test_a_directory_is_one_line_and_1(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{tmp_path}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_one_line_and_1(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    Path(path).chmod(0)
    assert main(["check", path]) == 1
    assert capsys.readouterr() == ("", f"{path}: cannot read the file: Permission denied\n")


def test_binary_rubbish_is_one_line_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().err == f"{path}: cannot read the file: it is not UTF-8 text\n"


def test_a_reader_who_leaves_early_is_no_traceback() -> None:
    command = f"{sys.executable} -m asgi_gateway schema | head -c 1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30, check=True)
    assert (ended.stdout, ended.stderr) == (b"{", b"")
