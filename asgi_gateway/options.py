"""A constructor's keyword parameters as a schema: the one rule that binds every middleware.

`options_model` reads the annotations, defaults and descriptions of a constructor into a pydantic
model. The YAML loader validates with it, the JSON Schema is generated from it, and `validated`
puts the same rules on the constructor itself, so that code and YAML refuse the same mistakes.
"""

from __future__ import annotations
import __future__

import ast
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

T = TypeVar("T")

HANDED_IN = frozenset({"self", "app", "runtime"})
"""Constructor parameters that the chain supplies; never options."""


def options_model(factory: Callable[..., Any]) -> type[BaseModel]:
    """The options that `factory`, a middleware class or a function returning an app, accepts.

    The first parameter is the inner app whatever it is called. Annotations that cannot be resolved
    accept anything; a factory with ``**kwargs`` accepts unknown names. Raises `TypeError` or
    `ValueError` for what has no readable signature, and pydantic's errors for annotations that it
    cannot validate.
    """
    function = factory.__init__ if inspect.isclass(factory) else factory
    parameters = list(inspect.signature(factory).parameters.values())
    hints = _hints(function)
    keywords = [p for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    fields: dict[str, Any] = {
        _field_name(p.name): (
            Annotated[hints.get(p.name, Any), Field(alias=p.name)],
            ... if p.default is p.empty else p.default,
        )
        for p in keywords
        if p.name not in HANDED_IN
    }
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    name = getattr(factory, "__name__", type(factory).__name__)
    config = ConfigDict(
        extra="allow" if open_ended else "forbid",
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    return create_model(name, __config__=config, __doc__=_summary(factory), **fields)


def accepts_runtime(factory: Callable[..., Any]) -> bool:
    """Whether the factory wants the gateway's `Runtime`."""
    return "runtime" in inspect.signature(factory).parameters


def option_values(model: BaseModel) -> dict[str, Any]:
    """Validated options as keyword arguments, nested objects left as they are."""
    fields = type(model).model_fields
    values = {field.alias or name: getattr(model, name) for name, field in fields.items()}
    return {**values, **(model.model_extra or {})}


def validated(cls: type[T]) -> type[T]:
    """Hold the constructor of a class to its own annotations; it then raises pydantic's `ValidationError`.

    A decorator, but one that a class which is to be compiled must not wear: it is called behind that.
    """
    init: Callable[..., None] = cls.__init__
    model: type[BaseModel] | None = None

    @functools.wraps(_declared(cls))
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal model
        if model is None:
            model = options_model(cls)
        handed_in = {name: value for name, value in kwargs.items() if name in HANDED_IN}
        options = {name: value for name, value in kwargs.items() if name not in HANDED_IN}
        init(self, *args, **handed_in, **option_values(model.model_validate(options)))

    setattr(cls, "__init__", checked)  # noqa: B010 - mypy wants no method replaced
    return cls


def _declared(cls: type) -> Callable[..., None]:
    """The constructor with its annotations and defaults, which a compiled one has forgotten.

    Its source, which lies beside it, still tells them.
    """
    init: Callable[..., None] = cls.__init__  # type: ignore[misc] # of this very class
    if isinstance(init, FunctionType):
        return init
    module = sys.modules[cls.__module__]
    library = Path(str(module.__file__))
    source = library.with_name(library.name.partition(".")[0] + ".py")
    classes = (node for node in ast.parse(source.read_bytes()).body if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == cls.__name__)
    function = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    function.body = [ast.Pass()]
    tree = ast.fix_missing_locations(ast.Module([function], []))
    code = compile(tree, source, "exec", __future__.annotations.compiler_flag)
    declared: dict[str, Callable[..., None]] = {}
    exec(code, vars(module), declared)  # noqa: S102 - our own source
    return declared["__init__"]


def _field_name(parameter: str) -> str:
    """A name that pydantic takes: it keeps some for itself, and those with a leading underscore."""
    taken = hasattr(BaseModel, parameter) or parameter.startswith("_")
    return f"option_{parameter.lstrip('_')}" if taken else parameter


def _summary(factory: Callable[..., Any]) -> str | None:
    """The first paragraph of a class's docstring, on one line."""
    text = inspect.cleandoc(factory.__doc__ or "") if isinstance(factory, type) else ""
    return " ".join(text.partition("\n\n")[0].split()) or None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, each by itself: one that cannot be resolved spoils no other."""
    function = inspect.unwrap(function)
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= get_type_hints(alone, globalns=getattr(function, "__globals__", {}), include_extras=True)
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return hints
