"""TLS towards a service: what is trusted, who we are, and files that may change while we run."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

_logger = logging.getLogger("asgi_gateway.tls")

Stamp: TypeAlias = tuple[int, int, int] | None
"""What tells one state of a file from the next; None where there is no such file."""


def _as_text(version: object) -> object:
    return str(version) if isinstance(version, float) else version


MinimumVersion = Annotated[
    Literal["1.2", "1.3"], BeforeValidator(_as_text), WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]})
]
"""A version of TLS; YAML reads one without quotes as a number."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How an https service is trusted, and how it knows us. Files are PEM."""

    ca: Annotated[
        str | None, Field(description="Certificates that are trusted in place of the system's.")
    ] = None
    certificate: Annotated[
        str | None, Field(description="The gateway's own certificate and its chain, for mutual TLS.")
    ] = None
    key: Annotated[
        str | None,
        Field(description="Its private key without a passphrase, where the certificate's file has none."),
    ] = None
    server_name: Annotated[
        str | None,
        Field(min_length=1, description="The name asked for (SNI) and verified, if not the URL's host."),
    ] = None
    minimum_version: Annotated[MinimumVersion, Field(description="The oldest TLS that is spoken.")] = "1.2"
    verify: Annotated[
        bool, Field(description="Whether certificate and name are verified; false trusts anybody.")
    ] = True

    __pydantic_config__ = ConfigDict(extra="forbid")

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is named."""
        return tuple(file for file in (self.ca, self.certificate, self.key) if file is not None)

    def in_folder(self, folder: Path) -> Tls:
        """The same with relative paths starting at a folder."""
        ca, certificate, key = (file and str(folder / file) for file in (self.ca, self.certificate, self.key))
        return replace(self, ca=ca, certificate=certificate, key=key)


def client_context(tls: Tls) -> ssl.SSLContext:
    """What the options say, loaded; raises `ValueError` that names the option which cannot be used."""
    if tls.key is not None and tls.certificate is None:
        raise ValueError("'key' needs a 'certificate'")
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except (OSError, ValueError) as error:
        raise _unusable("ca", tls.ca, error) from error
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version = ssl.TLSVersion["TLSv" + tls.minimum_version.replace(".", "_")]
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate is not None:
        _load_own(context, tls.certificate, tls.key)
    return context


def _load_own(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    for option, file in (("certificate", certificate), ("key", key)):
        if file is not None and not os.access(file, os.R_OK):
            raise _unusable(option, file, FileNotFoundError(2, os.strerror(2)))
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise _unusable("certificate", certificate, error) from error


def _no_passphrase() -> str:
    """Called for an encrypted key, which OpenSSL would otherwise ask the terminal about."""
    raise ValueError("the private key is encrypted")


def _unusable(option: str, file: str | None, error: Exception) -> ValueError:
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else error
    return ValueError(f"{option!r} cannot be used: {file}: {reason or error}")


class ClientTls:
    """The context for new connections, loaded again after one of its files has changed.

    It may be shared by all that are to trust alike. Looking costs a stat of each file. Files that cannot be
    used, as in the middle of a renewal, leave the context that was; the log says so once.
    """

    def __init__(self, tls: Tls) -> None:
        self.server_name = tls.server_name
        """The name asked for and verified, if not that of the host."""
        self._tls = tls
        self._stamps = self._look()
        self._context = client_context(tls)

    def context(self) -> ssl.SSLContext:
        """The context as the files now are."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = client_context(self._tls)
            except ValueError as error:
                _logger.warning("TLS files changed and the old ones stay in use: %s", error)
        return self._context

    def _look(self) -> list[Stamp]:
        return [_stamp(file) for file in self._tls.files]


def _stamp(file: str) -> Stamp:
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
