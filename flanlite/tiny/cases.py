"""Held-out cases for the embedded base: requests with values drawn anew, and what a right reply does.

Small talk has few wordings: half of the chat is drawn from those of the corpus, and some of it stands there word for
word. The seeds are apart from those of pre-training and of the sample corpus by construction: a case's generator is
seeded with a text, theirs with numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from flanlite.conversation import Turn
from flanlite.tiny.make.chat import UNSEEN_TALK
from flanlite.tiny.make.dialogues import choose_list, list_prompt, plain_system, small_talk
from flanlite.tiny.make.domains import NOUNS, UNSEEN_DOMAINS
from flanlite.tiny.make.request import BUILTIN_LISTED, Listed, Request, Wording, builtin_request, foreign_request
from flanlite.tiny.make.values import anything, fill

Kind = Literal[
    "known phrasing", "pre-trained phrasing", "unseen phrasing",
    "wrong tools", "no tools", "chat with tools", "chat without tools",
]  # fmt: skip
PHRASINGS: dict[Kind, tuple[Wording, ...]] = {
    "known phrasing": ("known",), "pre-trained phrasing": ("wider", "framed"), "unseen phrasing": ("unseen",),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One conversation that waits for a reply. `call` is the only right call, or None where any call is invented."""

    kind: Kind
    turns: tuple[Turn, ...]
    offered: tuple[str, ...]
    call: str | None = None
    arguments: dict[str, Any] | None = None
    observation: str = ""


def cases(seed: int, count: int) -> list[Case]:
    """`count` cases for each kind of phrasing, and `count` in all for the four kinds where no call is right."""
    rng = Random(f"held-out {seed}")
    found: list[Case] = []
    for kind, wordings in PHRASINGS.items():
        names = [list(BUILTIN_LISTED)[n % len(BUILTIN_LISTED)] for n in range(count)]
        found += [_calling(rng, kind, name, wordings) for name in names]
    quiet: tuple[tuple[Kind, Callable[[Random], Case]], ...] = (
        ("wrong tools", _wrong_tools), ("no tools", _no_tools),
        ("chat with tools", _chat_with_tools), ("chat without tools", _chat_without_tools),
    )  # fmt: skip
    return found + [make(rng) for n, (_, make) in enumerate(quiet) for _ in range((count + n) // len(quiet))]


def _calling(rng: Random, kind: Kind, name: str, wordings: tuple[Wording, ...]) -> Case:
    request = builtin_request(rng, name, wordings)
    tools = choose_list(rng, request.tool)
    return Case(kind, _turns(list_prompt(tools), request.text), _names(tools), name, request.arguments, request.result)


def _request_without_tool(rng: Random) -> Request:
    kind = rng.random()
    if kind < 0.5:
        return builtin_request(rng, rng.choice(tuple(BUILTIN_LISTED)), ("known", "wider", "framed", "unseen"))
    return foreign_request(rng, UNSEEN_DOMAINS, invented=False) if kind < 0.65 else foreign_request(rng)


def _wrong_tools(rng: Random) -> Case:
    request = _request_without_tool(rng)
    tools = choose_list(rng, None, request.tool.name if request.tool else None)
    return Case("wrong tools", _turns(list_prompt(tools), request.text), _names(tools))


def _no_tools(rng: Random) -> Case:
    return Case("no tools", _turns(plain_system(rng), _request_without_tool(rng).text), ())


def _chat_with_tools(rng: Random) -> Case:
    tools = choose_list(rng, None)
    return Case("chat with tools", _turns(list_prompt(tools), _chat(rng)), _names(tools))


def _chat_without_tools(rng: Random) -> Case:
    return Case("chat without tools", _turns(plain_system(rng), _chat(rng)), ())


def _chat(rng: Random) -> str:
    if rng.random() < 0.5:
        return fill(rng.choice(UNSEEN_TALK), anything(rng, NOUNS))
    return small_talk(rng)[0]


def _turns(system: str | None, user: str) -> tuple[Turn, ...]:
    return (*((Turn("system", system),) if system is not None else ()), Turn("user", user))


def _names(tools: list[Listed]) -> tuple[str, ...]:
    return tuple(tool.name for tool in tools)
