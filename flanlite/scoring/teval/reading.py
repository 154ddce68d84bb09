"""Raw replies, cut and read as T-Eval does it, whose leniency and strictness are part of its scores."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from flanlite.prompt.agent_flan import END_OF_TURN

MARKS = (
    "<eoa>", "<TOKENS_UNUSED_1>", "<|im_end|>", "\nuser", "\nassistant", "\nUSER", "[INST]", "<|user|>",
    END_OF_TURN, "<|Human|>",
)  # fmt: skip
"""Where a reply ends: T-Eval's marks, and at last Agent-FLAN's, which T-Eval does not know."""

FENCE = "```json"

CALL_PARTS = ("thought", "action", "args")
"""The parts of a reply to instruct, in their order."""

PARSE_ERRORS = (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError)
"""All that reading a text as a Python or JSON value may raise."""

_END = re.compile("|".join(map(re.escape, MARKS)))


def cut_reply(text: str) -> str:
    """A raw reply as T-Eval keeps it: up to the first mark, without blanks, a fence and backquotes around it.

    `\\nuser` and its like are marks even where they begin a line of the answer itself.
    """
    text = _END.split(text, maxsplit=1)[0].strip()
    return text.removeprefix(FENCE).strip("`").strip()


def read_value(reply: Any, brackets: str = "") -> Any:
    """The value that a reply holds. Raises ValueError where it holds none.

    With `brackets`, such as "[]", the text from the first opening to the last closing one counts, so that a bracket in
    the words around a value spoils it; without them, the whole text is the value. What stands before a fence is passed
    over either way. A reply that is no text is the value itself.

    The text is tried as a Python literal, then as JSON, and at last as JSON with every apostrophe made a quotation
    mark. So tuples and sets are values and `0x10` is 16; `{'a': true}`, which is neither language, is mended at last,
    and `{'a': true, 'b': "it's"}` is not.
    """
    if not isinstance(reply, str):
        return reply
    if FENCE in reply:
        reply = reply.partition(FENCE)[2].strip("`")
    if brackets:
        first, last = reply.find(brackets[0]), reply.rfind(brackets[1])
        reply = reply[first : last + 1] if 0 <= first < last else ""
    tries: tuple[Callable[[str], Any], ...] = (
        read_literal, json.loads, lambda text: json.loads(text.replace("'", '"')),
    )  # fmt: skip
    for read in tries:
        with suppress(*PARSE_ERRORS):
            return read(reply)
    raise ValueError("the reply holds no value")


def read_literal(text: str) -> Any:
    """A Python literal. Raises one of PARSE_ERRORS where the text is none; Python's own warnings are not passed on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.literal_eval(text)


def call_pattern(template: Mapping[str, str]) -> re.Pattern[str]:
    """What finds thought, action and arguments, as its first three groups, between a template's marks.

    T-Eval does not escape the marks: `[Action]` stands for one of its letters, and `(Action)` takes a group's place.
    Each part reaches as far as it can, over lines too. Raises re.error where the marks make no expression.
    """
    marked = (template[f"{part}_start"] + "(.*)" + template[f"{part}_end"] for part in CALL_PARTS)
    return re.compile("".join(marked), re.DOTALL)
