"""docs/errors.md lists what the package can answer, and shows an answer as it is."""

import ast
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import get_args

from asgi_gateway import Gateway
from asgi_gateway.errors import Failure, FailureKind
from asgi_gateway.proxy import app as proxy
from asgi_gateway.server.refusal import CODES
from asgi_gateway.testing import request

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text()
TABLE = {(code, int(status)) for code, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", PAGE, re.MULTILINE)}
UPSTREAM = ("connect", "timeout", "reset", "protocol")
NEVER_ANSWERED = "client_disconnected"


def failure_of(node: ast.expr | None) -> str | None:
    """The code of ``Failure("kind", "source")``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Failure":
        values = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        if len(values) == 2:
            return Failure(*values).code
    return None


def problems() -> Iterator[tuple[str, int]]:
    """Code and status of each ``Problem(status, failure, ...)`` of the package that names both."""
    for file in sorted((ROOT / "asgi_gateway").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        named = {
            target.id: failure_of(node.value)
            for node in nodes
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                status, failure = node.args[:2]
                code = named.get(failure.id) if isinstance(failure, ast.Name) else failure_of(failure)
                if code and isinstance(status, ast.Constant):
                    yield code, int(status.value)


def test_every_code_has_one_status() -> None:
    assert len(TABLE) == len({code for code, _ in TABLE})


def test_every_code_is_in_the_table_and_no_other() -> None:
    kinds = set(get_args(FailureKind)) - {NEVER_ANSWERED}
    codes = {f"upstream_{kind}" if kind in UPSTREAM else kind for kind in kinds}
    assert {code for code, _ in TABLE} == codes | set(CODES.values())
    assert f"`{NEVER_ANSWERED}`" in PAGE


def test_the_statuses_are_those_that_are_sent() -> None:
    proxied = {(Failure(kind, "upstream").code, proxy._STATUSES.get(kind, 502)) for kind in UPSTREAM}
    others = {(kind, status) for kind, status in proxy._STATUSES.items() if kind not in UPSTREAM}
    sent = {*problems(), *proxied, *others, *((code, status) for status, code in CODES.items())}
    assert len({*problems()}) > 10
    assert sent == TABLE


async def test_the_sample_is_what_a_client_gets() -> None:
    sample = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    service = {
        "url": "http://127.0.0.1:9",
        "routes": [{"path": "/*"}],
        "middleware": [{"rate_limit": {"limit": "1/minute"}}, {"mock": {"answers": [{"status": 204}]}}],
    }
    gateway = Gateway({"version": 1, "middleware": ["request_id"], "services": {"ai": service}})
    asked = [(b"x-request-id", sample["request_id"].encode())]
    assert (await request(gateway, headers=asked)).status == 204
    answer = await request(gateway, headers=asked)
    assert json.loads(answer.body) == sample
    assert HTTPStatus(answer.status).phrase == sample["title"]
    assert answer.header("x-gateway-error") == sample["code"]
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("cache-control") == "no-store"
