"""Replies in every form that agent data teaches: what is a call, what an answer, and what the model is told."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.prompt.marks import LINES, TAGS
from flanlite.prompt.replies import DECLINED, FENCES, KEYS, Reply, before_made_up_result, parse_reply
from flanlite.prompt.toolcalls import as_text


def tool(name: str, /, **parameters: str) -> Tool:
    """A tool with these parameters and types; those whose type ends in ? are not required."""
    properties = {key: {"type": kind.rstrip("?")} for key, kind in parameters.items()}
    required = [key for key, kind in parameters.items() if not kind.endswith("?")]
    return Tool(name, "", {"type": "object", "properties": properties, "required": required})


WEATHER = tool("get_weather", city="string", days="integer?")
ROUTE = tool("route", start="string", end="string", by_car="boolean?")
SEARCH = tool("search", query="string")
CLOCK = Tool("get_time")
TOOLS = (WEATHER, ROUTE, SEARCH, CLOCK)


def call(name: str, /, *raw: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, raw[0] if raw else arguments)


# Marks


def test_a_react_reply_is_read() -> None:
    reply = parse_reply('Thought: It asks for Paris.\nAction: get_weather\nAction Input: {"city": "Paris"}')
    assert reply == Reply("It asks for Paris.", (call("get_weather", city="Paris"),))


def test_several_actions_are_several_calls() -> None:
    reply = parse_reply('Action: f\nAction Input: {\n  "a": [1,\n 2]\n}\nAction: g\nAction Input: {}\nAction: h')
    assert reply.calls == (call("f", a=[1, 2]), call("g"), call("h"))


def test_arguments_may_hold_lines_that_look_like_marks() -> None:
    reply = parse_reply('Action: write\nAction Input: {"text": "a\nAction: b\n```\nObservation: c"}\nAction: g')
    assert reply.calls == (call("write", text="a\nAction: b\n```\nObservation: c"), call("g"))


def test_a_result_that_the_model_makes_up_is_ignored() -> None:
    text = "Action: f\nAction Input: {}\nObservation: 5\nThought: Good.\nAction: g\nAction Input: {}"
    assert parse_reply(text) == Reply(calls=(call("f"),))
    assert before_made_up_result(text, ()) == "Action: f\nAction Input: {}\n"


def test_what_a_tool_on_offer_would_say_is_made_up_however_it_is_called() -> None:
    called = '```python\nget_weather("Oslo")\n```\n'
    assert before_made_up_result(f"{called}Observation: Rain.\nFinal Answer: Rain.", TOOLS) == called


@pytest.mark.parametrize("text", ["Observation: 5", "I see.\nObservation: 5\nAction: f"])
def test_an_observation_before_any_call_is_text(text: str) -> None:
    assert before_made_up_result(text, ()) == text
    assert parse_reply(text).calls == ((call("f"),) if "Action" in text else ())


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("Action: look[Pam Veasey, nationality]", call("look", "Pam Veasey, nationality")),
        ("Action:\nlook[red shoes]", call("look", "red shoes")),
        ("Action: click[Size [EU]: 42]", call("click", "Size [EU]: 42")),
        ("Action: look[red\nshoes]\n", call("look", "red\nshoes")),
        ("Action: look[shoes]\nI wait for the result.", call("look", "shoes")),
        ("Action: get_relations(Barack Obama)", call("get_relations", "Barack Obama")),
        ("Action: get_neighbors(#0, people.person.parents)", call("get_neighbors", "#0, people.person.parents")),
        ('Action: look(place="Oslo", days=3)', call("look", place="Oslo", days=3)),
        ("Action: look()", call("look")),
        ("Action: `look`", call("look")),
        (" ACTION: go to cabinet 1", call("go to cabinet 1")),
        ("Answer: F.\nAction: TYPE\nValue: 12 22", call("TYPE", element="F", value="12 22")),
        ("Answer: B.\nAction: CLICK", call("CLICK", element="B")),
        ("Act: bash\n\n```bash\nls -l |\n  wc\n```", call("bash", command="ls -l |\n  wc")),
        ("Action: Operation\n```sql\nSELECT 1;\n```", call("Operation", sql="SELECT 1;")),
        ("Action: run\n```python\nprint(1)\n```", call("run", code="print(1)")),
        ('Action: f\n```json\n{"a": 1}\n```', call("f", a=1)),
        ('Action: f\nAction Input:\n```json\n{"a": 1}\n```\n', call("f", a=1)),
        ('Action: f\nAction Input: ```json\n{"a": 1}\n```\nObservation: 1', call("f", a=1)),
        ('Action:\n```\n{"action": "f", "action_input": {"a": 1}}\n```', call("f", a=1)),
        ("Action: Call the function f.\nAction: f\nAction Input: {}", call("f")),
    ],
)
def test_an_action_is_read_in_the_ways_that_data_sets_write_it(action: str, expected: ToolCall) -> None:
    assert parse_reply(f"Thought: I try.\n{action}").calls == (expected,)
    assert not parse_reply(f"Thought: I try.\n{action}").problems


@pytest.mark.parametrize("reply", [
    '**Thought:** I try.\n**Action:** look\n**Action Input:** {"place": "Oslo"}',
    '**Thought**: I try.\n**Action**: `look`\n**Action Input**: {"place": "Oslo"}\n\n**Observation**: Rain.',
    '### Thought: I try.\n### Action: look\n### Action Input: {"place": "Oslo"}',
    '__Thought:__ I try.\n**Action: look**\n*Action Input:* {"place": "Oslo"}',
])  # fmt: skip
def test_marks_may_be_in_bold_or_headings(reply: str) -> None:
    assert parse_reply(reply) == Reply("I try.", (call("look", place="Oslo"),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thought: x\nAction: None\nFinal Answer: Paris", Reply("x", answer="Paris")),
        ("Action: N/A\nAction Input: None\nFinal Answer: Hi.", Reply("Action: N/A\nAction Input: None", answer="Hi.")),
        ("Action: no tool needed", Reply(answer="Action: no tool needed")),
        ("Action: None needed.\n\nParis.", Reply(answer="Paris.")),
        ("Thought: x\nAction: None needed.\nI say Paris.", Reply("x", answer="I say Paris.")),
        ("Thought: x\nAction: None\nAction Input: None\nParis.", Reply("x", answer="Paris.")),
        ("Thought: x\nAction: None\n```python\na\n```", Reply("x", answer="```python\na\n```")),
        ("I x.\nAction: No one came.\nI y.", Reply(answer="I x.\nAction: No one came.\nI y.")),
        ('{"action": "None", "action_input": ""}', Reply(answer='{"action": "None", "action_input": ""}')),
        ("Action: note\nAction Input: {}", Reply(calls=(call("note"),))),
        ("Action: no_op", Reply(calls=(call("no_op"),))),
        ("Action: no-reply", Reply(calls=(call("no-reply"),))),
        ('Action: no\nAction Input: {"a": 1}', Reply(calls=(call("no", a=1),))),
    ],
)
def test_an_action_that_is_none_is_no_call(text: str, expected: Reply) -> None:
    assert parse_reply(text) == expected


def test_a_tool_on_offer_may_be_named_none() -> None:
    assert parse_reply("Action: None", (Tool("None"),)).calls == (call("None"),)


def test_a_reply_in_a_fence_of_its_own_is_read() -> None:
    assert parse_reply("```\nThought: x\nAction: f\nAction Input: {}\n```") == Reply("x", (call("f"),))


@pytest.mark.parametrize("mark", ["Thought:", "THOUGHT:", "Think:", "Thought:\n", "thought :"])
def test_the_mark_of_a_thought_is_no_part_of_it(mark: str) -> None:
    assert parse_reply(f"{mark} I look.\n\nAct: look()").thought == "I look."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thought: None is for that.\nFinal Answer: I cannot.", Reply("None is for that.", answer="I cannot.")),
        ("Thought: x\nFinal Answer: Steps:\nAction: stir", Reply("x", answer="Steps:\nAction: stir")),
        ("**Thought:** x\n**Final Answer:** **Yes**", Reply("x", answer="**Yes**")),
        ("**Final Answer: 4**\nIt is **even**", Reply(answer="4\nIt is **even**")),
        ("Thought: x\nAction: finish[Yes]", Reply("x", answer="Yes")),
        ('Thought: x\nAction: Finish["The Wizard"]\nObservation: Over.', Reply("x", answer="The Wizard")),
        ("Think: x\n\nAct: answer(220)", Reply("x", answer="220")),
        ("Think: All done.\n\nAct: finish", Reply(answer="All done.")),
        ('x\nAction: Answer\nFinal Answer: ["60900"]', Reply("x", answer='["60900"]')),
        (
            'Action: Finish\nAction Input: {"return_type": "give_answer", "final_answer": "It is 5."}',
            Reply(answer="It is 5."),
        ),
        ("Hello! How are you?", Reply(answer="Hello! How are you?")),
        ("Thought: Hello!", Reply(answer="Hello!")),
        ("Answer: F", Reply(answer="Answer: F")),
        ("Write <tool_call> before a call.", Reply(answer="Write <tool_call> before a call.")),
        ("", Reply(answer="")),
    ],
)
def test_an_answer_is_read(text: str, expected: Reply) -> None:
    assert parse_reply(text) == expected


def test_a_tool_on_offer_is_called_whatever_its_name() -> None:
    offered = (tool("finish", answer="string"), tool("Answer", text="string"))
    assert parse_reply("Act: finish[Yes]", offered).calls == (call("finish", answer="Yes"),)
    assert parse_reply('{"name": "Answer", "arguments": {"text": "5"}}', offered).calls == (call("Answer", text="5"),)


def test_a_finish_behind_calls_leaves_the_calls() -> None:
    assert parse_reply("Action: look[a]\nAction: finish[b]\nAction: c").calls == (call("look", "a"),)


# JSON


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Thought": "t", "Action": "f", "Action Input": {"a": 1}}, Reply("t", (call("f", a=1),))),
        ({"InnerThought": "t", "API": "f", "Parameters": '{"a": 1}'}, Reply("t", (call("f", a=1),))),
        ({"cot": "t", "Command": "f", "args": "{'a': 1}"}, Reply("t", (call("f", a=1),))),
        ({"tool_name": "f", "tool-input": None}, Reply(calls=(call("f"),))),
        ({"action": "f", "action_input": "two words"}, Reply(calls=(call("f", "two words"),))),
        ({"action": "Final Answer", "action_input": "It is 5."}, Reply(answer="It is 5.")),
        ([{"name": "f", "arguments": {}}, {"name": "g", "args": {"a": 1}}], Reply(calls=(call("f"), call("g", a=1)))),
        (
            {"content": "t", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            Reply("t", (call("f"),)),
        ),
        (
            {"cot": "t", "tool": "FinalAction", "input": {"return_type": "give_answer", "final_answer": "5"}},
            Reply("t", answer="5"),
        ),
        ({"api": "FinishAction", "args": {"return_type": "give_up", "reason": "no data"}}, Reply(answer="no data")),
        ({"cot": "No luck.", "api": "Finish", "args": {"return_type": "give_up"}}, Reply(answer="No luck.")),
    ],
)
def test_json_is_read_under_any_of_its_key_names(value: Any, expected: Reply) -> None:
    assert parse_reply(json.dumps(value)) == expected
    assert parse_reply(f"```json\n{json.dumps(value, indent=2)}\n```") == expected


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "f", "arguments": {"a": "it\'s"}}\n</tool_call>',
        '<functioncall> {"name": "f", "arguments": \'{"a": "it\'s"}\'} <|endoftext|>',
        '[TOOL_CALLS] [{"name": "f", "arguments": {"a": "it\'s"}}]</s>',
        '{"name": "f", "arguments": {"a": "it\'s"}}\nObservation: 5',
        '{"name": "f", "arguments": {"a": "it\'s",},}',
        "```json\n{'name': 'f', 'arguments': {'a': \"it's\"}}```",
    ],
)
def test_calls_in_tags_and_misspelled_json_are_read(text: str) -> None:
    assert parse_reply(text) == Reply(calls=(call("f", a="it's"),))


def test_several_tags_are_several_calls_behind_one_thought() -> None:
    block = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parse_reply(f"I do. {block}\n{block}") == Reply("I do.", (call("f"), call("f")))


# Code


@pytest.mark.parametrize(
    ("fence", "expected"),
    [
        ('python\napi.find(n=3, deep=[{"a": None}, -1])', call("api.find", n=3, deep=[{"a": None}, -1])),
        ("python\nget_weather('Oslo', 3)", call("get_weather", city="Oslo", days=3)),
        ("py\nget_time()", call("get_time")),
        ("yaml\nname: api.find\nparameters:\n  place: Oslo\n  n: 3", call("api.find", place="Oslo", n=3)),
        ("yaml\nAPI: f\nArgs:\n  day: 2024-03-15\n  at: 12:30", call("f", day="2024-03-15", at="12:30")),
        ("yml\nAPI: f\nArgs: {ok: no, is: true, zip: '07'}", call("f", ok="no", **{"is": True}, zip="07")),
        ("bash\n# Look.\napi.find --a-key 'two words' \\\n  --n=3", call("api.find", **{"a-key": "two words"}, n=3)),
        ("bash\nroute --start 5 --end Rome --by-car true", call("route", start="5", end="Rome", by_car=True)),
        ("bash\nget_time", call("get_time")),
        ('\n{"name": "f", "arguments": {}}', call("f")),
        ('json\n{"name": "get_time"}', call("get_time")),
    ],
)  # fmt: skip
def test_a_fence_that_is_a_call_is_read(fence: str, expected: ToolCall) -> None:
    assert parse_reply(f"I need that.\n\n```{fence}\n```\n", TOOLS) == Reply("I need that.", (expected,))


def test_a_fence_may_hold_several_calls_and_a_reply_several_fences() -> None:
    text = "```python\nf(a=1)\ng(b=2)\n```\nand\n```bash\nh --c 3\n```"
    assert parse_reply(text).calls == (call("f", a=1), call("g", b=2), call("h", c=3))


@pytest.mark.parametrize(
    "fence",
    [
        "python\nprint('x')",
        "python\nimport os\nrun(a=1)",
        "python\nx = f(a=1)",
        "python\nf(a=b)",
        "python\nf()",
        "bash\npip install x",
        "bash\nls",
        "bash\ngit commit --message x",
        'json\n{"port": 80}',
        'json\n{"name": "Ada", "born": 1815}',
        'json\n[{"name": "f", "arguments": {}}, 5]',
        "yaml\nname: CI\non: push",
        "yaml\naction:\n- service: light.on",
        "yaml\nname: f\nargs: &a {}\nmore: *a",
        "sql\nSELECT 1",
        "\nAction",
    ],
)
def test_a_fence_that_holds_no_call_is_part_of_the_answer(fence: str) -> None:
    text = f"Here it is:\n```{fence}\n```\nand that is all."
    assert parse_reply(text) == Reply(answer=text)


@pytest.mark.parametrize(
    "fence",
    [
        "python\nplt.figure(figsize=(10, 6))",
        "bash\npytest --cov mypkg",
        "yaml\nname: web\nargs: [--port, '80']",
        "\nplt.show(block=True)",
    ],
)
def test_code_that_calls_no_tool_on_offer_is_an_example_where_the_offer_is_known(fence: str) -> None:
    text = f"Use this:\n```{fence}\n```"
    assert parse_reply(text, TOOLS).calls
    assert parse_reply(text, TOOLS, is_whole_offer=True) == Reply(answer=text)
    assert parse_reply(text, is_whole_offer=True) == Reply(answer=text)


@pytest.mark.parametrize(
    "text",
    [
        "**Task:** I had to mend it.\n\n**Action:** I held meetings and cut the budget.\n\n**Result:** Sales rose.",
        "### Action: Review your contracts\nCancel some.\n### Action: Call the bank",
        "Do this:\n* **Action:** Call\n* **Observation:** Note what they say.",
        "**Action:** I wrote this:\n```python\nprint(1)\n```",
    ],
)
def test_words_behind_an_action_are_an_answer_where_the_offer_is_known(text: str) -> None:
    assert parse_reply(text, TOOLS, is_whole_offer=True) == Reply(answer=text)
    assert parse_reply(text, is_whole_offer=True) == Reply(answer=text)
    assert before_made_up_result(text, TOOLS) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('**Action:** search\n**Action Input:** {"query": "a"}', call("search", query="a")),
        ("**Action:** fly", call("fly")),
        ("**Action:** Get time", call("Get time")),
        ('Action: call the bank\nAction Input: {"a": 1}', call("call the bank", a=1)),
    ],
)
def test_an_action_with_a_name_or_an_input_is_a_call_where_the_offer_is_known(text: str, expected: ToolCall) -> None:
    assert parse_reply(text, TOOLS, is_whole_offer=True).calls == (expected,)


@pytest.mark.parametrize("fence", ['json\n{"name": "f", "arguments": {}}', "tool_code\nf(a=1)"])
def test_a_call_in_a_form_made_for_calls_is_one_whatever_is_on_offer(fence: str) -> None:
    assert [call.name for call in parse_reply(f"```{fence}\n```", is_whole_offer=True).calls] == ["f"]


# Arguments by position


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Action: search[who, and when?]", call("search", query="who, and when?")),
        ('Action: search("who")', call("search", query="who")),
        ("Action: search\nAction Input: 1984", call("search", query="1984")),
        ("Action: search[2.50]", call("search", query="2.50")),
        ("Action: search[1_000]", call("search", query="1_000")),
        ("Action: search[None]", call("search", query="None")),
        ("Action: route(Oslo, Rome)", call("route", start="Oslo", end="Rome")),
        ('Action: route("Oslo", "Rome", by_car=True)', call("route", start="Oslo", end="Rome", by_car=True)),
        ("Action: route(Oslo, Rome, true)", call("route", start="Oslo", end="Rome", by_car=True)),
        ("Action: get_time\nAction Input: None", call("get_time")),
        ("Action: get_weather\nAction Input: None", call("get_weather")),
        ("Action: get_weather(null)", call("get_weather")),
        ("Action: get_weather\nAction Input: city=Oslo", call("get_weather", city="Oslo")),
        (
            "Action: get_weather\nAction Input: City: Oslo, Norway, days: 3",
            call("get_weather", city="Oslo, Norway", days=3),
        ),
        ("Action: get_weather\nAction Input: city: \"Oslo\", days: '3'", call("get_weather", city="Oslo", days=3)),
        ("Action: search\nAction Input: what: a query", call("search", query="what: a query")),
        ('Action: search\nAction Input: "{\\"query\\": \\"who\\"}"', call("search", query="who")),
        ('{"action": "route", "args": ["Oslo", 7]}', call("route", start="Oslo", end="7")),
        ("Act: search\n```\nSELECT 1\n```", call("search", query="SELECT 1")),
    ],
)
def test_a_tool_on_offer_names_what_is_given_by_position(text: str, expected: ToolCall) -> None:
    assert parse_reply(text, TOOLS) == Reply(calls=(expected,))


def test_more_values_than_the_tool_has_parameters_are_a_problem() -> None:
    reply = parse_reply("Action: route(a, b, c, d)", TOOLS)
    assert reply.calls == (call("route", "a, b, c, d"),)
    assert reply.problems == (
        "The arguments of route cannot be read (4 values for 3 parameters): "
        'write them as a JSON object such as {"start": "...", "end": "...", "by_car": "..."}.',
    )


# Malformed calls


@pytest.mark.parametrize(
    ("text", "raw", "reason"),
    [
        ("Action: f\nAction Input: {city: Paris", "{city: Paris", "Expecting property name"),
        ('Action: f\nAction Input: {"a": 1\nObservation: 5', '{"a": 1', "Expecting ',' delimiter"),
        ('{"thought": "t", "name": "f", "arguments": {"a": "b', '{"a": "b', "Unterminated string"),
        ('```json\n{"name": "f", "arguments": {"a": 1\n```', '{"a": 1', "Expecting ',' delimiter"),
        ('<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>', '{"a": }}</tool_call>', "Expecting value"),
        ('{"name": "f", "arguments": "Rome"}', "Rome", "this is no JSON object"),
        ('{"name": "f", "arguments": "[1]"}', "[1]", "this is no JSON object"),
    ],
)
def test_arguments_that_cannot_be_read_stay_text_and_the_model_is_told_why(text: str, raw: str, reason: str) -> None:
    reply = parse_reply(text)
    assert reply.calls == (call("f", raw),)
    (problem,) = reply.problems
    assert problem.startswith(f"The arguments of f cannot be read ({reason}")
    assert problem.endswith('write them as a JSON object such as {"parameter": "value"}.')


def test_code_that_tries_to_call_a_tool_on_offer_is_a_malformed_call() -> None:
    reply = parse_reply("```python\nget_weather(city=here)\n```", TOOLS)
    assert reply.calls == (call("get_weather", "get_weather(city=here)"),)
    assert '{"city": "...", "days": "..."}' in reply.problems[0]


def test_a_broken_call_behind_a_whole_one_is_not_lost() -> None:
    reply = parse_reply('```json\n{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {"a"\n```')
    assert reply.calls == (call("f"), call("g", '{"a"'))
    assert len(reply.problems) == 1


@pytest.mark.parametrize("text", ["Action:", "Thought: x\nAction: \nAction Input: {}", "<tool_call>{nothing}"])
def test_a_call_without_a_name_is_a_problem(text: str) -> None:
    reply = parse_reply(text)
    assert not reply.calls
    assert reply.answer is None
    assert len(reply.problems) == 1


# Replies that are still being written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Reply()),
        ("Thought: I lo", Reply("I lo")),
        ("Thought: I look.\nAct", Reply("I look.")),
        ("Thought: I look.\nAction: get_w", Reply("I look.")),
        ('Thought: I look.\nAction: f\nAction Input: {"a": "b', Reply("I look.")),
        ('Action: f\nAction Input: {"a": "b"}', Reply(calls=(call("f", a="b"),))),
        ("Action: f[b", Reply()),
        ("Action: f[b]\nObservation: 1", Reply(calls=(call("f", "b"),))),
        ("Thought: x\nFinal Answer: It i", Reply("x", answer="It i")),
        ("Thought: x\nFinal An", Reply("x")),
        ("Hello! H", Reply(answer="Hello! H")),
        ("I call.\n```js", Reply(answer="I call.")),
        ('I call.\n```json\n{"name": "f", "arguments": {}}', Reply(answer="I call.")),
        ("Here:\n```python\nimport os\nos.x", Reply(answer="Here:\n```python\nimport os\nos.x")),
        ("Here:\n```python\nfind(a=1)", Reply(answer="Here:")),
        ("Here:\n```css\n", Reply(answer="Here:\n```css")),
        ("I call. <tool", Reply(answer="I call.")),
        ("I call. <b", Reply(answer="I call. <b")),
        ('<tool_call>{"name": "f", "argu', Reply(answer="")),
        ("{", Reply()),
        ('{"name": "f", "arguments"', Reply(answer="")),
    ],
)
def test_what_more_text_may_take_back_is_not_shown_yet(text: str, expected: Reply) -> None:
    assert parse_reply(text, is_whole=False) == expected


# Properties

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True)
CALLS = st.lists(
    st.builds(ToolCall, NAMES, st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4)), min_size=1, max_size=3
)
THOUGHTS = st.from_regex(r"([A-Z][a-z ,]{0,40}[a-z]\.)?", fullmatch=True)
STYLES = st.sampled_from(["react", "json"])
TEXT_AND_MARKS = st.lists(
    st.sampled_from(
        [f"{word}:" for words in LINES.values() for word in words]
        + [f"```{language}\n" for language in (*FENCES, "sql")]
        + [f'"{key}": ' for keys in KEYS.values() for key in keys]
        + [*TAGS, "\n", "\n", "\n", " ", "```", "{", "}", "[", "]", "(", ")", '"', "'", ",", ":", "=", "--", "\\", "*"]
        + ["f", "get_time", "route", "finish", "None", "1", '{"name": "f", "arguments": {}}', "\nObservation: "]
    )
    | st.text(max_size=5),
    max_size=25,
).map("".join)


@given(calls=CALLS, thought=THOUGHTS, style=STYLES)
def test_every_call_that_is_written_reads_back(calls: list[ToolCall], thought: str, style: Any) -> None:
    (turn,) = as_text(Conversation((Turn("assistant", thought, tuple(calls)),)), style)
    offered = tuple(tool(call.name, a="string") for call in calls)
    assert parse_reply(turn.text, offered) == Reply(thought, tuple(calls))
    # `Action: None` calls nothing where no such tool is known.
    assume(not any(DECLINED.fullmatch(call.name) for call in calls))
    assert parse_reply(turn.text) == Reply(thought, tuple(calls))


OWN_REPLIES = st.builds(
    lambda thought, calls, style: as_text(Conversation((Turn("assistant", thought, tuple(calls)),)), style)[0].text,
    THOUGHTS,
    CALLS,
    STYLES,
) | st.builds("Thought: {}\nFinal Answer: {}".format, THOUGHTS, st.text(max_size=40))


@given(text=OWN_REPLIES)
@example('```json\n{"name": "f", "arguments": {"``` ": "```"}}\n```')
@example('Action: f\nAction Input: {"a": "[TOOL_CALLS] {}", "b": "<tool_call>"}')
@example("It is [this] <b>, so\nI Act.")
@example("**Thought:** x\n**Action:** f\n**Action Input:** {}\n## Observation: 1")
@example("**Note:** *this*\n# Act one\n**Final Answer**: 42")
@example("Thought: x\nAction: None\nFinal Answer: 42")
@example("Thought: x\nAction: None\nSo\nObservation: 1\nit is 42.")
@example("**Final Answer: 42**\nIndeed.")
@example("Here:\n```python\nimport os\n```\nThat is all.")
@example("- Action\n- Final Answer, at last\nThought of the day: none.")
def test_what_a_beginning_shows_is_never_taken_back(text: str) -> None:
    whole = parse_reply(text)
    said = [whole.thought, whole.answer or ""]
    for length in range(len(text)):
        shown = parse_reply(text[:length], is_whole=False)
        assert shown.calls == whole.calls[: len(shown.calls)]
        assert not shown.problems
        for part in (shown.thought, shown.answer or ""):
            assert any(text.startswith(part) for text in said)


@given(text=st.text() | TEXT_AND_MARKS)
def test_any_text_can_be_read(text: str) -> None:
    for offered, is_whole_offer in product(((), TOOLS), (False, True)):
        reply = parse_reply(text, offered, is_whole_offer=is_whole_offer)
        assert bool(reply.calls or reply.problems) == (reply.answer is None)
        assert all(call.name for call in reply.calls)
        json.dumps([call.arguments for call in reply.calls])
        assert not parse_reply(text, offered, is_whole=False).problems
    assert text.startswith(before_made_up_result(text, TOOLS))


@pytest.mark.parametrize(
    "opening", ["[", '{"name": "f", "arguments": [', "```python\nf(a=", "```yaml\n- ", "Action: f("]
)
def test_deep_nesting_is_no_trouble(opening: str) -> None:
    parse_reply(opening + "[" * 100_000)
    parse_reply(opening + "[" * 900 + "]" * 900 + ")}\n```")


# Public data


def test_fireact_trajectories_are_read(shared_data: Path) -> None:
    rows = (shared_data / "fireact" / "multitask.jsonl").read_text("utf-8").splitlines()
    messages = [message for row in rows for message in json.loads(row)["messages"] if message["role"] == "assistant"]
    for message in messages:
        thought, _, action = message["content"].partition("\nAction: ")
        kind, _, bracketed = action.partition("[")
        reply = parse_reply(message["content"], [SEARCH])
        assert reply.thought == thought.removeprefix("Thought:").strip()
        assert reply.problems == ()
        if kind == "finish":
            assert reply.answer == bracketed.rstrip().removesuffix("]").strip('"') != ""
        else:
            assert [call.name for call in reply.calls] == ["search"]
            assert list(reply.calls[0].arguments) == ["query"]
            assert parse_reply(message["content"]).calls[0].arguments == bracketed.rstrip().removesuffix("]")


def test_glaive_answers_hold_no_call_and_its_calls_are_read(shared_data: Path) -> None:
    rows = json.loads((shared_data / "glaive" / "glaive_toolcall_en_demo.json").read_text("utf-8"))
    for row in rows:
        schemas = json.loads(row["tools"] or "[]")
        offered = [Tool(schema["name"], "", schema["parameters"]) for schema in schemas]
        for turn in row["conversations"]:
            if turn["from"] == "gpt":
                assert parse_reply(turn["value"], offered) == Reply(answer=turn["value"].strip())
            if turn["from"] == "function_call":
                made = json.loads(turn["value"])
                quoted = (
                    f'<functioncall> {{"name": "{made["name"]}", "arguments": \'{json.dumps(made["arguments"])}\'}}'
                )
                for text in (turn["value"], f"{quoted} <|endoftext|>"):
                    assert parse_reply(text, offered) == Reply(calls=(ToolCall(made["name"], made["arguments"]),))


def test_toolbench_calls_are_read_as_react_and_as_json(shared_data: Path) -> None:
    trees = [json.loads(file.read_text("utf-8")) for file in (shared_data / "toolbench" / "answer").glob("*.json")]
    paths = [path for tree in trees for path in tree["answer_generation"].get("train_messages", [])]
    for message in (message for path in paths for message in path if message.get("function_call")):
        name, arguments = message["function_call"]["name"], message["function_call"]["arguments"]
        thought = message["content"] or ""
        react = parse_reply(f"\nThought: {thought}\nAction: {name}\nAction Input: {arguments}")
        in_json = parse_reply(json.dumps({"InnerThought": thought, "API": name, "ActionInput": arguments}))
        assert (react.calls, react.problems) == (in_json.calls, ()) == (in_json.calls, in_json.problems)
        if name == "Finish":
            assert react.answer == json.loads(arguments, strict=False).get("final_answer", thought.strip())
        else:
            assert react.calls == (ToolCall(name, json.loads(arguments, strict=False)),)
