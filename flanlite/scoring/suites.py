"""The suites: what is asked of a model, and what its replies are worth. No model in sight."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from flanlite.agent.model import ChatStyle
from flanlite.conversation import Conversation, ToolCall, Turn
from flanlite.scoring import teval, tool_use
from flanlite.scoring.results import Example, Measure

TEVAL_NEW_TOKENS = 512
"""As T-Eval's own test.py generates."""

CALL_NEW_TOKENS = 256
"""Room for a thought and a call; a longer reply is cut, and judged as far as it goes."""

Questions = Mapping[str, Mapping[str, Any]]
"""A T-Eval file's questions by their keys, with predictions or without."""

Replies = Mapping[str, str]
"""A suite's replies by the case's id; a case that was too long to be asked has none."""


@dataclass(frozen=True)
class Verdicts:
    """What a suite's replies are worth: measures, the suite's own account, and its cases as people read them."""

    measures: tuple[Measure, ...]
    details: Mapping[str, Any]
    examples: Mapping[str, Example]


@dataclass(frozen=True)
class Suite:
    """Conversations that wait for a reply, by the case's id, and the judge of the replies.

    `questions` are T-Eval's own, by file and key, where the suite is T-Eval; `notes` say what is left out, and
    `unasked` what becomes of cases that are too long to be asked.
    """

    name: str
    conversations: Mapping[str, Conversation]
    max_new_tokens: int
    judge: Callable[[Replies, ChatStyle], Verdicts]
    questions: Mapping[str, Questions] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unasked: str = "are in no figure"


WORDS: Mapping[tool_use.Measure, tuple[str, bool]] = {
    "right_tool": ("right tool", True),
    "exact": ("right tool and exact arguments", True),
    "missing": ("no call where one is due", False),
    "unasked": ("a call where none is due", False),
    "invented": ("invented call", False),
    "react": ("H_ReAct", False),
    "general": ("H_General", False),
    "h_score": ("HScore", True),
}
"""A measure of tool use in words, and whether more of it is better."""


def tool_use_suite(name: str, cases: Sequence[tool_use.Case]) -> Suite:
    """The suite that these cases make: over all of them, and kind by kind."""

    def judge(replies: Replies, style: ChatStyle) -> Verdicts:
        asked = [case for case in cases if case.id in replies]
        verdicts = tool_use.judge_all(asked, [replies[case.id] for case in asked], style)
        groups = {"": verdicts, **tool_use.by_kind(verdicts)}
        measures = [measure for group, found in groups.items() for measure in _tool_use_measures(name, group, found)]
        examples = {
            case.id: Example(_question(case.conversation), _wanted(case), replies[case.id], _worth(verdicts[case.id]))
            for case in asked
        }
        return Verdicts(tuple(measures), _account(groups), examples)

    return Suite(name, {case.id: case.conversation for case in cases}, CALL_NEW_TOKENS, judge)


def _tool_use_measures(suite: str, group: str, verdicts: Mapping[str, tool_use.Verdict]) -> Iterable[Measure]:
    shares = tool_use.shares(verdicts)
    for measure, (words, is_better_high) in WORDS.items():
        if measure in shares:
            items = tool_use.values(verdicts, measure)
            yield Measure(suite, words, shares[measure].value, items, group, is_better_high=is_better_high)


def _account(groups: Mapping[str, Mapping[str, tool_use.Verdict]]) -> dict[str, Any]:
    return {
        group or "all": {
            measure: {"share": share.value, "n": share.n} for measure, share in tool_use.shares(found).items()
        }
        for group, found in groups.items()
    }


def _question(conversation: Conversation) -> str:
    return next((turn.text for turn in reversed(conversation.turns) if turn.role == "user"), "")


def _wanted(case: tool_use.Case) -> str:
    if isinstance(case.gold, ToolCall):
        return f"{case.gold.name} {case.gold.arguments_json()}"
    return case.gold or "a plain reply, without a call"


def _worth(verdict: tool_use.Verdict) -> float:
    """1 where the reply is right: the exact call where one is due, no call where none is."""
    return float(verdict.exact if verdict.exact is not None else not verdict.unasked)


def teval_suite(files: Sequence[Path], limit: int | None, embed: teval.Embed | None) -> Suite:
    """T-Eval's question files as one suite; `limit` takes the first so many questions of each, for a quick look."""
    asked = {file.name: dict(list(teval.read_questions(file).items())[:limit]) for file in files}
    conversations = {
        teval_id(name, key): Conversation(tuple(map(_as_text, teval.turns_of(question))))
        for name, questions in asked.items()
        for key, question in questions.items()
    }
    return Suite(
        "t-eval",
        conversations,
        TEVAL_NEW_TOKENS,
        lambda replies, style: judge_teval(teval_predictions(asked, replies), embed),
        asked,
        unasked="count as wrong",
    )


def teval_id(file_name: str, key: str) -> str:
    """A question's id among those of all files."""
    return f"{file_name}/{key}"


def teval_predictions(asked: Mapping[str, Questions], replies: Replies) -> dict[str, dict[str, dict[str, Any]]]:
    """The questions of each file with the replies to them, cut as T-Eval cuts them, in T-Eval's own form.

    A question that was too long to be asked gets an empty reply, which T-Eval counts as wrong.
    """
    return {
        name: {
            key: {**question, "prediction": teval.cut_reply(replies.get(teval_id(name, key), ""))}
            for key, question in questions.items()
        }
        for name, questions in asked.items()
    }


def judge_teval(predicted: Mapping[str, Questions], embed: teval.Embed | None) -> Verdicts:
    """T-Eval's scores of predictions, by the name of their file."""
    scored = {name: teval.score(teval.form_of(name), questions, embed) for name, questions in predicted.items()}
    metrics = {name: found.metrics for name, found in scored.items()}
    summary = teval.summarise(metrics)
    measures = [
        Measure("t-eval", name + " (in part)" * (name in summary.partial), value, _items_of(name, scored))
        for name, value in summary.dimensions.items()
    ]
    if summary.overall is not None:
        measures.append(Measure("t-eval", "overall", summary.overall, {}))
    details = {
        "dimensions": summary.dimensions,
        "overall": summary.overall,
        "partial": list(summary.partial),
        "files": {name: {"metrics": found, "questions": len(predicted[name])} for name, found in metrics.items()},
    }
    examples = {
        teval_id(name, key): _teval_example(predicted[name][key], value)
        for name, found in scored.items()
        for key, value in found.items.items()
    }
    return Verdicts(tuple(measures), details, examples)


def _items_of(dimension: str, scored: Mapping[str, teval.Scored]) -> dict[str, float]:
    """What each question adds to a dimension: the mean of its metrics that count there."""
    items: dict[str, float] = {}
    for name, found in scored.items():
        counted = [metric for form, metric in teval.DIMENSIONS[dimension] if form == teval.form_of(name).name]
        for key, values in found.each.items():
            if present := [values[metric] for metric in counted if metric in values]:
                items[teval_id(name, key)] = fmean(present)
    return items


def _teval_example(question: Mapping[str, Any], score: float) -> Example:
    turns = teval.turns_of(question)
    wanted = question.get("ground_truth", "")
    return Example(
        turns[-1].text,
        wanted if isinstance(wanted, str) else json.dumps(wanted, ensure_ascii=False),
        str(question["prediction"]),
        score,
    )


def _as_text(turn: Turn) -> Turn:
    """T-Eval's results of tools are part of its prompts' text, and get no mark of ours."""
    return Turn("user", turn.text) if turn.role == "observation" else turn
