import asyncio
import sys
import threading
from pathlib import Path

import httpx
import pytest

from asgi_gateway.testing import ScriptedApp, run_process, serve
from asgi_gateway.types import Receive, Scope, Send


async def test_an_app_is_served_by_a_real_server_and_stopped() -> None:
    app = ScriptedApp(201)
    async with serve(app, lifespan="off") as server, httpx.AsyncClient() as client:
        answer = await client.post(f"{server.url}/a%2Fb", content=b"sent")
        assert answer.status_code == 201
        assert "server" not in answer.headers
    assert (app.calls[0]["raw_path"], app.bodies) == (b"/a%2Fb", [b"sent"])
    assert not any(thread.name.startswith("uvicorn") for thread in threading.enumerate())
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(server.host, server.port)


async def test_an_app_that_fails_to_start_is_said_to_have() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="did not start"):
        async with serve(refusing, lifespan="on"):
            pass


async def test_a_request_that_hangs_does_not_hold_up_the_end() -> None:
    hung = threading.Event()

    async def hang(scope: Scope, receive: Receive, send: Send) -> None:
        hung.set()
        await asyncio.Event().wait()

    async with serve(hang, lifespan="off", timeout_graceful_shutdown=0) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.to_thread(hung.wait, 5)
    assert b"200" not in await asyncio.wait_for(reader.read(), 5)
    writer.close()


FAKE = """
import http.server, sys
if sys.argv[1:] == ["fail"]:
    sys.exit("cannot listen")
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.fixture
def fake_package(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "asgi_gateway").mkdir()
    (tmp_path / "asgi_gateway" / "__init__.py").write_text("")
    (tmp_path / "asgi_gateway" / "__main__.py").write_text(FAKE)
    return {"PYTHONPATH": str(tmp_path), "PATH": str(Path(sys.executable).parent)}


async def test_a_process_is_ready_when_it_accepts_and_ends_with_its_block(
    fake_package: dict[str, str],
) -> None:
    async with run_process(["run"], env=fake_package, cwd=fake_package["PYTHONPATH"]) as process:
        async with httpx.AsyncClient() as client:
            assert (await client.get(process.url)).status_code == 200
        assert (await process.wait_for_line(r"GET /"))[0] == "GET /"
        assert process.port == int(process.url.rpartition(":")[2])
    assert process.process.returncode == -15


async def test_a_process_that_ends_at_once_shows_what_it_said(fake_package: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="cannot listen"):
        async with run_process(["fail"], env=fake_package, cwd=fake_package["PYTHONPATH"]):
            pass
