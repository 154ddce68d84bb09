"""JSON, Python, YAML and shell words as models write them: values and calls, read without running anything.

Every reader raises ValueError, and nothing else, for a text that is not in its language.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import warnings
from contextlib import suppress
from typing import Any

import yaml

MAX_CODE_CHARS = 10_000
"""Longer code is refused: it is no call that a model was taught to write, and these readers are slow."""
MAX_BRACKETS = 256
"""Of YAML, whose reader takes a time that grows with the square of the depth."""

_JSON = json.JSONDecoder(strict=False)
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def json_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends."""
    try:
        return _JSON.raw_decode(text, start)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def misspelled_json_value(text: str) -> Any:
    """An object or list with single quotes, True, trailing commas and the like; what follows it is passed over.

    An object may stand between single quotes without a mark before those that it holds.
    """
    text = text[: max(text.rfind("}"), text.rfind("]")) + 1].strip()
    with suppress(ValueError):
        return _python_value(text)
    start, end = text.find("'{"), text.rfind("}'")
    if not 0 <= start < end:
        raise ValueError("it is neither JSON nor Python")
    return _python_value(text[:start] + text[start + 1 : end + 1] + text[end + 2 :])


def typed(text: str) -> Any:
    """The number, truth, null, list or object that a text is in JSON, or the text."""
    with suppress(ValueError, RecursionError):
        value = json.loads(text, parse_constant=_refuse)
        return text if isinstance(value, str) else value
    return text


def python_calls(code: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """Calls such as `api.name("value", key=3)`, one a statement: names, values in order, values by keyword."""
    return [_python_call(expression) for expression in _expressions(code)]


def shell_calls(code: str) -> list[tuple[str, dict[str, str]]]:
    """Calls such as `api.name --key 'two words' --other=3`, and their values, all of them text."""
    if len(code) > MAX_CODE_CHARS:
        raise ValueError("it is too long")
    words = iter(shlex.split(re.sub(r"(?m)^[ \t]*#.*$", "", code).replace("\\\n", " ")))
    calls: list[tuple[str, dict[str, str]]] = []
    for word in words:
        if not word.startswith("--"):
            calls.append((word, {}))
            continue
        key, equals, value = word[2:].partition("=")
        value = value if equals else next(words, "--")
        if not calls or not key or value.startswith("--"):
            raise ValueError("it is no list of keys and values")
        calls[-1][1][key] = value
    return calls


def yaml_value(code: str) -> Any:
    """YAML's mappings, lists and texts. Unquoted numbers, truths and null are JSON's: `no` and `12:30` are texts."""
    if len(code) > MAX_CODE_CHARS or code.count("[") + code.count("{") > MAX_BRACKETS:
        raise ValueError("it is too long")
    try:
        # Aliases make a short text a huge value.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(code, Loader=_YAML)):
            raise ValueError("it holds an alias")
        return _yaml_value(yaml.compose(code, Loader=_YAML))
    except (yaml.YAMLError, OverflowError, RecursionError) as error:
        raise ValueError("it is no YAML") from error


def _yaml_value(node: yaml.Node | None) -> Any:
    match node:
        case yaml.ScalarNode():
            return node.value if node.style else typed(node.value)
        case yaml.SequenceNode():
            return [_yaml_value(item) for item in node.value]
        case yaml.MappingNode():
            return {str(_yaml_value(key)): _yaml_value(value) for key, value in node.value}
    return None


def _python_call(node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    if not isinstance(node, ast.Call):
        raise ValueError("it is no call")
    names: list[str] = []
    function = node.func
    while isinstance(function, ast.Attribute):
        names.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name) or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("it is no plain call")
    values = {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    return ".".join([function.id, *reversed(names)]), [_literal(value) for value in node.args], values


def _python_value(text: str) -> Any:
    (expression,) = _expressions(text)
    return _literal(expression)


def _expressions(source: str) -> list[ast.expr]:
    if len(source) > MAX_CODE_CHARS:
        raise ValueError("it is too long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python keeps an unknown escape such as \d as it is, and warns.
        try:
            body = ast.parse(source).body
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError("it is no Python") from error
    expressions = [statement.value for statement in body if isinstance(statement, ast.Expr)]
    if not expressions or len(expressions) < len(body):
        raise ValueError("it is not made of expressions")
    return expressions


def _literal(node: ast.expr | None) -> Any:
    """The value, if JSON could hold it too; its true, false and null will do."""
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.Name(id="true" | "false" | "null"):
            return {"true": True, "false": False, "null": None}[node.id]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple():
            return [_literal(item) for item in node.elts]
        case ast.Dict():
            keys = [key if isinstance(key := _literal(each), str) else json.dumps(key) for each in node.keys]
            return dict(zip(keys, map(_literal, node.values), strict=True))
    raise ValueError("it is no plain value")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
