"""What the modules that can be compiled (pyproject.toml) must keep to, so that mypyc compiles them rightly.

mypyc 2.4 loses track of the exception being handled when an ``except`` or ``finally`` block awaits: a
bare ``raise`` after it may raise another task's. It has no async generators.
"""

import ast
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
HOOKS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]
COMPILED: list[str] = HOOKS["mypyc"]["include"]

every_module = pytest.mark.parametrize("path", COMPILED)


def awaits(nodes: list[ast.stmt]) -> list[int]:
    inside = (node for statement in nodes for node in ast.walk(statement))
    return [node.lineno for node in inside if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)]


@every_module
def test_no_block_that_handles_an_exception_awaits(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    wrong: list[int] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            wrong += awaits(node.finalbody)
            wrong += [line for handler in node.handlers for line in awaits(handler.body)]
    assert wrong == []


@every_module
def test_there_are_no_async_generators(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    assert [f.name for f in functions if any(isinstance(node, ast.Yield) for node in ast.walk(f))] == []


def test_the_list_is_in_order() -> None:
    assert sorted(set(COMPILED)) == COMPILED


def test_what_an_earlier_build_compiled_gets_into_no_other_wheel(tmp_path: Path) -> None:
    """It would come without the rest of what it needs, and be imported in place of the source."""
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "asgi_gateway"
    package.mkdir()
    for name in (
        "__init__.py",
        "store.lua",
        "ids.cpython-311-x86_64-linux-gnu.so",
        "ids.cp311-win_amd64.pyd",
    ):
        (package / name).touch()
    files = {Path(file.path).name for file in WheelBuilder(str(tmp_path)).recurse_included_files()}
    assert files == {"__init__.py", "store.lua"}
