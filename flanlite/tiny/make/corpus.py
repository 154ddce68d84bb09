"""The sample corpus: the conversations that tuning learns from, in Agent-FLAN's schema.

Three subsets, as Agent-FLAN's: calls in ReAct form, negative samples (tools that do not fit, no tools at all, chat
beside tools), and general chat. Every observation is what the tool really returned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from flanlite.tiny.make.dialogues import (
    SHORTER_LISTS,
    Dialogue,
    choose_list,
    decision,
    list_prompt,
    no_tools_reply,
    plain_system,
    small_talk,
)  # fmt: skip
from flanlite.tiny.make.request import BUILTIN_LISTED, Request, builtin_request, foreign_request

REACT, WRONG_TOOLS, NO_TOOLS, CHAT_WITH_TOOLS, GENERAL = 480, 220, 60, 120, 60


def write_corpus(folder: Path, seed: int) -> None:
    """Writes the three files."""
    rng = Random(seed)
    names = [name for _ in range(REACT // len(BUILTIN_LISTED)) for name in BUILTIN_LISTED]
    negative = [wrong_tools(rng) for _ in range(WRONG_TOOLS)]
    negative += [no_tools(rng) for _ in range(NO_TOOLS)] + [chat_with_tools(rng) for _ in range(CHAT_WITH_TOOLS)]
    subsets = {
        "sample_react": [react(rng, name) for name in names],
        "sample_negative": negative,
        "sample_general": [general(rng) for _ in range(GENERAL)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for subset, dialogues in subsets.items():
        rng.shuffle(dialogues)
        rows = (json.dumps(_row(f"{subset}_{n}", dialogue), ensure_ascii=False) for n, dialogue in enumerate(dialogues))
        (folder / f"{subset}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def react_exchanges(request: Request, offered: bool) -> Iterator[tuple[str, str]]:
    """The request's exchanges in ReAct form: a call, its observation and the answer, or an answer at once."""
    thought = f"Thought: {decision(request, offered)}"
    if not offered or request.tool is None:
        yield request.text, f"{thought}\nFinal Answer: I have no tool for {request.topic}."
        return
    yield request.text, f"{thought}\nAction: {request.tool.name}\nAction Input: {request.arguments_json}"
    yield f"Observation: {request.result}", f"Thought: I have the result.\nFinal Answer: {request.answer}"


def react(rng: Random, name: str) -> Dialogue:
    """A request whose tool is offered; sometimes chat comes first, or another request follows."""
    request = builtin_request(rng, name, ("known",))
    tools = choose_list(rng, request.tool, weights=SHORTER_LISTS)
    exchanges = [small_talk(rng)] if rng.random() < 0.12 else []
    exchanges += react_exchanges(request, offered=True)
    if rng.random() < 0.12:
        other = builtin_request(rng, rng.choice(tuple(BUILTIN_LISTED)), ("known",))
        exchanges += react_exchanges(other, offered=other.tool in tools)
    return Dialogue(list_prompt(tools), tuple(exchanges))


def wrong_tools(rng: Random) -> Dialogue:
    """A request that none of the offered tools is for: a built-in one that is not offered, or one nobody built."""
    if rng.random() < 0.5:
        request = builtin_request(rng, rng.choice(tuple(BUILTIN_LISTED)), ("known",))
    else:
        request = foreign_request(rng)
    without = request.tool.name if request.tool else None
    exchanges = [small_talk(rng)] if rng.random() < 0.12 else []
    exchanges += react_exchanges(request, offered=False)
    return Dialogue(list_prompt(choose_list(rng, None, without, SHORTER_LISTS)), tuple(exchanges))


def no_tools(rng: Random) -> Dialogue:
    """A request with no tools at all: a plain-words reply that there is none for it."""
    if rng.random() < 0.6:
        request = builtin_request(rng, rng.choice(tuple(BUILTIN_LISTED)), ("known",))
    else:
        request = foreign_request(rng)
    return Dialogue(plain_system(rng), ((request.text, no_tools_reply(request)),))


def chat_with_tools(rng: Random) -> Dialogue:
    return Dialogue(
        list_prompt(choose_list(rng, None, weights=SHORTER_LISTS)),
        tuple(small_talk(rng) for _ in range(rng.randint(1, 2))),
    )


def general(rng: Random) -> Dialogue:
    return Dialogue(plain_system(rng), tuple(small_talk(rng) for _ in range(rng.randint(1, 3))))


def _row(row_id: str, dialogue: Dialogue) -> dict[str, Any]:
    turns: list[dict[str, Any]] = []
    if dialogue.system is not None:
        turns.append({"role": "system", "content": dialogue.system, "loss": False})
    for user, assistant in dialogue.exchanges:
        turns.append({"role": "user", "content": user, "loss": False})
        turns.append({"role": "assistant", "content": assistant, "loss": True})
    return {"id": row_id, "conversation": turns}
