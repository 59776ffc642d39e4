"""The state that a configuration asks for: of each process, in a store, or in a Valkey of the gateway's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from asgi_gateway.config import Config, ConfigError
from asgi_gateway.errors import MissingExtra
from asgi_gateway.middleware.circuit_breaker import CircuitBreakerMiddleware
from asgi_gateway.middleware.rate_limit import RateLimitMiddleware
from asgi_gateway.runtime import Runtime
from asgi_gateway.stores.embedded import EmbeddedServer
from asgi_gateway.stores.store import Store

STATE_VARIABLE: Final = "ASGI_GATEWAY_STATE"
"""Where a parent process tells its workers the URL of the Valkey that it embeds."""


def open_state(config: Config, runtime: Runtime, environ: Mapping[str, str] = os.environ) -> Store | None:
    """The shared state of a gateway, not connected yet; None where each process counts for itself.

    Raises `ConfigError` where a package for it is missing.
    """
    state = config.state
    url = "memory://" if state is None else state.url
    if state is None or url == "embedded":
        url = environ.get(STATE_VARIABLE) or url
    if url == "memory://":
        return None
    timeout, prefix = (0.05, "asgi_gateway") if state is None else (state.timeout, state.prefix)
    try:
        server = EmbeddedServer() if url == "embedded" else None
        url = url if server is None else server.url
        return Store(url, timeout=timeout, prefix=prefix, runtime=runtime, server=server)
    except MissingExtra as error:
        raise ConfigError([config.mistake(("state",), str(error))]) from error


def check_same_state(old: Config, new: Config) -> None:
    """Raise `ConfigError` where a reload would change the state: its counts would be lost."""
    if old.state != new.state:
        raise ConfigError([new.mistake(("state",), "no reload changes the state, start the gateway anew")])


def state_for_workers(config: Config, workers: int) -> EmbeddedServer | None:
    """The Valkey that the `workers` of one parent share, started; None where they have none of their own.

    It is started though nothing counts yet, because a reload may bring the first limit.

    Its URL is in the environment from then on; whoever called stops it. Raises `ConfigError` where it cannot
    be started.
    """
    os.environ.pop(STATE_VARIABLE, None)
    asked = config.state is not None and config.state.url == "embedded"
    if workers == 1 or not (asked or config.state is None):
        return None
    try:
        server = EmbeddedServer()
        server.start()
    except MissingExtra as error:
        if not asked and not needs_state(config):
            return None
        reason = f"{error}, or let each of the {workers} workers count for itself with state: memory://"
        raise ConfigError([config.mistake(("state",), reason)]) from error
    except OSError as error:
        raise ConfigError([config.mistake(("state",), str(error))]) from error
    server.keep_running()
    os.environ[STATE_VARIABLE] = server.url
    return server


def needs_state(config: Config) -> bool:
    """Whether something in the chains counts for all processes together."""
    return any(
        spec.factory is RateLimitMiddleware
        or (spec.factory is CircuitBreakerMiddleware and spec.options["shared"])
        for _, chain in config.chains()
        for spec in chain
    )


def state_note(config: Config, workers: int) -> str:
    """What the person who starts several workers should know of their state."""
    if apart := counted_apart(config, workers):
        return f"WARNING: {apart}"
    return f"note: each of the {workers} workers has its own breakers, but for those that are shared"


def counted_apart(config: Config, workers: int) -> str:
    """What follows where workers count for themselves what is for all together; empty where they do not."""
    shared = os.environ.get(STATE_VARIABLE) or (config.state is not None and config.state.url != "memory://")
    if shared or not needs_state(config):
        return ""
    alone = "with state: memory://" if config.state else "without the extra 'embedded' or the URL of a state"
    return (
        f"{alone} each of the {workers} workers counts its own rate limits and "
        f"opens its own circuits, so that up to {workers} times as many requests pass"
    )
