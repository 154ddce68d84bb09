"""What a model does with a request: whether it calls, what, and how it words a plain reply. One judge for all suites.

Only the first reply to a case is judged, and it is read by the parser that the agent itself uses. The action level
and the format level are Agent-H's (see agent_h.py); `invented` is ours, and stricter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple, get_args

from flanlite.agent.model import ChatStyle
from flanlite.conversation import Conversation, ToolCall
from flanlite.prompt.replies import parse_reply
from flanlite.scoring.format_level import h_score, holds_general_phrase, holds_react_mark

Measure = Literal["missing", "right_tool", "exact", "unasked", "invented", "react", "general", "h_score"]


@dataclass(frozen=True, slots=True)
class Case:
    """A conversation that waits for a reply, with the tools on offer, and what the reply should be.

    `gold` is the one right call, or a plain answer; that is empty where any plain answer is right.
    """

    id: str
    kind: str
    conversation: Conversation
    gold: ToolCall | str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reply did; None stands for a question that its case does not ask.

    Where a call is due, `missing`: nothing is called. `right_tool`: exactly one call, of the right tool. `exact`: that
    call has the right arguments as well. Where a plain reply is due, `unasked`: something is called; `react` and
    `general`: Agent-H's marks and phrases are found. Everywhere, `invented`: a tool is called that is not on offer.
    """

    kind: str
    invented: bool
    missing: bool | None = None
    right_tool: bool | None = None
    exact: bool | None = None
    unasked: bool | None = None
    react: bool | None = None
    general: bool | None = None

    @property
    def h_score(self) -> float | None:
        """The reply's part in HScore, which is the mean of them."""
        return None if self.react is None or self.general is None else h_score(self.react, self.general)


class Share(NamedTuple):
    """A fraction of `n` cases: those of which the question is asked."""

    value: float
    n: int


def judge(case: Case, reply: str, style: ChatStyle) -> Verdict:
    """Judge the first reply to a case that was asked in the style. Any text is a reply; an empty one calls nothing.

    A call that cannot be read is a call. The react style itself teaches the marks that Agent-H counts, so its cases
    with tools are left out of the format level.
    """
    tools = case.conversation.tools
    read = parse_reply(reply, tools, is_whole_offer=True)
    names, offered = [call.name for call in read.calls], {tool.name for tool in tools}
    calls = bool(names or read.problems)
    invented = any(name not in offered for name in names) or (calls and not tools)
    if isinstance(case.gold, ToolCall):
        right = names == [case.gold.name]
        exact = right and not read.problems and _is_same(read.calls[0].arguments, case.gold.arguments)
        return Verdict(case.kind, invented, missing=not calls, right_tool=right, exact=exact)
    if tools and style == "react":
        return Verdict(case.kind, invented, unasked=calls)
    react, general = holds_react_mark(reply), holds_general_phrase(reply)
    return Verdict(case.kind, invented, unasked=calls, react=react, general=general)


def judge_all(cases: Iterable[Case], replies: Iterable[str], style: ChatStyle) -> dict[str, Verdict]:
    """The verdict on each case's reply, by the case's id, in the order of the cases."""
    return {case.id: judge(case, reply, style) for case, reply in zip(cases, replies, strict=True)}


def values(verdicts: Mapping[str, Verdict], measure: Measure) -> dict[str, float]:
    """The measure of each case that it is asked of, in 0..1, by the case's id."""
    found = {identity: getattr(verdict, measure) for identity, verdict in verdicts.items()}
    return {identity: float(value) for identity, value in found.items() if value is not None}


def shares(verdicts: Mapping[str, Verdict]) -> dict[Measure, Share]:
    """The mean of each measure over the cases that it is asked of; a measure that is asked of none is absent."""
    found: dict[Measure, dict[str, float]] = {measure: values(verdicts, measure) for measure in get_args(Measure)}
    return {measure: Share(fmean(each.values()), len(each)) for measure, each in found.items() if each}


def by_kind(verdicts: Mapping[str, Verdict]) -> dict[str, dict[str, Verdict]]:
    """The verdicts apart by the kind of their case, in the order of the first of each."""
    kinds: dict[str, dict[str, Verdict]] = {}
    for identity, verdict in verdicts.items():
        kinds.setdefault(verdict.kind, {})[identity] = verdict
    return kinds


def _is_same(value: Any, gold: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, but not true."""
    if isinstance(value, Mapping) and isinstance(gold, Mapping):
        return value.keys() == gold.keys() and all(_is_same(value[key], gold[key]) for key in gold)
    if isinstance(value, list) and isinstance(gold, list):
        return len(value) == len(gold) and all(map(_is_same, value, gold))
    return bool(value == gold) and isinstance(value, bool) == isinstance(gold, bool)
