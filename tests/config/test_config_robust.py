"""Whatever a file holds, it is a configuration or a `ConfigError` with something to read."""

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgi_gateway.config import ConfigError, effective_yaml, json_schema, parse_config, warnings_of
from asgi_gateway.registry import Registry

GATEWAY = (Path(__file__).parents[2] / "config" / "gateway.yaml").read_text()
REGISTRY = Registry(())
NAMES = sorted(
    {
        "version",
        "listen",
        "services",
        "middleware",
        "routes",
        "url",
        "app",
        "path",
        "methods",
        "use",
        "options",
    }
    | {"timeouts", "connections", "host", "strip_prefix", *REGISTRY.names}
    | {
        option
        for entry in json_schema(REGISTRY)["$defs"]["Middleware"]["anyOf"][1]["properties"].values()
        for option in entry.get("anyOf", [entry])[0]["properties"]
    }
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 70_000)
    | st.floats()
    | st.sampled_from(
        ["5s", "/a/*", "http://x", "${NOPE}", "${X:-1}", "${", "GET", "a:b", "json:dumps", *NAMES]
    )
)
DATA = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=20,
)
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)


def judge(content: Any) -> None:
    config, mistakes = None, []
    try:
        config = parse_config(content, registry=REGISTRY, environ={})
    except ConfigError as error:
        mistakes = error.mistakes
    assert all(mistake.message and "\n" not in str(mistake) for mistake in mistakes)
    if config is None:
        assert mistakes
    else:
        warnings_of(config)
        assert parse_config(effective_yaml(config), registry=REGISTRY, environ={}) == config


@given(st.text())
@SLOW
def test_any_text(text: str) -> None:
    judge(text)


@given(
    st.integers(0, len(GATEWAY)),
    st.integers(0, 40),
    st.text(alphabet="{}[]:-#&*!|>'\"%@`,? \n$abz09", max_size=4),
)
@SLOW
def test_a_damaged_file(at: int, length: int, put: str) -> None:
    judge(GATEWAY[:at] + put + GATEWAY[at + length :])


@given(
    listen=DATA,
    chain=st.lists(
        st.sampled_from(REGISTRY.names) | st.dictionaries(st.sampled_from(NAMES), DATA, max_size=2) | DATA
    ),
    service=st.dictionaries(st.sampled_from(NAMES), DATA, max_size=5) | DATA,
)
@SLOW
def test_any_data_under_the_names_that_there_are(listen: Any, chain: Any, service: Any) -> None:
    judge({"version": 1, "middleware": chain, "services": {"x": service}})
    judge({"version": 1, "listen": listen})
