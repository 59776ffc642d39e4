"""The JSON Schema of the configuration file, for editors and for checks without Python."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import WithDefaultSchema

from asgi_gateway.config.model import Config
from asgi_gateway.options import options_model
from asgi_gateway.registry import MiddlewareNotFound, Registry

Schema: TypeAlias = dict[str, Any]

REFERENCE: Final[Schema] = {
    "description": "${NAME}, ${NAME:-default} or ${file:/path}, replaced when the file is read.",
    "type": "string",
    "pattern": r"\$\{",
}
REFERENCED: Final[Schema] = {"$ref": "#/$defs/Reference"}
_NOTES = ("description", "default", "examples")


def json_schema(registry: Registry | None = None) -> Schema:
    """The schema, draft 2020-12, with the options of every middleware that `registry` knows."""
    registry = registry or Registry()
    schema = Config.model_json_schema(schema_generator=Generator)
    definitions = schema.pop("$defs")
    for chained in (schema, definitions["Service"]):
        chained["properties"]["middleware"]["items"] = {"$ref": "#/$defs/Middleware"}
    options: dict[str, Schema] = {}
    for name in registry.names:
        options[name], inner = _options(name, registry)
        definitions |= inner
    definitions = {name: _with_references(definition) for name, definition in definitions.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "asgi-gateway configuration",
        **_with_references(schema),
        "$defs": {**definitions, "Middleware": _middleware(options), "Reference": REFERENCE},
    }


class Generator(GenerateJsonSchema):
    """Pydantic's generator, with defaults in the notation of the file: ``1m``, ``[500-599]``."""

    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment] # never changed

    def default_schema(self, schema: WithDefaultSchema) -> Schema:
        described = super().default_schema(schema)
        writer: Any = schema["schema"].get("serialization", {})
        if "default" in described and writer.get("type") == "function-plain":
            described["default"] = writer["function"](schema["default"])
        return described


def _options(name: str, registry: Registry) -> tuple[Schema, dict[str, Schema]]:
    """The schema of one middleware's options, and the definitions it refers to."""
    try:
        model = options_model(registry.find(name))
        schema = model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}", schema_generator=Generator)
    except (MiddlewareNotFound, PydanticInvalidForJsonSchema):
        return {"type": "object"}, {}
    inner = schema.pop("$defs", {})
    return _with_references(schema), {f"{name}.{key}": definition for key, definition in inner.items()}


def _middleware(options: dict[str, Schema]) -> Schema:
    without = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in options.items()}
    allowed = {name: schema if schema.get("required") else without[name] for name, schema in options.items()}
    return {
        "description": "A name, a name with its options, or any ASGI middleware class by its import path.",
        "anyOf": [
            {"enum": [name for name, schema in options.items() if not schema.get("required")]},
            {
                "type": "object",
                "properties": allowed,
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
            {
                "type": "object",
                "properties": {
                    "use": {"description": "package.module:Class", "type": "string", "pattern": ":"},
                    "options": {"description": "Its keyword parameters.", "type": "object"},
                },
                "required": ["use"],
                "additionalProperties": False,
            },
        ],
    }


def _with_references(schema: Schema) -> Schema:
    """The schema in short, where every scalar but free text may be a reference too."""
    schema = {key: value for key, value in schema.items() if key != "title"}
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].partition("\n\n")[0].split())
    for key in ("properties", "patternProperties"):
        if key in schema:
            schema[key] = {name: _with_references(value) for name, value in schema[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _with_references(schema[key])
    if "anyOf" in schema:
        return {**schema, "anyOf": _choices(schema["anyOf"])}
    if not _takes_reference(schema):
        return schema
    notes = {key: schema.pop(key) for key in _NOTES if key in schema}
    return {**notes, "anyOf": [schema, REFERENCED]}


def _choices(choices: list[Schema]) -> list[Schema]:
    """The choices of a union, nested ones drawn out, with one reference for all of them at the end."""
    flat: list[Schema] = []
    for choice in choices:
        inner = _with_references(choice)
        flat += inner.get("anyOf", [inner])
    distinct = [choice for index, choice in enumerate(flat) if choice not in flat[:index]]
    return sorted(distinct, key=lambda choice: choice == REFERENCED)


def _takes_reference(schema: Schema) -> bool:
    if "const" in schema:
        return isinstance(schema["const"], str)
    if schema.get("type") == "string":
        return bool(schema.keys() & {"enum", "pattern", "format", "minLength", "maxLength"})
    return schema.get("type") in ("integer", "number", "boolean")
