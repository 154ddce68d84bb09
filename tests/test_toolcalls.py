"""Tools and calls as text, golden to the byte, and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.prompt.toolcalls import as_text, offer_tools, parse_reply

WEATHER = Tool(
    "get_weather",
    "Current weather\nin a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city's name."},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "integer"}},
            "near": {"type": "object", "properties": {"km": {"type": "number"}}, "description": "How near."},
        },
        "required": ["city"],
    },
)
CLOCK = Tool("get_time", "The time of day.")

REACT_OFFER = """\
Tools:
- get_weather(city: string, unit?: "celsius"|"fahrenheit", days?: array of integer, near?: {"type": "object", \
"properties": {"km": {"type": "number"}}}): Current weather in a city.
  city: The city's name.
  near: How near.
- get_time(): The time of day.

To use a tool, reply with:
Thought: what is asked and which tool is for it
Action: the tool's name
Action Input: its arguments as a JSON object
To answer, reply in plain words, or with:
Thought: why no tool is needed
Final Answer: the reply
Use no tool that is not listed."""

JSON_OFFER = """\
Tools, one JSON schema a line:
{"name": "get_time", "description": "The time of day.", "parameters": {"type": "object", "properties": {}}}

To use tools, say why in a sentence and end with a fenced block that holds one call a line:
```json
{"name": "the tool's name", "arguments": {"a parameter": "its value"}}
```
To answer, reply in plain words. Use no tool that is not listed."""

PARIS = ToolCall("get_weather", {"city": "Paris", "unit": "celsius"})
OSLO = ToolCall("get_weather", {"city": "Oslo é"})


def test_the_react_prompt_is_golden():
    assert offer_tools("react", [WEATHER, CLOCK]) == REACT_OFFER


def test_the_json_prompt_is_golden():
    assert offer_tools("json", [CLOCK]) == JSON_OFFER


def test_a_conversation_becomes_react_text():
    conversation = Conversation(
        (
            Turn("system", "Be brief."),
            Turn("user", "Weather in Paris and Oslo?"),
            Turn("assistant", "I look both up.", (PARIS, OSLO), trained=True),
            Turn("observation", "15"),
            Turn("observation", "3"),
            Turn("assistant", "15 and 3 degrees.", trained=True),
        ),
        (CLOCK,),
    )
    turns = as_text(conversation, "react")
    assert turns[0].text == "Be brief.\n\n" + offer_tools("react", [CLOCK])
    assert turns[2] == Turn(
        "assistant",
        "Thought: I look both up.\n"
        'Action: get_weather\nAction Input: {"city": "Paris", "unit": "celsius"}\n'
        'Action: get_weather\nAction Input: {"city": "Oslo é"}',
        trained=True,
    )
    assert [turn.text for turn in turns[3:]] == ["Observation: 15", "Observation: 3", "15 and 3 degrees."]


def test_a_conversation_becomes_json_text():
    conversation = Conversation((Turn("user", "?"), Turn("assistant", "Both.", (PARIS, OSLO))), (CLOCK,))
    turns = as_text(conversation, "json")
    assert turns[0] == Turn("system", offer_tools("json", [CLOCK]))
    assert turns[2].text == (
        "Both.\n```json\n"
        '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n'
        '{"name": "get_weather", "arguments": {"city": "Oslo é"}}\n```'
    )


def test_text_that_has_a_form_already_is_left_alone():
    turns = (Turn("system", "You have tools."), Turn("user", "x"), Turn("assistant", "Act: bash"))
    assert as_text(Conversation(turns), "react") == list(turns)


def test_a_react_reply_is_read():
    reply = parse_reply(
        'Thought: It asks for Paris.\nAction: get_weather\nAction Input: {"city": "Paris"}\nObservation: 1'
    )
    assert reply.thought == "It asks for Paris."
    assert reply.calls == (ToolCall("get_weather", {"city": "Paris"}),)
    assert reply.answer is None
    assert not reply.problems


def test_arguments_over_many_lines_are_read():
    reply = parse_reply('Action: f\nAction Input: {\n  "a": [1,\n 2]\n}\nAction: g\nAction Input: {}')
    assert reply.calls == (ToolCall("f", {"a": [1, 2]}), ToolCall("g", {}))


def test_broken_arguments_are_kept_as_text_and_named():
    reply = parse_reply("Action: f\nAction Input: {city: Paris")
    assert reply.calls == (ToolCall("f", "{city: Paris"),)
    assert reply.problems == ("The Action Input of f is no JSON object.",)


def test_a_final_answer_is_an_answer_and_its_thought_a_thought():
    reply = parse_reply("Thought: No tool is for that.\nFinal Answer: I cannot know.")
    assert (reply.thought, reply.calls, reply.answer) == ("No tool is for that.", (), "I cannot know.")


def test_plain_words_are_an_answer():
    assert parse_reply("Hello! How are you?").answer == "Hello! How are you?"


def test_a_fence_that_holds_no_call_is_part_of_the_answer():
    text = 'Here is the file:\n```json\n{"port": 80}\n```'
    assert parse_reply(text).answer == text


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


@given(calls=CALLS, thought=THOUGHTS, style=st.sampled_from(["react", "json"]))
def test_every_call_that_is_written_reads_back(calls, thought, style):
    (turn,) = as_text(Conversation((Turn("assistant", thought, tuple(calls)),)), style)
    reply = parse_reply(turn.text)
    assert reply.calls == tuple(calls)
    assert reply.thought == thought
    assert not reply.problems


@given(text=st.text())
def test_any_text_can_be_read(text):
    reply = parse_reply(text)
    assert bool(reply.calls) or reply.problems or reply.answer is not None
