"""A conversation as the messages of a request, and a request as text to read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flanlite.conversation import Conversation, Tool, Turn
from flanlite.prompt.replies import parse_reply
from flanlite.prompt.segments import join_same_side
from flanlite.prompt.toolcalls import OBSERVATION

Message = dict[str, Any]
"""One message of a request, as the API has it."""

_NO_RESULT = "No result."


def text_messages(turns: Sequence[Turn]) -> list[Message]:
    """The turns as messages that any template takes: a system message, then user and assistant in alternation."""
    head, turns = _split(turns)
    return head + [{"role": _side(run), "content": _joined(run)} for run in join_same_side(turns)]


def as_messages(conversation: Conversation) -> list[Message]:
    """The conversation as messages with tool calls, which observations answer in order.

    A call that no observation answers is said to have no result, and an observation that answers no call is a user's
    text: servers refuse a conversation where the two do not match.
    """
    messages, turns = _split(conversation.turns)
    # Mistral's templates take no id but nine letters and digits.
    ids = (f"call{number:05}" for number in itertools.count())
    waiting: list[str] = []
    for run in join_same_side(turns):
        if _side(run) == "assistant":
            message = _assistant_message(_joined(run), conversation.tools, ids)
            waiting = [call["id"] for call in message.get("tool_calls", ())]
            messages.append(message)
            continue
        results = list(itertools.takewhile(lambda turn: turn.role == "observation", run))[: len(waiting)]
        messages += [
            {"role": "tool", "tool_call_id": call_id, "content": result.text if result else _NO_RESULT}
            for call_id, result in itertools.zip_longest(waiting, results)
        ]
        if rest := [_as_user(turn) for turn in run[len(results) :]]:
            messages.append({"role": "user", "content": _joined(rest)})
    return messages


def _split(turns: Sequence[Turn]) -> tuple[list[Message], Sequence[Turn]]:
    """The system message, if there is one, and the turns that follow it."""
    if turns and turns[0].role == "system":
        return [{"role": "system", "content": turns[0].text}], turns[1:]
    return [], turns


def _side(run: Sequence[Turn]) -> str:
    return "assistant" if run[0].role == "assistant" else "user"


def _joined(run: Iterable[Turn]) -> str:
    return "\n".join(turn.text for turn in run)


def _as_user(turn: Turn) -> Turn:
    return Turn("user", OBSERVATION + turn.text) if turn.role == "observation" else turn


def _assistant_message(text: str, tools: Sequence[Tool], ids: Iterator[str]) -> Message:
    """A past reply with its calls.

    Calls that cannot be read, or that name no tool on offer, stay text: servers read the arguments of past calls again,
    and refuse the whole request for one that is no JSON.
    """
    reply = parse_reply(text, tools)
    names = {tool.name for tool in tools}
    is_sound = all(call.name in names and not isinstance(call.arguments, str) for call in reply.calls)
    if not (reply.calls and is_sound):
        return {"role": "assistant", "content": text}
    functions = [{"name": call.name, "arguments": call.arguments_json()} for call in reply.calls]
    calls = [{"id": next(ids), "type": "function", "function": function} for function in functions]
    return {"role": "assistant", "content": reply.thought, "tool_calls": calls}


def readable_pieces(request: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What is sent, to be read: the tools, then each message on lines of its own."""
    pieces = [("template", _line(tool)) for tool in request.get("tools", ())]
    for message in request["messages"]:
        owner = "observation" if message["role"] == "tool" else message["role"]
        text = f"{message['content']}\n" if message["content"] else ""
        pieces.append((owner, text + "".join(map(_line, message.get("tool_calls", ())))))
    return tuple(pieces)


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
