"""What can go wrong with one exchange, said once for every part that has to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FailureKind = Literal[
    "connect",
    "timeout",
    "reset",
    "protocol",
    "circuit_open",
    "rate_limited",
    "overloaded",
    "store_unavailable",
    "no_endpoint",
    "draining",
    "route_not_found",
    "method_not_allowed",
    "bad_request",
    "not_implemented",
    "loop_detected",
    "internal",
    "client_disconnected",
]
FailureSource = Literal["client", "gateway", "upstream"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an exchange did not end with the service's own answer, and whose doing it was.

    `source` settles the blame: only an ``upstream`` failure counts against a service, and only
    such a failure may be retried. `request_sent` is False where the service cannot have seen the
    request, which makes another attempt safe for any method (RFC 9110 section 9.2.2).
    """

    kind: FailureKind
    source: FailureSource
    request_sent: bool = False

    @property
    def code(self) -> str:
        """The stable name of this failure: in `X-Gateway-Error`, in problem bodies and in logs."""
        return f"upstream_{self.kind}" if self.source == "upstream" else self.kind


CLIENT_LEFT: Final = Failure("client_disconnected", "client")
"""The client left; nobody else has failed."""


class ResponseAborted(Exception):
    """The response began and cannot be finished; the server must break the client's connection.

    Raised out of the application on purpose: it is the one signal for which every ASGI server
    closes the connection without a clean end of the body (RFC 9112 section 8).
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code)
        self.failure = failure


class ClientDisconnected(Exception):
    """The client left before its answer was complete; nobody is there to be told."""


class StoreUnavailable(Exception):
    """The shared store gave no answer, none in time, or an error; the message holds nothing secret."""


class MissingExtra(ImportError):
    """A feature was asked for whose packages are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra {extra!r}: pip install 'asgi-gateway[{extra}]'")
