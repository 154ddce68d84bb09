"""What one reply is worth in each of T-Eval's six dimensions.

The numbers are T-Eval's own, with its quirks, each of which is named where it acts. A reply on which T-Eval itself
stops, and with it the whole file, is worth 0 here in every metric: a plan of nothing but FinishAction, half of a
surrogate pair where sentences are compared, a prediction that is missing or is no text where text is due.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from flanlite.scoring.teval.matching import (
    FINISH,
    Embed,
    Embedded,
    Step,
    find_steps,
    plan_scores,
    read_steps,
    without_finish,
)
from flanlite.scoring.teval.reading import CALL_PARTS, PARSE_ERRORS, call_pattern, read_literal, read_value

RRU = "reason_retrieve_understand_json"

CHOICES = ("A", "B", "C", "D", "E")

Question = Mapping[str, Any]
Questions = Mapping[str, Question]
Values = dict[str, dict[str, float]]
"""Every question's values, by its key and the metrics' names."""

Scorer = Callable[[Questions, Embed | None], Values]
"""Scores the questions of one form; without embeddings, the metrics that compare sentences are left out."""


# Instruct: a call in a format that the question prescribes


class _Call(NamedTuple):
    action: Any
    args: Mapping[Any, Any]


def _instruct(question: Question) -> dict[str, float]:
    """Whether the reply has the format, and the share of what is right in it: the action and each argument.

    Values are compared as Python compares them, so that 1, 1.0 and true are the same. An argument that is not given
    equals an empty text, and one too many costs nothing.
    """
    written, gold = question["meta_data"]["response_format"], question["ground_truth"]
    read = _call_in_json if written == "json" else _call_in_marks
    call = read(question.get("prediction"), question["template"])
    right = [False]
    if call is not None:
        right = [call.action == gold["action"], *(call.args.get(key, "") == gold["args"][key] for key in gold["args"])]
    return {
        f"{written}_format_metric": float(call is not None),
        f"{written}_args_em_metric": sum(right) / len(right),
    }


def _call_in_json(reply: Any, template: Mapping[str, str]) -> _Call | None:
    """The call in a reply that is one JSON object, with all three of the keys; arguments that are none are empty."""
    try:
        fields = read_value(reply)
    except ValueError:
        return None
    if not isinstance(fields, dict) or any(template[part] not in fields for part in CALL_PARTS):
        return None
    args = fields[template["args"]]
    return _Call(fields[template["action"]], args if isinstance(args, dict) else {})


def _call_in_marks(reply: Any, template: Mapping[str, str]) -> _Call | None:
    """The call between the template's marks; arguments are a Python literal (so `true` is none), or else empty."""
    found = call_pattern(template).search(reply) if isinstance(reply, str) else None
    if found is None:
        return None
    _, action, text, *_ = found.groups("")
    try:
        args = read_literal(text.strip())
    except PARSE_ERRORS:
        args = {}
    return _Call(action.strip(), args if isinstance(args, dict) else {})


# Plan: steps in the right order


def _plan_json(questions: Questions, embed: Embed | None) -> Values:
    return _plan({key: read_steps(question.get("prediction")) for key, question in questions.items()}, questions, embed)


def _plan_str(questions: Questions, embed: Embed | None) -> Values:
    predicted = {
        key: find_steps(question["prediction"], question["meta"]["API_list"])
        for key, question in questions.items()
        if isinstance(question.get("prediction"), str)
    }
    return _plan(predicted, questions, embed)


def _plan(predicted: Mapping[str, Sequence[Step]], questions: Questions, embed: Embed | None) -> Values:
    """The plans that have steps, but for FinishAction at the end, against the right ones; others are worth 0."""
    plans, texts = {}, {}
    for key, question in questions.items():
        plan = without_finish(predicted.get(key, ())), without_finish(read_steps(question["ground_truth"]))
        words = list(chain.from_iterable(chain(*plan)))
        if all(plan) and _are_unicode(words):
            plans[key], texts[key] = plan, words
    each: Values = {key: {"parse_rate": float(key in plans)} for key in questions}
    if embed is None:
        return each
    embedded = Embedded(chain.from_iterable(texts.values()), embed)
    zero = dict.fromkeys(("precision", "recall", "f1_score"), 0.0)
    return {key: (plan_scores(*plans[key], embedded) if key in plans else zero) | each[key] for key in questions}


# Reason, retrieve, understand: a thought, a tool's name, its arguments; all compared as texts


class _Action(NamedTuple):
    thought: str
    name: str
    args: Mapping[Any, Any]


def _reason_retrieve_understand(questions: Questions, embed: Embed | None) -> Values:
    """All three from one JSON object; keys that it lacks are empty texts, and it still counts as parsed."""
    each: Values = {}
    thoughts: dict[str, tuple[str, str]] = {}
    for key, question in questions.items():
        reply, gold = _read_action(question.get("prediction")), _read_action(question["ground_truth"])
        each[key] = {"name": 0.0, "args": 0.0, "parse_rate": 0.0}
        if reply is not None and gold is not None and _are_unicode([reply.thought]):
            name = float(reply.name == gold.name)
            each[key] = {"name": name, "args": _share_of_args(reply.args, gold.args), "parse_rate": 1.0}
            thoughts[key] = reply.thought, gold.thought
    return _with_thoughts(each, thoughts, embed)


def _read_action(value: Any) -> _Action | None:
    fields = _read_fields(value)
    if fields is None:
        return None
    args = fields.get("args")
    return _Action(_text(fields, "thought"), _text(fields, "name"), args if isinstance(args, dict) else {})


def _read_fields(value: Any) -> dict[Any, Any] | None:
    """The object between the first and the last brace of a text, or None where there is none."""
    try:
        fields = read_value(value, "{}")
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _text(fields: Mapping[Any, Any], key: Any) -> str:
    """The value as Python writes it, so that 5 and "5" are the same; empty where there is none, or none to write."""
    try:
        return str(fields[key])
    except (KeyError, ValueError, RecursionError):
        return ""


def _share_of_args(args: Mapping[Any, Any], gold: Mapping[Any, Any]) -> float:
    """The share of the right arguments that are given.

    T-Eval divides by a little more than their number, so that all of them are just short of 1. Arguments too many cost
    nothing, unless there should be none.
    """
    if not gold:
        return float(not args)
    return sum(key in args and _text(args, key) == _text(gold, key) for key in gold) / (len(gold) + 1e-5)


def _reason(questions: Questions, embed: Embed | None) -> Values:
    """The reply as a whole is the thought, even an empty one, and is compared with the right thought."""
    each: Values = {}
    thoughts: dict[str, tuple[str, str]] = {}
    for key, question in questions.items():
        reply, gold = question.get("prediction"), _read_fields(question["ground_truth"])
        each[key] = {"parse_rate": 0.0}
        if isinstance(reply, str) and _are_unicode([reply]):
            each[key] = {"parse_rate": 1.0}
            if gold is not None:
                thoughts[key] = reply, _text(gold, "thought")
    return _with_thoughts(each, thoughts, embed)


def _with_thoughts(each: Values, thoughts: Mapping[str, tuple[str, str]], embed: Embed | None) -> Values:
    """The values and, with `embed`, each thought's likeness to the right one; without a thought it is 0."""
    if embed is None:
        return each
    embedded = Embedded(chain.from_iterable(thoughts.values()), embed)
    alike = {key: float(embedded.likeness([reply], [gold])[0, 0]) for key, (reply, gold) in thoughts.items()}
    return {key: {"thought": alike.get(key, 0.0)} | values for key, values in each.items()}


def _retrieve(question: Question) -> dict[str, float]:
    """Whether the text holds the right name and nothing else that is a name: two words joined by a dot, FinishAction.

    `3.5` and `e.g` are such names too, and so is the right one where letters touch it, as Chinese ones do.
    """
    reply, gold = question.get("prediction"), _read_fields(question["ground_truth"])
    if not isinstance(reply, str):
        return {"name": 0.0, "parse_rate": 0.0}
    name = None if gold is None else _text(gold, "name")
    others = {*re.findall(r"\w+\.\w+", reply), *([FINISH] if FINISH in reply else [])} - {name}
    is_right = name is not None and name in reply and not others
    return {"name": float(is_right), "parse_rate": 1.0}


def _understand(question: Question) -> dict[str, float]:
    """Whether the reply is the right value to the letter, once quotes, single ones first, are taken off its ends."""
    reply, gold = question.get("prediction"), _read_fields(question["ground_truth"])
    if not isinstance(reply, str):
        return {"args": 0.0, "parse_rate": 0.0}
    is_right = gold is not None and reply.strip("'").strip('"') == _text(gold, "args")
    return {"args": float(is_right), "parse_rate": 1.0}


# Review: what became of a call


def _review(question: Question) -> dict[str, float]:
    """Whether the choice is right: the first letter behind the first colon, or of the whole where there is none.

    So `Answer: B` is B and so is `Better not`, while `A: Success` and `答案：A` are no choice at all.
    """
    reply = question.get("prediction")
    letter = reply[reply.find(":") + 1 :].strip()[:1] if isinstance(reply, str) else ""
    is_right = letter in CHOICES and letter == question["ground_truth"]["answer"]
    return {"parse_rate": float(letter in CHOICES), "review_quality": float(is_right)}


def _are_unicode(texts: Sequence[str]) -> bool:
    """Whether no text holds half of a surrogate pair, which tokenizers do not take."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_by_one(worth: Callable[[Question], dict[str, float]]) -> Scorer:
    return lambda questions, _: {key: worth(question) for key, question in questions.items()}


SCORERS: Mapping[str, Scorer] = {
    "instruct": _one_by_one(_instruct),
    "plan_json": _plan_json,
    "plan_str": _plan_str,
    "reason_str": _reason,
    "retrieve_str": _one_by_one(_retrieve),
    "understand_str": _one_by_one(_understand),
    RRU: _reason_retrieve_understand,
    "review_str": _one_by_one(_review),
}
