"""asgi_gateway: bare, with pass-through layers, with the whole of ``config/gateway.yaml``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.peers.folders import INSTALLED
from tests.benchmarks.peers.peer import Peer, Place, no_file, no_module

Config = dict[str, Any]

_FILE = Path(__file__).parents[3] / "config" / "gateway.yaml"
_PREFIX = "/api/ai"
_INSTALLED_PYTHON = INSTALLED / "bin" / "python"
_OUT_OF_REACH = "1000000000/minute"
_UVICORN = ["--no-proxy-headers", "--no-server-header", "--no-date-header", "--timeout-keep-alive", "75"]


def bare_config(service: int, *, layers: int = 0) -> Config:
    """One service on the route that it has in ``config/gateway.yaml``, and `layers` that do nothing."""
    layer = {"use": "tests.benchmarks.layer:PassThroughMiddleware"}
    return {
        "version": 1,
        "middleware": [layer] * layers,
        "services": {
            "ai": {
                "url": f"http://127.0.0.1:{service}",
                "routes": [{"path": f"{_PREFIX}/*", "strip_prefix": _PREFIX}],
            }
        },
    }


def whole_config(service: int) -> Config:
    """``config/gateway.yaml`` as it is, its services moved and its limits out of reach."""
    config: Config = yaml.safe_load(_FILE.read_text())
    chains = [config["middleware"]]
    for one in config["services"].values():
        one["url"] = f"http://127.0.0.1:{service}"
        chains.append(one["middleware"])
    for layer in (layer for chain in chains for layer in chain if isinstance(layer, dict)):
        if "rate_limit" in layer:
            layer["rate_limit"]["limit"] = _OUT_OF_REACH
    return config


def roomy(config: Config) -> Config:
    """With space for thousands of open streams."""
    for one in config["services"].values():
        one["connections"] = {"max": 20000}
        one["timeouts"] = {**one.get("timeouts", {}), "idle": "10m"}
    return config


def _write(place: Place, config: Config) -> str:
    return place.write("gateway.yaml", yaml.safe_dump(config, sort_keys=False))


def _run_source(config: Callable[[int], Config]) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        file = _write(place, config(place.service))
        return [sys.executable, "-m", "asgi_gateway", "run", file, "--port", str(place.port)]

    return command


def _run_installed(config: Callable[[int], Config]) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        file = _write(place, config(place.service))
        # -I, so that what is installed there is run, and not the source that lies here.
        return [str(_INSTALLED_PYTHON), "-I", "-m", "asgi_gateway", "run", file, "--port", str(place.port)]

    return command


def _under_uvicorn(config: Callable[[int], Config]) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        # No flag of uvicorn's names the file, so it goes by the environment.
        file = f"ASGI_GATEWAY_CONFIG={_write(place, config(place.service))}"
        server = [sys.executable, "-m", "uvicorn", "--factory", "asgi_gateway:create_app", *_UVICORN]
        quiet = ["--no-access-log", "--log-level", "warning", "--backlog", "4096"]
        return ["env", file, *server, *quiet, "--port", str(place.port)]

    return command


def _under_granian(config: Callable[[int], Config]) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        file = f"ASGI_GATEWAY_CONFIG={_write(place, config(place.service))}"
        app = ["--interface", "asgi", "--factory", "asgi_gateway:create_app"]
        single = ["--workers", "1", "--runtime-threads", "1", "--loop", "uvloop", "--log-level", "warning"]
        server = [sys.executable, "-m", "granian", *app, *single]
        return ["env", file, *server, "--host", "127.0.0.1", "--port", str(place.port)]

    return command


def layered(layers: int) -> Peer:
    """The bare proxy behind so many layers that do nothing, not compiled."""
    name = f"asgi_gateway, {layers} layer{'s' * (layers != 1)}"
    return Peer(name, _run_source(lambda service: bare_config(service, layers=layers)), prefix=_PREFIX)


SOURCE_BARE, SOURCE_WHOLE = (
    Peer(f"asgi_gateway, not compiled, {what}", _run_source(config), prefix=_PREFIX)
    for what, config in (("bare", bare_config), ("config/gateway.yaml", whole_config))
)
BARE, WHOLE = (
    Peer(
        peer.name.replace(", not compiled", ""),
        _run_installed(config),
        f"python3 -m venv {INSTALLED} && {INSTALLED}/bin/pip install .",
        no_file(_INSTALLED_PYTHON),
        _PREFIX,
    )
    for peer, config in ((SOURCE_BARE, bare_config), (SOURCE_WHOLE, whole_config))
)
BARE_ROOMY = replace(BARE, command=_run_installed(lambda service: roomy(bare_config(service))))
WHOLE_ROOMY = replace(WHOLE, command=_run_installed(lambda service: roomy(whole_config(service))))
SOURCE_WHOLE_ROOMY = replace(SOURCE_WHOLE, command=_run_source(lambda service: roomy(whole_config(service))))

OTHER_SERVERS = [
    Peer(f"{peer.name}, {server}", command(config), install, missing, _PREFIX)
    for server, command, install, missing in (
        ("uvicorn's own protocol", _under_uvicorn, "", no_module("uvicorn")),
        ("granian", _under_granian, "pip install granian", no_module("granian")),
    )
    for peer, config in ((SOURCE_BARE, bare_config), (SOURCE_WHOLE, whole_config))
]
