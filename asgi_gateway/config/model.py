"""The configuration as typed, frozen objects: what the file says, with every default filled in.

One file, long as it is: here the whole shape of the YAML can be read from top to bottom, each key
beside its default, its description and what is checked of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from asgi_gateway.asgi.paths import PathPattern, resolved
from asgi_gateway.config.document import Document
from asgi_gateway.config.mistakes import Mistake, Path
from asgi_gateway.policies.ejection import DEFAULT_EJECTION, Ejection
from asgi_gateway.policies.health_check import HealthCheck
from asgi_gateway.proxy.forwarded import Style
from asgi_gateway.proxy.tls import Tls, client_context
from asgi_gateway.proxy.transport import Connections, Timeouts, WebSocketOptions, parse_url
from asgi_gateway.stores.url import parse_store_url
from asgi_gateway.types import MethodSet, PositiveSeconds, Seconds


@dataclass(frozen=True)
class MiddlewareSpec:
    """One middleware of a chain: ``spec.factory(app, **spec.options)`` builds it.

    `name` is what the file calls it, `options` are validated and complete, `model` is what they were
    validated by, `path` is where the file names it, and `options_path` where its options are.
    """

    name: str
    factory: Callable[..., Any] = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    model: BaseModel = field(repr=False, compare=False)
    path: Path = field(repr=False, compare=False)
    options_path: Path = field(default=(), repr=False, compare=False)


Chain = tuple[Annotated[InstanceOf[MiddlewareSpec], WithJsonSchema({})], ...]


SERVICE_NAME = r"^[A-Za-z0-9_-]+$"
HEADER_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"


def _like(pattern: str) -> WithJsonSchema:
    """What an editor is told of a text; the validator beside it knows more."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


def _checked_url(url: str) -> str:
    """The URL of a service, whose path is a prefix; raises `ValueError`."""
    if not url.isascii() or re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ValueError("a URL may only hold visible ASCII characters")
    if "?" in url or "#" in url:
        raise ValueError("a URL may not hold a query or a fragment")
    parse_url(url)
    return url


def _checked_hash_key(key: str) -> str:
    kind, _, name = key.partition(":")
    if key != "client_address" and not (kind in ("header", "cookie") and re.fullmatch(HEADER_NAME, name)):
        raise ValueError("expected client_address, header:<name> or cookie:<name>")
    return key


def _usable_tls(tls: Tls, info: ValidationInfo) -> Tls:
    """TLS options whose files can be used; relative paths start at the configuration file's folder."""
    folder = FilePath(info.context.file).parent if isinstance(info.context, Document) else FilePath()
    tls = tls.in_folder(folder)
    client_context(tls)
    return tls


def _checked_socket(path: str) -> str:
    if not path or len(path.encode()) > 100:
        raise ValueError("expected a path of at most 100 bytes, as the system takes no longer ones")
    return path


def _checked_import(reference: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*", reference):
        raise ValueError("expected package.module:attribute")
    return reference


def _checked_path(path: str) -> str:
    if re.search(r"[?#%\s\x00-\x1f\x7f]", path):
        raise ValueError("a route's path is written decoded, without %, ?, # and spaces")
    pattern = PathPattern(path)
    if resolved(pattern.exact) != pattern.exact:
        raise ValueError("a route's path may not hold // or dot segments, no request would match it")
    return path


def _checked_host(host: str) -> str:
    host = host.lower().rstrip(".")
    if not re.fullmatch(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]", host):
        raise ValueError("expected a host such as api.example.com or *.example.com, without a port")
    return host


def _checked_prefix(prefix: str) -> str:
    if not prefix.startswith("/") or prefix.endswith(("/", "*")):
        raise ValueError("expected a path such as /api/ai that neither ends in a slash nor in a *")
    return prefix


def _checked_name(name: str) -> str:
    if not re.fullmatch(SERVICE_NAME, name):
        raise ValueError(f"the service name {name!r} may only hold letters, digits, - and _")
    return name


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Part(BaseModel):
    """A mapping of the file: unknown keys are refused, nothing changes after it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Listen(Part):
    """Where the gateway listens."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address or name to listen on.")
    port: int = Field(default=3000, ge=0, le=65535, description="TCP port; 0 takes a free one.")


class Logging(Part):
    """What the gateway logs."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="The least severe level that is logged, in either case of letters."
    )


class Reload(Part):
    """How the gateway follows changes of its configuration."""

    watch: bool = Field(
        default=True, description="Whether the file and all that it names are looked at for changes."
    )
    interval: PositiveSeconds = Field(default=1.0, description="How often they are looked at.")
    drain_timeout: Seconds = Field(
        default=300.0,
        description="How long what is in progress may go on with a service that was removed or changed.",
    )


class Shutdown(Part):
    """How a process that is told to stop ends."""

    accept_grace: Seconds = Field(
        default=0.0,
        description="How long after SIGTERM new requests are still taken, while it is not ready any more.",
    )
    drain_timeout: Seconds = Field(
        default=25.0, description="How long after that what is in progress may go on."
    )
    stream_timeout: Seconds | None = Field(
        default=None,
        description="How long of that streams may go on, answers without a length; all if unset.",
    )


class Admin(Part):
    """Where the running gateway is asked to reload and how it stands."""

    socket: Annotated[str, AfterValidator(_checked_socket)] | None = Field(
        default=None, description="A Unix socket that only the same user may open; none if unset."
    )


class Route(Part):
    """Which requests lead to a service."""

    path: Annotated[str, AfterValidator(_checked_path), _like("^/")] = Field(
        description="An exact path, or /prefix/* for /prefix and all below it."
    )
    host: Annotated[str, AfterValidator(_checked_host)] | None = Field(
        default=None, description="Only requests to this host: a name or *.example.com."
    )
    methods: MethodSet | None = Field(default=None, description="Only requests with these methods.")
    strip_prefix: Annotated[str, AfterValidator(_checked_prefix), _like("^/.*[^/*]$")] | None = Field(
        default=None, description="Leading segments of the path that the service does not see."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        prefix = self.strip_prefix
        exact = PathPattern(self.path).exact
        if prefix is not None and exact != prefix and not exact.startswith(prefix + "/"):
            raise PydanticCustomError("route", "strip_prefix is not a leading part of path")
        if self.methods is not None and not self.methods:
            raise PydanticCustomError("route", "methods is empty, so no request would match")
        return self


class EndpointSpec(Part):
    """One of the addresses of a service."""

    url: Annotated[str, AfterValidator(_checked_url), _like(r"^(https?://|unix:/|http\+unix://)")] = Field(
        repr=False, description="Where it listens; a path in it is put before the path of each request."
    )
    weight: float = Field(
        default=1.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Its share of the requests beside the others'; 0 sends it none.",
    )


class ConsistentHashing(Part):
    """The same key to the same endpoint."""

    consistent_hash: Annotated[
        str, AfterValidator(_checked_hash_key), _like(r"^(client_address|(header|cookie):.+)$")
    ] = Field(description="What the choice hangs on: client_address, header:<name> or cookie:<name>.")


def _some_endpoints(endpoints: tuple[EndpointSpec, ...]) -> tuple[EndpointSpec, ...]:
    if not endpoints:
        raise PydanticCustomError("endpoints", "a service needs at least one endpoint")
    if not any(endpoint.weight for endpoint in endpoints):
        raise PydanticCustomError("endpoints", "at least one endpoint needs a weight above 0")
    return endpoints


class Service(Part):
    """A backend: another server by `url` or several by `endpoints`, or an ASGI application by `app`."""

    url: Annotated[str, AfterValidator(_checked_url), _like(r"^(https?://|unix:/|http\+unix://)")] | None = (
        Field(
            default=None,
            repr=False,
            description="Where the service listens: http, https, unix:/run/app.sock or "
            "http+unix://%2Frun%2Fapp.sock/base; a path in it is put before the path of each request.",
        )
    )
    endpoints: Annotated[tuple[EndpointSpec, ...], AfterValidator(_some_endpoints)] | None = Field(
        default=None,
        description="Where the service listens, if in several places; in place of 'url'.",
        json_schema_extra={"minItems": 1},
    )
    app: Annotated[str, AfterValidator(_checked_import), _like(":")] | None = Field(
        default=None, description="An ASGI application in this process: package.module:attribute."
    )
    required: bool = Field(
        default=False, description="Whether the gateway is ready only while this service can be used."
    )
    transport: Literal["http1", "http2", "httpx"] = Field(
        default="http1",
        description="How the service is spoken to: by the built-in client, or by httpx over HTTP/2 or 1.1.",
    )
    tls: Annotated[Tls, AfterValidator(_usable_tls)] | None = Field(
        default=None, description="How an https service is trusted, and how it knows the gateway."
    )
    preserve_host: bool = Field(
        default=False, description="Send the client's Host header on, in place of the service's own."
    )
    forwarded: Style = Field(
        default="x_forwarded",
        description="How the service is told who asked: X-Forwarded-*, Forwarded (RFC 7239), or both.",
    )
    timeouts: Timeouts = Field(default=Timeouts())
    connections: Connections = Field(default=Connections())
    websocket: WebSocketOptions = Field(default=WebSocketOptions())
    resolve: Literal["first", "all"] = Field(
        default="first",
        description="With 'all', every address that a host name leads to is an endpoint.",
    )
    balance: Literal["least_in_flight", "round_robin", "weighted"] | ConsistentHashing = Field(
        default="least_in_flight", description="How an endpoint is chosen for each request."
    )
    health_check: HealthCheck | None = Field(
        default=None,
        description="A small request to each endpoint again and again; without it there is none.",
    )
    ejection: Ejection = Field(default=DEFAULT_EJECTION)
    slow_start: Seconds = Field(
        default=0.0,
        description="How long the share of an endpoint that comes back takes to grow to all of it.",
    )
    panic: bool = Field(
        default=True, description="With every endpoint out try them all; false answers 503 at once."
    )
    routes: tuple[Route, ...] = Field(
        default=(),
        description="Which requests lead here; none where only middlewares of others send it requests.",
    )
    middleware: Chain = Field(default=(), description="The service's own chain, outermost first.")

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if sum(where is not None for where in (self.url, self.endpoints, self.app)) != 1:
            raise PydanticCustomError(
                "service", "a service needs exactly one of 'url', 'endpoints' and 'app'"
            )
        if self.resolve == "all" and self.transport != "http1":
            raise PydanticCustomError("service", "'resolve: all' needs the transport http1")
        for name in PROXY_ONLY:
            if self.app is not None and name in self.model_fields_set:
                raise PydanticCustomError("service", f"an 'app' is called directly, so it has no {name!r}")
        urls = [str(self.url)] if self.endpoints is None else [one.url for one in self.endpoints]
        if self.tls is not None and not all(url.startswith("https:") for url in urls):
            raise PydanticCustomError("service", "'tls' is for a service whose every URL is https")
        return self


BALANCED_ONLY = ("resolve", "balance", "health_check", "ejection", "slow_start", "panic")
"""What a service with one address may say, and what then seldom matters."""

PROXY_ONLY = (
    "transport",
    "tls",
    "preserve_host",
    "forwarded",
    "timeouts",
    "connections",
    "websocket",
    *BALANCED_ONLY,
)
"""What only a service that is reached over the network can have."""


def _checked_state(url: str) -> str:
    if url not in ("memory://", "embedded"):
        parse_store_url(url)
    return url


def _state_of_url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class State(Part):
    """Where what several processes share is kept."""

    url: Annotated[
        str,
        AfterValidator(_checked_state),
        _like(
            r"^(memory://$|embedded$|unix://|(redis|rediss|valkey|valkeys)(\+(unix|sentinel|cluster))?://)"
        ),
    ] = Field(
        repr=False,
        description="memory:// counts in each process; embedded is a Valkey that the gateway starts itself; "
        "valkey://, redis://, rediss:// and these with +unix, +sentinel or +cluster are stores of others.",
    )
    timeout: PositiveSeconds = Field(
        default=0.05, le=1, description="How long a request waits for the store before it goes on without."
    )
    prefix: str = Field(
        default="asgi_gateway",
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="What every key in the store begins with; gateways with one prefix count together.",
    )


class Config(Part):
    """The whole configuration of a gateway."""

    version: Literal[1] = Field(description="The version of this format: 1.")
    listen: Listen = Field(default=Listen())
    logging: Logging = Field(default=Logging())
    workers: int = Field(default=1, ge=1, le=1024, description="Processes that serve.")
    state: Annotated[State, BeforeValidator(_state_of_url, json_schema_input_type=str | State)] | None = (
        Field(
            default=None,
            description="Where rate limits and shared breakers are kept: a URL, or a mapping with more. "
            "Without it in memory, with several workers in an embedded Valkey.",
        )
    )
    reload: Reload = Field(default=Reload())
    shutdown: Shutdown = Field(default=Shutdown())
    admin: Admin = Field(default=Admin())
    include: tuple[str, ...] = Field(
        default=(), description="Files with more services: paths and patterns such as services/*.yaml."
    )
    middleware: Chain = Field(default=(), description="The global chain, outermost first.")
    services: dict[Annotated[str, AfterValidator(_checked_name)], Service] = Field(
        default_factory=dict,
        description="The services by name.",
        json_schema_extra={"propertyNames": {"pattern": SERVICE_NAME}},
    )
    _document: Document = PrivateAttr(default_factory=Document)

    def model_post_init(self, context: Any) -> None:
        """Keep the document that this is validated from."""
        if isinstance(context, Document):
            self._document = context

    @property
    def document(self) -> Document:
        """What this was read from."""
        return self._document

    def mistake(self, path: Path, reason: str) -> Mistake:
        """What went wrong when the part at `path` was put to use, with its place in the file.

        The reason is left out where it may quote a secret.
        """
        return self._document.foreign_mistake(path, reason)

    def chains(self) -> Iterator[tuple[str | None, tuple[MiddlewareSpec, ...]]]:
        """Every service with all that a request to it passes, outermost first; None is the global chain."""
        yield None, self.middleware
        for name, service in self.services.items():
            yield name, (*self.middleware, *service.middleware)
