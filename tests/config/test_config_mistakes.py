"""What a person reads who has made a mistake: each text in full, with its place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asgi_gateway.config import ConfigError, Mistake, load_config, parse_config

Mistakes = Callable[..., list[str]]

SERVICE = "  ai:\n    url: http://localhost:8000\n    routes:\n      - {path: /ai/*}\n"


def test_six_different_mistakes_are_told_at_once(mistakes: Mistakes) -> None:
    text = """\
version: 1
listen: {port: many}
middleware:
  - request_idd
services:
  ai:
    url: ${AI_URL}
    timeout: {connect: 5s}
    routes:
      - {path: /ai/*}
    middleware:
      - circuit_breaker: {failure_treshold: 5}
  data:
    url: http://localhost:8001
    routes:
      - {path: /ai/*}
listen: {port: 3000}
"""
    unset = "the environment variable AI_URL is not set and has no default"
    assert mistakes(text) == [
        "g.yaml:2:16: listen.port: expected a whole number, got 'many'",
        "g.yaml:4:5: middleware[0]: unknown middleware 'request_idd' (did you mean 'request_id'?)",
        f"g.yaml:7:10: services.ai.url: {unset}",
        "g.yaml:8:5: services.ai.timeout: unknown key 'timeout' (did you mean 'timeouts'?)",
        (
            "g.yaml:12:27: services.ai.middleware[0].circuit_breaker.failure_treshold: "
            "unknown key 'failure_treshold' (did you mean 'failure_threshold'?)"
        ),
        (
            "g.yaml:16:9: services.data.routes[0]: "
            "asks for requests that services.ai.routes[0] (10:9) already takes"
        ),
        "g.yaml:17:1: listen: duplicate key 'listen', first written at 2:1",
    ]


def test_the_error_prints_one_mistake_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("version: 2\nnope: 1\n", source="x.yaml")
    assert str(caught.value) == (
        "x.yaml:1:10: version: expected 1, got 2\nx.yaml:2:1: nope: unknown key 'nope'"
    )
    assert caught.value.mistakes[0] == Mistake("x.yaml", 1, 10, "version", "expected 1, got 2")


def test_a_mapping_has_paths_and_no_lines(mistakes: Mistakes) -> None:
    assert mistakes({"version": 1, "listen": {"port": "x"}}) == [
        "g.yaml: listen.port: expected a whole number, got 'x'"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "g.yaml: the file is empty"),
        ("# nothing\n", "g.yaml: the file is empty"),
        ("[1, 2]\n", "g.yaml:1:1: expected a mapping, got a list"),
        ("hello\n", "g.yaml:1:1: expected a mapping, got 'hello'"),
        ("version: 1\n  x: 1\n", "g.yaml:2:4: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "g.yaml:2:1: not valid YAML: but found another document"),
        ("a: b\x07\n", "g.yaml:1:5: not valid YAML: the character '\\x07' is not allowed"),
        ("a: *x\n", "g.yaml:1:4: not valid YAML: found undefined alias 'x'"),
        ("a: &x [*x]\n", "g.yaml:1:4: not valid YAML: an alias stands inside its own anchor"),
        ("a: 1\nb: !!int 1\n", "g.yaml:2:4: not valid YAML: tags such as !!str are not allowed"),
        (
            "listen: {port: ${PORT:-3000}}\n",
            (
                "g.yaml:1:17: not valid YAML: expected ',' or '}', but got '{'; "
                "inside { } and [ ], put ${...} in quotes"
            ),
        ),
    ],
)
def test_what_is_no_configuration_at_all_is_one_mistake(mistakes: Mistakes, text: str, told: str) -> None:
    assert mistakes(text) == [told]


def test_an_alias_bomb_is_refused_soon(mistakes: Mistakes) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (told,) = mistakes("\n".join(lines))
    assert "more than 200000 values" in told


def test_aliases_are_allowed(mistakes: Mistakes) -> None:
    text = f"version: 1\nservices:\n{SERVICE}    timeouts: &t {{connect: 0}}\n"
    text += "  b: {url: 'http://b', timeouts: *t, routes: [{path: /b}]}\n"
    told = "must be greater than 0, got 0"
    assert mistakes(text) == [
        f"g.yaml:7:28: services.ai.timeouts.connect: {told}",
        f"g.yaml:7:28: services.b.timeouts.connect: {told}",
    ]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("a: {<<: {x: 1}}", "2:5: a['<<']: merge keys (<<) are not supported"),
        ("? [x]\n: 1", "2:3: a key must be plain text"),
        ("on: 1", "2:1: on: unknown key 'on'"),
        ("listen:", "2:8: listen: expected a mapping, got nothing"),
        ("listen: {port: true}", "2:16: listen.port: expected a whole number, got true"),
        ("listen: {port: 70000}", "2:16: listen.port: must be at most 65535, got 70000"),
        ("listen: {port: 1.5}", "2:16: listen.port: expected a whole number, got 1.5"),
        ("listen: {host: 127}", "2:16: listen.host: expected text, got 127"),
        ("listen: {hots: x}", "2:10: listen.hots: unknown key 'hots' (did you mean 'host'?)"),
        (
            "logging: {level: INFOO}",
            (
                "2:18: logging.level: expected 'debug', 'info', 'warning' or 'error', got 'INFOO' "
                "(did you mean 'info'?)"
            ),
        ),
        ("middleware: request_id", "2:13: middleware: expected a list, got 'request_id'"),
        ("middleware:", "2:12: middleware: expected a list, got nothing"),
        ("services: [1]", "2:11: services: expected a mapping, got a list"),
        ("services: {ai: 1}", "2:16: services.ai: expected a mapping, got 1"),
    ],
)
def test_wrong_keys_and_types(mistakes: Mistakes, lines: str, told: str) -> None:
    assert f"g.yaml:{told}" in mistakes(f"version: 1\n{lines}\n")


def test_a_missing_version_is_told_at_the_top(mistakes: Mistakes) -> None:
    assert mistakes("listen: {}\n") == ["g.yaml:1:1: missing key 'version'"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("url: localhost:8000", "expected a URL such as http://localhost:8000, got 'localhost:8000'"),
        ("url: ftp://x", "expected a URL such as http://localhost:8000, got 'ftp://x'"),
        ("url: http://", "expected a URL such as http://localhost:8000, got 'http://'"),
        ("url: http://x:0", "the port must be a number from 1 to 65535, got 'http://x:0'"),
        ("url: http://x:99999", "the port must be a number from 1 to 65535, got 'http://x:99999'"),
        ("url: 'http://x:'", "the port must be a number from 1 to 65535, got 'http://x:'"),
        ("url: http://x?a=b", "a URL may not hold a query or a fragment, got 'http://x?a=b'"),
        ("url: 'http://x#y'", "a URL may not hold a query or a fragment, got 'http://x#y'"),
        ("url: 'http://x/a b'", "a URL may only hold visible ASCII characters, got 'http://x/a b'"),
        ("url: http://[::1", "expected a URL such as http://localhost:8000, got 'http://[::1'"),
        ("url: http://me:pw@x", "a URL may not hold a user or password, got 'http://***@x'"),
        ("url: http://me:p/w@x", "the port must be a number from 1 to 65535, got 'http://***@x'"),
        ("app: my.module", "expected package.module:attribute, got 'my.module'"),
    ],
)
def test_a_service_is_somewhere(mistakes: Mistakes, line: str, told: str) -> None:
    text = f"version: 1\nservices:\n  ai:\n    {line}\n    routes: [{{path: /}}]\n"
    assert mistakes(text) == [f"g.yaml:4:10: services.ai.{line[:3]}: {told}"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("required: false", "a service needs exactly one of 'url', 'endpoints' and 'app'"),
        ("url: http://x\n    app: json:dumps", "a service needs exactly one of 'url', 'endpoints' and 'app'"),
        (
            "url: http://x\n    endpoints: [{url: http://y}]",
            "a service needs exactly one of 'url', 'endpoints' and 'app'",
        ),
        ("app: json:dumps\n    transport: httpx", "an 'app' is called directly, so it has no 'transport'"),
        ("app: json:dumps\n    timeouts: {}", "an 'app' is called directly, so it has no 'timeouts'"),
        (
            "app: json:dumps\n    connections: {max: 1}",
            "an 'app' is called directly, so it has no 'connections'",
        ),
        (
            "app: json:dumps\n    preserve_host: true",
            "an 'app' is called directly, so it has no 'preserve_host'",
        ),
    ],
)
def test_a_service_is_one_or_the_other(mistakes: Mistakes, lines: str, told: str) -> None:
    text = f"version: 1\nservices:\n  ai:\n    {lines}\n    routes: [{{path: /}}]\n"
    assert mistakes(text) == [f"g.yaml:4:5: services.ai: {told}"]


def test_something_has_to_lead_to_a_service(mistakes: Mistakes) -> None:
    text = "version: 1\nservices:\n  ai: {url: 'http://x'}\n  b: {url: 'http://x', routes: []}\n"
    told = "nothing leads to it: it has no routes, and no middleware names it"
    assert mistakes(text) == [f"g.yaml:3:3: services.ai: {told}", f"g.yaml:4:3: services.b: {told}"]


def test_a_services_name_is_plain(mistakes: Mistakes) -> None:
    (told,) = mistakes(f"version: 1\nservices:\n{SERVICE.replace('ai:', 'a i:', 1)}")
    assert told == (
        "g.yaml:3:3: services['a i']: the service name 'a i' may only hold letters, digits, - and _"
    )


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ("path: api", ".path: the path 'api' must begin with a slash"),
        ("path: /a*", ".path: the path '/a*' may have a * only as its last segment"),
        ("path: /a//b", ".path: a route's path may not hold // or dot segments, no request would match it"),
        ("path: /a/../b", ".path: a route's path may not hold // or dot segments, no request would match it"),
        ("path: /a%20b", ".path: a route's path is written decoded, without %, ?, # and spaces"),
        ("path: /a, host: 'x:80'", ".host: expected a host such as api.example.com or *.example.com"),
        ("path: /a, host: '*'", ".host: expected a host such as api.example.com or *.example.com"),
        ("path: /a, methods: [get]", ".methods: expected method names in upper case such as GET, not 'get'"),
        ("path: /a, methods: []", ": methods is empty, so no request would match"),
        ("path: /ab/*, strip_prefix: /a", ": strip_prefix is not a leading part of path"),
        ("path: /a/*, strip_prefix: /a/b", ": strip_prefix is not a leading part of path"),
        ("path: /a/*, strip_prefix: /a/", ".strip_prefix: expected a path such as /api/ai that"),
        ("path: /a/*, strip_prefix: /", ".strip_prefix: expected a path such as /api/ai that"),
        ("path: /a/*, strip_prefix: a", ".strip_prefix: expected a path such as /api/ai that"),
        ("pfad: /a", ": missing key 'path'"),
    ],
)
def test_a_route_can_be_matched(mistakes: Mistakes, route: str, told: str) -> None:
    text = f"version: 1\nservices: {{ai: {{url: 'http://x', routes: [{{{route}}}]}}}}\n"
    assert f"services.ai.routes[0]{told}" in mistakes(text)[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("{wait: abc}", ".wait: expected a duration such as 250ms, 5s or 2m, got 'abc'"),
        ("{wait: -5s}", ".wait: expected a duration such as 250ms, 5s or 2m, got '-5s'"),
        ("{wait: -5}", ".wait: must be at least 0, got -5"),
        ("{wait: .inf}", ".wait: must be a finite number, got inf"),
        ("{wait: true}", ".wait: expected a duration such as 250ms, 5s or 2m, got true"),
        ("{size: 3 apples}", ".size: expected a size such as 64KiB or 1MiB, got '3 apples'"),
        ("{statuses: [5xx, 99]}", ".statuses: expected status codes such as [502-504] or [5xx], not 99"),
        ("{statuses: [504-502]}", ".statuses: the range 504-502 runs backwards"),
        ("{mode: fst}", ".mode: expected 'fast' or 'slow', got 'fst' (did you mean 'fast'?)"),
        ("{flag: 7}", ".flag: expected true or false, got 7"),
        ("{ratio: false}", ".ratio: expected a number, got false"),
        ("{ratio: x}", ".ratio: expected a number, got 'x'"),
        ("{names: 5}", ".names: expected text or a list, got 5"),
        ("{names: [a, 5]}", ".names[1]: expected text, got 5"),
        ("{either: 5}", ".either: expected a list or 'all', got 5"),
        ("{either: al}", ".either: expected a list or 'all', got 'al' (did you mean 'all'?)"),
        ("{choice: 9s}", ".choice: expected a size such as 64KiB or 1MiB, got '9s'"),
        ("{deep: 5}", ".deep: expected text or a list or a mapping, got 5"),
        ("{deep: [5]}", ".deep[0]: expected text or a mapping, got 5"),
        ("{deep: [{}]}", ".deep[0]: missing key 'name'"),
        ("{deep: {name: a, nam: b}}", ".deep.nam: unknown key 'nam' (did you mean 'name'?)"),
        ("{backoff: 3}", ".backoff: expected a mapping, got 3"),
        ("{backoff: {initial: 0}}", ".backoff.initial: must be greater than 0, got 0"),
        ("{backoff: {factr: 2}}", ".backoff.factr: unknown key 'factr' (did you mean 'factor'?)"),
        ("{backoff: {factor: true}}", ".backoff.factor: expected a number, got true"),
        ("{count: 0}", ".count: must be at least 1, got 0"),
        ("{runtime: 1}", ".runtime: unknown key 'runtime'"),
        ("{app: 1}", ".app: unknown key 'app'"),
        ("5", ": expected a mapping, got 5"),
    ],
)
def test_options_are_held_to_the_constructor(options_mistakes: Mistakes, options: str, told: str) -> None:
    assert options_mistakes(options) == [told]


def test_a_long_value_is_shortened(options_mistakes: Mistakes) -> None:
    (told,) = options_mistakes(f"{{wait: {'a' * 500}}}")
    assert len(told) < 160


def test_a_required_option_is_asked_for(mistakes: Mistakes) -> None:
    assert mistakes("version: 1\nmiddleware: [needy]\n") == [
        "g.yaml:2:14: middleware[0].needy: missing key 'limit'"
    ]


def test_what_follows_from_a_mistake_is_not_told_as_well(mistakes: Mistakes) -> None:
    text = "version: 1\nservices: {ai: {url: '${NOPE}', routes: [{path: '${NO}', strip_prefix: /x}]}}\n"
    assert [told.partition(": ")[2][:16] for told in mistakes(text)] == [
        "services.ai.url:",
        "services.ai.rout",
    ]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"version: \xff")
    for path, told in (
        (tmp_path / "none.yaml", "cannot read the file: No such file or directory"),
        (tmp_path, "cannot read the file: Is a directory"),
        (binary, "cannot read the file: it is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value) == f"{path}: {told}"


def test_a_byte_order_mark_and_crlf_are_read(tmp_path: Path) -> None:
    file = tmp_path / "dos.yaml"
    file.write_bytes(b"\xef\xbb\xbfversion: 1\r\nlisten: {port: 4000}\r\n")
    assert load_config(str(file)).listen.port == 4000
