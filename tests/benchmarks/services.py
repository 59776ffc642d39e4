"""The services that stand behind the proxies: nginx for small answers, our own for the rest."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.peers.classic import nginx_command, nginx_config
from tests.benchmarks.processes import SERVICE_CORE, free_port, running

_CONTENT = "Hello there, how may I assist you today?"


def completion(size: int) -> str:
    """A chat completion of exactly so many bytes, without the quotes that nginx could not take."""
    text = (
        '{"id":"chatcmpl-123","object":"chat.completion","created":1677652288,"model":"gpt-4o-mini",'
        '"choices":[{"index":0,"message":{"role":"assistant","content":"@"},"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}'
    )
    room = size - len(text) + 1
    return text.replace("@", (_CONTENT * (room // len(_CONTENT) + 1))[:room])


@contextmanager
def small_service() -> Iterator[int]:
    """nginx: ``/kilobyte`` answers 1 KiB, everything else 600 bytes of JSON; its port."""
    with tempfile.TemporaryDirectory(prefix="service-") as temporary:
        directory, port = Path(temporary), free_port()
        body = f"""  default_type application/json;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 '{completion(600)}'; }}
    location /kilobyte {{ return 200 '{completion(1024)}'; }}
  }}"""
        config = directory / "service.conf"
        config.write_text(nginx_config(directory, "service", body))
        with running(nginx_command(directory, str(config)), port, core=SERVICE_CORE):
            yield port


@contextmanager
def bulk_service() -> Iterator[int]:
    """Bodies of any size and event streams, see `tests.benchmarks.bulk`; its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.bulk", str(port)]
    with running(command, port, core=SERVICE_CORE):
        yield port
