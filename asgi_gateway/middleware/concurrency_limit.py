"""Bound how many requests are in flight at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Hashable
from typing import Annotated, Any, Final

from pydantic import Field

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.keys import Key, key_function, key_name
from asgi_gateway.asgi.messages import RESPONSE_STARTS
from asgi_gateway.asgi.retry_after import retry_after_header
from asgi_gateway.asgi.shadow import Shadow
from asgi_gateway.context import EXCHANGE, ON_DISCONNECT, Exchange, join_exchange
from asgi_gateway.errors import CLIENT_LEFT, ClientDisconnected, Failure, ResponseAborted
from asgi_gateway.options import validated
from asgi_gateway.policies.adaptive_limit import Adaptive, AdaptiveLimit
from asgi_gateway.policies.concurrency import ConcurrencyLimit, QueueOrder
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.types import ASGIApp, Message, Mode, PositiveSeconds, Receive, Scope, Send

OVERLOADED: Final = Failure("overloaded", "gateway")
DEFAULT: Final = 100
"""Requests under way at once where nothing is said."""


class ConcurrencyLimitMiddleware:
    """Answer 503 to requests beyond `max_in_flight`, after up to `queue` of them have waited for a place.

    A request holds its place until its answer has ended, a stream to its last byte; one that is aborted frees
    it at once. With `key` each client, header or path has places of its own. With `adaptive` the limit moves
    by itself, down when answers fail or are late.

        ConcurrencyLimitMiddleware(app, max_in_flight=8, queue=16, queue_timeout=2)
        ConcurrencyLimitMiddleware(app, adaptive={"latency": 0.5, "max": 200})
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_in_flight: Annotated[
            Annotated[int, Field(ge=1)] | None,
            Field(description="Requests that are under way at once; 100 unless there is `adaptive`."),
        ] = None,
        adaptive: Annotated[
            Adaptive | None, Field(description="Let the limit move: latency, min, max, initial, decrease.")
        ] = None,
        queue: Annotated[int, Field(ge=0, description="Requests that may wait for a place.")] = 0,
        queue_timeout: Annotated[PositiveSeconds, Field(description="How long one waits at most.")] = 1.0,
        order: Annotated[
            QueueOrder, Field(description="Who is next: the first that came, or the last.")
        ] = "fifo",
        key: Annotated[
            Key | None,
            Field(
                description="What has places of its own: client_address, path, service, header:<name>, or a "
                "function <package.module>:<function>; or a list of these; everything together by default."
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
        if adaptive is not None and max_in_flight is not None:
            raise ValueError("adaptive finds the limit, so max_in_flight would not hold: give adaptive.max")
        runtime = runtime or Runtime()
        self.app = direct(app)
        self._clock = runtime.clock
        self._adaptive = None if adaptive is None else AdaptiveLimit(adaptive)
        self._max = max_in_flight or DEFAULT if self._adaptive is None else self._adaptive.limit
        self._queue = queue
        self._order: QueueOrder = order
        self._queue_timeout = queue_timeout
        self.limit = ConcurrencyLimit(self._max, queue, order)
        """The limit of all requests together; where there is a `key` only what each key's limit is."""
        self._key = None if key is None else key_function(key)
        self._keyed: dict[Hashable, ConcurrencyLimit] = {}  # those with something in flight, no others
        self._shadow = Shadow("concurrency_limit", runtime) if mode == "shadow" else None
        self._rejected = runtime.counter("concurrency_rejected_total")
        labels = {"key": str(key_name(key)) if key else None, "mode": "shadow" if self._shadow else None}
        runtime.gauge("concurrency_limit", lambda: self.limit.limit, **labels)
        runtime.gauge("concurrency_in_flight", lambda: self.in_flight, **labels)
        self._refusal = Problem(
            503,
            OVERLOADED,
            "Too many requests are under way; see Retry-After.",
            headers=[retry_after_header(retry_after)],
        )

    @property
    def in_flight(self) -> int:
        """Requests under way, those of every key together."""
        return self.limit.in_flight + sum(limit.in_flight for limit in self._keyed.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        key = None if self._key is None else self._key(scope)
        limit = self.limit if self._key is None else self._of(key)
        if not limit.acquire() and not await self._admitted(limit, key, scope, exchange):
            if exchange.failure is not CLIENT_LEFT:
                self._rejected.add()
                await self._refusal(scope, receive, send)
            return
        watch = None if self._adaptive is None else _Watch(self, self._adaptive, exchange, send)
        try:
            inner = self.app(scope, receive, send if watch is None else watch.send)
            del scope
            await inner
        finally:
            if watch is not None:
                watch.ended(sys.exception())
            self._release(limit, key)

    async def _admitted(
        self, limit: ConcurrencyLimit, key: Hashable, scope: Scope, exchange: Exchange
    ) -> bool:
        """Find a place where none is free, False where there is none."""
        if self._shadow is None:
            return await self._waited(limit, key, scope, exchange)
        if limit.exceed():
            self._shadow.would_reject(exchange)
        return True

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


validated(ConcurrencyLimitMiddleware)


class _Watch:
    """Tells an adaptive limit how a call went, once: when its answer begins, or that it never will."""

    __slots__ = ("_adaptive", "_began_at", "_exchange", "_owner", "_send", "_told")

    def __init__(
        self, owner: ConcurrencyLimitMiddleware, adaptive: AdaptiveLimit, exchange: Exchange, send: Send
    ) -> None:
        self._owner = owner
        self._adaptive = adaptive
        self._exchange = exchange
        self._send = send
        self._began_at = owner._clock.monotonic()  # noqa: SLF001 - one idea in two classes
        self._told = False

    def send(self, message: Message) -> Awaitable[None]:
        if not self._told and message["type"] in RESPONSE_STARTS:
            self._told = True
            failure = self._exchange.failure
            if failure is None:
                status = message.get("status", 101)
                self._tell(failed=status >= 500 or status == 429)
            elif failure.source == "upstream":
                self._tell(failed=True)
            # A refusal of a layer further in says nothing of the service, and is quick.
        return self._send(message)

    def ended(self, error: BaseException | None) -> None:
        """The call is over; without an answer that counts only if it is the service's doing."""
        if self._told:
            return
        failure = error.failure if isinstance(error, ResponseAborted) else self._exchange.failure
        if failure is not None:
            failed = failure.source == "upstream"
        else:
            failed = isinstance(error, Exception) and not isinstance(error, ClientDisconnected)
        if failed:
            self._tell(failed=True)

    def _tell(self, *, failed: bool) -> None:
        owner = self._owner
        owner.adapt(
            self._adaptive.answered(
                began_at=self._began_at,
                now=owner._clock.monotonic(),  # noqa: SLF001
                failed=failed,
                in_flight=owner.limit.in_flight,
            )
        )
