"""What the modules that can be compiled (pyproject.toml) must keep to, so that mypyc compiles them rightly.

mypyc 2.4 loses track of the exception being handled when an ``except`` or ``finally`` block awaits, as the
end of an ``async with`` does: a bare ``raise`` after it may raise another task's. It forgets the cause in
``raise ... from``. It lays out a class that can be called wrongly, where its base cannot. It knows no async
generators.
"""

import ast
import os
import sys
import sysconfig
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
HOOKS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]
COMPILED: list[str] = HOOKS["custom"]["include"]

every_module = pytest.mark.parametrize("path", COMPILED)


def awaits(nodes: list[ast.stmt]) -> list[int]:
    inside = (node for statement in nodes for node in ast.walk(statement))
    return [node.lineno for node in inside if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)]


def inherits(node: ast.ClassDef) -> bool:
    return bool({ast.unparse(base) for base in node.bases} - {"Generic[T]", "NamedTuple", "Protocol"})


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
def test_no_context_is_left_by_awaiting(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.AsyncWith)] == []


@every_module
def test_no_exception_is_raised_with_a_cause(path: str) -> None:
    """``from None`` only spares a log some lines."""
    tree = ast.parse((ROOT / path).read_text())
    causes = [node.cause for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.cause is not None]
    assert [c.lineno for c in causes if not (isinstance(c, ast.Constant) and c.value is None)] == []


@every_module
def test_no_class_that_inherits_can_be_called(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and inherits(node)]
    members = {c.name: {getattr(member, "name", "") for member in c.body} for c in classes}
    assert [name for name, names in members.items() if "__call__" in names] == []


@every_module
def test_every_middleware_can_be_inherited_from(path: str) -> None:
    classes = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.ClassDef)]
    decorators = {c.name: [ast.unparse(d) for d in c.decorator_list] for c in classes}
    middlewares = {name: worn for name, worn in decorators.items() if name.endswith("Middleware")}
    assert all(worn == ["mypyc_attr(allow_interpreted_subclasses=True)"] for worn in middlewares.values())


@every_module
def test_there_are_no_async_generators(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    assert [f.name for f in functions if any(isinstance(node, ast.Yield) for node in ast.walk(f))] == []


def test_the_list_is_in_order() -> None:
    assert sorted(set(COMPILED)) == COMPILED


def hook() -> Any:
    spec = spec_from_file_location("compiled_wheel", ROOT / HOOKS["custom"]["path"])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compiled_at_all = pytest.mark.skipif(sys.version_info >= (3, 14), reason="nothing is compiled there")


@compiled_at_all
def test_nothing_is_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no C compiler" in (hook()._missing() or "")


@compiled_at_all
def test_nothing_is_compiled_without_the_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / sysconfig.get_config_var("CC").split()[0]
    compiler.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert hook()._missing() == "the headers of Python are not installed"
    (tmp_path / "Python.h").touch()
    assert hook()._missing() is None


def test_nothing_is_compiled_for_a_python_that_was_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert hook()._missing() == "it was not tried with this version of Python"


def test_nothing_is_compiled_by_a_mypyc_that_cannot_be_mended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    module = hook()
    monkeypatch.setattr(module, "_AWAITING", tmp_path / "misc_ops.c")
    module._AWAITING.write_text("res = PyObject_CallOneArg(_m, value);")
    assert module._missing() == "this version of mypyc is not known"


@pytest.mark.parametrize("flags", [None, "-O1"])
def test_exceptions_are_handed_on_in_a_way_that_warns_nobody(
    monkeypatch: pytest.MonkeyPatch, flags: str | None
) -> None:
    if flags:
        monkeypatch.setenv("CFLAGS", flags)
    else:
        monkeypatch.delenv("CFLAGS", raising=False)
    module = hook()
    with module._mended_library():
        *before, found_first = os.environ["CFLAGS"].split()
        mended = Path(found_first.removeprefix("-I"), "misc_ops.c").read_text()
    assert before == ([flags] if flags else [])
    assert module._THROW not in mended
    assert os.environ.get("CFLAGS") == flags


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
