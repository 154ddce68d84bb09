"""Any raw row to what it holds: an agent's work, a query that waits for one, or general chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from flanlite.conversation import Conversation
from flanlite.corpus.forms import detect_form, read_row
from flanlite.corpus.raw.agent_instruct import read_agent_instruct
from flanlite.corpus.raw.logs import read_log
from flanlite.corpus.raw.toolbench import Query, Rank, form_of, prefix_key, read_query, read_toolllama, read_tree
from flanlite.corpus.raw.trajectory import Exchange, Trajectory

Kind = Literal["agent_instruct", "toolbench", "trajectories", "sharegpt"]
"""Where a raw row comes from; it names the subsets that are made of it."""

Material = Trajectory | Query | Conversation


class Said(NamedTuple):
    """What is asked, and what the agent says to it: its thought and its calls, or its answer.

    `asked` is empty where the agent goes on by itself.
    """

    asked: str
    reply: str
    trained: bool = True


def read_raw(kind: Kind, row: Any) -> Material:
    """What the row holds. Raises ValueError with the reason it cannot be used."""
    if not isinstance(row, Mapping):
        raise ValueError("the row is no object")
    if kind == "agent_instruct":
        return read_agent_instruct(row)
    if kind == "trajectories":
        return read_log(row)
    if kind == "sharegpt":
        return _read_chat(row)
    form = form_of(row)
    if form == "tree":
        return read_tree(row)
    if form == "toolllama":
        return read_toolllama(row)
    if form == "query":
        return read_query(row)
    raise ValueError("the row is neither an answer tree, nor of ToolBench's training file, nor a query")


def prefix_of(kind: Kind, row: Any) -> tuple[str, Rank] | None:
    """For a row that holds the beginning of a tree's path: what names its query, and the row's rank among its rows."""
    return prefix_key(row) if kind == "toolbench" and isinstance(row, Mapping) else None


def all_said(material: Material) -> list[Said]:
    """What makes rows duplicates of each other: all that is asked and said, without system, tools and observations."""
    if isinstance(material, Query):
        # Nothing is said to it yet: the request stands for both sides.
        return [Said(material.request, material.request)]
    if isinstance(material, Conversation):
        turns = [turn for turn in material.turns if turn.role != "system"]
        return [Said(asked.text, reply.text, reply.trained) for asked, reply in pairwise(turns) if asked.role == "user"]
    return [said for exchange in material.exchanges for said in _said(exchange)]


def asked_texts(material: Material) -> list[str]:
    """What the users ask, which must not be what a test asks."""
    if isinstance(material, Query):
        return [material.request]
    if isinstance(material, Conversation):
        return [turn.text for turn in material.turns if turn.role == "user"]
    return [exchange.request for exchange in material.exchanges]


def raw_turns(row: Any) -> list[tuple[str, str]]:
    """The row as it came, as (role, text) in order, to be looked at; a row of no known form as its JSON."""
    if isinstance(row, Mapping):
        answer = row.get("answer_generation")
        paths = answer.get("train_messages") if isinstance(answer, Mapping) else None
        for messages in (row.get("conversations"), row.get("messages"), row.get("conversation"), (paths or [None])[-1]):
            if isinstance(messages, list) and messages:
                return [_raw_turn(message) for message in messages]
    return [("row", json.dumps(row, ensure_ascii=False, indent=1, default=str))]


def _read_chat(row: Mapping[str, Any]) -> Conversation:
    form = detect_form(row)
    if form is None:
        raise ValueError("the row is of no known form")
    conversation = read_row(row, form)
    if conversation.tools or any(turn.calls or turn.role == "observation" for turn in conversation.turns):
        raise ValueError("general chat that calls tools")
    turns = [turn for turn in conversation.turns if turn.role != "system"]
    if any(turn.role != ("user", "assistant")[index % 2] for index, turn in enumerate(turns)):
        raise ValueError("user and assistant do not take turns, beginning with the user")
    if turns and turns[-1].role == "user":
        turns.pop()
    system = [turn for turn in conversation.turns if turn.role == "system" and turn.text.strip()]
    return replace(conversation, turns=(*system, *turns))


def _said(exchange: Exchange) -> Iterator[Said]:
    asked = exchange.request
    for step in exchange.steps:
        calls = (f"{call.name} {call.arguments_json()}" for call in step.calls)
        yield Said(asked, "\n".join((step.thought, *calls)), step.trained)
        asked = ""
    if exchange.answer is not None:
        yield Said(asked, f"{exchange.thought}\n{exchange.answer}", exchange.trained)


def _raw_turn(message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        return "", str(message)
    role = str(message.get("role", message.get("from", "")))
    content = message.get("content", message.get("value"))
    calls = message.get("tool_calls") or message.get("function_call")
    parts = [str(message[key]) for key in ("reasoning_content", "reasoning") if message.get(key)]
    parts += [str(content)] if content else []
    parts += [json.dumps(calls, ensure_ascii=False)] if calls else []
    return role, "\n".join(parts)
