"""What replies are judged by: calls that are right, missing, unasked or invented, and the wording of plain replies."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.prompt.toolcalls import write_out
from flanlite.scoring.agent_h import agent_h_cases
from flanlite.scoring.format_level import h_score, holds_general_phrase, holds_react_mark, phrases
from flanlite.scoring.sample import sample_cases
from flanlite.scoring.tool_use import Case, Share, Verdict, by_kind, judge, judge_all, shares, values
from flanlite.tiny import cases as held_out
from flanlite.tiny.score import score_reply

PROPERTIES = {"of": {"type": "string"}, "deep": {"type": "boolean"}, "counts": {"type": "array"}}
FIND = Tool("find", "Find it.", {"type": "object", "properties": PROPERTIES})
GOLD = ToolCall("find", {"of": "lake", "deep": True, "counts": [1, {"a": 2.5}]})
ASKED = (Turn("user", "Find the lake."),)

CALL_DUE = Case("1", "call due", Conversation(ASKED, (FIND,)), GOLD)
PLAIN_DUE = Case("2", "plain due", Conversation(ASKED, (FIND,)), "No.")
NO_TOOLS = Case("3", "no tools", Conversation(ASKED), "")
CASES = (CALL_DUE, PLAIN_DUE, NO_TOOLS)


def write(name: str, arguments: object) -> str:
    return f"Thought: x\nAction: {name}\nAction Input: {json.dumps(arguments)}"


def marked(verdict: Verdict) -> set[str]:
    return {name for name in verdict.__slots__ if getattr(verdict, name) is True}


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (write("find", GOLD.arguments), {"right_tool", "exact"}),
        (write("find", {"counts": [1.0, {"a": 2.5}], "deep": True, "of": "lake"}), {"right_tool", "exact"}),
        (write("find", {"counts": [1, {"a": 2.5}], "deep": 1, "of": "lake"}), {"right_tool"}),
        (write("find", {"counts": [True, {"a": 2.5}], "deep": True, "of": "lake"}), {"right_tool"}),
        (write("find", {"counts": [1], "deep": True, "of": "lake"}), {"right_tool"}),
        (write("find", {"of": "lake"}), {"right_tool"}),
        (write("find", GOLD.arguments).replace("Action:", "**Action:**"), {"right_tool", "exact"}),
        ('Action: find\nAction Input: {"of": ', {"right_tool"}),
        (write("find", GOLD.arguments) + "\n" + write("find", {}), set()),
        (write("fly", {}), {"invented"}),
        (write("find", GOLD.arguments) + "\n" + write("fly", {}), {"invented"}),
        ("Action:", set()),
        ("It is behind the hill.", {"missing"}),
        ("", {"missing"}),
    ],
)
def test_a_reply_is_judged_where_a_call_is_due(reply: str, found: set[str]) -> None:
    assert marked(judge(CALL_DUE, reply, "json")) == found


@pytest.mark.parametrize(
    ("reply", "with_tools", "without_tools"),
    [
        ("I cannot.", set(), set()),
        ("Thought: I cannot.\nFinal Answer: No.", {"react"}, {"react"}),
        ("I will use the map.", {"general"}, {"general"}),
        (write("find", {}), {"unasked", "react"}, {"unasked", "react", "invented"}),
        (write("fly", {}), {"unasked", "react", "invented"}, {"unasked", "react", "invented"}),
        ("Action:", {"unasked", "react"}, {"unasked", "react", "invented"}),
        ("**Action:** fly", {"unasked", "react", "invented"}, {"unasked", "react", "invented"}),
        ("Action: None\nFinal Answer: No.", {"react"}, {"react"}),
        ("Use this:\n```python\nplot(size=3)\n```", set(), set()),
        ('```json\n{"name": "fly", "arguments": {}}\n```', {"unasked", "invented"}, {"unasked", "invented"}),
    ],
)
def test_a_reply_is_judged_where_a_plain_one_is_due(reply: str, with_tools: set[str], without_tools: set[str]) -> None:
    assert marked(judge(PLAIN_DUE, reply, "json")) == with_tools
    assert marked(judge(NO_TOOLS, reply, "json")) == without_tools


def test_marks_that_the_prompt_itself_teaches_are_not_held_against_a_reply() -> None:
    reply = "Thought: no tool is needed\nFinal Answer: Hello."
    assert judge(PLAIN_DUE, reply, "react").react is None
    assert judge(PLAIN_DUE, reply, "openai").react
    assert judge(NO_TOOLS, reply, "react").react


def test_the_papers_two_shares_give_its_printed_score() -> None:
    assert h_score(0.099, 0.119) == pytest.approx(0.891)
    assert (h_score(0, 0), h_score(1, 1)) == (1, 0)


def test_shares_are_over_the_cases_that_ask_and_come_with_their_number() -> None:
    replies = [write("find", {}), "I will use it.", write("fly", {})]
    verdicts = judge_all(CASES, replies, "json")
    assert shares(verdicts) == {
        "missing": Share(0, 1), "right_tool": Share(1, 1), "exact": Share(0, 1), "unasked": Share(0.5, 2),
        "invented": Share(pytest.approx(1 / 3), 3), "react": Share(0.5, 2), "general": Share(0.5, 2),
        "h_score": Share(0.5, 2),
    }  # fmt: skip
    assert values(verdicts, "unasked") == {"2": 0, "3": 1}
    assert list(by_kind(verdicts)) == ["call due", "plain due", "no tools"]
    assert shares(by_kind(verdicts)["call due"])["right_tool"] == Share(1, 1)
    assert shares({}) == {}


ANY_REPLY = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(["Thought:", "Action:", "Action Input:", "find", "fly", "\n", '{"of": "', "}", "I will use",
                         "```", "```json\n", '"name":', "<tool_call>", "Final Answer:", "[", " "])
    ).map("".join),
)  # fmt: skip


@given(st.lists(ANY_REPLY, min_size=3, max_size=3), st.sampled_from(["react", "json", "openai"]))
def test_any_text_is_a_reply_and_every_share_is_a_fraction(replies, style) -> None:
    verdicts = judge_all(CASES, replies, style)
    found = shares(verdicts)
    assert all(0 <= share.value <= 1 and 0 < share.n <= 3 for share in found.values())
    if "h_score" in found:
        assert found["h_score"].value == pytest.approx(h_score(found["react"].value, found["general"].value))


@given(st.permutations(range(3)), st.lists(ANY_REPLY, min_size=3, max_size=3))
def test_the_order_of_the_cases_makes_no_difference(order: list[int], replies: list[str]) -> None:
    turned = judge_all([CASES[n] for n in order], [replies[n] for n in order], "json")
    verdicts = judge_all(CASES, replies, "json")
    assert turned == verdicts
    assert shares(turned) == shares(verdicts)


@given(ANY_REPLY)
def test_a_reply_is_exact_only_with_the_right_tool_and_right_only_without_invention(reply: str) -> None:
    verdict = judge(CALL_DUE, reply, "json")
    assert verdict.right_tool or not verdict.exact
    assert not (verdict.right_tool and (verdict.invented or verdict.missing))
    assert judge(NO_TOOLS, reply, "json").invented == judge(NO_TOOLS, reply, "json").unasked


@pytest.mark.parametrize(
    "text",
    ["Thought: x", "well\n  Action: x", "**Thought:** x", "**Action**: x", "### Observation: x", "ACTION INPUT: {}",
     "thought : x"],
)  # fmt: skip
def test_a_mark_counts_at_the_beginning_of_a_line(text: str) -> None:
    assert holds_react_mark(text)


@pytest.mark.parametrize(
    "text",
    ["Food for thought: x", "A call to Action: x", "Thoughts: x", "Thought is free.", "My Thought:", "Final Answer: 4",
     "- Action: a kind of film", "Action film: x", ""],
)  # fmt: skip
def test_marks_elsewhere_are_words(text: str) -> None:
    assert not holds_react_mark(text)


@pytest.mark.parametrize(
    "text", ["First, I will use it.", "i WILL\nuse it", "I’ll call it", "so let me call", *phrases()["general_phrases"]]
)
def test_talk_of_calling_counts_anywhere(text: str) -> None:
    assert holds_general_phrase(text)


@pytest.mark.parametrize(
    "text",
    ["I need to know more.", "We can use a map.", "You should call her.", "I will useful", "Outlet me use", "I will.",
     "I should go.", "I used to call", "Hawaii will use it", ""],
)  # fmt: skip
def test_ordinary_speech_is_no_talk_of_calling(text: str) -> None:
    assert not holds_general_phrase(text)


def gold_reply(case: Case) -> str:
    if isinstance(case.gold, str):
        return case.gold or "I cannot do that."
    return write_out(Conversation((Turn("assistant", "", (case.gold,)),)), "json")[0].text


def test_who_replies_as_the_real_data_does_makes_no_mistake(shared_data: Path) -> None:
    rows = json.loads((shared_data / "glaive" / "glaive_toolcall_en_demo.json").read_text("utf-8"))
    cases = agent_h_cases(rows, 1, None)
    found = shares(judge_all(cases, map(gold_reply, cases), "json"))
    assert {measure: share.value for measure, share in found.items()} == {
        "missing": 0, "right_tool": 1, "exact": 1, "unasked": 0, "invented": 0, "react": 0, "general": 0, "h_score": 1,
    }  # fmt: skip


def test_sample_cases_are_asked_with_the_very_text_of_the_held_out_ones() -> None:
    found = sample_cases(3, 24)
    assert len({case.id for case in found}) == len(found) == 96
    for case, source in zip(found, held_out.cases(3, 24), strict=True):
        assert tuple(write_out(case.conversation, "react")) == source.turns
        assert case.kind == source.kind
        assert case.gold == ("" if source.call is None else ToolCall(source.call, source.arguments))


def test_sample_cases_are_judged_as_the_base_itself_was() -> None:
    for case, source in zip(sample_cases(1, 12), held_out.cases(1, 12), strict=True):
        own = write(source.call or "calculate", source.arguments or {})
        for reply in (own, write("calculate", {}), write("fly", {}), "Hello.", "Action:", f"{own}\n{own}"):
            verdict, score = judge(case, reply, "react"), score_reply(source, reply)
            assert bool(verdict.right_tool) == score.right_tool
            assert bool(verdict.exact) == score.exact
            assert bool(verdict.invented or verdict.unasked) == score.invented
