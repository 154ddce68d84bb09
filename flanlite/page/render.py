"""Exchanges, prompts and tools as HTML: pure functions, and every text from a model, a tool or a user escaped.

Markdown is read for answers alone, without raw HTML and without images: the browser fetches nothing from outside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt

from flanlite.agent.events import Answer, Asked, Call, Event, Exchange, Failure, Observation, Stopped, Thought, Waiting
from flanlite.agent.model import Prompt
from flanlite.agent.tools import BoundTool
from flanlite.conversation import ToolCall
from flanlite.prompt.toolcalls import type_in_short

STATUS_WORDS = {
    "running": "running",
    "done": "done",
    "failed": "failed",
    "malformed": "malformed call",
    "invented": "invented: no such tool",
    "stopped": "stopped",
}

OPEN = " open"


def transcript(exchanges: Sequence[Exchange], model_name: str) -> str:
    """The whole chat. The newest exchange's steps are unfolded; `data-key` lets the page keep what a reader folds."""
    if not exchanges:
        return '<div class="empty"><p>Ask something. The agent shows each thought, call and result.</p></div>'
    newest = len(exchanges) - 1
    parts = (_exchange(exchange, number, number == newest) for number, exchange in enumerate(exchanges))
    return f'<div role="log" aria-label="Chat with {escape(model_name)}">{"".join(parts)}</div>'


def head(model_names: Sequence[str], threads: Sequence[Sequence[Exchange]]) -> str:
    """The page's head: whom one chats with, and how often each has called so far, rightly and wrongly."""
    names = " <i>and</i> ".join(map(escape, model_names))
    counts = [_counts(thread) for thread in threads if thread]
    if len(counts) > 1:
        counts = [f"<i>{escape(name)}</i> {count}" for name, count in zip(model_names, counts, strict=True)]
    told = "".join(f"<p>{count}</p>" for count in counts) or "<p>flanlite</p>"
    return f"<header><h1>{names}</h1><div>{told}</div></header>"


def _counts(exchanges: Sequence[Exchange]) -> str:
    calls = [call for exchange in exchanges for call in exchange.calls()]
    told = f"<span>{len(calls)} call{'s' * (len(calls) != 1)}</span>"
    for status in ("invented", "malformed"):
        count = sum(call.status == status for call in calls)
        told += f'<span class="count {status * bool(count)}">{count} {status}</span>'
    return told


def column_title(model_name: str) -> str:
    """The head of one chat beside another."""
    return f"<h2>{escape(model_name)}</h2>"


def _exchange(exchange: Exchange, number: int, is_newest: bool) -> str:
    steps = "".join(_step(events, f"{number}-{events[0].step}", is_newest) for events in exchange.steps)
    waiting = "" if exchange.is_over or not is_newest else '<p class="working" aria-label="working"></p>'
    question = f'<div class="question">{escape(exchange.question)}</div>'
    return f'<section class="exchange">{question}{steps}{waiting}</section>'


def _step(events: Sequence[Event], key: str, is_open: bool) -> str:
    calls = [event for event in events if isinstance(event, Call)]
    thought = next((event for event in events if isinstance(event, Thought)), None)
    parts = [_notices(events)]
    if calls:
        observations = {event.index: event for event in events if isinstance(event, Observation)}
        blocks = "".join(_call(call, observations.get(call.index), f"{key}-{call.index}") for call in calls)
        inside = (_thought(thought, key, is_open=True) if thought else "") + f'<div class="calls">{blocks}</div>'
        parts.append(_details("step", key, _step_title(calls), inside, is_open=is_open))
    elif thought:
        parts.append(_thought(thought, key, is_open=not thought.is_done))
    parts += [_ending(event) for event in events]
    return "".join(parts)


def _notices(events: Sequence[Event]) -> str:
    notices = []
    for event in events:
        if isinstance(event, Waiting) and event.ahead:
            notices.append(f"Waiting: {event.ahead} before this one.")
        if isinstance(event, Asked) and event.step == 1 and event.prompt.dropped_turns:
            notices.append(_left_out(event.prompt))
    return "".join(f'<p class="notice">{escape(notice)}</p>' for notice in notices)


def _left_out(prompt: Prompt) -> str:
    room = "context" if prompt.context_tokens is None else f"{prompt.context_tokens:,} tokens"
    turns = f"The oldest of the chat, {prompt.dropped_turns} turns,"
    return f"{turns} no longer fits into the model's {room} and was left out."


def _step_title(calls: Sequence[Call]) -> str:
    names = "".join(
        f'<span class="chip {call.status}">{escape(call.call.name or "unreadable call")}</span>' for call in calls
    )
    return f'<span class="label">Step {calls[0].step}</span>{names}'


def _thought(thought: Thought, key: str, *, is_open: bool) -> str:
    body = f'<div class="text{"" if thought.is_done else " growing"}">{escape(thought.text)}</div>'
    return _details("thought", f"{key}-thought", '<span class="label">Thought</span>', body, is_open=is_open)


def _call(call: Call, observation: Observation | None, key: str) -> str:
    name = f"<code>{escape(call.call.name)}</code>" if call.call.name else ""
    title = f'<span class="status">{STATUS_WORDS[call.status]}</span>{name}<span class="time">{call.duration}</span>'
    body = _arguments(call.call)
    if observation:
        result = f'<div class="result{" error" if observation.is_error else ""}">{_result(observation.text)}</div>'
        label = '<span class="label">Observation</span>'
        body += _details("observation", f"{key}-observation", label, result, is_open=True)
    return _details(f"call {call.status}", key, title, body, is_open=True)


def _arguments(call: ToolCall) -> str:
    if isinstance(call.arguments, str):
        return f'<pre class="raw">{escape(call.arguments)}</pre>' if call.arguments else ""
    if not call.arguments:
        return '<p class="none">no arguments</p>'
    return _pairs(call.arguments)


def _result(text: str) -> str:
    """A tool's result: JSON objects, lists of them and lines of cells as tables; everything else as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and value:
        return _pairs(value)
    if isinstance(value, list) and value and all(isinstance(row, dict) and row for row in value):
        return _rows(value)
    if table := _text_table(text):
        last = text.rpartition("\n")[2]
        return _rows(table) + (f'<p class="none">{escape(last)}</p>' if last.startswith("(") else "")
    return f"<pre>{escape(text)}</pre>"


def _text_table(text: str) -> list[dict[str, str]]:
    """The rows of a text whose lines are cells between bars, as query_csv answers; none for any other text."""
    written = text.split("\n")
    if written[-1].startswith("(") and len(written) > 2:
        del written[-1]
    lines = [line.split(" | ") for line in written]
    head, *rows = lines
    is_table = rows and len(head) > 1 and len(set(head)) == len(head) and len(set(map(len, lines))) == 1
    return [dict(zip(head, row, strict=True)) for row in rows] if is_table else []


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(str(key))}</th><td>{_value(value)}</td></tr>" for key, value in values.items())
    return f'<table class="pairs">{rows}</table>'


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(str(column))}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_value(row[column]) if column in row else ''}</td>" for column in columns) + "</tr>"
        for row in rows
    )
    return f'<table class="rows"><tr>{head}</tr>{body}</table>'


def _value(value: Any) -> str:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return escape(", ".join(map(str, value)))
    return f"<code>{escape(json.dumps(value, ensure_ascii=False))}</code>"


def _ending(event: Event) -> str:
    if isinstance(event, Answer):
        growing = "" if event.is_done else " growing"
        cut = '<p class="notice">Cut at the limit of new tokens.</p>' if event.is_cut else ""
        body = markdown(event.text) if event.text else '<p class="none">an empty reply</p>'
        return f'<div class="answer{growing}">{body}</div>{cut}'
    if isinstance(event, Failure):
        return f'<div class="failure"><p>{escape(event.text)}</p><p class="hint">{escape(event.hint)}</p></div>'
    if isinstance(event, Stopped):
        return '<p class="notice">Stopped.</p>'
    return ""


def markdown(text: str) -> str:
    """An answer's Markdown as HTML; tags in it stay text."""
    html: str = _reader().render(text)
    return html


@cache
def _reader() -> MarkdownIt:
    reader = (
        MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 200}).enable("table").disable("image")
    )
    # A link that opened here would end the chat.
    reader.add_render_rule("link_open", _link_open)
    return reader


def _link_open(renderer: Any, tokens: Sequence[Any], index: int, options: Any, environment: Any) -> str:
    tokens[index].attrSet("target", "_blank")
    tokens[index].attrSet("rel", "noopener noreferrer")
    html: str = renderer.renderToken(tokens, index, options, environment)
    return html


def _details(kind: str, key: str, title: str, body: str, *, is_open: bool) -> str:
    return (
        f'<details class="{kind}" data-key="{key}"{OPEN * is_open}><summary>{title}</summary>'
        f'<div class="inside">{body}</div></details>'
    )


def prompts(exchange: Exchange | None) -> str:
    """What the model saw in each step of an exchange, the latest unfolded."""
    asked = [event for event in exchange.events if isinstance(event, Asked)] if exchange else []
    if not asked:
        return '<p class="none">Nothing yet: the exact prompt of each step will stand here.</p>'
    legend = "".join(
        f'<span class="{role}">{role}</span>' for role in ("template", "system", "user", "assistant", "observation")
    )
    parts = (_prompt(event.prompt, event.step, is_open=event is asked[-1]) for event in asked)
    return f'<p class="legend">{legend}</p>{"".join(parts)}'


def _prompt(prompt: Prompt, step: int, *, is_open: bool) -> str:
    text = "".join(f'<span class="{escape(role)}">{escape(piece)}</span>' for role, piece in prompt.pieces)
    title = f'<span class="label">Step {step}</span>{_length(prompt)}'
    return _details("prompt", f"prompt-{step}", title, f"<pre>{text}</pre>", is_open=is_open)


def _length(prompt: Prompt) -> str:
    if prompt.tokens is None:
        return "<span>the server does not tell its length</span>"
    if prompt.context_tokens is None:
        return f"<span>{prompt.tokens:,} tokens</span>"
    meter = f'<meter max="{prompt.context_tokens}" value="{prompt.tokens}"></meter>'
    return f"<span>{prompt.tokens:,} of {prompt.context_tokens:,} tokens</span>{meter}"


def schemas(tools: Iterable[BoundTool]) -> str:
    """Each tool with what it does and its parameters, by where it comes from."""
    by_origin: dict[str, list[BoundTool]] = {}
    for tool in tools:
        by_origin.setdefault(tool.origin, []).append(tool)
    parts = []
    for origin, group in by_origin.items():
        blocks = "".join(_schema(tool) for tool in group)
        parts.append(f'<p class="origin">{escape(origin)}</p>{blocks}')
    return "".join(parts) or '<p class="none">No tools. Give some: --tools, --csv, --folder, --mcp.</p>'


def _schema(bound: BoundTool) -> str:
    tool = bound.tool
    properties: Mapping[str, Any] = tool.parameters.get("properties") or {}
    required = tool.parameters.get("required") or ()
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(type_in_short(schema))}"
        f"{'' if name in required else ' <em>optional</em>'}"
        f"<br>{escape(str(schema.get('description', ''))) if isinstance(schema, Mapping) else ''}</td></tr>"
        for name, schema in properties.items()
    )
    table = f'<table class="pairs">{rows}</table>' if rows else '<p class="none">no parameters</p>'
    body = f"<p>{escape(tool.description)}</p>{table}"
    title = f"<code>{escape(tool.name)}</code>"
    return _details("schema", f"schema-{escape(tool.name)}", title, body, is_open=False)
