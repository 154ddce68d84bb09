"""The agent's tools: how a function becomes one, and how a call is checked, run and told to the model."""

from __future__ import annotations

import importlib.util
import inspect
import json
import queue
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from flanlite.agent.arguments import problem_with, with_integers
from flanlite.conversation import Tool, ToolCall
from flanlite.errors import FlanliteError

BUILT_IN = "built in"
NO_RESULT = "(no result)"
MAX_RESULT_CHARS = 4000
TIMEOUT_S = 20.0
POLL_S = 0.05

Status = Literal["done", "failed", "malformed", "invented", "stopped"]


@dataclass(frozen=True, slots=True)
class BoundTool:
    """A tool and what runs it; `origin` says where it is from: "built in", a file's, folder's or MCP server's name.

    Only `is_builtin` says that a tool comes with flanlite, for a server may have any name.

    `run` takes arguments that fit the tool's schema. A ValueError of it is a sentence for the model; any other
    exception is a fault of the tool.
    """

    tool: Tool
    run: Callable[[Mapping[str, Any]], str]
    origin: str
    is_builtin: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, the text that the model reads as its observation, and how long it took."""

    status: Status
    text: str
    seconds: float


class Toolbox:
    """The tools that are on offer, by name. A given tool replaces a built-in one of its name.

    Raises FlanliteError where two given tools have one name.
    """

    def __init__(self, bound_tools: Iterable[BoundTool], timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._bound: dict[str, BoundTool] = {}
        for bound in bound_tools:
            name = bound.tool.name
            other = self._bound.get(name)
            if other and not (other.is_builtin or bound.is_builtin):
                raise FlanliteError(
                    f"Two tools have the name {name}: one from {other.origin}, one from {bound.origin}.",
                    "Rename one, or leave one of the two out.",
                )
            if other is None or other.is_builtin:
                self._bound[name] = bound

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools as the model is told of them."""
        return tuple(bound.tool for bound in self._bound.values())

    @property
    def bound(self) -> tuple[BoundTool, ...]:
        """The tools with what runs them, in order."""
        return tuple(self._bound.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The tools' names, in order."""
        return tuple(self._bound)

    def only(self, names: Collection[str]) -> Toolbox:
        """The tools of these names, in this toolbox's order. Raises FlanliteError where it has no such tool."""
        for name in names:
            if name not in self._bound:
                raise FlanliteError(f"There is no tool {name}.", self._on_offer())
        return Toolbox([bound for name, bound in self._bound.items() if name in names], self.timeout_s)

    def call(self, call: ToolCall, stop: threading.Event) -> Outcome:
        """Check and run a call, until its result, the timeout or `stop`. Never raises, and may be called by any thread.

        A tool that does not come back is left to itself, in a thread that does not keep the program from ending.
        """
        started = time.monotonic()
        status, text = self._answer(call, stop)
        return Outcome(status, _cut(text), time.monotonic() - started)

    def _answer(self, call: ToolCall, stop: threading.Event) -> tuple[Status, str]:
        bound = self._bound.get(call.name)
        if bound is None:
            return "invented", f"Error: There is no tool {call.name}. {self._on_offer()}"
        if isinstance(call.arguments, str):
            return "malformed", f"Error: The arguments of {call.name} must be a JSON object."
        return self._run(bound, call.arguments, stop)

    def _run(self, bound: BoundTool, arguments: Mapping[str, Any], stop: threading.Event) -> tuple[Status, str]:
        answers: queue.SimpleQueue[tuple[Status, str]] = queue.SimpleQueue()
        deadline = time.monotonic() + self.timeout_s
        if not stop.is_set():
            threading.Thread(target=lambda: answers.put(_attempt(bound, arguments)), daemon=True).start()
        while not stop.is_set():
            try:
                return answers.get(timeout=POLL_S)
            except queue.Empty:
                if time.monotonic() >= deadline:
                    return "failed", f"Error: {bound.tool.name} took longer than {self.timeout_s:g} seconds."
        return "stopped", "Error: The call was stopped."

    def _on_offer(self) -> str:
        return f"The tools are: {', '.join(self._bound)}." if self._bound else "No tools are on offer."


def _attempt(bound: BoundTool, arguments: Mapping[str, Any]) -> tuple[Status, str]:
    try:
        if problem := problem_with(bound.tool, arguments):
            return "malformed", f"Error: {problem}"
        return "done", bound.run(with_integers(arguments, bound.tool.parameters))
    except BaseException as error:  # a tool that exits, or breaks in any other way, ends nothing but its call
        message = str(error).strip()
        if isinstance(error, ValueError) and message:
            return "failed", f"Error: {message}"
        return "failed", " ".join(f"Error: {type(error).__name__}{': ' if message else ''}{message}".split())


def _cut(text: str) -> str:
    """The text, cut at the end of a line or a word where it is too long for a model."""
    # A lone surrogate, which JSON can hold and a tool can echo, is no text to a tokenizer.
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= MAX_RESULT_CHARS:
        return text
    ends = (text.rfind(mark, MAX_RESULT_CHARS * 3 // 4, MAX_RESULT_CHARS + 1) for mark in "\n ")
    end = next((end for end in ends if end > 0), MAX_RESULT_CHARS)
    return f"{text[:end]}\n({len(text) - end:,} more characters are left out.)"


# How a function becomes a tool.

JSON_HINTS = (str, int, float, bool, dict, Any, types.NoneType)
UNDESCRIBED = "-"


def builtin_tools() -> list[BoundTool]:
    """The tools that come with flanlite."""
    from flanlite.agent.builtin import BUILTIN

    return [replace(tool_from(function, BUILT_IN), is_builtin=True) for function in BUILTIN]


def load_tools(file: Path) -> list[BoundTool]:
    """The public functions that a Python file defines, in its order, as tools; the file is run to get them.

    Raises FlanliteError where it cannot be imported, defines none, or one of them cannot be a tool.
    """
    module = _imported(file)
    functions = [value for name, value in vars(module).items() if _is_own(value, name, module.__name__)]
    if not functions:
        raise FlanliteError(
            f"{file} defines no public function.",
            'A tool is one: def weekday(date: str) -> str: """Name the weekday of a date.""" and so on.',
        )
    return [tool_from(function, file.name) for function in functions]


def _is_own(value: Any, name: str, module: str) -> bool:
    is_here = (getattr(value, "__name__", None), getattr(value, "__module__", None)) == (name, module)
    return is_here and not name.startswith("_") and inspect.isfunction(inspect.unwrap(value))


def _imported(file: Path) -> types.ModuleType:
    if not file.is_file() or file.suffix != ".py":
        raise FlanliteError(f"There is no Python file {file}.", "Name a file that ends in .py and defines functions.")
    spec = importlib.util.spec_from_file_location(f"flanlite_tools_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass of the file looks its hints up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(spec.name, None)
        hint = f"Mend it; try it with: python {file}"
        if isinstance(error, ImportError):
            hint = "Install what it imports; files beside it cannot be imported."
        problem = f"{type(error).__name__}: {error}".strip(": ")
        raise FlanliteError(f"{file}{_line(error, spec)} cannot be imported: {problem}.", hint) from error
    return module


def _line(error: BaseException, spec: ModuleSpec) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
    if isinstance(error, SyntaxError) and error.filename == spec.origin:
        lines.append(error.lineno)
    return f", line {lines[-1]}," if lines else ""


def tool_from(function: Callable[..., Any], origin: str) -> BoundTool:
    """A function as a tool, which the model knows by its name, its docstring and its type hints.

    Arguments are described in the docstring in Google's form, or not at all. Raises FlanliteError where the function
    cannot be called with named JSON values, or does not say what it does.
    """
    plain = inspect.unwrap(function)
    where = f"{plain.__name__} in {origin}"
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain):
        raise FlanliteError(
            f"{where} is no plain function.", "A tool returns its result: write it without async and yield."
        )
    description, parameters = _schema(plain, _hints(plain, where), where)
    tool = Tool(plain.__name__, description, parameters)
    return BoundTool(tool, lambda arguments: _as_text(function(**arguments)), origin)


def _as_text(value: Any) -> str:
    if value is None:
        return NO_RESULT
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _hints(function: Any, where: str) -> dict[str, Any]:
    """The type of each parameter, all of which a model can write as JSON and pass by name."""
    parameters = inspect.signature(function).parameters
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise FlanliteError(
                f"{where} takes {parameter}, which cannot be passed by name.", f"Write plain parameters: {name}: str."
            )
        if parameter.annotation is parameter.empty:
            raise FlanliteError(
                f"The parameter {name} of {where} has no type hint.", f"Write {name}: str, or its type."
            )
    try:
        hints = get_type_hints(function)
    except Exception as error:  # a hint in quotes is any expression
        raise FlanliteError(
            f"The type hints of {where} cannot be read: {error}.", "Import their names, or write plainer ones."
        ) from error
    for name in parameters:
        for leaf in _leaves(hints[name]):
            if leaf not in JSON_HINTS:
                kind = leaf.__name__ if isinstance(leaf, type) else leaf
                raise FlanliteError(
                    f"The parameter {name} of {where} has the type {kind}, which does not say what JSON to write.",
                    "Use str, int, float, bool, Literal[...], list[...] or dict[str, ...].",
                )
    return {name: hints[name] for name in parameters}


def _leaves(hint: Any) -> Iterator[Any]:
    """The types that a hint is made of."""
    origin = get_origin(hint)
    if origin in (list, tuple, dict, Union, types.UnionType):
        for part in get_args(hint):
            yield from _leaves(part)
    elif origin is not Literal:
        yield hint


def _schema(function: Any, hints: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The function's description and the JSON schema of its arguments."""
    from transformers.utils.chat_template_utils import get_json_schema, parse_google_format_docstring

    description, described, _ = parse_google_format_docstring(inspect.getdoc(function) or "")
    if not description:
        raise FlanliteError(f"{where} has no docstring.", "Say in a line what it does: the model reads it.")
    descriptions = [f"    {name}: {(described or {}).get(name) or UNDESCRIBED}" for name in hints]
    try:
        schema = get_json_schema(_copy(function, hints, "\n".join((description, "", "Args:", *descriptions))))
    except Exception as error:  # it has several of its own, and passes on those of the JSON in a docstring
        raise FlanliteError(
            f"The parameters of {where} make no JSON schema: {error}.", "Write plainer type hints and descriptions."
        ) from error
    parameters = schema["function"]["parameters"]
    for argument in parameters["properties"].values():
        if argument["description"] == UNDESCRIBED:
            del argument["description"]
    return description, _with_null(parameters)


def _with_null(schema: Any) -> Any:
    """The schema with a null type where transformers writes `nullable`, which JSON schema does not know."""
    if isinstance(schema, list):
        return [_with_null(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _with_null(part) for key, part in schema.items() if (key, part) != ("nullable", True)}
    if len(plain) < len(schema):
        for key, null in (("type", "null"), ("enum", None), ("anyOf", {"type": "null"})):
            if key in plain:
                plain[key] = [*(plain[key] if isinstance(plain[key], list) else [plain[key]]), null]
    return plain


def _copy(function: Any, hints: Mapping[str, Any], docstring: str) -> types.FunctionType:
    """The function under another docstring: transformers demands one that describes every argument."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = dict(hints)
    copy.__doc__ = docstring
    return copy
