"""``include``: services in files of their own, with mistakes that name the right file."""

from pathlib import Path
from typing import Any

import pytest

from asgi_gateway.config import Config, ConfigError, effective_yaml, load_config, parse_config, warnings_of
from asgi_gateway.config.document import Document, read_text

MAIN = "version: 1\ninclude: [parts/*.yaml]\n"
OWN = "services:\n  own:\n    url: http://127.0.0.1:9\n    routes: [{path: /own}]\n"


def part(name: str, **keys: str) -> str:
    lines = [f"    {key}: {value}" for key, value in {"url": "http://127.0.0.1:9", **keys}.items()]
    routes = "" if "routes" in keys else f"    routes: [{{path: /{name}}}]"
    return "\n".join(["services:", f"  {name}:", *lines, routes, ""])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    return tmp_path


def read(folder: Path, text: str = MAIN, **parts: str) -> Config:
    (folder / "gateway.yaml").write_text(text)
    for name, content in parts.items():
        (folder / "parts" / f"{name}.yaml").write_text(content)
    return load_config(folder / "gateway.yaml")


def mistakes(folder: Path, text: str = MAIN, **parts: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(folder, text, **parts)
    told = (str(mistake).replace(f"{folder}/", "") for mistake in error.value.mistakes)
    return [mistake.replace("250ms, 5s or 2m", "1m") for mistake in told]


def test_services_come_from_all_files_in_their_order(folder: Path) -> None:
    config = read(folder, MAIN + OWN, b=part("second"), a="version: 1\n" + part("first"), c="")
    assert list(config.services) == ["own", "first", "second"]
    assert config.include == ()
    assert config.document.mistakes == []


def test_a_mistake_names_the_file_that_it_is_in(folder: Path) -> None:
    assert mistakes(
        folder,
        MAIN + OWN.replace("/own", "own"),
        a=part("first", timeouts="{connect: soon}"),
        b=part("x", middleware="[retri]"),
        c=part("third", url="'${NO}'"),
        d="services: {third: [",
        e="[1, 2]",
        f=part("sixth") + "middleware: [health]\n",
        g="version: 2\nservices: 3\n",
    ) == [
        "gateway.yaml:6:21: services.own.routes[0].path: the path 'own' must begin with a slash",
        "parts/a.yaml:4:25: services.first.timeouts.connect: expected a duration such as 1m, got 'soon'",
        "parts/b.yaml:4:18: services.x.middleware[0]: unknown middleware 'retri' (did you mean 'retry'?)",
        "parts/c.yaml:3:10: services.third.url: the environment variable NO is not set and has no default",
        "parts/d.yaml:1:20: not valid YAML: expected the node content, but found '<stream end>'",
        "parts/e.yaml:1:1: expected a mapping, got a list",
        "parts/f.yaml:5:1: middleware: unknown key 'middleware': an included file holds services only",
        "parts/g.yaml:1:10: version: must be 1",
        "parts/g.yaml:2:11: services: expected a mapping",
    ]


def test_a_service_that_is_there_twice_is_a_mistake_with_both_places(folder: Path) -> None:
    assert mistakes(folder, MAIN + OWN, a=part("own"), b=part("two"), c=part("two")) == [
        "parts/a.yaml:2:3: services.own: the service 'own' is already in gateway.yaml:4:3",
        "parts/c.yaml:2:3: services.two: the service 'two' is already in parts/b.yaml:2:3",
    ]


def test_routes_of_two_files_that_clash_name_both(folder: Path) -> None:
    [mistake] = mistakes(folder, MAIN + OWN, a=part("other", routes="[{path: /own}]"))
    assert mistake.startswith("parts/a.yaml:4:14: services.other.routes[0]: asks for requests that")
    assert "services.own.routes[0] (gateway.yaml:6:14)" in mistake


def test_a_file_that_is_named_must_be_there_and_a_pattern_need_not_match(folder: Path) -> None:
    text = "version: 1\ninclude:\n  - none/*.yaml\n  - missing.yaml\n  - parts\n"
    assert mistakes(folder, text) == [
        "gateway.yaml:4:5: include[0]: cannot read the file: No such file or directory".replace("[0]", "[1]"),
        "gateway.yaml:5:5: include[2]: cannot read parts: Is a directory",
    ]
    assert mistakes(folder, "version: 1\ninclude: parts/a.yaml\n") == [
        "gateway.yaml:2:10: include: expected a list of files or patterns"
    ]


def test_a_file_is_read_once_and_never_as_a_part_of_itself(folder: Path) -> None:
    text = "version: 1\ninclude: ['*.yaml', parts/a.yaml, 'parts/*.yaml']\n"
    assert list(read(folder, text + OWN, a=part("first")).services) == ["own", "first"]


def test_a_folder_with_a_name_like_a_pattern_is_none(folder: Path) -> None:
    odd = folder / "[ab]*"
    (odd / "parts").mkdir(parents=True)
    assert list(read(odd, a=part("first")).services) == ["first"]


def test_relative_paths_start_at_the_folder_of_the_main_file(folder: Path) -> None:
    (folder / "url").write_text("http://127.0.0.1:8")
    config = read(folder, a=part("first", url="'${file:url}'"))
    assert config.services["first"].url == "http://127.0.0.1:8"
    assert ("services", "first", "url") in config.document.secrets


def test_warnings_and_what_is_in_effect_know_the_parts(folder: Path) -> None:
    config = read(
        folder,
        a=part("first", middleware="[{retry: {}}, {circuit_breaker: {}}]"),
    )
    assert all(warning.file.endswith("parts/a.yaml") for warning in warnings_of(config))
    assert warnings_of(config)
    written = effective_yaml(config)
    assert "include" not in written
    assert parse_config(written) == config


def test_it_works_in_plain_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "parts" / "a.yaml").write_text(part("first"))
    monkeypatch.chdir(folder)
    assert list(parse_config({"version": 1, "include": ["parts/*.yaml"]}).services) == ["first"]


def test_a_file_is_walked_once_however_many_services_it_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was walked for each of them, which took seconds with a thousand."""
    walks: list[int] = []

    class Keys(dict[Any, Any]):
        def items(self) -> Any:
            walks.append(len(self))
            return super().items()

    def reading(*arguments: Any) -> Document:
        document = read_text(*arguments)
        document.keys = Keys(document.keys)
        return document

    monkeypatch.setattr("asgi_gateway.config.include.read_text", reading)
    services = [part(name).removeprefix("services:\n") for name in ("a", "b", "c")]
    assert list(read(folder, all="services:\n" + "".join(services)).services) == ["a", "b", "c"]
    assert len(walks) == 1
