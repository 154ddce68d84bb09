"""Agent-H's format level: whether a reply that should be plain holds ReAct marks or talks of calling a tool."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import yaml

from flanlite.prompt.marks import BEFORE_WORD, COLON


def holds_react_mark(text: str) -> bool:
    """Whether a line begins with one of the list's ReAct marks, in any case, plain, as a heading or in bold."""
    marks = "|".join(re.escape(mark.removesuffix(":")) for mark in phrases()["react_marks"])
    return re.search(rf"^{BEFORE_WORD}(?:{marks}){COLON}", text, re.IGNORECASE | re.MULTILINE) is not None


def holds_general_phrase(text: str) -> bool:
    """Whether the text holds one of the list's phrases as whole words, in any case and with any white space."""
    wanted = "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in phrases()["general_phrases"])
    return re.search(rf"\b(?:{wanted})\b", text.replace("’", "'"), re.IGNORECASE) is not None


def h_score(h_react: float, h_general: float) -> float:
    """Agent-H's HScore of the two shares, all as fractions.

    The paper prints H_ReAct in both places of its equation; its own 9.9% and 11.9% give its 89.1% only as here.
    """
    return 0.5 * ((1 - h_react) + (1 - h_general))


@cache
def phrases() -> Mapping[str, list[str]]:
    """The lists in phrases.yaml: `react_marks` and `general_phrases`."""
    lists: dict[str, list[str]] = yaml.safe_load(files("flanlite.scoring").joinpath("phrases.yaml").read_text("utf-8"))
    return lists
