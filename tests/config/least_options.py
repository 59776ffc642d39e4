"""The options without which a middleware would do nothing; `x` is a service."""

from typing import Any

LEAST: dict[str, Any] = {
    "fallback": {"targets": ["x"]},
    "fault": {"delay": {"duration": 1}},
    "mirror": {"target": "x"},
    "mock": {"answers": [{"status": 418}]},
    "split": {"targets": [{"service": "x"}]},
}


def least(name: str) -> str | dict[str, Any]:
    """The shortest entry of a chain that is no mistake."""
    return {name: LEAST[name]} if name in LEAST else name
