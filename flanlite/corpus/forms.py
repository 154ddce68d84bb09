"""One row of any known form to a Conversation.

Each reader takes a parsed row and raises ValueError with one sentence where the row does not fit. Assistant turns are
trained unless their `loss` (or OpenAI's `weight`) says otherwise; nothing else ever is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flanlite.conversation import ROLES, Conversation, Role, Tool, ToolCall, Turn, sound

Row = Mapping[str, Any]


def read_agent_flan(row: Row) -> Conversation:
    """Agent-FLAN's schema: `id, conversation[role, content, loss]`. The text stays as it is."""
    return _conversation(row, [_plain_turn(message, "role", "content") for message in _list(row, "conversation")])


def read_messages(row: Row) -> Conversation:
    """OpenAI's schema: `messages[role, content, tool_calls]` and `tools`."""
    return _conversation(row, [_message_turn(message) for message in _list(row, "messages")])


def read_sharegpt(row: Row) -> Conversation:
    """ShareGPT's schema, `conversations[from, value]`, and its kin with `function_call` turns and `tools`.

    A call that follows the assistant's own text is part of that turn, and calls in a row are one turn.
    """
    turns: list[Turn] = []
    for message in _list(row, "conversations"):
        speaker = message.get("from", message.get("role"))
        if speaker != "function_call":
            turns.append(_plain_turn(message, "from" if "from" in message else "role", "value"))
            continue
        calls = _calls(_json(message.get("value"), "the function_call"))
        trained = _is_trained(message)
        if turns and turns[-1].role == "assistant" and turns[-1].trained == trained:
            turns[-1] = replace(turns[-1], calls=turns[-1].calls + calls)
        else:
            turns.append(Turn("assistant", "", calls, trained))
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        turns.insert(0, Turn("system", system))
    return _conversation(row, turns)


FORMS: dict[str, tuple[str, Callable[[Row], Conversation]]] = {
    "agent-flan": ("conversation", read_agent_flan),
    "messages": ("messages", read_messages),
    "sharegpt": ("conversations", read_sharegpt),
}
"""Each form's name, the key by which a row of it is known, and its reader."""


def detect_form(row: Any) -> str | None:
    """The form of a row, by the key it has; None where it has none of them."""
    if not isinstance(row, Mapping):
        return None
    return next((name for name, (key, _) in FORMS.items() if isinstance(row.get(key), list)), None)


def read_row(row: Any, form: str) -> Conversation:
    """The row as a conversation with at least one trained turn. Raises ValueError with the reason it cannot be."""
    if not isinstance(row, Mapping):
        raise ValueError(f"the row is no object but a {type(row).__name__}")
    conversation = FORMS[form][1](row)
    if not any(turn.trained for turn in conversation.turns):
        raise ValueError("no turn is trained")
    for number, turn in enumerate(conversation.turns, 1):
        if turn.trained and not turn.calls and not turn.text.strip():
            raise ValueError(f"turn {number} trains an empty reply")
    return sound(conversation)


def _conversation(row: Row, turns: Sequence[Turn]) -> Conversation:
    if not turns:
        raise ValueError("the conversation is empty")
    leading = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if leading > 1:
        turns = [Turn("system", "\n\n".join(turn.text for turn in turns[:leading])), *turns[leading:]]
    identity = row.get("id")
    tools = tuple(_tool(tool) for tool in _optional_list(row.get("tools"), "tools"))
    return Conversation(tuple(turns), tools, "" if identity is None else str(identity))


def _plain_turn(message: Row, role_key: str, text_key: str) -> Turn:
    role = _role(message.get(role_key))
    return Turn(role, _content(message.get(text_key)), trained=role == "assistant" and _is_trained(message))


def _message_turn(message: Row) -> Turn:
    role = _role(message.get("role"))
    requests = _optional_list(message.get("tool_calls"), "tool_calls")
    if not requests and message.get("function_call"):
        requests = [message["function_call"]]
    if requests and role != "assistant":
        raise ValueError(f"a {role} turn has tool_calls")
    content = message.get("content")
    text = "" if content is None and requests else _content(content)
    calls = tuple(call for request in requests for call in _calls(request))
    return Turn(role, text, calls, role == "assistant" and _is_trained(message))


def _is_trained(message: Row) -> bool:
    """What `loss` says or, without it, `weight`; True without both."""
    flags = [flag for key in ("loss", "weight") if (flag := message.get(key)) is not None]
    if any(not isinstance(flag, int | float) or flag not in (0, 1) for flag in flags):
        raise ValueError("a turn's loss or weight is none of true, false, 1 and 0")
    return bool(flags[0]) if flags else True


def _role(name: Any) -> Role:
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise ValueError(f"the role {name!r} is not known")
    return role


def _content(content: Any) -> str:
    """A turn's text; OpenAI's list of text parts is joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    raise ValueError("a turn's content is no text" if content is not None else "a turn has no content")


def _calls(value: Any) -> tuple[ToolCall, ...]:
    """Calls as `{name, arguments}`, under a `function` key or not, one or a list of them."""
    if isinstance(value, list):
        return tuple(call for entry in value for call in _calls(entry))
    request = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(request, Mapping) or not isinstance(request.get("name"), str) or not request["name"].strip():
        raise ValueError("a call has no name")
    arguments = request.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(arguments, f"the arguments of {request['name']}") if arguments.strip() else None
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {request['name']} are no object")
    return (ToolCall(request["name"], arguments),)


def _tool(value: Any) -> Tool:
    tool = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
        raise ValueError("a tool has no name")
    parameters = tool.get("parameters") or {}
    if not isinstance(parameters, Mapping) or not isinstance(parameters.get("properties") or {}, Mapping):
        raise ValueError(f"the parameters of tool {tool['name']} are no JSON schema")
    return Tool(tool["name"], str(tool.get("description") or ""), parameters)


def _list(row: Row, key: str) -> list[Row]:
    value = row.get(key)
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        raise ValueError(f"the row has no list of turns named {key!r}")
    return value


def _optional_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str) and value.strip():
        value = _json(value, name)
    if not isinstance(value or [], list):
        raise ValueError(f"{name} is no list")
    return value or []


def _json(text: Any, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"broken JSON in {name}") from None
