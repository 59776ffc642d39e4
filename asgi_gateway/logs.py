"""Logging as JSON lines: one object a line, with the ids of the request that it belongs to.

    logging.config.dictConfig(log_config("info"))

Everything outside ASCII and every control character is escaped, so that nothing a client sends can
end a line, begin another or colour a terminal.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonEncoder
from pythonjsonlogger.json import JsonFormatter as _JsonFormatter

from asgi_gateway.context import request_id_var, trace_id_var
from asgi_gateway.errors import ResponseAborted

_OWN_KEYS = frozenset({*RESERVED_ATTRS, "taskName", "color_message", "request_id", "trace_id"})
"""Attributes of a record that are no extras; `color_message` is uvicorn's second copy of the message."""


class JsonFormatter(_JsonFormatter):
    """A record as one JSON object: time, level, logger, message, request_id, trace_id, then its extras.

    `time` is ISO 8601 in UTC with milliseconds. A traceback is one string under ``exc_info``.
    """

    def __init__(self) -> None:
        super().__init__()
        # One encoder for all records: building it costs as much as using it. What is logged is flat.
        self._encode = JsonEncoder(separators=(",", ":"), check_circular=False).encode
        self._second = -1
        self._second_text = ""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill in the object; replaces the base class's general rules by this one's fixed ones."""
        fields = record.__dict__
        log_data["time"] = self._time(record.created)
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data["request_id"] = fields.get("request_id")
        log_data["trace_id"] = fields.get("trace_id")
        log_data.update(message_dict)
        log_data.update({key: value for key, value in fields.items() if key not in _OWN_KEYS})

    def _time(self, created: float) -> str:
        """ISO 8601 in UTC with milliseconds; all but those is the same for a whole second."""
        second = int(created)
        if second != self._second:
            self._second_text = datetime.fromtimestamp(second, UTC).isoformat()[:-6]
            self._second = second
        return f"{self._second_text}.{int((created - second) * 1000):03}Z"

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """The object as text."""
        return self._encode(log_data)


class ContextFilter(logging.Filter):
    """Puts the current request's id and trace id on every record; drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what the record does not say itself."""
        fields = record.__dict__
        if "request_id" not in fields:
            fields["request_id"] = request_id_var.get()
        if "trace_id" not in fields:
            fields["trace_id"] = trace_id_var.get()
        return True


class AbortFilter(logging.Filter):
    """Drops the server's traceback for `ResponseAborted`: our signal to it, not a mistake in the app."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record tells of anything else."""
        return not (record.exc_info and isinstance(record.exc_info[1], ResponseAborted))


def stdout_handler() -> logging.Handler:
    """A handler that writes JSON lines to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(ContextFilter())
    return handler


def log_config(level: str = "info") -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig` and for uvicorn's ``log_config``.

    Everything from `level` on is written to standard output; uvicorn's own access log is off.
    """
    here = __name__
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"aborts": {"()": f"{here}.AbortFilter"}},
        "handlers": {
            "stdout": {"()": f"{here}.stdout_handler"},
            "nowhere": {"class": "logging.NullHandler"},
        },
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": {
            "uvicorn.error": {"filters": ["aborts"]},
            "uvicorn.access": {"handlers": ["nowhere"], "propagate": False},
        },
    }
