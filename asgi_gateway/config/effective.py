"""A configuration written out in full: every default filled in, secrets left as the expressions they are."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.representer import BaseRepresenter

from asgi_gateway.config.document import MASK, Document
from asgi_gateway.config.mistakes import Path
from asgi_gateway.config.model import BALANCED_ONLY, PROXY_ONLY, Config, MiddlewareSpec, Service
from asgi_gateway.config.yaml12 import PLAIN_SCALARS

_USERINFO = re.compile(r"(?<=://)(?!(\[[^\]\s]*\]|[^\s/?#@:]+)(:\d*)?[/?#])\S*@")
"""Whatever is before the last @, as a password may hold a / of its own. But an @ in the path stays, behind a
host and a port that are well-formed, as it has to be read back."""


def effective_yaml(config: Config) -> str:
    """YAML that loads to an equal configuration where the same secrets are at hand.

    What the file says stays as it was written, and defaults stand beside it in the same notation. A
    secret is shown as its ``${...}`` expression, the user and password in a URL as ``***``.
    """
    plain = _Merge(config.document)(config.document.data, _dumped(config), ())
    return yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True
    )


def _represent_text(dumper: BaseRepresenter, text: str) -> yaml.ScalarNode:
    """Text that YAML would break into lines where Python does not is escaped."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes whatever YAML 1.1 or 1.2 would not read back as text; writes no anchors."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it, and never changed
        **yaml.SafeDumper.yaml_implicit_resolvers,
        # No value is ever represented by this tag, so a text that matches gets its quotes.
        None: [("!not-text", re.compile(f"(?:{pattern.pattern})$")) for pattern, _ in PLAIN_SCALARS],
    }

    yaml_representers = {**yaml.SafeDumper.yaml_representers, str: _represent_text}  # noqa: RUF012 - likewise

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Merge:
    """Lays what is written over what is in effect."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def __call__(self, written: Any, effective: Any, path: Path) -> Any:
        if path in self._document.secrets:
            return self._document.expressions[path]
        if isinstance(effective, dict) and not isinstance(written, dict | list):
            return self._written(effective, path)  # a middleware's name, its options filled in
        if isinstance(written, dict) and isinstance(effective, dict):
            keys = {**effective, **written}
            return {key: self(written.get(key), effective.get(key), (*path, key)) for key in keys}
        if isinstance(written, list) and isinstance(effective, list) and len(written) == len(effective):
            pairs = enumerate(zip(written, effective, strict=True))
            return [self(one, other, (*path, index)) for index, (one, other) in pairs]
        if written is None or (path in self._document.expressions and isinstance(effective, int | float)):
            return self._written(effective, path)
        return self._written(written, path)

    def _written(self, value: Any, path: Path) -> Any:
        """A value as text that means the same, nothing secret in it."""
        if path in self._document.secrets:
            return self._document.expressions[path]
        if isinstance(value, dict):
            return {key: self._written(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._written(item, (*path, index)) for index, item in enumerate(value)]
        return _USERINFO.sub(MASK + "@", value).replace("${", "$${") if isinstance(value, str) else value


def _dumped(config: Config) -> dict[str, Any]:
    data = config.model_dump(mode="json", exclude_none=True, exclude={"include", "middleware", "services"})
    services = {name: _service(service) for name, service in config.services.items()}
    return {**data, "middleware": _chain(config.middleware), "services": services}


def _service(service: Service) -> dict[str, Any]:
    unused: set[str] = set(PROXY_ONLY) if service.app is not None else set()
    if service.url is not None:
        unused = set(BALANCED_ONLY) - service.model_fields_set
    data = service.model_dump(mode="json", exclude_none=True, exclude={"middleware", *unused})
    return {**data, "middleware": _chain(service.middleware)}


def _chain(chain: tuple[MiddlewareSpec, ...]) -> list[Any]:
    return [_middleware(spec) for spec in chain]


def _middleware(spec: MiddlewareSpec) -> str | dict[str, Any]:
    dumped = spec.model.model_dump(mode="json", by_alias=True, warnings=False, fallback=lambda value: None)
    options = {name: value for name, value in dumped.items() if value is not None}
    if ":" in spec.name:
        return {"use": spec.name, "options": options}
    return {spec.name: options} if options else spec.name
