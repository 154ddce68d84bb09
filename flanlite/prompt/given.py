"""What a call is given, in whichever way, as a mapping from the tool's parameters to values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from flanlite.conversation import Tool
from flanlite.prompt.syntax import json_value, misspelled_json_value, python_calls, typed


def as_arguments(given: Any, tool: Tool | None, *, in_words: bool = True) -> Mapping[str, Any] | str:
    """The arguments that a text or a JSON value stands for; values without names stay text where no tool names them.

    Raises ValueError where a text is neither a JSON object nor, if it may be, `in_words`, and where there are more
    values than the tool has parameters.
    """
    if not given or isinstance(given, Mapping):
        return given or {}
    if not isinstance(given, str):
        values = given if isinstance(given, list) else [given]
        return by_position(values, tool) if tool else json.dumps(given, ensure_ascii=False)
    text = _unquoted(given.strip())
    return _worded(text, tool) if in_words and not text.startswith("{") else _object(text)


def _unquoted(text: str) -> str:
    """The JSON object that stands in JSON's quotes once more, or the text as it is."""
    with suppress(ValueError):
        value, end = json_value(text)
        if isinstance(value, str) and value.lstrip().startswith("{") and end == len(text):
            return value.strip()
    return text


def _object(text: str) -> Mapping[str, Any]:
    """The JSON object that a text begins with, be it misspelled. Raises ValueError in the words of JSON's reader."""
    if not text.startswith("{"):
        raise ValueError("this is no JSON object")
    try:
        value, _ = json_value(text)
    except ValueError:
        with suppress(ValueError):
            value = misspelled_json_value(text)
            if isinstance(value, Mapping):
                return value
        raise
    return dict(value)


def _worded(text: str, tool: Tool | None) -> Mapping[str, Any] | str:
    """Arguments in words or as Python has them: `Barack Obama`, `#0, people.person.parents`, `city="Oslo", days=3`."""
    try:
        ((_, values, named),) = python_calls(f"_({text})")
        if tool and len(values) > len(parameters(tool)) and values != [None]:
            raise ValueError("more values than parameters")
        if tool and not named and len(values) == 1 and _is_text_like_a_number(values[0], tool):
            raise ValueError("no number, but words")
    except ValueError:
        named = _named_in_words(text, tool) if tool else {}
        values = [] if named else _values_in_words(text, tool)
    if tool:
        return by_position(values, tool) | named
    return text if values else named


def _is_text_like_a_number(value: Any, tool: Tool) -> bool:
    """Whether `2.50` or `None` stands, without quotes, for the only parameter's text, which another spelling is not."""
    schemas = list(parameters(tool).values())
    is_text = len(schemas) == 1 and isinstance(schemas[0], Mapping) and schemas[0].get("type") == "string"
    return is_text and isinstance(value, int | float | None)


def _named_in_words(text: str, tool: Tool) -> dict[str, Any]:
    """The values of `city: Oslo, days=three`, where the text begins with the name of a parameter; none otherwise."""
    names = "|".join(re.escape(name) for name in parameters(tool)) or r"(?!)"
    before, *given = re.split(rf"(?:^|[,\n])\s*({names})\s*[=:]", text, flags=re.IGNORECASE)
    values = (without_quotes(value.strip()) for value in given[1::2])
    return {} if before else as_typed(dict(zip(given[::2], values, strict=True)), tool)


def without_quotes(text: str) -> str:
    """The text without the one pair of quotes around it, or as it is."""
    quoted = re.fullmatch(r"([\"'])((?:(?!\1).)*)\1", text, re.DOTALL)
    return quoted[2] if quoted else text


def _values_in_words(text: str, tool: Tool | None) -> list[str]:
    required = tool.parameters.get("required") or () if tool else ()
    is_one = len(parameters(tool)) == 1 or len(required) == 1
    return [text] if is_one else [part.strip() for part in text.split(",")]


def by_position(values: Sequence[Any], tool: Tool) -> dict[str, Any]:
    """Values in order under the tool's names for them; None alone is no value. Raises ValueError where it has fewer."""
    names = parameters(tool)
    if values == [None]:
        return {}
    if len(values) > len(names):
        raise ValueError(f"{len(values)} values for {len(names)} parameters")
    return as_typed(dict(zip(names, values, strict=False)), tool)


def as_typed(arguments: Mapping[str, Any], tool: Tool) -> dict[str, Any]:
    """Arguments from a language with other types than JSON's, spelled and typed as the tool's schema has them."""
    schemas = parameters(tool)
    names = {plain(name): name for name in schemas}
    spelled = {names.get(plain(key), key): value for key, value in arguments.items()}
    return {key: _fit(value, schemas.get(key)) for key, value in spelled.items()}


def _fit(value: Any, schema: Any) -> Any:
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = [kinds] if isinstance(kinds, str) else kinds or []
    if "string" in kinds:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return typed(value) if kinds and isinstance(value, str) else value


def parameters(tool: Tool | None) -> Mapping[str, Any]:
    """The tool's parameters in order, each with its schema."""
    return tool.parameters.get("properties") or {} if tool else {}


def plain(name: str) -> str:
    """A name without what models get wrong about it: case, spaces, `_` and `-`."""
    return re.sub(r"[\s_-]", "", name).lower()
