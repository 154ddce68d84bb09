"""Segments: what every template renders a conversation to, and what labels are made from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flanlite.conversation import Role, Turn

BREAK = "\u200b"
"""The zero-width space put behind the first character of a template's mark that stands in a turn's text."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of rendered text with one owner.

    `role` is the owner, "template" for the template's own headers. `special` text is the name of one control token;
    all other text is encoded as plain text, so that no turn can forge a control token.
    """

    text: str
    role: Role | Literal["template"] = "template"
    trained: bool = False
    special: bool = False


def break_marks(turns: Iterable[Turn], marks: Sequence[str], *, in_answers: bool) -> tuple[list[Turn], int]:
    """The turns with every mark of the template made harmless, and how many there were.

    To a tokenizer without control tokens for them, the marks are plain text: a user or an observation that holds one
    would open a turn of its own. Meta's reference refuses such prompts; here `[INST]` becomes `[` + BREAK + `INST]`.
    The assistant's own text is left as it is unless `in_answers`, which it must be where marks are control tokens.
    """
    if not marks:
        return list(turns), 0
    pattern = re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)))
    broken, count = [], 0
    for turn in turns:
        if turn.role == "assistant" and not in_answers:
            broken.append(turn)
            continue
        text, found = pattern.subn(lambda match: match[0][0] + BREAK + match[0][1:], turn.text)
        broken.append(replace(turn, text=text) if found else turn)
        count += found
    return broken, count


def join_same_side(turns: Iterable[Turn]) -> list[list[Turn]]:
    """Runs of turns that speak for one side: user and observation turns together, assistant turns together.

    Templates that demand strict alternation take each run as one message, its turns a newline apart.
    """
    runs: list[list[Turn]] = []
    for turn in turns:
        if runs and (turn.role == "assistant") == (runs[-1][-1].role == "assistant"):
            runs[-1].append(turn)
        else:
            runs.append([turn])
    return runs


def stripped(segments: Iterable[Segment]) -> list[Segment]:
    """The segments as `str.strip` leaves their joined text; empty ones go, but for the last if none has text."""
    kept = list(segments)
    for edge in (0, -1):
        while kept:
            text = kept[edge].text.lstrip() if edge == 0 else kept[edge].text.rstrip()
            if text or len(kept) == 1:
                kept[edge] = replace(kept[edge], text=text)
                break
            del kept[edge]
    return [segment for segment in kept if segment.text] or kept


def padded(segments: Sequence[Segment], left: str = "", right: str = "") -> list[Segment]:
    """The segments with `left` put before the first text and `right` behind the last."""
    first, *rest = segments
    whole = [replace(first, text=left + first.text), *rest]
    whole[-1] = replace(whole[-1], text=whole[-1].text + right)
    return whole


def joined(turns: Iterable[Turn]) -> list[Segment]:
    """One message's segments from a run of turns of one side, their texts a newline apart."""
    return [Segment("\n" * (index > 0) + turn.text, turn.role, turn.trained) for index, turn in enumerate(turns)]
