"""Agent-H, re-implemented: does a model call a tool where none is on offer, or where none is asked for?

What the paper says (Agent-FLAN, arXiv 2403.12881): 1,845 samples come from glaive-function-calling-v2 and cover {tools
given, none given} x {the query needs a tool, an ordinary query}; replies are scored at a format level, whose HScore is
in format_level.py, and at an action level. Its samples, code and whole list of phrases were never published.

What is ours: all else, so that a score of this suite is not to be set beside the paper's. The cases come from any file
in glaive's ShareGPT form, and are the same ones for the same rows and seed on every machine:

1. A row's candidates are its trained turns that answer a user turn, with one call of a tool on offer or with plain
   text. A case is the conversation before a candidate; the candidate is what the reply should be.
2. A row with tools gives a case "tools, needed", whose candidate is a call, and "tools, not needed", whose candidate is
   plain: thanks, a value that is missing, what no tool can do. It also gives "no tools, needed": a call's conversation
   without its tools, where any plain reply is right.
3. A row without tools gives a case "no tools, not needed", and "tools, not needed" with the tools of another row, none
   of which has a word of its name in what the user says. No case without tools has a call before it.
4. A row gives at most one case of each kind. Where several candidates fit, that with the lowest hash of seed, row and
   turn is taken; another row's tools are looked for from the one on that the hash of seed and row points to.
5. Of cases of one kind with the same turns and tools, only the first is taken: greedy replies to them are the same.
6. Where only so many cases are wanted, each kind gives as many as the others while it has some, those with the lowest
   hash of seed and id: a larger count adds cases to those of a smaller one.

A hash is the first 8 bytes of the SHA-256 of its parts, written in decimal and joined by a space. Rows and turns are
numbered from 1; a text and the call that follows it are one turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import islice, pairwise, zip_longest
from typing import Literal, get_args

from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.corpus.flan.relevance import first_from, words
from flanlite.corpus.forms import Row, read_row
from flanlite.scoring.tool_use import Case

Kind = Literal["tools, needed", "tools, not needed", "no tools, needed", "no tools, not needed"]
"""Whether tools are on offer, and whether the query needs one."""

Tools = tuple[Tool, ...]


def agent_h_cases(rows: Iterable[Row], seed: int, count: int | None) -> list[Case]:
    """The cases that the rows give, in the order of the rows: `count` of them, or all that there are.

    A row that is not in the form is passed over. A case's id is the number of its row, that of the turn and its kind.
    """
    conversations = list(_readable(rows))
    toolsets = [conversation.tools for conversation in conversations if conversation.tools]
    found: dict[str, Case] = {}
    for case in (case for conversation in conversations for case in _cases_of(conversation, toolsets, seed)):
        found.setdefault(_question(case), case)
    cases = list(found.values())
    return cases if count is None else _evenly(cases, seed, count)


def _readable(rows: Iterable[Row]) -> Iterator[Conversation]:
    """The rows as conversations; each has the row's number as its id."""
    for number, row in enumerate(rows, 1):
        with suppress(ValueError):
            yield replace(read_row(row, "sharegpt"), id=str(number))


def _cases_of(conversation: Conversation, toolsets: Sequence[Tools], seed: int) -> Iterator[Case]:
    turns, own = conversation.turns, conversation.tools
    numbers = sorted(_candidates(conversation), key=lambda number: _draw(seed, conversation.id, number + 1))
    calling = [number for number in numbers if turns[number].calls]
    plain = [number for number in numbers if not turns[number].calls]
    chosen: list[tuple[Kind, list[int], Tools]]
    if own:
        chosen = [
            ("tools, needed", calling, own),
            ("tools, not needed", plain, own),
            ("no tools, needed", _before_any_call(turns, calling), ()),
        ]
    else:
        plain = _before_any_call(turns, plain)
        others = _irrelevant_tools(turns[: plain[0]], toolsets, _draw(seed, conversation.id)) if plain else ()
        chosen = [("tools, not needed", plain if others else [], others), ("no tools, not needed", plain, ())]
    for kind, found, tools in chosen:
        for number in found[:1]:
            identity = f"{conversation.id}.{number + 1} {kind}"
            yield Case(identity, kind, Conversation(turns[:number], tools), _gold(turns[number], tools))


def _question(case: Case) -> str:
    """What a model is asked, as one text: equal for equal questions."""
    return json.dumps([case.kind, asdict(case.conversation)], sort_keys=True)


def _candidates(conversation: Conversation) -> Iterator[int]:
    """The positions of the turns that answer a user with one call of a tool on offer, or with text alone."""
    names = {tool.name for tool in conversation.tools}
    for number, (before, turn) in enumerate(pairwise(conversation.turns), 1):
        is_one_call = len(turn.calls) == 1 and turn.calls[0].name in names
        if before.role == "user" and turn.trained and (is_one_call or not turn.calls):
            yield number


def _before_any_call(turns: Sequence[Turn], numbers: Iterable[int]) -> list[int]:
    return [number for number in numbers if not any(turn.calls for turn in turns[:number])]


def _gold(turn: Turn, tools: Tools) -> ToolCall | str:
    if turn.calls:
        return turn.calls[0] if tools else ""
    return turn.text


def _irrelevant_tools(turns: Iterable[Turn], toolsets: Sequence[Tools], drawn: int) -> Tools:
    """The first tools, from the drawn ones on and around, whose names share no word with what the user says."""
    said = words(" ".join(turn.text for turn in turns if turn.role == "user"))
    return first_from(toolsets, drawn, lambda tools: said.isdisjoint(words(" ".join(tool.name for tool in tools))))


def _evenly(cases: Sequence[Case], seed: int, count: int) -> list[Case]:
    kinds = [[case for case in cases if case.kind == kind] for kind in get_args(Kind)]
    drawn = [sorted(each, key=lambda case: _draw(seed, case.id)) for each in kinds]
    in_turn = (case for cases_in_turn in zip_longest(*drawn) for case in cases_in_turn if case)
    chosen = {case.id for case in islice(in_turn, count)}
    return [case for case in cases if case.id in chosen]


def _draw(seed: int, *what: int | str) -> int:
    """The hash that decides instead of chance."""
    return int.from_bytes(sha256(" ".join(map(str, (seed, *what))).encode()).digest()[:8])
