"""A call's arguments against its tool's schema: what is wrong with them, in a sentence that the model reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from referencing import Registry

from flanlite.conversation import Tool

MAX_SHOWN_CHARS = 60

KINDS = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}

PATTERNS = ("pattern", "patternProperties")
NAMED_SCHEMAS = ("properties", "$defs", "definitions", "dependentSchemas")
VALUES = ("enum", "const", "default", "examples")


def problem_with(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments, in one sentence, or None where they fit the tool's schema.

    An argument that the schema does not name is wrong, unless the schema welcomes it. Patterns are left to the tool.
    Raises what jsonschema does where the schema itself is broken.
    """
    schema = {"unevaluatedProperties": False, **_without_patterns(tool.parameters)}
    # With a registry of its own, nothing is fetched for a schema that refers to a URL.
    validator = Draft202012Validator(schema, registry=Registry())
    error = best_match(validator.iter_errors(dict(arguments)))
    return None if error is None else _sentence(tool, error)


def problem_with_schema(schema: Mapping[str, Any]) -> str | None:
    """What is wrong with the JSON schema of a tool's arguments, in some words without a full stop, or None."""
    try:
        # Formats are not checked: a pattern may be no regular expression of Python's.
        Draft202012Validator.check_schema(schema, FormatChecker(formats=()))
    except SchemaError as error:
        return f"{_cut(error.message)}, at {_place(error.absolute_path)}"
    return None if schema.get("type", "object") == "object" else "it is not of type object"


def _without_patterns(schema: Any) -> Any:
    """The schema without regular expressions, whatever they would match being allowed.

    One that a server sends can take hours, and every other thread waits for it.
    """
    if isinstance(schema, list):
        return [_without_patterns(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain = {}
    for key, value in schema.items():
        if key in NAMED_SCHEMAS and isinstance(value, Mapping):
            plain[key] = {name: _without_patterns(part) for name, part in value.items()}
        elif key not in PATTERNS:
            plain[key] = value if key in VALUES else _without_patterns(value)
    return plain | {"additionalProperties": True} if "patternProperties" in schema else plain


def with_integers(value: Any, schema: Any) -> Any:
    """The value with 5.0 as 5 where the schema asks for an integer: one number to JSON, two to Python."""
    if not isinstance(schema, Mapping):
        return value
    if isinstance(value, float) and "integer" in (kinds := schema.get("type", ())) and "number" not in kinds:
        return int(value)
    if isinstance(value, list):
        return [with_integers(item, schema.get("items")) for item in value]
    if isinstance(value, Mapping):
        known, other = schema.get("properties") or {}, schema.get("additionalProperties")
        return {name: with_integers(item, known.get(name, other)) for name, item in value.items()}
    return value


def _sentence(tool: Tool, error: ValidationError) -> str:
    place = _place(error.absolute_path)
    given: Any = error.instance
    wanted: Any = error.validator_value
    known: Mapping[str, Any] = tool.parameters.get("properties") or {}
    takes = ", ".join(f"{name} ({_kind(schema)})" for name, schema in known.items()) or "no arguments"
    if not place and error.validator in ("unevaluatedProperties", "additionalProperties"):
        unknown = [name for name in given if name not in known]
        return f"{tool.name} has no {_arguments(unknown)}; it takes {takes}."
    if not place and error.validator == "required":
        missing = [name for name in wanted if name not in given]
        return f"{tool.name} lacks the {_arguments(missing)}; it takes {takes}."
    if place and error.validator in ("type", "enum", "anyOf"):
        return f"The argument {place} must be {_kind(error.schema)}, but is {_shown(given)}."
    return f"The {f'argument {place}' if place else 'call'} of {tool.name} does not fit: {error.message}."


def _arguments(names: Sequence[str]) -> str:
    return f"argument{'s' if len(names) > 1 else ''} {' and '.join(names)}"


def _place(path: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _kind(schema: Any) -> str:
    """What a schema asks for, in words."""
    if not isinstance(schema, Mapping):
        return "any value"
    if schema.get("enum"):
        return f"one of {', '.join(map(_shown, schema['enum']))}"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    kinds = schema.get("type", ())
    return " or ".join(KINDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)) or "any value"


def _shown(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"
