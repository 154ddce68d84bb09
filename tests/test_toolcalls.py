"""Tools and calls as text, golden to the byte."""

from __future__ import annotations

from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.prompt.toolcalls import as_text, offer_tools

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
