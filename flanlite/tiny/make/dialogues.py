"""The conversations of pre-training: short, plain, and without a tool call.

They teach what a call needs in parts: reading a list of tools and saying in prose which is for a topic or that none
is, giving the values of a request as JSON, putting a result into a sentence, and copying. The format of a call is
left to tuning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from flanlite.tiny.make.chat import SMALL_TALK, SYSTEM_PROMPTS
from flanlite.tiny.make.domains import NOUNS
from flanlite.tiny.make.request import (
    BUILTIN_LISTED,
    Listed,
    Request,
    Wording,
    builtin_request,
    foreign_request,
    invented_tool_request,
)  # fmt: skip
from flanlite.tiny.make.values import anything, fill, made_up_word, reword, said_date, some_date, word

REACT_PROMPT = (Path(__file__).parents[2] / "prompt" / "react.txt").read_text("utf-8").rstrip("\n")
PRETRAIN_WORDINGS: tuple[Wording, ...] = ("known", "wider", "wider", "framed", "framed")

ASK_VALUES = ("Which values does it need?", "Give the values.", "The values as JSON?", "With which values?")
GIVE_RESULT = ("The result is: {result}", "Result: {result}", "It says: {result}", "Observation: {result}")
ASK_FOR_TOOL = ("Is there a tool for {topic}?", "Do you have a tool for {topic}?", "Which tool is for {topic}?",
                "What can I use for {topic}?", "Is a tool for {topic} in the list?")  # fmt: skip


@dataclass(frozen=True)
class Dialogue:
    """A system turn's text, or none, and (user, assistant) exchanges."""

    system: str | None
    exchanges: tuple[tuple[str, str], ...]


def pretraining_dialogues(seed: int) -> Iterator[Dialogue]:
    """Conversations without end, the same for the same seed."""
    rng = Random(seed)
    kinds, weights = zip(*MIXTURE.items(), strict=True)
    while True:
        yield rng.choices(kinds, weights)[0](rng)


LIST_SIZES = (2, 3, 4, 3, 2, 1, 5)
SHORTER_LISTS = (4, 5, 5, 3, 2, 1, 2)


def choose_list(
    rng: Random, wanted: Listed | None, without: str | None = None, weights: tuple[int, ...] = LIST_SIZES
) -> list[Listed]:
    """A shuffled list of 1 to 6 or all 12 built-in tools, with the wanted one, or without the named one."""
    size = rng.choices((1, 2, 3, 4, 5, 6, 12), weights)[0]
    others = [tool for tool in BUILTIN_LISTED.values() if tool != wanted and tool.name != without]
    chosen = rng.sample(others, min(size - (wanted is not None), len(others)))
    if wanted is not None:
        chosen.append(wanted)
    rng.shuffle(chosen)
    return chosen


def list_prompt(tools: list[Listed]) -> str:
    return REACT_PROMPT.replace("{tools}", "\n".join(tool.line for tool in tools))


def decision(request: Request, offered: bool) -> str:
    """The topic comes before the decision: a small model cannot decide at its first token."""
    if offered and request.tool is not None:
        return f"This is about {request.topic}. The tool {request.tool.name} is for that."
    return f"This is about {request.topic}. No tool is for that."


def no_tools_reply(request: Request) -> str:
    return f"This is about {request.topic}. I have no tool for that."


def small_talk(rng: Random) -> tuple[str, str]:
    asked, reply = rng.choice(SMALL_TALK)
    values = anything(rng, NOUNS)
    return fill(reword(rng, asked), values), fill(reply, values)


def _any_request(rng: Random) -> Request:
    kind = rng.random()
    if kind < 0.6:
        return builtin_request(rng, rng.choice(tuple(BUILTIN_LISTED)), PRETRAIN_WORDINGS)
    return foreign_request(rng) if kind < 0.85 else invented_tool_request(rng)


def _mixed_list(rng: Random, wanted: Listed | None, request: Request) -> list[Listed]:
    """Built-in and other tools, never one for the request's topic unless it is the wanted one."""
    if rng.random() < 0.4:
        return choose_list(rng, wanted, request.tool.name if request.tool else None)
    size = rng.choices((1, 2, 3, 4, 5, 6), (1, 3, 4, 3, 2, 1))[0]
    chosen = {wanted.topic: wanted} if wanted else {}
    while len(chosen) < size:
        other = _any_request(rng).tool
        if other is not None and other.topic != request.topic:
            chosen.setdefault(other.topic, other)
    tools = list(chosen.values())
    rng.shuffle(tools)
    return tools


def _system(rng: Random, tools: list[Listed]) -> str:
    if rng.random() < 0.5:
        return list_prompt(tools)
    return "Tools:\n" + "\n".join(tool.line for tool in tools)


def _request_exchanges(rng: Random, request: Request, offered: bool) -> list[tuple[str, str]]:
    exchanges = [(request.text, decision(request, offered))]
    if offered and request.arguments and rng.random() < 0.75:
        exchanges.append((rng.choice(ASK_VALUES), request.arguments_json))
        if rng.random() < 0.6:
            exchanges.append((fill(rng.choice(GIVE_RESULT), {"result": request.result}), request.answer))
    return exchanges


def _list_reading(rng: Random) -> Dialogue:
    request = _any_request(rng)
    offered = rng.random() < 0.6 and request.tool is not None
    tools = _mixed_list(rng, request.tool if offered else None, request)
    exchanges = _request_exchanges(rng, request, offered)
    if rng.random() < 0.2:
        exchanges += [small_talk(rng)]
    if rng.random() < 0.2:
        exchanges.insert(0, small_talk(rng))
    if rng.random() < 0.2:
        other = _any_request(rng)
        listed = other.tool in tools
        if listed or other.topic not in {tool.topic for tool in tools}:
            exchanges += _request_exchanges(rng, other, listed)
    return Dialogue(_system(rng, tools), tuple(exchanges))


def _list_question(rng: Random) -> Dialogue:
    request = _any_request(rng)
    offered = rng.random() < 0.6
    tools = _mixed_list(rng, request.tool if offered else None, request)
    tool = rng.choice(tools)
    exchanges = []
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if kind < 0.5:
            reply = f"The tool {request.tool.name} is for that." if offered and request.tool else "No tool is for that."
            exchanges.append((fill(rng.choice(ASK_FOR_TOOL), {"topic": request.topic}), reply))
            break
        if kind < 0.65:
            exchanges.append((f"What does {tool.name} do?", tool.description))
        elif kind < 0.8:
            exchanges.append((f"What does {tool.name} take?", ", ".join(name for name, _ in tool.parameters)))
        elif kind < 0.9:
            exchanges.append(("Name the tools.", ", ".join(tool.name for tool in tools)))
        else:
            absent = made_up_word(rng)
            exchanges.append((f"Is there a tool called {absent}?", "No, it is not in the list."))
    return Dialogue(_system(rng, tools), tuple(exchanges))


def plain_system(rng: Random) -> str | None:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.5 else None


def _no_tools(rng: Random) -> Dialogue:
    request = _any_request(rng)
    exchanges = [(request.text, no_tools_reply(request))]
    if rng.random() < 0.3:
        exchanges.insert(rng.randint(0, 1), small_talk(rng))
    return Dialogue(plain_system(rng), tuple(exchanges))


def _small_talk(rng: Random) -> Dialogue:
    system = plain_system(rng)
    if rng.random() < 0.5:
        system = _system(rng, _mixed_list(rng, None, _any_request(rng)))
    return Dialogue(system, tuple(small_talk(rng) for _ in range(rng.randint(1, 3))))


def _values(rng: Random) -> Dialogue:
    request = _with_arguments(rng)
    assert request.tool is not None
    asked = rng.choice(("Values for {signature}: {text}", "{text} Give the values for {signature}."))
    return Dialogue(None, ((fill(asked, {"signature": request.tool.signature, "text": request.text}),
                            request.arguments_json),))  # fmt: skip


def _sentence(rng: Random) -> Dialogue:
    request = _with_arguments(rng)
    data = ", ".join(f"{key} {value}" for key, value in request.arguments.items())
    asked = f"About {request.topic}: {data}. {fill(rng.choice(GIVE_RESULT), {'result': request.result})}"
    return Dialogue(plain_system(rng), ((asked, request.answer),))


def _with_arguments(rng: Random) -> Request:
    if rng.random() < 0.3:
        return invented_tool_request(rng)
    return builtin_request(rng, rng.choice(tuple(BUILTIN_LISTED)), PRETRAIN_WORDINGS)


def _topics(rng: Random) -> Dialogue:
    requests = [_any_request(rng) for _ in range(rng.randint(1, 3))]
    asked = ("What is this about? {text}", "And this? {text}", "And what is this about? {text}")
    exchanges = ((fill(asked[n], {"text": r.text}), f"This is about {r.topic}.") for n, r in enumerate(requests))
    return Dialogue(plain_system(rng), tuple(exchanges))


def _items(rng: Random, most: int) -> list[str]:
    def item() -> str:
        kind = rng.random()
        if kind < 0.3:
            return str(rng.randint(0, 10 ** rng.randint(1, 5)))
        if kind < 0.4:
            return said_date(rng, some_date(rng))
        text = word(rng) if kind < 0.7 else made_up_word(rng)
        return text.capitalize() if rng.random() < 0.4 else text

    return [item() for _ in range(rng.randint(1, most))]


def _repeating(rng: Random) -> Dialogue:
    text = rng.choice((" ", ", ", " and ")).join(_items(rng, 10))
    exchanges = [(fill(rng.choice(("Repeat this: {text}", "{text}. Repeat it.", "Say {text}")), {"text": text}), text)]
    if rng.random() < 0.5:
        exchanges.append((rng.choice(("Again.", "Once more.", "And again?")), text))
    return Dialogue(None, tuple(exchanges))


def _copying(rng: Random) -> Dialogue:
    items = _items(rng, 5)
    kind = rng.random()
    if kind < 0.2:
        return Dialogue(None, ((f"Put quotes around {items[0]}.", f'"{items[0]}"'),))
    keys = [made_up_word(rng) for _ in items]
    said = ", ".join(f"{key} is {item}" for key, item in zip(keys, items, strict=True))
    if kind < 0.6:
        values = {key: int(item) if item.isdigit() else item for key, item in zip(keys, items, strict=True)}
        return Dialogue(None, ((f"Write as JSON: {said}", json.dumps(values)),))
    chosen = rng.randrange(len(items))
    return Dialogue(None, ((f"{said}. What is {keys[chosen]}?", f"{keys[chosen]} is {items[chosen]}."),))


MIXTURE: dict[Callable[[Random], Dialogue], float] = {
    _list_reading: 46, _list_question: 7, _no_tools: 6, _small_talk: 9, _values: 13, _sentence: 11, _topics: 4,
    _copying: 4, _repeating: 2,
}  # fmt: skip
