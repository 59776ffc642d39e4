"""Where a store is, read from its URL; the schemes are those of the `limits` package and of redis-py."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

_SCHEME: Final = re.compile(r"(?P<family>redis|rediss|valkey|valkeys)(\+(?P<kind>unix|sentinel|cluster))?")
_TLS_OPTIONS: Final = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
_OPTIONS: Final = {"db", *_TLS_OPTIONS}
_YES: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
EXPECTED: Final = (
    "expected memory://, embedded, or the URL of a store such as valkey://host:6379/0, rediss://, "
    "valkey+unix:///run/valkey.sock, valkey+sentinel://host:26379,other:26379/master "
    "or valkey+cluster://host:6379,other:6379"
)

Place = tuple[str, int]
"""A host and a port; the path of a Unix socket and 0."""


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A store: one server, what sentinels call the master, or a cluster that any of `places` knows."""

    kind: Literal["single", "sentinel", "cluster"]
    places: tuple[Place, ...]
    master: str = ""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The places and nothing secret: what logs may say."""
        places = ",".join(host if not port else f"{host}:{port}" for host, port in self.places)
        return f"{places}/{self.master}" if self.master else places


def parse_store_url(url: str) -> StoreAddress:
    """The store of a URL. Raises `ValueError`, whose message quotes nothing that may be a secret."""
    if url.startswith("unix://"):
        url = f"redis+{url}"
    try:
        parts = urlsplit(url)
    except ValueError:  # which quotes the password
        raise ValueError(EXPECTED) from None
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None:
        raise ValueError(EXPECTED)
    if "#" in url:
        raise ValueError("a store's URL has no '#'; in a password or a path it is written %23")
    secure = scheme["family"] in ("rediss", "valkeys")
    options = _options(parts.query, secure=secure)
    secret, _, hosts = parts.netloc.rpartition("@")
    username, _, password = secret.partition(":")
    kind = scheme["kind"] or "single"
    path = unquote(parts.path)
    places: tuple[Place, ...]
    if kind == "unix":
        if not path or hosts or secure:
            raise ValueError("a Unix socket is written valkey+unix:///path/of/the.sock, and has no TLS")
        kind, places, path = "single", ((path, 0),), ""
    else:
        places = tuple(_place(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(","))
    master, database = _master_and_database(kind, path.strip("/"), options.get("db"))
    if kind == "single" and len(places) > 1:
        raise ValueError("several hosts need a scheme such as valkey+sentinel:// or valkey+cluster://")
    return StoreAddress(
        kind,  # type: ignore[arg-type]
        places,
        master,
        database,
        unquote(username) or None,
        unquote(password) or None,
        _context(options) if secure else None,
    )


def _options(query: str, *, secure: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = ", ".join(sorted(_OPTIONS))
    if unknown := options.keys() - _OPTIONS:
        name = min(unknown)
        if "@" in query or not re.fullmatch("[a-z_]+", name):  # perhaps the rest of a password
            raise ValueError(
                f"after its '?' a store's URL has options only ({known}); in a password write %3F"
            )
        raise ValueError(f"a store's URL has no option {name!r}; known are {known}")
    if not secure and options.keys() & _TLS_OPTIONS:
        raise ValueError("options of TLS are for rediss:// and valkeys://; this URL is without TLS")
    return options


def _place(text: str, default: int) -> Place:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", text)
    if found is None or not 0 < int(found[2] or default) < 65536:
        raise ValueError("expected a host and a port, such as valkey://host:6379")
    return found[1].strip("[]"), int(found[2] or default)


def _master_and_database(kind: str, path: str, database: str | None) -> tuple[str, int]:
    """The name of the master for sentinels, and the number of the database."""
    master = ""
    if kind == "sentinel":
        master, _, path = path.partition("/")
        if not master:
            raise ValueError("sentinels need the name of the master: valkey+sentinel://host:26379/master")
    if path and database is not None:
        raise ValueError("the database of a store stands in the path or in 'db', not in both")
    number = path or database or "0"
    if not number.isdecimal():
        raise ValueError("the database of a store is a number, such as valkey://host:6379/0")
    if kind == "cluster" and int(number):
        raise ValueError("a cluster has one database, 0")
    return master, int(number)


def _context(options: dict[str, str]) -> ssl.SSLContext:
    required = options.get("ssl_cert_reqs", "required")
    if required not in ("required", "optional", "none"):  # to a client the first two are the same
        raise ValueError("'ssl_cert_reqs' is 'required' or 'none'")
    named = _YES.get(options.get("ssl_check_hostname", "true").lower())
    if named is None:
        raise ValueError("'ssl_check_hostname' is 'true' or 'false'")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("'ssl_keyfile' needs an 'ssl_certfile'")
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"a certificate of the store cannot be used: {error.strerror or error}") from error
    context.check_hostname = named and required != "none"
    if required == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
