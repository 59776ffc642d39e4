from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import config_toys
import pytest
from starlette.middleware.gzip import GZipMiddleware

from asgi_gateway.config import Config, ConfigError, MiddlewareSpec, parse_config
from asgi_gateway.registry import GROUP, Registry

Parse = Callable[..., Config]
Mistakes = Callable[..., list[str]]


def chain(entries: str) -> str:
    return f"version: 1\nmiddleware:\n{entries}"


def test_a_middleware_is_a_name_a_name_with_options_or_a_class(parse: Parse) -> None:
    config = parse(
        chain(
            "  - toy\n"
            "  - toy:\n"
            "  - toy: {count: 5, wait: 2m, backoff: {factor: 3}}\n"
            "  - use: starlette.middleware.gzip:GZipMiddleware\n"
            "    options: {minimum_size: 1024}\n"
            "  - use: config_toys:ToyMiddleware\n"
        )
    )
    one, two, three, gzip, used = config.middleware
    assert one == two
    assert (one.name, one.factory) == ("toy", config_toys.ToyMiddleware)
    assert one.options["count"] == 3
    assert three.options["wait"] == 120
    assert three.options["backoff"] == config_toys.Backoff(initial=1, factor=3)
    assert (gzip.name, gzip.factory) == ("starlette.middleware.gzip:GZipMiddleware", GZipMiddleware)
    assert (gzip.options["minimum_size"], gzip.options["compresslevel"]) == (1024, 9)
    assert used.options == one.options
    assert [spec.path for spec in config.middleware] == [("middleware", index) for index in range(5)]


def test_a_spec_builds_its_middleware(parse: Parse) -> None:
    (spec,) = parse(chain("  - toy: {count: '${N}'}\n"), N="7").middleware
    assert isinstance(spec.factory(None, **spec.options), config_toys.ToyMiddleware)
    assert spec.options["count"] == 7


def test_each_service_has_a_chain_of_its_own(parse: Parse) -> None:
    config = parse(
        {
            "version": 1,
            "middleware": ["request_id"],
            "services": {
                name: {
                    "app": "json:dumps",
                    "routes": [{"path": f"/{name}"}],
                    "middleware": [{"toy": {"count": count}}],
                }
                for name, count in (("one", 1), ("two", 2))
            },
        }
    )
    assert [
        (service, [spec.options.get("count", spec.name) for spec in specs])
        for service, specs in config.chains()
    ] == [(None, ["request_id"]), ("one", ["request_id", 1]), ("two", ["request_id", 2])]


def test_unknown_options_reach_whoever_takes_any(parse: Parse) -> None:
    (spec,) = parse(chain("  - opaque: {colour: red}\n")).middleware
    assert spec.options["colour"] == "red"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("toyy", "3:5: middleware[0]: unknown middleware 'toyy' (did you mean 'toy'?)"),
        ("toyy: {}", "3:5: middleware[0]: unknown middleware 'toyy' (did you mean 'toy'?)"),
        ("rate-limit", "3:5: middleware[0]: unknown middleware 'rate-limit' (did you mean 'rate_limit'?)"),
        ("zzzzzz", "3:5: middleware[0]: unknown middleware 'zzzzzz'"),
        (
            "rate_limit: {key: [client_address, ip]}",
            (
                "3:40: middleware[0].rate_limit.key[1]: expected client_address, path, service, "
                "header:<name> or <package.module>:<function>, not 'ip'"
            ),
        ),
        (
            "rate_limit: {cost_from: tokens}",
            (
                "3:29: middleware[0].rate_limit.cost_from: expected header:<name> or "
                "json:<member>.<member>, not 'tokens'"
            ),
        ),
        ("rate_limit: {key: []}", "3:23: middleware[0].rate_limit.key: needs at least 1 of them"),
        ("rate_limit: {key: 5}", "3:23: middleware[0].rate_limit.key: expected text or a list, got 5"),
        (
            "config_toys:ToyMiddleware",
            "3:5: middleware[0]: a class is written 'use: config_toys:ToyMiddleware'",
        ),
        (
            "3",
            (
                "3:5: middleware[0]: expected a middleware's name, a name with its options, or "
                "'use: package.module:Class', got 3"
            ),
        ),
        (
            "[toy]",
            (
                "3:5: middleware[0]: expected a middleware's name, a name with its options, or "
                "'use: package.module:Class', got a list"
            ),
        ),
        (
            "toy:\n    count: 3",
            (
                "3:5: middleware[0]: one entry is one middleware, but here are 2 keys: "
                "indent the options of 'toy' further"
            ),
        ),
        (
            "use: config_toys:Nope",
            (
                "3:10: middleware[0].use: cannot import 'config_toys:Nope': AttributeError: "
                "module 'config_toys' has no attribute 'Nope'"
            ),
        ),
        (
            "use: nowhere.at_all:X",
            (
                "3:10: middleware[0].use: cannot import 'nowhere.at_all:X': "
                "ModuleNotFoundError: No module named 'nowhere'"
            ),
        ),
        (
            "use: config_toys:NOT_CALLABLE",
            ("3:10: middleware[0].use: 'config_toys:NOT_CALLABLE' is not a class or function"),
        ),
        ("use: config_toys", "3:10: middleware[0].use: expected package.module:Class, got 'config_toys'"),
        ("use: 3", "3:10: middleware[0].use: expected package.module:Class, got 3"),
        (
            "use: config_toys:ToyMiddleware\n    option: {}",
            "4:5: middleware[0].option: unknown key 'option' (did you mean 'options'?)",
        ),
        (
            "use: config_toys:ToyMiddleware\n    options: {cuont: 1}",
            "4:15: middleware[0].options.cuont: unknown key 'cuont' (did you mean 'count'?)",
        ),
        (
            "use: config_toys:ToyMiddleware\n    options: [1]",
            "4:14: middleware[0].options: expected a mapping, got a list",
        ),
    ],
)
def test_what_is_no_middleware_is_told(mistakes: Mistakes, entry: str, told: str) -> None:
    assert f"g.yaml:{told}" in mistakes(chain(f"  - {entry}\n"))


def test_a_module_that_fails_to_import_is_one_line(
    mistakes: Mistakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_toy.py").write_text("def\n")
    (tmp_path / "leaving_toy.py").write_text("import sys\nsys.exit('bye')\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = mistakes(chain("  - use: broken_toy:X\n  - use: leaving_toy:X\n"))
    assert "SyntaxError: invalid syntax" in found[0]
    assert "SystemExit: bye" in found[1]


def test_options_that_cannot_be_read_are_told(mistakes: Mistakes) -> None:
    (told,) = mistakes(chain("  - use: builtins:dict\n"))
    assert "the options of builtins:dict cannot be checked: ValueError: no signature found" in told


def test_a_validator_that_fails_is_one_line(mistakes: Mistakes) -> None:
    text = chain("  - use: config_toys:FailingMiddleware\n    options: {value: '%s'}\n")
    (told,) = mistakes(text % "plain")
    assert told.endswith("the options of config_toys:FailingMiddleware cannot be checked: KeyError: 'plain'")
    assert "plain" not in mistakes(text % "${A_KEY}", A_KEY="plain")[0]


def test_a_plug_in_cannot_take_a_built_in_name() -> None:
    registry = Registry([EntryPoint("retry", "config_toys:ToyMiddleware", GROUP)])
    with pytest.raises(
        ConfigError, match="the plug-in config_toys:ToyMiddleware may not replace the built-in"
    ):
        parse_config(chain("  - retry\n"), registry=registry)


def test_equal_files_are_equal_configurations(parse: Parse) -> None:
    text = chain("  - toy: {count: 4}\n  - request_id\n")
    assert parse(text) == parse("# moved\n\n" + text)
    assert parse(text) != parse(text.replace("4", "5"))


def test_a_spec_does_not_print_its_options(parse: Parse) -> None:
    (spec,) = parse(chain("  - opaque: {password: hunter2}\n")).middleware
    assert isinstance(spec, MiddlewareSpec)
    assert repr(spec) == "MiddlewareSpec(name='opaque')"
