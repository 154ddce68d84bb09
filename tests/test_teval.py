"""T-Eval's scores: the values are those that T-Eval's own evaluators gave for the same made-up replies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlite.conversation import Turn
from flanlite.errors import FlanliteError
from flanlite.scoring.teval import (
    Form,
    cut_reply,
    form_of,
    read_questions,
    score,
    summarise,
    turns_of,
    write_predictions,
)

NAMES = ("Weather.forecast", "Weather.forecast_hourly", "Trains.search", "Trains.book")
PROMPT = [{"role": "system", "content": "Tools: ..."}, {"role": "user", "content": "Plan a trip."}]
CALL = {"thought": "I look at the weather.", "name": "Weather.forecast", "args": {"city": "Oslo", "days": 3}}
PLAN = [
    {"id": 0, "name": "Weather.forecast", "args": {"city": "Oslo"}},
    {"id": 1, "name": "Trains.search", "args": {"to": "Oslo", "day": 4}},
    {"id": 2, "name": "Trains.book", "args": {"train": 8}},
    {"id": 3, "name": "FinishAction", "args": {}},
]
GOLD_CALL = {"action": "Weather.forecast", "args": {"city": "Oslo", "days": 3, "unit": ""}}


def marks(*texts: str) -> dict[str, str]:
    """A template of instruct with these texts before and behind thought, action and arguments."""
    keys = ("thought_start", "thought_end", "action_start", "action_end", "args_start", "args_end")
    return dict(zip(keys, texts, strict=True))


def instruct(written: str, template: dict[str, str]) -> dict[str, Any]:
    return {"template": template, "ground_truth": GOLD_CALL, "meta_data": {"response_format": written}}


BARE_QUESTIONS: dict[str, dict[str, Any]] = {
    "instruct": instruct("json", {"thought": "goal", "action": "name", "args": "args"}),
    "instruct in marks": instruct("string", marks("Goal: ", "\n", "Name: ", "\n", "Args: ", "")),
    "instruct in brackets": instruct("string", marks("[Goal]", "", "[Name]", "", "[Args]", "")),
    "instruct in groups": instruct("string", marks("(Goal)", "", "(Name)", "", "(Args)", "")),
    "plan_json": {"ground_truth": PLAN, "meta": {"prompt_type": "json", "API_list": NAMES}},
    "plan_str": {"ground_truth": PLAN, "meta": {"prompt_type": "str", "API_list": NAMES}},
    "reason_str": {"ground_truth": CALL, "meta_data": {"response_format": "str"}},
    "retrieve_str": {"ground_truth": CALL, "meta_data": {"response_format": "str"}},
    "understand_str": {"ground_truth": CALL | {"args": "Oslo"}, "meta_data": {"response_format": "str"}},
    "reason_retrieve_understand_json": {"ground_truth": CALL, "meta_data": {"response_format": "json"}},
    "plan_json without a plan": {"ground_truth": "None."},
    "retrieve_str at the end": {"ground_truth": '{"thought": "Done.", "name": "FinishAction", "args": {}}'},
    "reason_retrieve_understand_json without arguments": {"ground_truth": CALL | {"args": {}}},
    "review_str": {"template": "", "ground_truth": {"answer": "B"}, "meta_data": {"response_format": "str"}},
}
QUESTIONS = {kind: {"origin_prompt": PROMPT, **question} for kind, question in BARE_QUESTIONS.items()}
"""Questions by their kind, a form's name and, behind a blank, what is particular."""

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def by_letters(texts: list[str]) -> np.ndarray:
    """Embeddings without a model: how often each letter occurs."""
    return np.array([[text.lower().count(letter) for letter in LETTERS] for text in texts], np.float32)


def step(number: Any, name: str, **args: Any) -> dict[str, Any]:
    return {"id": number, "name": name, "args": args}


FORECAST, SEARCH, BOOK, FINISH = PLAN
STOPS = ()

GOLDEN: dict[str, list[tuple[Any, tuple[float, ...]]]] = {
    "instruct": [
        ('{"goal": "g", "name": "Weather.forecast", "args": {"city": "Oslo", "days": 3, "unit": ""}}', (1, 1)),
        ('{"goal": "g", "name": "Weather.forecast", "args": {"city": "Oslo", "days": 3}}', (1, 1)),
        ("{'goal': 'g', 'name': 'Weather.forecast', 'args': {'city': 'Oslo', 'days': 3.0, 'more': 1}}", (1, 1)),
        ("{'goal': 'g', 'name': 'Weather.forecast', 'args': {'city': 'Oslo', 'days': \"3\", 'sure': true}}", (1, 0.75)),
        ("{'goal': 'it\"s', 'name': 'Weather.forecast', 'args': {'city': 'Oslo', 'sure': true}}", (0, 0)),
        ('{"goal": "g", "name": "weather.forecast", "args": "Oslo"}', (1, 0.25)),
        ('{"goal": null, "name": null, "args": null}', (1, 0.25)),
        ('{"name": "Weather.forecast", "args": {"city": "Oslo", "days": 3}}', (0, 0)),
        ('Sure! {"goal": "g", "name": "Weather.forecast", "args": {}}', (0, 0)),
        ('Sure! ```json\n{"goal": "g", "name": "Weather.forecast", "args": {}}\n```', (1, 0.5)),
        ('```json\n{"goal": "g", "name": "Weather.forecast", "args": {}}\n``` Done.', (0, 0)),
        ('[{"goal": "g", "name": "Weather.forecast", "args": {}}]', (0, 0)),
        ({"goal": "g", "name": "Weather.forecast", "args": {"city": "Oslo"}}, (1, 0.75)),
        ("", (0, 0)),
        ("天气", (0, 0)),
        (None, (0, 0)),
    ],
    "instruct in marks": [
        ("Goal: g\nName: Weather.forecast\nArgs: {'city': 'Oslo', 'days': 3, 'unit': ''}", (1, 1)),
        ("Goal: g\nName:  Weather.forecast \nArgs:  {'city': 'Oslo'}\n", (1, 0.75)),
        ('Goal: g\nName: Weather.forecast\nArgs: {"city": "Oslo", "days": 3, "sure": true}', (1, 0.5)),
        ("Goal: g\nName: Weather.forecast\nArgs: ['Oslo', 3]", (1, 0.5)),
        ("Goal: g\nName: Weather.forecast\nArgs: ", (1, 0.5)),
        ("Goal: a\nb\nName: Trains.book\nArgs: {}\nGoal: c\nName: Weather.forecast\nArgs: {'city': 'Oslo'}", (1, 0.75)),
        ("Hello. Goal: g\nName: Weather.forecast\nArgs: {'city': 'Oslo'} That is all.", (1, 0.5)),
        ("Goal: g Name: Weather.forecast Args: {}", (0, 0)),
        ("goal: g\nname: Weather.forecast\nargs: {}", (0, 0)),
        ("", (0, 0)),
    ],
    "instruct in brackets": [
        ("[Goal]g[Name]Weather.forecast[Args]{'city': 'Oslo'}", (1, 0.25)),
        ("oats", (1, 0.25)),
        ("GNA", (1, 0.25)),
    ],
    "instruct in groups": [
        ("(Goal)g(Name)Weather.forecast(Args){}", (1, 0.25)),
        ("GoalgNameWeather.forecastArgs{'city': 'Oslo'}", (1, 0.25)),
    ],
    "plan_json": [
        (json.dumps(PLAN), (1, 1, 1, 1)),
        (json.dumps(PLAN[:3]), (1, 1, 1, 1)),
        (json.dumps([FORECAST, BOOK]), (1, 0.666667, 0.8, 1)),
        (json.dumps([BOOK, SEARCH, FORECAST]), (1, 1, 1, 1)),
        (
            json.dumps(
                [step(2, "Weather.forecast", city="Oslo"), step("1", "Trains.search"), step(0.9, "Trains.book")]
            ),
            (0.333333, 0.333333, 0.333333, 1),
        ),
        (json.dumps([FORECAST, FORECAST, SEARCH, BOOK, FINISH]), (0.75, 1, 0.857143, 1)),
        (json.dumps([FORECAST, FINISH, SEARCH, BOOK]), (1, 1, 1, 1)),
        (json.dumps([step(0, "Zoo"), step(1, "Quiz")]), (0.5, 0.333333, 0.4, 1)),
        (json.dumps([FORECAST, {"id": 1, "name": "Trains.search"}]), (0, 0, 0, 0)),
        (json.dumps([FORECAST, step("two", "Trains.search")]), (0, 0, 0, 0)),
        (json.dumps([FORECAST, step(1, "Trains.search", day=4, to="Bergen"), BOOK]), (1, 1, 1, 1)),
        (
            json.dumps([FORECAST, {"id": 1, "name": "Trains.search", "args": "{'to': 'Oslo', 'day': 4}"}, BOOK]),
            (1, 1, 1, 1),
        ),
        (
            json.dumps([step(1, "Trains.book", train=8), step(0, "Weather.forecast", city="Oslo")]),
            (1, 0.666667, 0.8, 1),
        ),
        (
            json.dumps([step(0, "Trains.book", train=8), step(1, "Weather.forecast", city="Oslo")]),
            (0.5, 0.333333, 0.4, 1),
        ),
        (json.dumps([step(0, "Trains.search", to="Oslo", day=4), FORECAST, BOOK]), (0.666667, 0.666667, 0.666667, 1)),
        (json.dumps([step(0, "Weather.forecast_hourly", city="Oslo"), SEARCH, BOOK]), (1, 1, 1, 1)),
        (
            json.dumps([step(0, "Weather.forecast", place="Bergen"), step(1, "Trains.find", to="Oslo", day=4)]),
            (0.5, 0.333333, 0.4, 1),
        ),
        (json.dumps([step(0, "Forecast", city="Oslo"), step(1, "Search", to="Oslo", day=4), BOOK]), (1, 1, 1, 1)),
        (json.dumps([FORECAST, SEARCH, SEARCH, SEARCH, SEARCH]), (0.4, 0.666667, 0.5, 1)),
        ("Here is [a plan]: " + json.dumps(PLAN), (0, 0, 0, 0)),
        ("Here is a plan: " + json.dumps(PLAN) + " Good luck!", (1, 1, 1, 1)),
        (f"```json\n{json.dumps(PLAN, indent=1)}\n```", (1, 1, 1, 1)),
        (str(PLAN), (1, 1, 1, 1)),
        (str(tuple(PLAN)), (0, 0, 0, 0)),
        (json.dumps(PLAN)[:-1], (0, 0, 0, 0)),
        (PLAN, (1, 1, 1, 1)),
        (json.dumps([FINISH]), STOPS),
        ("[]", (0, 0, 0, 0)),
        ("No.", (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
        (None, (0, 0, 0, 0)),
    ],
    "plan_json without a plan": [(json.dumps(PLAN), (0, 0, 0, 0)), ("[]", (0, 0, 0, 0))],
    "plan_str": [
        (
            "Use Weather.forecast for Oslo\nUse Trains.search to Oslo on day 4\nUse Trains.book for train 8",
            (1, 1, 1, 1),
        ),
        (
            "1. Use Weather.forecast for Oslo. Use Trains.search to Oslo on day 4. Use Trains.book for train 8.",
            (1, 1, 1, 1),
        ),
        ("使用Weather.forecast查询Oslo。使用Trains.search查询。使用Trains.book预订。", (1, 0.333333, 0.5, 1)),
        ("Use Weather.forecast_hourly for Oslo and then Trains.search", (1, 0.333333, 0.5, 1)),
        ("Use Trains.book, not Trains.search", (1, 0.333333, 0.5, 1)),
        ("Use Trains.book\nUse Trains.search\nUse Weather.forecast", (0.333333, 0.333333, 0.333333, 1)),
        ("Use weather.forecast.\nFinishAction", (0, 0, 0, 0)),
        ("", (0, 0, 0, 0)),
        (["Weather.forecast"], STOPS),
    ],
    "reason_str": [
        ("I look at the weather.", (1, 1)),
        ("The weather, I look at.", (1, 1)),
        ("Let me book a train.", (0.845889, 1)),
        ("天气", (0, 1)),
        ("", (0, 1)),
        ("\ud800", STOPS),
        (None, STOPS),
    ],
    "retrieve_str": [
        ("Weather.forecast", (1, 1)),
        ("Use Weather.forecast.", (1, 1)),
        ("Use Weather.forecast, e.g. for Oslo", (0, 1)),
        ("Use Weather.forecast, e.g for Oslo", (0, 1)),
        ("Weather.forecast 2.0", (0, 1)),
        ("Weather.forecast_hourly", (0, 1)),
        ("Weather.forecast, then FinishAction", (0, 1)),
        ("使用Weather.forecast", (0, 1)),
        ("使用 Weather.forecast。", (1, 1)),
        ("Weather forecast", (0, 1)),
        ("", (0, 1)),
        (5, STOPS),
    ],
    "retrieve_str at the end": [
        ("FinishAction", (1, 1)),
        ("FinishAction.", (1, 1)),
        ("FinishAction, not Trains.book", (0, 1)),
        ("I am done.", (0, 1)),
    ],
    "understand_str": [
        ("Oslo", (1, 1)),
        ("'Oslo'", (1, 1)),
        ('"Oslo"', (1, 1)),
        ("'\"Oslo\"'", (1, 1)),
        ("\"'Oslo'\"", (0, 1)),
        ("''Oslo", (1, 1)),
        (" Oslo", (0, 1)),
        ("oslo", (0, 1)),
        ("", (0, 1)),
        (["Oslo"], STOPS),
    ],
    "reason_retrieve_understand_json": [
        (json.dumps(CALL), (1, 1, 0.999995, 1)),
        (str(CALL), (1, 1, 0.999995, 1)),
        (json.dumps(CALL | {"args": {"city": "Oslo", "days": "3", "unit": "C"}}), (1, 1, 0.999995, 1)),
        (json.dumps(CALL | {"args": {"city": "Oslo", "days": 3.0}}), (1, 1, 0.499998, 1)),
        (json.dumps(CALL | {"args": str(CALL["args"])}), (1, 1, 0, 1)),
        (json.dumps(CALL | {"name": ["Weather.forecast"], "thought": 5}), (0, 0, 0.999995, 1)),
        ("The call {below}: " + json.dumps(CALL), (0, 0, 0, 0)),
        ("The call: " + json.dumps(CALL) + "!", (1, 1, 0.999995, 1)),
        ("{'name': 'Weather.forecast', 'args': {'days': true, 'city': 'Oslo'}}", (0, 1, 0.499998, 1)),
        ("{}", (0, 0, 0, 1)),
        ("{1, 2}", (0, 0, 0, 0)),
        (json.dumps([CALL]), (1, 1, 0.999995, 1)),
        (CALL, (1, 1, 0.999995, 1)),
        (json.dumps(CALL | {"thought": "\udc00"}), STOPS),
        ("", (0, 0, 0, 0)),
        (None, (0, 0, 0, 0)),
    ],
    "reason_retrieve_understand_json without arguments": [
        (json.dumps(CALL | {"args": {}}), (1, 1, 1, 1)),
        (json.dumps(CALL | {"args": "none"}), (1, 1, 1, 1)),
        (json.dumps(CALL), (1, 1, 0, 1)),
        ('{"name": "Weather.forecast"}', (0, 1, 1, 1)),
    ],
    "review_str": [
        ("Answer: B", (1, 1)),
        ("B", (1, 1)),
        ("B: Internal error", (0, 0)),
        ("Better not", (1, 1)),
        ("Answer:\n\nB.", (1, 1)),
        ("Answer: b", (0, 0)),
        ("Answer: C", (1, 0)),
        ("The answer: is B", (0, 0)),
        ("答案：B", (0, 0)),
        (": B: A", (1, 1)),
        ("F", (0, 0)),
        ("", (0, 0)),
        (5, STOPS),
    ],
}
"""By kind of question: replies and what T-Eval makes of each; STOPS where it fails on it."""

PLAN_METRICS = ("precision", "recall", "f1_score", "parse_rate")
METRICS = {
    "instruct": ("json_format_metric", "json_args_em_metric"),
    "plan_json": PLAN_METRICS,
    "plan_str": PLAN_METRICS,
    "reason_str": ("thought", "parse_rate"),
    "retrieve_str": ("name", "parse_rate"),
    "understand_str": ("args", "parse_rate"),
    "reason_retrieve_understand_json": ("thought", "name", "args", "parse_rate"),
    "review_str": ("parse_rate", "review_quality"),
}


def form(kind: str) -> Form:
    return Form(kind.partition(" ")[0])


def metrics_of(kind: str) -> tuple[str, ...]:
    in_json = METRICS[form(kind).name]
    return tuple(name.replace("json", "string") for name in in_json) if kind.startswith("instruct in") else in_json


def answered(kind: str, *replies: Any) -> dict[str, dict[str, Any]]:
    """The kind's question once for each reply."""
    return {str(number): QUESTIONS[kind] | {"prediction": reply} for number, reply in enumerate(replies)}


# Scores


@pytest.mark.parametrize(("kind", "reply", "expected"), [(kind, *case) for kind in GOLDEN for case in GOLDEN[kind]])
def test_a_reply_is_worth_what_t_eval_makes_of_it(kind: str, reply: Any, expected: tuple[float, ...]) -> None:
    metrics = score(form(kind), answered(kind, reply), by_letters).metrics
    if expected == STOPS:
        assert metrics == dict.fromkeys(metrics_of(kind), 0)
    else:
        digits = 4 if kind.startswith(("instruct", "review")) else 6
        assert metrics == pytest.approx(dict(zip(metrics_of(kind), expected, strict=True)), abs=0.6 * 10**-digits)


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_file_is_worth_the_mean_of_its_replies(kind: str) -> None:
    expected = [(0,) * len(metrics_of(kind)) if values == STOPS else values for _, values in GOLDEN[kind]]
    scored = score(form(kind), answered(kind, *(reply for reply, _ in GOLDEN[kind])), by_letters)
    assert list(scored.metrics) == list(metrics_of(kind))
    assert list(scored.metrics.values()) == pytest.approx(list(np.mean(expected, axis=0)), abs=1e-4)
    assert list(scored.each) == list(scored.items) == list(map(str, range(len(expected))))


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_missing_prediction_is_worth_nothing(kind: str) -> None:
    scored = score(form(kind), {"a": QUESTIONS[kind]}, by_letters)
    assert scored.metrics == dict.fromkeys(metrics_of(kind), 0)
    assert scored.items == {"a": 0}


def test_instruct_and_review_are_rounded_to_four_decimals_and_the_others_are_not() -> None:
    assert score(Form("review_str"), answered("review_str", "B", "C", "C"), None).metrics["review_quality"] == 0.3333
    replies = ['{"goal": "", "name": "", "args": {}}', "", ""]
    assert score(Form("instruct"), answered("instruct", *replies), None).metrics["json_format_metric"] == 0.3333
    replies = ["Weather.forecast", "x", "y"]
    assert score(Form("retrieve_str"), answered("retrieve_str", *replies), None).metrics["name"] == 1 / 3


def test_instruct_counts_each_way_of_writing_for_itself() -> None:
    questions = {
        "j": answered("instruct", '{"goal": "", "name": "Weather.forecast", "args": {}}')["0"],
        "s": answered("instruct in marks", "nothing")["0"],
    }
    scored = score(Form("instruct"), questions, None)
    assert scored.metrics == {
        "json_format_metric": 1,
        "json_args_em_metric": 0.5,
        "string_format_metric": 0,
        "string_args_em_metric": 0,
    }
    assert scored.items == {"j": 0.75, "s": 0}


def test_an_items_value_is_the_mean_of_what_counts_in_a_dimension() -> None:
    kind = "reason_retrieve_understand_json"
    reply = {"thought": "", "name": "Weather.forecast", "args": {"city": "Oslo"}}
    assert score(Form(kind), answered(kind, reply), by_letters).items["0"] == pytest.approx((0 + 1 + 0.5) / 3, abs=1e-5)
    assert score(Form("plan_json"), answered("plan_json", PLAN[:1]), by_letters).items == {"0": 0.5}


@pytest.mark.parametrize("kind", GOLDEN)
def test_without_embeddings_what_compares_sentences_is_left_out(kind: str) -> None:
    questions = answered(kind, *(reply for reply, _ in GOLDEN[kind]))
    whole, part = score(form(kind), questions, by_letters), score(form(kind), questions, None)
    compared = {"thought", "precision", "recall", "f1_score"}
    assert part.metrics == {metric: value for metric, value in whole.metrics.items() if metric not in compared}
    assert form(kind).needs_embeddings == (part.metrics != whole.metrics)
    assert bool(part.items) == (not kind.startswith(("plan", "reason_str")))


def test_every_distinct_text_is_embedded_once_and_all_at_once() -> None:
    calls = []

    def embed(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return by_letters(texts)

    score(Form("plan_json"), answered("plan_json", PLAN, PLAN[:2], PLAN[::-1]), embed)
    assert len(calls) == 1
    assert len(calls[0]) == len(set(calls[0])) == 6


@pytest.mark.parametrize(
    ("names", "expected"), [("ab", 1), ("aa", 1 / 2), ("aba", 1 / 3), ("aab", 2 / 3), ("ababa", 1 / 5)]
)
def test_right_steps_that_occur_twice_fall_short_by_as_much_each_time(names: str, expected: float) -> None:
    plan = [step(number, name * 9) for number, name in enumerate(names)]
    questions = {"a": QUESTIONS["plan_json"] | {"ground_truth": plan, "prediction": plan}}
    for seed in range(20):
        random = np.random.default_rng(seed)

        def embed(texts: list[str], random: np.random.Generator = random) -> np.ndarray:
            return np.random.default_rng(0).normal(size=(len(texts), 384)) + random.normal(0, 1e-9, (len(texts), 384))

        assert score(Form("plan_json"), questions, embed).items == {"a": pytest.approx(expected)}


texts = st.text() | st.lists(
    st.sampled_from(['{"', '":', "[", "]", "{", "}", "'name'", '"id"', ": 0", "args", ",", "Goal: ", "Name: ", "Args: ",
                     "\n", "Weather.forecast", "B", "```json", "\ud800", "true", "9" * 5000, "("])
).map("".join)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["thought", "name", "args", "id"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", GOLDEN)
@given(replies=st.lists(texts | values, min_size=1, max_size=4))
def test_any_reply_is_worth_something_from_0_to_1(kind: str, replies: list[Any]) -> None:
    scored = score(form(kind), answered(kind, *replies), by_letters)
    found = [
        *scored.metrics.values(),
        *scored.items.values(),
        *(v for each in scored.each.values() for v in each.values()),
    ]
    assert all(0 <= value <= 1 for value in found)


# Replies, cut


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (" Answer: B \n", "Answer: B"),
        ("Answer: B<eoa>\nmore", "Answer: B"),
        ("B<TOKENS_UNUSED_1>", "B"),
        ("B<|im_end|>\n<|user|>", "B"),
        ("B\nuser: and then?", "B"),
        ("B\nusers are many", "B"),
        ("B user", "B user"),
        ("B\nassistant", "B"),
        ("B\nUSER", "B"),
        ("B [INST] x [/INST]", "B"),
        ("B<|user|>", "B"),
        ("```json\n{}\n```", "{}"),
        ("```json{}```\n<|im_end|>", "{}"),
        ("Here: ```json\n{}\n```", "Here: ```json\n{}"),
        ("```python\nx\n```", "python\nx"),
        ("`B`", "B"),
        ("[INST] B", ""),
        ("B\u0d3f\n <|Human|>\u0d46", "B"),
        ("B\n <|Human|>\u0d46more", "B"),
        ("天气<eoa>", "天气"),
    ],
)
def test_a_reply_is_cut_where_the_model_goes_on_for_another(raw: str, expected: str) -> None:
    assert cut_reply(raw) == expected


@given(texts)
def test_cutting_only_takes_away(raw: str) -> None:
    assert cut_reply(raw) in raw


# Files


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("instruct_v2.json", Form("instruct", 2)),
        ("plan_json_v1.json", Form("plan_json", 1)),
        ("plan_str_v2_subset.json", Form("plan_str", 2, is_subset=True)),
        ("reason_retrieve_understand_json_v2_zh.json", Form("reason_retrieve_understand_json", 2, is_zh=True)),
        ("review_str_v2_subset_zh.json", Form("review_str", 2, is_subset=True, is_zh=True)),
        ("reason_str.json", Form("reason_str")),
        ("retrieve_str", Form("retrieve_str")),
    ],
)
def test_a_files_name_says_its_form(name: str, expected: Form) -> None:
    assert form_of(name) == expected


@pytest.mark.parametrize("name", ["plan.json", "plan_json_gpt4.json", "my_plan_json.json", "instruct_v2.jsonl", ""])
def test_any_other_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(FlanliteError) as refused:
        form_of(name)
    assert "review_str" in refused.value.hint


def test_embeddings_are_needed_for_plans_and_reasons_alone() -> None:
    forms = {kind: form(kind) for kind in GOLDEN}
    assert {kind for kind in forms if forms[kind].needs_embeddings} == {
        "plan_json", "plan_json without a plan", "plan_str", "reason_str",
        "reason_retrieve_understand_json", "reason_retrieve_understand_json without arguments",
    }  # fmt: skip
    assert form_of("plan_str_v2_zh.json").embedding_model == "thenlper/gte-large-zh"
    assert form_of("plan_str_v2.json").embedding_model == "sentence-transformers/all-mpnet-base-v2"


def test_turns_come_with_their_roles_and_a_tools_result_is_an_observation() -> None:
    roles = ["system", "user", "assistant", "function", "assistant", "system", "user"]
    prompt = [{"role": role, "content": str(number)} for number, role in enumerate(roles)]
    expected = ["system", "user", "assistant", "observation", "assistant", "observation", "user"]
    assert turns_of({"origin_prompt": prompt}) == [Turn(role, str(n)) for n, role in enumerate(expected)]


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_files_questions_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"{form(kind).name}_v2.json"
    questions = answered(kind, "天气 \ud800", "B")
    write_predictions(file, questions)
    assert file.read_bytes().isascii()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert read_questions(file) == json.loads(json.dumps(questions))


def without(kind: str, *path: str, value: Any = None) -> dict[str, Any]:
    """The kind's question without what lies at the path, or with another value there."""
    question = json.loads(json.dumps(QUESTIONS[kind]))
    *above, last = path
    place = question
    for name in above:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return question


@pytest.mark.parametrize(
    ("kind", "question", "problem"),
    [
        ("plan_json", "text", "question q has no origin_prompt"),
        ("plan_json", without("plan_json", "origin_prompt"), "question q has no origin_prompt"),
        ("plan_json", without("plan_json", "origin_prompt", value="Plan!"), "needs a list as its origin_prompt"),
        ("plan_json", without("plan_json", "origin_prompt", value=[]), "has no turns"),
        ("plan_json", without("plan_json", "origin_prompt", value=[{"role": "user"}]), "has no content"),
        ("plan_json", without("plan_json", "origin_prompt", value=[{"role": "x", "content": ""}]), "unknown role 'x'"),
        ("plan_json", without("plan_json", "ground_truth"), "has no ground_truth"),
        ("plan_json", without("plan_json", "meta", "prompt_type", value="ReWOO"), "the format 'ReWOO', not in json"),
        ("plan_str", without("plan_str", "meta"), "has no meta.API_list"),
        ("plan_str", without("plan_str", "meta", "API_list", value=[5]), "needs a list of names"),
        ("review_str", without("review_str", "ground_truth", "answer"), "has no ground_truth.answer"),
        ("instruct", without("instruct", "meta_data"), "has no meta_data.response_format"),
        ("instruct", without("instruct", "meta_data", "response_format", value="str"), "not in json or string"),
        ("instruct", without("instruct", "template", "args"), "has no template.args"),
        (
            "instruct",
            without("instruct", "ground_truth", "args", value="x"),
            "needs an object as its ground_truth.args",
        ),
        ("instruct", without("instruct in marks", "template", "args_end", value="("), "no regular expression"),
    ],
)
def test_a_broken_question_is_named_with_its_file_and_key(
    tmp_path: Path, kind: str, question: Any, problem: str
) -> None:
    file = tmp_path / f"{kind}_v2.json"
    file.write_text(json.dumps({"whole": QUESTIONS[kind], "q": question}))
    with pytest.raises(FlanliteError) as refused:
        read_questions(file)
    assert refused.value.message.startswith(f"{file}: question q ")
    assert problem in refused.value.message


@pytest.mark.parametrize(("content", "problem"), [(b"{", "is no JSON"), (b"\xff", "is no JSON"), (b"[]", "holds no q")])
def test_a_file_without_questions_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "plan_str_v2.json"
    with pytest.raises(FlanliteError, match="cannot be read"):
        read_questions(file)
    file.write_bytes(content)
    with pytest.raises(FlanliteError, match=problem):
        read_questions(file)


@pytest.mark.parametrize(("name", "count"), [("plan_json_v1", 553), ("plan_str_v1", 553), ("review_str_v1", 487)])
def test_real_files_are_read_and_their_right_answers_are_right(shared_data: Path, name: str, count: int) -> None:
    file = shared_data / "t-eval" / f"{name}.json"
    questions = read_questions(file)
    assert len(questions) == count
    assert all([turn.role for turn in turns_of(question)] == ["system", "user"] for question in questions.values())
    for question in questions.values():
        gold = question["ground_truth"]
        question["prediction"] = f"Answer: {gold['answer']}" if name.startswith("review") else gold
    if name != "plan_str_v1":
        items = score(form_of(file.name), questions, lambda texts: np.eye(len(texts))).items
        # A plan whose steps occur twice can be matched out of order, and is then not whole.
        assert sum(value == 1 for value in items.values()) > 0.95 * count


# Files together

WHOLE = {
    "instruct_v2.json": {
        "json_format_metric": 0.9, "json_args_em_metric": 0.8,
        "string_format_metric": 0.7, "string_args_em_metric": 0.5,
    },
    "plan_json_v2.json": {"precision": 1.0, "recall": 1.0, "f1_score": 0.6, "parse_rate": 1.0},
    "plan_str_v2.json": {"precision": 1.0, "recall": 1.0, "f1_score": 0.3, "parse_rate": 1.0},
    "reason_str_v2.json": {"thought": 0.55, "parse_rate": 1.0},
    "retrieve_str_v2.json": {"name": 0.81, "parse_rate": 1.0},
    "understand_str_v2.json": {"args": 0.72, "parse_rate": 1.0},
    "reason_retrieve_understand_json_v2.json": {"thought": 0.4, "name": 0.65, "args": 0.33, "parse_rate": 1.0},
    "review_str_v2.json": {"parse_rate": 1.0, "review_quality": 0.47},
}  # fmt: skip


def test_dimensions_and_their_mean_are_those_of_t_eval() -> None:
    summary = summarise(WHOLE)
    assert summary.dimensions == pytest.approx(
        {"Instruct": 0.725, "Plan": 0.45, "Reason": 0.475, "Retrieve": 0.73, "Understand": 0.525, "Review": 0.47}
    )
    assert summary.overall == pytest.approx(0.5625)
    assert summary.partial == ()


def test_a_dimension_without_files_is_absent_and_one_with_half_of_them_is_named() -> None:
    summary = summarise({name: WHOLE[name] for name in ("plan_json_v2.json", "review_str_v2.json")})
    assert summary.dimensions == {"Plan": 0.6, "Review": 0.47}
    assert summary.partial == ("Plan",)
    assert summary.overall is None
    assert summarise({}).dimensions == {}


def test_there_is_no_overall_score_where_a_metric_is_missing() -> None:
    summary = summarise(WHOLE | {"reason_str_v2.json": {"parse_rate": 1.0}})
    assert (summary.dimensions["Reason"], summary.partial, summary.overall) == (0.4, ("Reason",), None)


@pytest.mark.parametrize("other", ["plan_json_v1.json", "plan_json_v2_subset.json", "review_str_v2_zh.json"])
def test_files_of_one_form_or_of_two_languages_are_not_summed_up(other: str) -> None:
    with pytest.raises(FlanliteError, match="do not make up one score"):
        summarise({"plan_json_v2.json": {}, other: {}})


def test_scoring_needs_no_torch() -> None:
    code = "import sys, flanlite.scoring.teval; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
