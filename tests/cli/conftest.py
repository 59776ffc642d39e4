from collections.abc import Callable
from pathlib import Path

import pytest

MINIMAL = "version: 1\nservices: {data: {url: 'http://127.0.0.1:9', routes: [{path: /*}]}}\n"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration and return its path."""

    def write(text: str = MINIMAL, name: str = "gateway.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write
