"""Bound how often each client may ask."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from os.path import commonprefix
from typing import Annotated, Final, Literal, TypeAlias

from limits import parse_many
from pydantic import AfterValidator, Field, ValidationInfo

from asgi_gateway.asgi.calls import direct
from asgi_gateway.asgi.exempt import Paths, is_exempt
from asgi_gateway.asgi.keys import Key, by_client_address, key_function, key_name
from asgi_gateway.asgi.limit_fields import limit_fields, reporting
from asgi_gateway.asgi.paths import PathPattern
from asgi_gateway.asgi.response_cost import CostSource, cost_reader
from asgi_gateway.asgi.retry_after import retry_after_header
from asgi_gateway.asgi.shadow import Shadow
from asgi_gateway.asgi.starting import starting
from asgi_gateway.context import EXCHANGE, GONE, Exchange, join_exchange
from asgi_gateway.errors import Failure, StoreUnavailable
from asgi_gateway.options import validated
from asgi_gateway.policies.limit import COUNTERS, Limit, Settle
from asgi_gateway.policies.window import Window, tightest
from asgi_gateway.problem import Problem
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.memory import BoundedMemoryStorage
from asgi_gateway.types import ASGIApp, Mode, Receive, Scope, Send, mypyc_attr

_Counted: TypeAlias = Window | tuple[Window, Settle]
_Ask: TypeAlias = Callable[[Hashable], Awaitable[_Counted]]

_logger = logging.getLogger("asgi_gateway.rate_limit")

_NO_STORE: Final = Problem(
    503,
    Failure("store_unavailable", "gateway"),
    "Requests cannot be counted at the moment.",
    headers=[retry_after_header(1.0)],
)
_NO_KEY: Final = Problem(
    400, Failure("bad_request", "client"), "The request lacks what it would be counted by."
)


def _parsed(expression: str) -> list[tuple[int, int]]:
    """The amount and the period in seconds of each limit in an expression."""
    try:
        limits = [(item.amount, item.get_expiry()) for item in parse_many(expression)]
    except ValueError:
        limits = []
    if not limits or any(amount < 1 for amount, _ in limits):
        raise ValueError(f'expected a limit such as "100/minute" or "5 per 10 seconds", not {expression!r}')
    return limits


def _all_parsed(limit: str | list[str]) -> list[tuple[int, int]]:
    expressions = [limit] if isinstance(limit, str) else limit
    return [each for expression in expressions for each in _parsed(expression)]


def _checked_limit(limit: str | list[str]) -> str | list[str]:
    _all_parsed(limit)
    return limit


def _affordable(cost: int, known: ValidationInfo) -> int:
    limit = known.data.get("limit", [])
    if any(cost > amount for amount, _ in _all_parsed(limit)):
        raise ValueError(f"a request that costs {cost} would never pass the limit {limit!r}")
    return cost


@mypyc_attr(allow_interpreted_subclasses=True)
class RateLimitMiddleware:
    """Answer 429 to whoever asks more often than `limit` allows.

    Every response that was counted carries ``RateLimit-Limit``, ``-Remaining`` and ``-Reset``
    (draft-ietf-httpapi-ratelimit-headers-06) of the limit that is nearest to biting, wherever in the
    chain it stands; a refusal also ``Retry-After``, and whoever waits that long gets through.
    Counts are kept in the state that the runtime shares with other processes, else in this one, for at most
    `max_keys` keys.

        RateLimitMiddleware(app, limit=["10/second", "100/minute"], key="header:X-Api-Key")
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: Annotated[
            str | Annotated[list[str], Field(min_length=1)],
            AfterValidator(_checked_limit),
            Field(
                description="One or several limits such as 100/minute; a request has to pass all.",
                examples=["100/minute"],
            ),
        ] = "100/minute",
        strategy: Annotated[
            Literal["fixed_window", "sliding_window", "moving_window"],
            Field(description="How requests are counted over time."),
        ] = "sliding_window",
        key: Annotated[
            Key,
            Field(
                description="What is counted apart: client_address, path, service, header:<name>, or a "
                "function <package.module>:<function> of the ASGI scope; or a list of these, each "
                "combination apart."
            ),
        ] = "client_address",
        cost: Annotated[
            int, Field(ge=1, description="How much one request counts."), AfterValidator(_affordable)
        ] = 1,
        cost_from: Annotated[
            CostSource | None,
            Field(
                description="Where a response says what its request really cost: header:<name>, or "
                "json:<member>.<member> of a JSON body. Until then, and where it does not say, it is `cost`."
            ),
        ] = None,
        exempt: Annotated[
            Paths,
            Field(description="Paths that are not counted, such as /health or /health/*."),
        ] = (),
        on_missing_key: Annotated[
            Literal["client_address", "reject", "skip"],
            Field(description="A request without the key: count its address, answer 400, or do not count."),
        ] = "client_address",
        max_keys: Annotated[
            int, Field(ge=1, description="Counters kept; beyond that the least recently used is forgotten.")
        ] = 100_000,
        on_store_failure: Annotated[
            Literal["local", "open", "closed"],
            Field(
                description="While a shared state cannot be used: count in each process, let all through, "
                "or answer 503."
            ),
        ] = "local",
        mode: Mode = "enforce",
        runtime: Runtime | None = None,
    ) -> None:
        self.app = direct(app)
        runtime = runtime or Runtime()
        self.limits = [Limit(COUNTERS[strategy], *each) for each in _all_parsed(limit)]
        self._key = key_function(key)
        self._exempt = [PathPattern(pattern) for pattern in exempt]
        # One search for how all exempt paths begin rules most others out. Where none is exempt, it is for
        # what hardly a path holds.
        starts = [pattern.exact for pattern in self._exempt] or ["\0"]
        self._exempt_part = commonprefix(starts)  # noqa: RUF071 - by character, as it is searched for
        self._on_missing_key = on_missing_key
        self._addressless = False
        self.storage = BoundedMemoryStorage(max_keys=max_keys, clock=runtime.clock)
        self._cost = cost
        self._hit = self.storage.counting(self.limits, cost)
        self._count: Callable[[Hashable], _Counted] = self._hit
        self._read_cost = None
        if cost_from is not None:
            self._count, self._read_cost = self.storage.reserving(self.limits, cost), cost_reader(cost_from)
        self._state = runtime.state
        self._shared: _Ask | None = None
        if runtime.state is not None:
            name = runtime.shared_name("rate_limit", strategy, _all_parsed(limit), key_name(key))
            shared = runtime.state.limiter if cost_from is None else runtime.state.reserver
            self._shared = shared(name, self.limits, cost)
        self._hits_at_once = self._shared is None and cost_from is None
        self._on_store_failure = on_store_failure
        self._rejected = runtime.counter("rate_limit_rejected_total")
        self._shadow = Shadow("rate_limit", runtime) if mode == "shadow" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.enter_asgi(scope, receive, send)

    def enter_asgi(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Count the request and choose who answers; see `asgi_gateway.asgi.calls.direct`."""
        if scope["type"] not in ("http", "websocket") or (
            self._exempt_part in scope["path"] and is_exempt(self._exempt, scope)
        ):
            if scope["type"] == "lifespan" and self._state is not None:
                receive = starting(self._state, receive)
            return self.app(scope, receive, send)
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            scope, exchange = join_exchange(scope)
        key = self._key(scope)
        if key is None:
            if self._on_missing_key == "reject":
                return self._refuse(_NO_KEY, exchange)(scope, receive, send)
            if self._on_missing_key == "skip":
                return self.app(scope, receive, send)
            key = self._address_instead(scope)
        if self._hits_at_once:
            return self._enter_counted(self.app, self._hit(key), scope, receive, send, exchange)
        if self._shared is not None:
            return self._enter_shared(self._shared, key, scope, receive, send)
        return self._enter(self._count(key), scope, receive, send, exchange)

    async def _enter_shared(
        self, ask: _Ask, key: Hashable, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The same where another process has to be asked first."""
        exchange: Exchange = scope[EXCHANGE]
        counted: _Counted | None
        try:
            counted = await ask(key)
        except StoreUnavailable:
            counted = self._count(key) if self._on_store_failure == "local" else None
        if counted is not None:
            inner = self._enter(counted, scope, receive, send, exchange)
        elif self._on_store_failure == "open":
            inner = self.app(scope, receive, send)
        else:
            inner = self._refuse(_NO_STORE, exchange)(scope, receive, send)
        scope = GONE
        await inner

    def _enter(
        self, counted: _Counted, scope: Scope, receive: Receive, send: Send, exchange: Exchange
    ) -> Awaitable[None]:
        """The same where the response may have to say what the request has cost."""
        if isinstance(counted, Window):
            return self._enter_counted(self.app, counted, scope, receive, send, exchange)
        window, settle = counted
        read_cost, outer = self._read_cost, exchange.rate_limit
        if read_cost is None or window.retry_after or scope["type"] != "http":
            return self._enter_counted(self.app, window, scope, receive, send, exchange)

        def told(actual: int) -> None:
            settle(actual)
            window.settle(actual - self._cost)
            if self._shadow is None:
                other = exchange.rate_limit if exchange.rate_limit is not window else outer
                exchange.rate_limit = tightest(window, other or window)

        def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            return self.app(scope, receive, read_cost(send, told))

        return self._enter_counted(app, window, scope, receive, send, exchange)

    def _enter_counted(  # noqa: PLR0917 - on the way of every request
        self,
        app: ASGIApp,
        window: Window,
        scope: Scope,
        receive: Receive,
        send: Send,
        exchange: Exchange,
    ) -> Awaitable[None]:
        if self._shadow is not None:  # says nothing to clients, neither in headers
            if window.retry_after:
                self._shadow.would_reject(exchange)
            return app(scope, receive, send)
        outer = exchange.rate_limit
        if outer is None:
            exchange.rate_limit = window
        else:  # a limiter further out reports for all
            exchange.rate_limit = tightest(window, outer)
        if window.retry_after:
            self._rejected.add()
            return _refusal(window)(scope, receive, send)
        if outer is not None or scope["type"] == "websocket":
            return app(scope, receive, send)
        return app(scope, receive, reporting(exchange, window, send))

    def _refuse(self, refusal: Problem, exchange: Exchange) -> ASGIApp:
        """Who answers a request that is to be refused: in shadow mode the inner app."""
        if self._shadow is None:
            self._rejected.add()
            return refusal
        self._shadow.would_reject(exchange)
        return self.app

    def _address_instead(self, scope: Scope) -> Hashable:
        """A key that no header value can be made to equal, nor several: none of them is None."""
        address = by_client_address(scope)
        if address is None and not self._addressless:
            self._addressless = True
            _logger.warning("requests without a client address are counted together")
        return None, address


validated(RateLimitMiddleware)


def _refusal(window: Window) -> Problem:
    return Problem(
        429,
        Failure("rate_limited", "gateway"),
        "Too many requests; see Retry-After.",
        headers=[retry_after_header(window.retry_after), *limit_fields(window)],
    )
