"""Proxies of a library or of an afternoon: plain httpx and aiohttp, two ASGI libraries, Fastify's."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.benchmarks.peers.folders import NODE
from tests.benchmarks.peers.peer import Peer, Place, no_file, no_module

_FASTIFY = """const app = require('fastify')();
app.register(require('@fastify/http-proxy'), { upstream: process.env.SERVICE });
app.listen({ host: '127.0.0.1', port: Number(process.argv[2]) });
"""


def _uvicorn(app: str, *options: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        quiet = ["--no-access-log", "--log-level", "warning", "--backlog", "4096"]
        return [sys.executable, "-m", "uvicorn", app, "--port", str(place.port), *quiet, *options]

    return command


def _fastify(place: Place) -> list[str]:
    return ["node", place.write("fastify.js", _FASTIFY), str(place.port)]


def _python(name: str, app: str, module: str, install: str = "") -> Peer:
    factory = ("--factory",) if app.endswith("_lib") else ()
    command = _uvicorn(f"tests.benchmarks.plain_proxies:{app}", *factory)
    return Peer(name, command, install, no_module(module), service_env="SERVICE")


AIOHTTP = _python("plain aiohttp proxy", "aiohttp_proxy", "aiohttp", "pip install aiohttp")
HTTPX = _python("plain httpx proxy", "httpx_proxy", "httpx")
ASGI_PROXY_LIB = _python("asgi-proxy-lib", "asgi_proxy_lib", "asgi_proxy", "pip install asgi-proxy-lib")
FASTAPI_PROXY_LIB = _python(
    "fastapi-proxy-lib", "fastapi_proxy_lib", "fastapi_proxy_lib", "pip install fastapi-proxy-lib"
)
FASTIFY = Peer(
    "@fastify/http-proxy",
    _fastify,
    f"npm install --prefix {NODE} fastify @fastify/http-proxy",
    no_file(NODE / "node_modules" / "@fastify" / "http-proxy"),
    env={"NODE_PATH": str(NODE / "node_modules"), "NODE_ENV": "production"},
    service_env="SERVICE",
)
