"""Cause failures on purpose."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.fixed_answer import FixedAnswer
from asgi_gateway.asgi.headers import get_all
from asgi_gateway.context import EXCHANGE, ON_DISCONNECT, Exchange
from asgi_gateway.errors import CLIENT_LEFT, Failure
from asgi_gateway.options import validated
from asgi_gateway.policies.fault import Abort, Delay, Fault
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Receive, Scope, Send

RESET: Final = Failure("reset", "upstream", request_sent=True)

_CAUSED: Final = "This failure was caused on purpose."


class FaultMiddleware:
    """Delay a share of the requests, or end them, to see what the layers around do then.

    To them it is as if the service did it: a breaker counts an aborted request, a retry repeats it. Only
    HTTP requests; WebSockets pass through.

        FaultMiddleware(app, delay=Delay(2.0, share=0.1), abort=Abort(503, share=0.01))
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        delay: Annotated[Delay | None, Field(description="Which requests wait, and how long.")] = None,
        abort: Annotated[Abort | None, Field(description="Which requests are ended, and how.")] = None,
        when_header: Annotated[
            str | None,
            Field(
                pattern=r"^[^:\s]+(: *[^\s].*)?$",
                description="Only requests with this header: 'X-Fault: yes', or 'X-Fault' for any value.",
            ),
        ] = None,
        runtime: Runtime | None = None,
    ) -> None:
        if delay is None and abort is None:
            raise ValueError("it causes nothing: give delay or abort")
        self.app = direct(app)
        self.policy = Fault(delay, abort)
        name, _, value = (when_header or "").partition(":")
        self._header = name.lower().encode("latin-1")
        self._value = value.strip().encode("latin-1")
        status = 503 if abort is None or abort.status is None else abort.status
        self._answer: ASGIApp = FixedAnswer(status, body=f"{_CAUSED}\n", headers={"x-gateway-fault": "abort"})
        if abort is not None and abort.reset:
            self._answer = Problem(502, RESET, _CAUSED, headers=[(b"x-gateway-fault", b"abort")])
        self._runtime = runtime = runtime or Runtime()
        self._delayed = runtime.counter("faults_total", fault="delay")
        self._aborted = runtime.counter("faults_total", fault="abort")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and self._concerns(scope):
            runtime = self._runtime
            seconds = self.policy.seconds(runtime.random)
            if seconds:
                self._delayed.add()
                if not await self._waited(seconds, scope):
                    return
            if self.policy.aborts(runtime.random):
                self._aborted.add()
                app = self._answer
        inner = app(scope, receive, send)
        del scope
        await inner

    async def _waited(self, seconds: float, scope: Scope) -> bool:
        """Wait; False where the client left meanwhile."""
        clock = self._runtime.clock
        on_disconnect = scope.get(ON_DISCONNECT)
        if on_disconnect is None:
            await clock.sleep(seconds)
            return True
        left = asyncio.Event()
        take_back = on_disconnect(left.set)
        try:
            async with clock.timeout(seconds):
                await left.wait()
        except TimeoutError:
            return True
        finally:
            take_back()
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is not None:
            exchange.failure = CLIENT_LEFT
        return False

    def _concerns(self, scope: Scope) -> bool:
        if not self._header:
            return True
        values = get_all(scope["headers"], self._header)
        return self._value in values if self._value else bool(values)


validated(FaultMiddleware)
