"""Answer in place of a service."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.fixed_answer import FixedAnswer
from asgi_gateway.asgi.paths import PathPattern, service_path
from asgi_gateway.options import validated
from asgi_gateway.types import ASGIApp, MethodSet, Receive, Scope, Send


@dataclass(frozen=True)
class MockAnswer(FixedAnswer):
    """A fixed answer and the requests that it is given to."""

    path: str = "/*"
    """The path, or with ``/*`` at its end all below it."""
    methods: MethodSet | None = None
    """Only these methods; all by default. GET does not include HEAD."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_pattern", PathPattern(self.path))

    def answers(self, scope: Scope) -> bool:
        """Whether it is for this request."""
        if self.methods is not None and scope["method"] not in self.methods:
            return False
        pattern: PathPattern = self._pattern  # type: ignore[attr-defined] # set once, the rest is frozen
        return pattern.matches(service_path(scope))


class MockMiddleware:
    """Give fixed answers; a request that has none goes on to the inner app.

    The first of `answers` whose path and methods fit is given. Nothing is read of the request.

        MockMiddleware(app, answers=[MockAnswer(path="/models", body={"data": []})])
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        answers: Annotated[
            tuple[MockAnswer, ...],
            Field(min_length=1, description="The answers; the first whose path and methods fit is given."),
        ],
    ) -> None:
        self.app = direct(app)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The same without a frame of its own; see `asgi_gateway.asgi.calls`."""
        if scope["type"] == "http":
            for answer in self._answers:
                if answer.answers(scope):
                    return answer(scope, receive, send)
        return self.app(scope, receive, send)


validated(MockMiddleware)
