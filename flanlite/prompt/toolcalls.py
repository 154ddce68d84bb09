"""Tool calls as text and back: the one place where structured tools and calls become a prompt, and the one parser.

A tool style is a system prompt (react.txt, json.txt beside this file) and a form for the calls. Training, chat and
evaluation use the same one, so that a model is asked as it was taught.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from flanlite.conversation import Conversation, Tool, ToolCall, Turn

ToolStyle = Literal["react", "json"]

OBSERVATION = "Observation: "


@cache
def tool_prompt(style: ToolStyle) -> str:
    """The style's system prompt; `{tools}` stands for the list of tools."""
    return files("flanlite.prompt").joinpath(f"{style}.txt").read_text(encoding="utf-8").rstrip("\n")


def offer_tools(style: ToolStyle, tools: Iterable[Tool]) -> str:
    """The system text that offers the tools in the style's form."""
    lines = [_signature(tool) if style == "react" else _schema(tool) for tool in tools]
    return tool_prompt(style).replace("{tools}", "\n".join(lines))


def as_text(conversation: Conversation, style: ToolStyle) -> list[Turn]:
    """The conversation's turns with tools, calls and observations written out in the style's form.

    Turns of a conversation without tools and calls come back as they are: its text already has a form.
    """
    is_structured = bool(conversation.tools) or any(turn.calls for turn in conversation.turns)
    if not is_structured:
        return list(conversation.turns)
    turns = [_turn_as_text(turn, style) for turn in conversation.turns]
    if conversation.tools:
        offer = offer_tools(style, conversation.tools)
        if conversation.system is None:
            turns.insert(0, Turn("system", offer))
        else:
            turns[0] = replace(turns[0], text=f"{turns[0].text}\n\n{offer}" if turns[0].text.strip() else offer)
    return turns


def _turn_as_text(turn: Turn, style: ToolStyle) -> Turn:
    if turn.role == "observation":
        return replace(turn, text=OBSERVATION + turn.text)
    if not turn.calls:
        return turn
    write = _react_calls if style == "react" else _json_calls
    return replace(turn, text=write(turn.text.strip(), turn.calls), calls=())


def _react_calls(thought: str, calls: Iterable[ToolCall]) -> str:
    lines = [f"Thought: {thought}"] if thought else []
    for call in calls:
        lines += [f"Action: {call.name}", f"Action Input: {call.arguments_json()}"]
    return "\n".join(lines)


def _json_calls(thought: str, calls: Iterable[ToolCall]) -> str:
    lines = [thought] if thought else []
    lines.append("```json")
    lines += [json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False) for call in calls]
    lines.append("```")
    return "\n".join(lines)


def _schema(tool: Tool) -> str:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return json.dumps(
        {"name": tool.name, "description": tool.description, "parameters": parameters}, ensure_ascii=False
    )


def _signature(tool: Tool) -> str:
    """One line for the tool and, indented below it, one for each parameter that has a description."""
    properties: Mapping[str, Any] = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or ()
    names = [f"{name}{'' if name in required else '?'}: {_type(schema)}" for name, schema in properties.items()]
    lines = [f"- {tool.name}({', '.join(names)})" + (f": {_line(tool.description)}" if tool.description else "")]
    for name, schema in properties.items():
        if isinstance(schema, Mapping) and schema.get("description"):
            lines.append(f"  {name}: {_line(str(schema['description']))}")
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _type(schema: Any) -> str:
    """A JSON schema's type in short; one that has no short form is written as the schema itself."""
    if not isinstance(schema, Mapping):
        return "any"
    if schema.get("enum"):
        return "|".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"array of {_type(schema['items'])}" if "items" in schema else "array"
    if kind == "object" and schema.get("properties"):
        return json.dumps({key: value for key, value in schema.items() if key != "description"}, ensure_ascii=False)
    if isinstance(kind, list):
        return "|".join(map(str, kind))
    return str(kind) if kind else "any"


@dataclass(frozen=True, slots=True)
class Reply:
    """What an assistant's text says: a thought, calls, an answer, and what is wrong with a call that has no form."""

    thought: str = ""
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    problems: tuple[str, ...] = ()


_ACTION = re.compile(r"^[ \t]*Action[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_ACTION_INPUT = re.compile(r"\s*^[ \t]*Action[ \t_]Input[ \t]*:[ \t]*", re.MULTILINE | re.IGNORECASE)
_FINAL_ANSWER = re.compile(r"^[ \t]*Final Answer[ \t]*:[ \t]*", re.MULTILINE | re.IGNORECASE)
_THOUGHT = re.compile(r"^\s*Thought[ \t]*:[ \t]*", re.IGNORECASE)
_FENCE = re.compile(r"^```(?:json)?[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def parse_reply(text: str) -> Reply:
    """Read an assistant's text in either style. Text without a call is an answer.

    A call whose arguments are no JSON object keeps their raw text, and a sentence in `problems` says so.
    """
    first = _ACTION.search(text)
    if first:
        calls, problems = _parse_actions(text)
        return Reply(_THOUGHT.sub("", text[: first.start()]).strip(), calls, None, problems)
    if fence := _FENCE.search(text):
        calls, problems = _parse_fence(fence[1])
        if calls or problems:
            return Reply(_THOUGHT.sub("", text[: fence.start()]).strip(), calls, None, problems)
    if final := _FINAL_ANSWER.search(text):
        return Reply(_THOUGHT.sub("", text[: final.start()]).strip(), (), text[final.end() :].strip())
    return Reply(answer=_THOUGHT.sub("", text).strip())


def _parse_actions(text: str) -> tuple[tuple[ToolCall, ...], tuple[str, ...]]:
    calls, problems = [], []
    position = 0
    while action := _ACTION.search(text, position):
        position = action.end()
        name = action[1].strip("`*\"' ")
        argument_mark = _ACTION_INPUT.match(text, position)
        if not argument_mark:
            calls.append(ToolCall(name))
            continue
        arguments, position = _read_arguments(text, argument_mark.end())
        calls.append(ToolCall(name, arguments))
        if isinstance(arguments, str):
            problems.append(f"The Action Input of {name} is no JSON object.")
    return tuple(calls), tuple(problems)


def _read_arguments(text: str, start: int) -> tuple[dict[str, Any] | str, int]:
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        value, end = None, start
    if isinstance(value, dict):
        return value, end
    following = _ACTION.search(text, start)
    end = following.start() if following else len(text)
    raw = text[start:end].strip()
    return ({}, end) if not raw else (raw, end)


def _parse_fence(content: str) -> tuple[tuple[ToolCall, ...], tuple[str, ...]]:
    try:
        values = [json.loads(content, strict=False)]
        values = values[0] if isinstance(values[0], list) else values
    except (ValueError, RecursionError):
        try:
            values = [json.loads(line, strict=False) for line in content.split("\n") if line.strip()]
        except (ValueError, RecursionError):
            return (), (("The fenced call is no JSON.",) if '"name"' in content else ())
    calls = [
        ToolCall(value["name"], arguments if isinstance(arguments := value.get("arguments", {}), (dict, str)) else {})
        for value in values
        if isinstance(value, dict) and isinstance(value.get("name"), str)
    ]
    return tuple(calls), ()
