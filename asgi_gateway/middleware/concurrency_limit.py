"""Bound how many requests are in flight at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.keys import key_function
from asgi_gateway.asgi.messages import RESPONSE_STARTS
from asgi_gateway.asgi.retry_after import retry_after_header
from asgi_gateway.asgi.shadow import Shadow
from asgi_gateway.context import EXCHANGE, ON_DISCONNECT, Exchange, join_exchange
from asgi_gateway.errors import Failure
from asgi_gateway.options import validated
from asgi_gateway.policies.adaptive_limit import Adaptive, AdaptiveLimit
from asgi_gateway.policies.concurrency import ConcurrencyLimit, QueueOrder
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, Mode, PositiveSeconds, Receive, Scope, Send

OVERLOADED: Final = Failure("overloaded", "gateway")
CLIENT_LEFT: Final = Failure("client_disconnected", "client")


def _checked_key(key: str) -> str:
    key_function(key)
    return key


class ConcurrencyLimitMiddleware:
    """Answer 503 to requests beyond `max_in_flight`, after up to `queue` of them have waited for a place.

    A request holds its place until its answer has ended, a stream to its last byte; one that is aborted frees
    it at once. With `key` each client, header or path has places of its own. With `adaptive` the limit moves
    by itself, down when answers fail or are late.

        ConcurrencyLimitMiddleware(app, max_in_flight=8, queue=16, queue_timeout=2)
        ConcurrencyLimitMiddleware(app, adaptive={"max": 200})
    """

    @validated
    def __init__(
        self,
        app: ASGIApp,
        *,
        max_in_flight: Annotated[
            int, Field(ge=1, description="Requests that are under way at once; without `adaptive`.")
        ] = 100,
        adaptive: Annotated[
            Adaptive | None, Field(description="Let the limit move: min, max, initial, decrease, latency.")
        ] = None,
        queue: Annotated[int, Field(ge=0, description="Requests that may wait for a place.")] = 0,
        queue_timeout: Annotated[PositiveSeconds, Field(description="How long one waits at most.")] = 1.0,
        order: Annotated[
            QueueOrder, Field(description="Who is next: the first that came, or the last.")
        ] = "fifo",
        key: Annotated[
            Annotated[str, AfterValidator(_checked_key)] | None,
            Field(
                description="What has places of its own: client_address, path, service, header:<name>, or a "
                "function <package.module>:<function>; everything together by default."
            ),
        ] = None,
        retry_after: Annotated[
            PositiveSeconds, Field(description="What a refusal asks a client to wait.")
        ] = 1.0,
        mode: Mode = "enforce",
        runtime: Runtime | None = None,
    ) -> None:
        if adaptive is not None and key is not None:
            raise ValueError("adaptive finds one limit for all, so it cannot have a key")
        runtime = runtime or Runtime()
        self.app = direct(app)
        self._clock = runtime.clock
        self._adaptive = None if adaptive is None else AdaptiveLimit(adaptive)
        self._max = max_in_flight if self._adaptive is None else self._adaptive.limit
        self._queue = queue
        self._order: QueueOrder = order
        self._queue_timeout = queue_timeout
        self.limit = ConcurrencyLimit(self._max, queue, order)
        """The limit of all requests together, unused where there is a `key`."""
        self._key = None if key is None else key_function(key)
        self._keyed: dict[Hashable, ConcurrencyLimit] = {}  # those with something in flight, no others
        self._shadow = Shadow("concurrency_limit", runtime) if mode == "shadow" else None
        self._rejected = runtime.counter("concurrency_rejected_total")
        self._refusal = Problem(
            503,
            OVERLOADED,
            "Too many requests are under way; see Retry-After.",
            headers=[retry_after_header(retry_after)],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        key = None if self._key is None else self._key(scope)
        limit = self.limit if self._key is None else self._of(key)
        if not limit.acquire():
            if self._shadow is not None:
                self._shadow.would_reject(exchange)
                limit.exceed()
            elif not await self._waited(limit, key, scope, exchange):
                if exchange.failure is not CLIENT_LEFT:
                    self._rejected.add()
                    await self._refusal(scope, receive, send)
                return
        try:
            watch = None if self._adaptive is None else _Watch(self, self._adaptive, exchange, send)
            inner = self.app(scope, receive, send if watch is None else watch.send)
            del scope
            await inner
        finally:
            if watch is not None:
                watch.ended()
            self._release(limit, key)

    async def _waited(self, limit: ConcurrencyLimit, key: Hashable, scope: Scope, exchange: Exchange) -> bool:
        """Wait for a place; False where there was none in time, or the client left."""
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not limit.enqueue(place):
            return False

        def left() -> None:
            if limit.abandon(place):
                exchange.failure = CLIENT_LEFT
                place.set_result(False)

        on_disconnect = scope.get(ON_DISCONNECT)
        take_back = None if on_disconnect is None else on_disconnect(left)
        try:
            async with self._clock.timeout(self._queue_timeout):
                return await asyncio.shield(place)
        except TimeoutError:
            # It may have been given a place at this very moment.
            return not limit.abandon(place) and place.result()
        except BaseException:
            if not limit.abandon(place) and place.result():
                self._release(limit, key)
            raise
        finally:
            if take_back is not None:
                take_back()

    def _of(self, key: Hashable) -> ConcurrencyLimit:
        limit = self._keyed.get(key)
        if limit is None:
            limit = self._keyed[key] = ConcurrencyLimit(self._max, self._queue, self._order)
        return limit

    def _release(self, limit: ConcurrencyLimit, key: Hashable) -> None:
        self._pass_on(limit.release())
        if not limit.in_flight and limit is not self.limit:
            del self._keyed[key]

    def _pass_on(self, places: list[Any]) -> None:
        for place in places:
            place.set_result(True)

    def adapt(self, limit: int) -> None:
        """Use another limit from now on."""
        if limit != self.limit.limit:
            self.limit.limit = limit
            self._pass_on(self.limit.admit())


class _Watch:
    """Tells an adaptive limit how one call went."""

    __slots__ = ("_adaptive", "_began_at", "_exchange", "_owner", "_seconds", "_send", "_status")

    def __init__(
        self, owner: ConcurrencyLimitMiddleware, adaptive: AdaptiveLimit, exchange: Exchange, send: Send
    ) -> None:
        self._owner = owner
        self._adaptive = adaptive
        self._exchange = exchange
        self._send = send
        self._began_at = owner._clock.monotonic()  # noqa: SLF001 - one idea in two classes
        self._seconds: float | None = None
        self._status = 0

    def send(self, message: Message) -> Awaitable[None]:
        if self._seconds is None and message["type"] in RESPONSE_STARTS:
            self._seconds = self._owner._clock.monotonic() - self._began_at  # noqa: SLF001
            self._status = message.get("status", 101)
        return self._send(message)

    def ended(self) -> None:
        """Report the call, unless it ended by nobody's fault."""
        failure = self._exchange.failure
        if self._seconds is None and (failure is None or failure.source != "upstream"):
            return
        now = self._owner._clock.monotonic()  # noqa: SLF001
        limit = self._adaptive.ended(
            began_at=self._began_at,
            now=now,
            seconds=now - self._began_at if self._seconds is None else self._seconds,
            failed=self._status >= 500 or (failure is not None and failure.source == "upstream"),
            in_flight=self._owner.limit.in_flight,
        )
        self._owner.adapt(limit)
