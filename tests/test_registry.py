import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from asgi_gateway.middleware.rate_limit import RateLimitMiddleware
from asgi_gateway.registry import GROUP, MiddlewareNotFound, Registry, class_name, load


def plugin(name: str, value: str = "collections:OrderedDict") -> EntryPoint:
    return EntryPoint(name, value, GROUP)


def test_a_built_in_is_found_by_the_name_of_its_file() -> None:
    registry = Registry(())
    assert registry.find("rate_limit") is RateLimitMiddleware
    folder = Path(__file__).parents[1] / "asgi_gateway" / "middleware"
    assert registry.names == sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_"))


@pytest.mark.parametrize("name", Registry(()).names)
def test_every_built_in_follows_the_rule(name: str) -> None:
    assert getattr(Registry(()).find(name), "__name__", None) == class_name(name)


def test_the_rule_of_names() -> None:
    assert class_name("rate_limit") == "RateLimitMiddleware"
    assert class_name("retry") == "RetryMiddleware"


def test_a_plug_in_is_found_by_the_name_it_registers() -> None:
    registry = Registry([plugin("ordered")])
    assert registry.find("ordered").__name__ == "OrderedDict"  # type: ignore[attr-defined]
    assert "ordered" in registry.names


def test_installed_plug_ins_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "someone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nsomeones = collections:OrderedDict\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "someones" in Registry().names


def test_a_plug_in_may_not_take_a_built_in_name() -> None:
    registry = Registry([plugin("retry")])
    with pytest.raises(MiddlewareNotFound, match="may not replace the built-in 'retry'"):
        registry.find("retry")
    assert registry.find("timeout")


def test_two_plug_ins_may_not_share_a_name() -> None:
    registry = Registry([plugin("x", "a:A"), plugin("x", "b:B")])
    with pytest.raises(MiddlewareNotFound, match="by the plug-in a:A and the plug-in b:B"):
        registry.find("x")


@pytest.mark.parametrize(
    ("name", "suggestion"), [("rate-limit", "rate_limit"), ("Retry", "retry"), ("brekaer", None)]
)
def test_an_unknown_name_suggests_the_nearest(name: str, suggestion: str | None) -> None:
    with pytest.raises(MiddlewareNotFound, match="unknown middleware") as caught:
        Registry(()).find(name)
    assert caught.value.suggestion == suggestion


def test_any_callable_can_be_loaded() -> None:
    assert load("starlette.middleware.gzip:GZipMiddleware").__name__ == "GZipMiddleware"  # type: ignore[attr-defined]
    assert load("pathlib:Path.cwd") == Path.cwd


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nowhere:X", "ModuleNotFoundError: No module named 'nowhere'"),
        ("pathlib:Nope", "AttributeError: module 'pathlib' has no attribute 'Nope'"),
        ("pathlib", "expected package.module:Class"),
        (":X", "expected package.module:Class"),
        ("pathlib:", "expected package.module:Class"),
        ("sys:maxsize", "is not a class or function"),
    ],
)
def test_what_cannot_be_loaded_says_why_in_one_line(reference: str, reason: str) -> None:
    with pytest.raises(MiddlewareNotFound) as caught:
        load(reference)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys\n"
        "from asgi_gateway.registry import Registry\n"
        "assert 'rate_limit' in Registry(()).names\n"
        "assert 'asgi_gateway.middleware.rate_limit' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
