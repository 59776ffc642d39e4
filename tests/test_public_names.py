"""The public names and their signatures, beside a reviewed file: nothing is added or lost by accident.

Where a change is meant, write the file anew and review the difference:

    python tests/test_public_names.py > tests/public_names.txt
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

REVIEWED = Path(__file__).with_name("public_names.txt")

MODULES = (
    "asgi_gateway",
    "asgi_gateway.clock",
    "asgi_gateway.config",
    "asgi_gateway.context",
    "asgi_gateway.errors",
    "asgi_gateway.events",
    "asgi_gateway.logs",
    "asgi_gateway.middleware",
    "asgi_gateway.options",
    "asgi_gateway.problem",
    "asgi_gateway.runtime",
    "asgi_gateway.testing",
    "asgi_gateway.testing.behaviours",
    "asgi_gateway.types",
)


class _WithoutMetadata(ast.NodeTransformer):
    """``Annotated[int, Field(...)]`` as ``int``: bounds and descriptions are documented elsewhere."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if (
            isinstance(node.value, ast.Name)
            and node.value.id == "Annotated"
            and isinstance(node.slice, ast.Tuple)
        ):
            return node.slice.elts[0]
        return node


def annotation(value: object) -> str:
    text = value if isinstance(value, str) else inspect.formatannotation(value)
    return ast.unparse(_WithoutMetadata().visit(ast.parse(text, mode="eval")))


def signature(function: object) -> str:
    """The parameters without `self`, one a line where there are several keywords."""
    found = inspect.signature(function)
    parts: list[str] = []
    star = False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        sign = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        kind = "" if parameter.annotation is parameter.empty else f": {annotation(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {constant(parameter.default)}"
        parts.append(f"{sign}{parameter.name}{kind}{default}")
    returns = "" if found.return_annotation is found.empty else f" -> {annotation(found.return_annotation)}"
    if "*" in parts:
        return "(\n" + "".join(f"        {part},\n" for part in parts) + f"    ){returns}"
    return f"({', '.join(parts)}){returns}"


def constant(value: object) -> str:
    if isinstance(value, frozenset):
        whole = sorted(map(repr, value))
        return f"{{{', '.join(whole if len(whole) < 10 else [whole[0], '...', whole[-1]])}}}"
    text = repr(value)
    return "..." if " at 0x" in text else text


def definition(function: object) -> str:
    return "async def" if inspect.iscoroutinefunction(function) else "def"


def members(cls: type) -> Iterator[str]:
    if hasattr(cls, "model_fields"):
        yield from (f"    {name}" for name in cls.model_fields)
        return
    for name, value in sorted(vars(cls).items()):
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(value, property):
            yield f"    {name}: {annotation(inspect.signature(value.fget).return_annotation)}"
        elif isinstance(value, staticmethod):  # borrowed from the standard library, which may change it
            yield f"    {name}"
        elif isinstance(value, classmethod):
            yield f"    classmethod {name}{signature(getattr(cls, name))}"
        elif inspect.isfunction(value):
            yield f"    {definition(value)} {name}{signature(value)}"


def described(name: str, value: object) -> Iterator[str]:
    if isinstance(value, type):
        made_by = inspect.isfunction(value.__init__) and not hasattr(value, "model_fields")
        yield f"class {name}" + (signature(value) if made_by else "")
        yield from members(value)
    elif inspect.isfunction(value):
        yield f"{definition(value)} {name}{signature(value)}"
    elif isinstance(value, str):
        yield f"{name} = {value!r}"
    else:
        yield name


def public_names(module: ModuleType) -> list[str]:
    """``__all__``; without one, what the module itself defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    defined = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
    return sorted(name for name in defined if not name.startswith("_"))


def surface() -> Iterator[str]:
    for name in MODULES:
        module = importlib.import_module(name)
        yield f"# {name}"
        for public in public_names(module):
            if public == "__version__":
                yield public
            else:
                yield from described(public, getattr(module, public))
        yield ""


def test_the_public_names_are_the_reviewed_ones() -> None:
    assert "\n".join(surface()) == REVIEWED.read_text().rstrip("\n") + "\n"


if __name__ == "__main__":
    print("\n".join(surface()).rstrip("\n"))
