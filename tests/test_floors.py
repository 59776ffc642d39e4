"""The floors of the package, held by walking the syntax tree of every file.

A file imports only from lower floors or from its own folder. What else is forbidden everywhere, or
allowed in one place only, stands below.
"""

import ast
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "asgi_gateway"

FLOORS = {
    "types": 0,
    "clock": 0,
    "errors": 0,
    "options": 0,
    "timers": 0,
    "policies": 1,
    "asgi": 2,
    "context": 2,
    "events": 2,
    "ids": 2,
    "metrics": 2,
    "runtime": 2,
    "problem": 2,
    "logs": 2,
    "trace": 2,
    "stores": 3,
    "middleware": 3,
    "proxy": 3,
    "config": 4,
    "registry": 4,
    "chain": 5,
    "gateway": 5,
    "generation": 5,
    "lifespan": 5,
    "reload": 5,
    "router": 5,
    "state": 5,
    "terminals": 5,
    "__init__": 6,
    "server": 6,
    "testing": 6,
    "demo": 7,
    "cli": 8,
    "__main__": 9,
}
SAME_FLOOR = {
    ("clock", "types"),
    ("timers", "clock"),
    ("options", "types"),
    ("problem", "context"),
    ("problem", "asgi"),
    ("runtime", "events"),
    ("asgi", "context"),
    ("asgi", "runtime"),
    ("runtime", "metrics"),
    ("logs", "context"),
    ("trace", "ids"),
    ("middleware", "stores"),
    ("config", "registry"),
    ("registry", "config"),
    ("gateway", "generation"),
    ("gateway", "lifespan"),
    ("gateway", "state"),
    ("generation", "chain"),
    ("generation", "router"),
    ("generation", "terminals"),
    ("chain", "router"),
}
"""Who may import whom on one floor."""

IMPURE = {"time", "random"}
TASK_STARTERS = {"create_task", "ensure_future", "TaskGroup", "start_soon", "gather", "run_in_executor"}
MAY_START_TASKS = {"proxy", "stores", "gateway", "lifespan", "reload", "server", "testing", "demo"}
MAY_START_TASKS_TOO = {"middleware/hedge.py", "asgi/hearing.py", "middleware/mirror.py"}
"""Two attempts at once are what a hedge is, and a copy of a request outlives the request."""

FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]

every_file = pytest.mark.parametrize("path", FILES, ids=IDS)


def part_of(path: Path) -> str:
    """``middleware`` for ``middleware/retry.py``, ``router`` for ``router.py``."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and dotted name of every import, inside functions and TYPE_CHECKING blocks too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module == "asgi_gateway":
                yield from ((node.lineno, f"asgi_gateway.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, str(node.module)


def own_parts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The parts of this package that a file imports; a name of the package itself is ``__init__``."""
    for line, module in imported_modules(tree):
        package, _, rest = module.partition(".")
        if package == "asgi_gateway":
            part = rest.partition(".")[0] or "__init__"
            yield line, part if part in FLOORS else "__init__"


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the last name of everything that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield node.lineno, function.attr
            elif isinstance(function, ast.Name):
                yield node.lineno, function.id


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_the_package_was_found() -> None:
    assert "types.py" in IDS


@every_file
def test_every_part_stands_on_a_floor(path: Path) -> None:
    assert part_of(path) in FLOORS


@every_file
def test_imports_go_down(path: Path) -> None:
    here = part_of(path)
    wrong = [
        f"{path.name}:{line} ({here}) imports {there}"
        for line, there in own_parts(tree_of(path))
        if there != here and FLOORS[there] >= FLOORS[here] and (here, there) not in SAME_FLOOR
    ]
    assert wrong == []


def test_no_two_parts_of_one_floor_import_each_other() -> None:
    used: set[tuple[str, str]] = set()
    for path in FILES:
        used |= {(part_of(path), there) for _, there in own_parts(tree_of(path))}
    for one, other in itertools.combinations(FLOORS, 2):
        assert not {(one, other), (other, one)} <= used, f"{one} and {other} import each other"


@every_file
def test_imports_are_absolute(path: Path) -> None:
    assert [line for line, module in imported_modules(tree_of(path)) if module.startswith(".")] == []


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "middleware"], ids=str)
def test_a_middleware_imports_no_middleware(path: Path) -> None:
    if path.name == "__init__.py":
        return
    modules = [module for _, module in imported_modules(tree_of(path))]
    public = [
        m for m in modules if m == "asgi_gateway.middleware" or m.startswith("asgi_gateway.middleware.")
    ]
    private = [m for m in public if m.removeprefix("asgi_gateway.middleware.").startswith("_")]
    assert public == private


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "policies"], ids=str)
def test_policies_import_plain_data_and_policies_only(path: Path) -> None:
    impure = {"asyncio", "logging", "socket", "threading", "ssl", "selectors", "subprocess", "os", "datetime"}
    for line, module in imported_modules(tree_of(path)):
        top = module.partition(".")[0]
        if top == "asgi_gateway":
            assert module.split(".")[1] in ("types", "errors", "policies"), f"line {line}"
        else:
            assert top in sys.stdlib_module_names, f"line {line}"
            assert top not in impure | IMPURE, f"line {line}"


@every_file
def test_only_clock_and_runtime_know_time_and_chance(path: Path) -> None:
    tree = tree_of(path)
    here = part_of(path)
    if here in ("clock", "runtime"):
        return
    modules = {module.partition(".")[0] for _, module in imported_modules(tree)}
    assert modules.isdisjoint(IMPURE)
    waits = {"asyncio.sleep", "asyncio.timeout", "asyncio.wait_for"} if here != "testing" else set()
    assert waits.isdisjoint({ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)})


@every_file
def test_only_the_proxy_the_gateway_and_a_few_start_tasks(path: Path) -> None:
    if part_of(path) not in MAY_START_TASKS and str(path.relative_to(PACKAGE)) not in MAY_START_TASKS_TOO:
        assert [(line, name) for line, name in calls(tree_of(path)) if name in TASK_STARTERS] == []


@every_file
def test_the_package_is_pure_asgi(path: Path) -> None:
    source = path.read_text()
    assert "BaseHTTPMiddleware" not in source
    assert "HTTPException" not in source


@every_file
def test_input_is_not_checked_by_assert(path: Path) -> None:
    allowed = {"assert_never"}
    tree = tree_of(path)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)] == []
    assert {name for _, name in calls(tree) if name.startswith("assert")} <= allowed


@every_file
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            silent = all(isinstance(line, ast.Pass) for line in node.body)
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (silent and broad), f"line {node.lineno}: {ast.unparse(node.type)} is swallowed"


@every_file
def test_nothing_is_kept_in_globals(path: Path) -> None:
    tree = tree_of(path)
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)] == []
    for node in tree.body:
        value = getattr(node, "value", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.List | ast.Dict | ast.Set):
            empty = not (value.keys if isinstance(value, ast.Dict) else value.elts)
            assert not empty, f"line {node.lineno}: an empty container waits to be filled"


@every_file
def test_names_say_what_is_inside(path: Path) -> None:
    assert not {"utils", "helpers", "common", "manager"} & set(path.with_suffix("").parts[-2:])


@every_file
def test_middlewares_have_no_base_class(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Middleware"):
            assert node.bases == [], f"{node.name} inherits"


@every_file
def test_files_and_functions_stay_small(path: Path) -> None:
    """Over 300 lines a file's docstring, over 50 a function's, says in a paragraph why it is one piece."""
    source = path.read_text()
    tree = ast.parse(source)
    if len(source.splitlines()) > 300:
        assert len((ast.get_docstring(tree) or "").splitlines()) > 3, f"{path.name} has to explain itself"
    for function in functions(tree):
        lines = (function.end_lineno or 0) - function.lineno + 1 - len(function.args.kwonlyargs) * 4
        if lines > 50:
            assert "\n" in (ast.get_docstring(function) or ""), f"{function.name} has to explain itself"
