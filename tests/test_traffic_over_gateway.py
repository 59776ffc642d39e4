"""Fallback, split and mirror as a user meets them: YAML, a server, sockets."""

import asyncio
import textwrap
from pathlib import Path
from typing import Any

import pytest

from asgi_gateway import Gateway
from asgi_gateway.config import ConfigError
from asgi_gateway.testing import Upstream, behaviours, refused_url, serve


def yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nmiddleware: [gateway_headers]\n" + textwrap.dedent(text))
    return path


async def fetch(url: str, path: str = "/", body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head_text, _, content = raw.partition(b"\r\n\r\n")
    status, *lines = head_text.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, content


async def test_a_service_falls_back_to_another_which_is_named(tmp_path: Path) -> None:
    async with Upstream(behaviours.answer(body=b"spare")) as spare:
        with refused_url() as dead:
            config = yaml(
                tmp_path,
                f"""
                services:
                  main:
                    url: {dead}
                    routes: [{{path: /*}}]
                    middleware:
                      - fallback: {{targets: [spare]}}
                      - circuit_breaker: {{failure_threshold: 1}}
                  spare: {{url: "{spare.url}", routes: [{{path: /other/*}}]}}
                """,
            )
            async with serve(Gateway(config)) as server:
                answers = [await fetch(server.url, body=b"question") for _ in range(3)]
    assert [(status, content) for status, _, content in answers] == [(200, b"spare")] * 3
    assert {headers["x-gateway-service"] for _, headers, _ in answers} == {"spare"}
    # The first request was tried at both, the others only at the spare: the circuit was open.
    assert [headers["x-gateway-attempts"] for _, headers, _ in answers] == ["2", "1", "1"]
    assert [one.content for one in spare.requests] == [b"question"] * 3


async def test_the_last_answer_is_the_last_services_own(tmp_path: Path) -> None:
    async with (
        Upstream(behaviours.answer(500)) as main,
        Upstream(behaviours.answer(503, body=b"own")) as spare,
    ):
        config = yaml(
            tmp_path,
            f"""
            services:
              main:
                url: {main.url}
                routes: [{{path: /*}}]
                middleware: [{{fallback: {{targets: [spare]}}}}]
              spare: {{url: "{spare.url}", routes: [{{path: /other/*}}]}}
            """,
        )
        async with serve(Gateway(config)) as server:
            status, headers, content = await fetch(server.url)
    assert (status, headers["x-gateway-service"], content) == (503, "spare", b"own")
    assert (len(main.requests), len(spare.requests)) == (1, 1)


async def test_shares_go_to_services_by_weight(tmp_path: Path) -> None:
    async with Upstream(behaviours.answer()) as old, Upstream(behaviours.answer()) as new:
        config = yaml(
            tmp_path,
            f"""
            services:
              old:
                url: {old.url}
                routes: [{{path: /*}}]
                middleware: [{{split: {{own_weight: 80, targets: [{{service: new, weight: 20}}]}}}}]
              new: {{url: "{new.url}", routes: [{{path: /other/*}}]}}
            """,
        )
        async with serve(Gateway(config)) as server:
            named = [(await fetch(server.url))[1]["x-gateway-service"] for _ in range(300)]
    assert len(new.requests) == named.count("new")
    assert abs(len(new.requests) / 300 - 0.2) < 0.1


@pytest.mark.parametrize("behaviour", [behaviours.answer(500), behaviours.hang()])
async def test_a_mirror_gets_the_request_and_the_client_nothing_of_it(tmp_path: Path, behaviour: Any) -> None:
    async with Upstream(behaviours.answer(body=b"main")) as main, Upstream(behaviour) as copies:
        config = yaml(
            tmp_path,
            f"""
            services:
              main: {{url: "{main.url}", routes: [{{path: /*}}], middleware: [{{mirror: {{target: next}}}}]}}
              next: {{url: "{copies.url}", routes: [{{path: /other/*}}]}}
            """,
        )
        async with serve(Gateway(config)) as server:
            status, headers, content = await fetch(server.url, "/a?b=c", b"question")
            async with asyncio.timeout(5):
                while not (copies.requests and copies.requests[0].content == b"question"):
                    await asyncio.sleep(0.01)
    assert (status, headers["x-gateway-service"], content) == (200, "main", b"main")
    assert copies.requests[0].target == b"/a?b=c"
    assert b"true" in [
        value for name, value in copies.requests[0].headers if name.lower() == b"x-gateway-mirror"
    ]


@pytest.mark.parametrize(
    "options",
    [
        "fallback: {targets: [%s]}",
        "mirror: {target: %s}",
        "split: {targets: [{service: %s, weight: 1}]}",
    ],
)
def test_circles_and_unknown_services_are_mistakes(tmp_path: Path, options: str) -> None:
    text = """
    services:
      a: {url: "http://a", routes: [{path: /a/*}], middleware: [{%s}]}
      b: {url: "http://b", routes: [{path: /b/*}], middleware: [{%s}]}
    """
    with pytest.raises(ConfigError, match="in a circle: a -> b -> a"):
        Gateway(yaml(tmp_path, text % (options % "b", options % "a")))
    with pytest.raises(ConfigError, match="there is no service 'nobody'"):
        Gateway(yaml(tmp_path, text % (options % "b", options % "nobody")))
