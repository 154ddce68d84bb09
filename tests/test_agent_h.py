"""Agent-H's cases: the same ones for the same rows and seed, and each of the kind that it says."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlite.conversation import ToolCall
from flanlite.scoring.agent_h import Kind, agent_h_cases
from flanlite.scoring.tool_use import Case


def tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": "", "parameters": {"type": "object", "properties": {"of": {"type": "string"}}}}


def row(*turns: str, tools: tuple[str, ...] = ()) -> dict[str, Any]:
    """A row in glaive's form; each turn is written `speaker: text`."""
    messages = [dict(zip(("from", "value"), turn.split(": ", 1), strict=True)) for turn in turns]
    return {"conversations": messages, "tools": json.dumps([tool(name) for name in tools])}


def call(name: str, of: str) -> str:
    return f"function_call: {json.dumps({'name': name, 'arguments': {'of': of}})}"


ROWS = [
    row("human: Hello!", "gpt: Hello.", "human: How deep is the lake?", call("find_depth", "lake"), "observation: 12",
        "gpt: It is 12 m deep.", "human: And the river?", call("find_depth", "river"), "observation: 3", "gpt: 3 m.",
        "human: Thanks.", "gpt: You are welcome.", tools=("find_depth",)),
    row("human: Name a colour.", "gpt: Red.", "human: Which books should I read?", "gpt: Old ones."),
    row("human: Reserve a table.", "gpt: For when?", tools=("findBook", "rateBook")),
    row("human: Tell a joke.", call("tell_joke", ""), "observation: ha", "gpt: Ha."),
]  # fmt: skip


def brief(case: Case) -> tuple[str, list[str], str, ToolCall | str]:
    conversation = case.conversation
    return case.id, [tool.name for tool in conversation.tools], conversation.turns[-1].text, case.gold


def test_a_small_file_gives_these_cases() -> None:
    assert [brief(case) for case in agent_h_cases(ROWS, 2, None)] == [
        ("1.8 tools, needed", ["find_depth"], "And the river?", ToolCall("find_depth", {"of": "river"})),
        ("1.2 tools, not needed", ["find_depth"], "Hello!", "Hello."),
        ("1.4 no tools, needed", [], "How deep is the lake?", ""),
        ("2.4 tools, not needed", ["find_depth"], "Which books should I read?", "Old ones."),
        ("2.4 no tools, not needed", [], "Which books should I read?", "Old ones."),
        ("3.2 tools, not needed", ["findBook", "rateBook"], "Reserve a table.", "For when?"),
    ]


def test_another_seed_takes_other_turns_of_a_row() -> None:
    taken = {case.id for seed in range(20) for case in agent_h_cases(ROWS, seed, None)}
    assert {f"1.{turn} tools, needed" for turn in (4, 8)} < taken
    assert {f"1.{turn} tools, not needed" for turn in (2, 12)} < taken
    assert {f"2.{turn} no tools, not needed" for turn in (2, 4)} < taken


def test_tools_that_share_a_word_with_the_user_are_not_irrelevant() -> None:
    offered = {
        (case.id[0:3], tool.name)
        for seed in range(30)
        for case in agent_h_cases(ROWS, seed, None)
        for tool in case.conversation.tools
        if case.id.startswith("2.")
    }
    assert offered == {("2.2", "findBook"), ("2.2", "rateBook"), ("2.2", "find_depth"), ("2.4", "find_depth")}
    asked = row("human: Find the depth.", "gpt: 4 m.")
    assert [case.kind for case in agent_h_cases([ROWS[0], asked], 1, None)][3:] == ["no tools, not needed"]


def test_a_turn_with_several_calls_or_a_call_of_no_tool_is_no_candidate() -> None:
    several = row("human: Both depths.", call("find_depth", "a"), call("find_depth", "b"), tools=("find_depth",))
    unknown = row("human: The height.", call("find_height", "a"), tools=("find_depth",))
    assert agent_h_cases([several, unknown], 1, None) == []


def test_a_turn_without_loss_is_no_candidate() -> None:
    untrained = row("human: Hi.", "gpt: Hi.", "human: Bye.", "gpt: Bye.")
    untrained["conversations"][1]["loss"] = False
    assert [case.gold for case in agent_h_cases([untrained], 1, None)] == ["Bye."]


def test_rows_of_another_form_are_passed_over_but_numbered() -> None:
    broken: list[Any] = [{"text": "x"}, 7, {"conversations": [{"from": "nobody", "value": "x"}]}]
    assert [case.id for case in agent_h_cases([*broken, ROWS[2]], 1, None)] == ["4.2 tools, not needed"]


def test_one_question_is_asked_once_however_many_rows_hold_it() -> None:
    other_answer = row("human: Reserve a table.", "gpt: Where?", tools=("findBook", "rateBook"))
    once = agent_h_cases(ROWS, 1, None)
    assert agent_h_cases([*ROWS, ROWS[2], other_answer], 1, None) == once


def test_the_order_of_keys_makes_no_difference() -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, list):
            return [turned(item) for item in value]
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    assert agent_h_cases(turned(ROWS), 1, None) == agent_h_cases(ROWS, 1, None)


@given(st.integers(), st.integers(0, 8))
def test_a_count_takes_from_every_kind_and_a_larger_one_only_adds(seed: int, count: int) -> None:
    everything = agent_h_cases(ROWS, seed, None)
    taken, more = agent_h_cases(ROWS, seed, count), agent_h_cases(ROWS, seed, count + 1)
    assert len(taken) == min(count, len(everything))
    assert [case for case in everything if case in taken] == taken
    assert [case for case in more if case in taken] == taken
    assert len({case.kind for case in taken}) == min(count, 4)


@given(st.integers())
def test_every_case_is_of_its_kind(seed: int) -> None:
    check(agent_h_cases(ROWS, seed, None))


def check(cases: list[Case]) -> None:
    rows_and_kinds = [(case.id.partition(".")[0], case.kind) for case in cases]
    assert len(set(rows_and_kinds)) == len(cases)
    for case in cases:
        offered = {tool.name for tool in case.conversation.tools}
        assert case.kind in get_args(Kind)
        assert case.conversation.turns[-1].role == "user"
        assert bool(offered) == case.kind.startswith("tools")
        assert isinstance(case.gold, ToolCall) == (case.kind == "tools, needed")
        assert (case.gold == "") == (case.kind == "no tools, needed")
        assert not isinstance(case.gold, ToolCall) or case.gold.name in offered
        assert offered or not any(turn.calls for turn in case.conversation.turns)


@pytest.fixture(scope="module")
def glaive(shared_data: Path) -> Iterator[list[dict[str, Any]]]:
    return json.loads((shared_data / "glaive" / "glaive_toolcall_en_demo.json").read_text("utf-8"))


def test_the_real_rows_give_these_cases(glaive) -> None:
    cases = agent_h_cases(glaive, 1, None)
    check(cases)
    assert Counter(case.kind for case in cases) == {
        "tools, needed": 138, "tools, not needed": 222, "no tools, needed": 108, "no tools, not needed": 104,
    }  # fmt: skip
    written = json.dumps([asdict(case) for case in cases])
    assert sha256(written.encode()).hexdigest()[:16] == "ea0767bed2f7866c"


def test_no_word_of_an_irrelevant_tools_name_is_said_by_the_user(glaive) -> None:
    for case in agent_h_cases(glaive, 1, None):
        if not json.loads(glaive[int(case.id.partition(".")[0]) - 1]["tools"]):
            said = " ".join(turn.text.lower() for turn in case.conversation.turns if turn.role == "user")
            words = [word for tool in case.conversation.tools for word in tool.name.split("_")]
            assert not [word for word in words if re.search(rf"\b{word}s?\b", said)]
