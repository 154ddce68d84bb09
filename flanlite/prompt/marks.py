"""A reply cut at its marks: lines such as `Action:`, code fences, tags such as `<tool_call>`, JSON at its start."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from flanlite.prompt.syntax import json_value

LINES: Mapping[str, tuple[str, ...]] = {
    "thought": ("Thought", "Think"),
    "input": ("Action Input", "Action_Input"),
    "action": ("Action", "Act"),
    "final": ("Final Answer",),
    "observation": ("Observation",),
}
"""The words that, with a colon, begin a part at the start of a line; compared without case."""

BEFORE_WORD = r"(?:[ \t#_]|\*(?![ \t]))*+"
COLON = r"[ \t*_]*+:(?:[*_]++(?=\s|\Z))?+[ \t]*+"
"""What stands around a mark's word on its line: the word may be plain, a heading or in bold, but no item of a list."""

TAGS = ("<tool_call>", "<functioncall>", "<function_call>", "[TOOL_CALLS]")

_LINE = "|".join(f"(?P<{kind}>{'|'.join(map(re.escape, words))})" for kind, words in LINES.items())
_ANY_LINE = "|".join(re.escape(word) for words in LINES.values() for word in words)
_ELEMENT = r"Answer:[ \t]*+(?P<element>\w++)\.?[ \t]*\n[ \t]*+(?=Action:)"
_ANY_MARK = rf"{BEFORE_WORD}(?:{_ANY_LINE}){COLON}"
_MARK = re.compile(
    r"(?P<json>\A\s*+(?=(?:\[\s*+)?\{\s*+[\"']))"
    rf"|(?P<tag>{'|'.join(map(re.escape, TAGS))})"
    # A fence without a language may as well stand around the whole reply, and is no mark then.
    rf"|(?:^[ \t]*+|(?<=:)|(?<=:[ ]))```[ \t]*+(?P<fence>[^\s`]++|(?!\n\s*+{_ANY_MARK}))[^`\n]*$"
    rf"|^{BEFORE_WORD}(?:{_ELEMENT})?(?:{_LINE}){COLON}",
    re.MULTILINE | re.IGNORECASE,
)
_CLOSING = re.compile(r"```[ \t\r]*$", re.MULTILINE)
_THOUGHT = re.compile(rf"\s*+(?:```\s*+)?(?:{BEFORE_WORD}(?:{'|'.join(LINES['thought'])}){COLON}|\Z)", re.IGNORECASE)
_BEFORE_JSON = re.compile(r"\s*+(?=[\[{])")
_OPENED = re.compile(r"[ \t#]*+(?P<opening>[*_]++)[^*_]++")
_BEGUN_JSON = re.compile(r"\s*+\[?\s*+\{?\s*+")


class Part(NamedTuple):
    """A mark and the text up to the next one, which begins at `begin`.

    `detail` is a fence's language, or the element of a page that an action is for; `argument` is the part that an
    action is called with. More text cannot change a part that is complete.
    """

    kind: str
    start: int
    begin: int
    content: str
    detail: str
    is_complete: bool
    argument: Part | None = None


def parts(text: str, *, is_whole: bool = True) -> Iterator[Part]:
    """The reply's parts in order. Text that stands before the first mark or behind a fence is in none."""
    action: Part | None = None
    for part in _marked(text, is_whole):
        if action and part.kind in ("input", "fence", "final") and _lacks_argument(action):
            action = action._replace(argument=part, is_complete=part.is_complete)
            continue
        if action and not (part.kind == "action" and _is_sentence(action)):
            yield action
        action = part if part.kind == "action" else None
        if not action:
            yield part
    if action:
        yield action


def _lacks_argument(action: Part) -> bool:
    return action.argument is None or not action.argument.content.strip()


def _is_sentence(action: Part) -> bool:
    """Whether it only tells of the action that follows it."""
    text = action.content.strip()
    return action.argument is None and " " in text and text.endswith(".")


def _marked(text: str, is_whole: bool) -> Iterator[Part]:
    mark = _MARK.search(text)
    while mark:
        kind = str(mark.lastgroup)
        end, resume, is_complete = _extent(text, kind, mark.end(), is_whole)
        # The mark of JSON has no width, and would be found again.
        following = _MARK.search(text, max(resume, mark.start() + 1))
        if end is None:
            end = following.start() if following else len(text)
        detail = mark["fence"] or mark["element"] or ""
        content = text[mark.end() : end]
        if kind == "final" and (opened := _OPENED.fullmatch(mark[0])):
            content = _closed(content, opened["opening"])
        yield Part(kind, mark.start(), mark.end(), content, detail, is_complete or following is not None)
        mark = following


def _closed(content: str, opening: str) -> str:
    """The content without what closes, behind its first line, the bold face that was opened before the mark."""
    line, newline, rest = content.partition("\n")
    return line.rstrip().rstrip(opening) + newline + rest


def _extent(text: str, kind: str, start: int, is_whole: bool) -> tuple[int | None, int, bool]:
    """Where a part ends, if not at the next mark; where that can be looked for; whether the part is complete anyway.

    JSON and fenced code are passed over, whatever marks they hold, and an answer holds all that follows. JSON that
    cannot be read may be broken or, in a reply that is still being written, not yet whole.
    """
    if kind == "fence":
        closing = _CLOSING.search(text, start)
        return (*closing.span(), True) if closing else (None, len(text), False)
    if kind == "final":
        return None, len(text), True
    if kind in ("json", "tag", "input") and (begin := _BEFORE_JSON.match(text, start)):
        with suppress(ValueError):
            return None, json_value(text, begin.end())[1], True
        return None, start if is_whole else len(text), False
    return None, start, False


def settled(text: str) -> str:
    """The beginning of a reply without an ending that may yet become a mark, or no mark."""
    fence = text.rstrip(" \t\r")
    if fence.endswith("```"):
        text = fence.rstrip("`")
    start = text.rfind("\n") + 1
    line = text[start:].strip(" \t")
    words = (_bare(f"{word}:") for words in LINES.values() for word in words)
    if line and (line.startswith("```") or any(word.startswith(_bare(line)) for word in (*words, "```"))):
        return text[:start]
    tail = max(text.rfind("<"), text.rfind("["))
    if tail >= 0 and any(tag.lower().startswith(text[tail:].lower()) for tag in TAGS):
        return text[:tail]
    return "" if _BEGUN_JSON.fullmatch(text) else text


def _bare(line: str) -> str:
    """A line without case and what may stand around and within a mark's words."""
    return re.sub(r"[ \t#*_]", "", line).lower()


def has_thought_mark(text: str) -> bool:
    return _THOUGHT.match(text) is not None


def without_thought_mark(text: str) -> str:
    """The text without the mark of a thought at its start, and stripped."""
    mark = _THOUGHT.match(text)
    return text[mark.end() if mark else 0 :].strip()
