"""Functions as tools: what the model is told of them, and how their calls are checked and run."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import date
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlite.agent.arguments import problem_with_schema
from flanlite.agent.tools import BUILT_IN, BoundTool, Toolbox, builtin_tools, load_tools, tool_from
from flanlite.conversation import Tool, ToolCall
from flanlite.errors import FlanliteError
from flanlite.prompt.toolcalls import offer_tools
from flanlite.tiny.make.dialogues import list_prompt
from flanlite.tiny.make.request import BUILTIN_LISTED

DEMO = Path(__file__).parents[1] / "demo" / "tools.py"

SLOW = "^(a+)+$"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)


def call(bound: BoundTool | Iterable[BoundTool], name: str = "tool", /, **arguments: Any) -> tuple[str, str]:
    """The status and the text of a call."""
    return ended(Toolbox([bound] if isinstance(bound, BoundTool) else bound), ToolCall(name, arguments))


def ended(box: Toolbox, call: ToolCall) -> tuple[str, str]:
    outcome = box.call(call, threading.Event())
    return outcome.status, outcome.text


def tool(run: Callable[[Mapping[str, Any]], str], origin: str = "x.py", name: str = "tool", **schema: Any) -> BoundTool:
    return BoundTool(Tool(name, "A tool.", schema), run, origin)


def answer(text: str, origin: str = "x.py", name: str = "tool") -> BoundTool:
    return tool(lambda arguments: text, origin, name)


def every_kind(
    text: str,
    number: float,
    whole: int,
    truth: bool,
    choice: Literal["a", "b", 3],
    items: list[int],
    table: dict[str, float],
    maybe: str | None = None,
) -> Any:
    """Give back what it gets."""
    return [text, number, whole, truth, choice, items, table, maybe]


FITTING = st.fixed_dictionaries(
    {
        "text": st.text(),
        "number": st.floats(allow_nan=False) | st.integers(),
        "whole": st.integers(),
        "truth": st.booleans(),
        "choice": st.sampled_from(["a", "b", 3]),
        "items": st.lists(st.integers(), max_size=3),
        "table": st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=3),
    },
    optional={"maybe": st.none() | st.text()},
)
EVERY_KIND = tool_from(every_kind, "x.py")


# What the model is told.


def test_the_built_in_tools_are_offered_in_the_words_that_the_tiny_model_was_trained_with() -> None:
    bound = builtin_tools()
    listed = [BUILTIN_LISTED[one.tool.name] for one in bound]
    assert offer_tools("react", [one.tool for one in bound]) == list_prompt(listed)
    assert {(one.origin, one.is_builtin) for one in bound} == {("built in", True)}


def test_a_function_is_told_by_its_name_its_docstring_and_its_hints() -> None:
    def book(day: str, seats: int = 1, *, meal: Literal["fish", "none"] | None = None) -> tuple[int, ...]:
        """Book seats on a train.

        Args:
            day: as in 2024-03-15
            meal: left out if
                none is wanted

        Returns:
            The seats.
        """
        return (seats,)

    bound = tool_from(book, "trains.py")
    assert bound.tool == Tool(
        "book",
        "Book seats on a train.",
        {
            "type": "object",
            "properties": {
                "day": {"type": "string", "description": "as in 2024-03-15"},
                "seats": {"type": "integer"},
                "meal": {
                    "type": ["string", "null"],
                    "enum": ["fish", "none", None],
                    "description": "left out if none is wanted",
                },
            },
            "required": ["day"],
        },
    )
    assert call(bound, "book", day="2024-03-15", meal=None) == ("done", "[1]")


def test_a_decorated_function_is_told_as_what_it_decorates_and_called_as_decorated() -> None:
    def loud(function: Callable[..., str]) -> Callable[..., str]:
        @wraps(function)
        def inner(*args: Any, **named: Any) -> str:
            return function(*args, **named).upper()

        return inner

    @loud
    def greet(name: str) -> str:
        """Greet."""
        return f"hello {name}"

    assert call(tool_from(greet, "x.py"), "greet", name="Ada") == ("done", "HELLO ADA")


def no_docstring(text: str) -> str:
    return text


def no_hint(text) -> str:  # type: ignore[no-untyped-def]
    """Has no hint."""
    return str(text)


def any_number(*numbers: int) -> int:
    """Sum."""
    return sum(numbers)


def by_place(number: int, /) -> int:
    """Give it back."""
    return number


async def later(text: str) -> str:
    """Wait."""
    return text


def one_by_one(text: str) -> Iterable[str]:
    """Yield."""
    yield text


def of_a_day(day: date) -> str:
    """Name it."""
    return str(day)


def of_anything(items: list) -> str:  # type: ignore[type-arg]
    """Name them."""
    return str(items)


def of_a_set(items: set[int]) -> str:
    """Name them."""
    return str(items)


def of_a_secret(item: "Secret") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Name it."""
    return str(item)


def of_a_ragged_tuple(items: tuple[int]) -> str:
    """Name them."""
    return str(items)


@pytest.mark.parametrize(
    ("function", "message", "hint"),
    [
        (no_docstring, "no_docstring in x.py has no docstring.", "Say in a line"),
        (no_hint, "The parameter text of no_hint in x.py has no type hint.", "text: str"),
        (any_number, "any_number in x.py takes *numbers: int, which cannot be passed by name.", "numbers: str"),
        (by_place, "by_place in x.py takes number: int, which", "number: str"),
        (later, "later in x.py is no plain function.", "without async and yield"),
        (one_by_one, "one_by_one in x.py is no plain function.", "without async and yield"),
        (of_a_day, "The parameter day of of_a_day in x.py has the type date, which", "Use str"),
        (of_anything, "The parameter items of of_anything in x.py has the type list, which", "list[...]"),
        (of_a_set, "The parameter items of of_a_set in x.py has the type set", "list[...]"),
        (of_a_secret, "The type hints of of_a_secret in x.py cannot be read: name 'Secret' is", "Import"),
        (of_a_ragged_tuple, "The parameters of of_a_ragged_tuple in x.py make no JSON schema", "plainer"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_with_what_to_write(
    function: Callable[..., Any], message: str, hint: str
) -> None:
    with pytest.raises(FlanliteError) as caught:
        tool_from(function, "x.py")
    assert caught.value.message.startswith(message)
    assert hint in caught.value.hint


# Files of functions.


def test_the_public_functions_that_a_file_defines_are_its_tools_in_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "import json\n"
        "from dataclasses import dataclass\n"
        "from textwrap import dedent\n"
        "@dataclass\nclass Point:\n    x: float\n"
        "def zoo(animal: str) -> str:\n    'Find an animal.'\n    return _say(animal)\n"
        "def _say(text): return text * 2\n"
        "def age(years: int) -> Point:\n    'Add a year.'\n    return {'years': years + 1}\n"
        "alias = zoo\n",
        encoding="utf-8",
    )
    bound = load_tools(file)
    assert [(one.tool.name, one.origin) for one in bound] == [("zoo", "mine.py"), ("age", "mine.py")]
    assert call(bound, "zoo", animal="ox") == ("done", "oxox")
    assert call(bound, "age", years=4) == ("done", '{"years": 5}')


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ndef f(:\n", "mine.py, line 2, cannot be imported: SyntaxError: "),
        ("import json\n\njson.loads('{')\n", "mine.py, line 3, cannot be imported: JSONDecodeError: "),
        ("import no_such_package\n", "mine.py, line 1, cannot be imported: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit()\n", "mine.py, line 2, cannot be imported: SystemExit."),
        ("from textwrap import dedent\n", "mine.py defines no public function."),
        ("def f(x):\n    'Do.'\n", "The parameter x of f in mine.py has no type hint."),
    ],
)
def test_a_file_that_gives_no_tools_is_refused_with_the_place(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code, encoding="utf-8")
    with pytest.raises(FlanliteError) as caught:
        load_tools(file)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match="There is no Python file"):
        load_tools(tmp_path / "none.py")


def test_the_example_tools_work() -> None:
    bound = load_tools(DEMO)
    text = "Is it? It is. We don't know"
    assert call(bound, "roll_dice", count=3, seed=1) == call(bound, "roll_dice", count=3, sides=6, seed=1)
    assert call(bound, "roll_dice", count=0)[0] == "failed"
    assert call(bound, "count_in_text", text=text, what="sentences") == ("done", "3")
    assert call(bound, "count_in_text", text=text, what="words") == ("done", "7")
    recipe = {"ingredients": ["200 g flour", "salt"], "servings": 2}
    assert call(bound, "scale_recipe", **recipe, wanted_servings=3) == ("done", '["300 g flour", "salt"]')
    offers = {"prices": {"large": 3, "small": 1}, "amounts": {"large": 5, "small": 1}}
    assert call(bound, "compare_prices", **offers) == ("done", "large, at 0.6 for one unit")


# A toolbox.


def test_two_given_tools_of_one_name_are_refused() -> None:
    with pytest.raises(FlanliteError, match=r"Two tools have the name tool: one from a\.py, one from weather\."):
        Toolbox([answer("", "a.py"), answer("", "weather")])


@pytest.mark.parametrize("order", [1, -1])
def test_a_given_tool_replaces_a_built_in_one(order: int) -> None:
    box = Toolbox([replace(answer("the built-in one", BUILT_IN), is_builtin=True), answer("the given one")][::order])
    assert box.names == ("tool",)
    assert ended(box, ToolCall("tool")) == ("done", "the given one")


def test_a_server_that_calls_itself_built_in_is_not() -> None:
    with pytest.raises(FlanliteError, match=r"one from built in, one from a\.py"):
        Toolbox([answer("", BUILT_IN), answer("", "a.py")])


def test_a_toolbox_of_fewer_tools_keeps_their_order_and_the_timeout() -> None:
    box = Toolbox([answer("", name=name) for name in "abc"], timeout_s=7)
    assert box.only(["c", "a"]).names == ("a", "c")
    assert box.only(["c", "a"]).tools == (box.tools[0], box.tools[2])
    assert box.only([]).timeout_s == 7
    with pytest.raises(FlanliteError, match="There is no tool d"):
        box.only(["d"])


# Calls.


@pytest.mark.parametrize(
    ("name", "arguments", "status", "text"),
    [
        ("weekday", {"date": "1969-07-20"}, "done", "Sunday"),
        ("to_roman", {"number": 5.0}, "done", "V"),
        ("convert_units", {"value": 3, "from_unit": "GB", "to_unit": "MB"}, "done", "3000 MB"),
        ("weekday", {"date": "soon"}, "failed", "Error: soon is not a date like 2024-03-15 or 15 March 2024."),
        ("weekday", {}, "malformed", "Error: weekday lacks the argument date; it takes date (a string)."),
        (
            "common_divisor",
            {},
            "malformed",
            "Error: common_divisor lacks the arguments a and b; it takes a (an integer), b (an integer).",
        ),
        (
            "weekday",
            {"dates": "1969-07-20"},
            "malformed",
            "Error: weekday has no argument dates; it takes date (a string).",
        ),
        ("to_roman", {"number": "5"}, "malformed", 'Error: The argument number must be an integer, but is "5".'),
        ("to_roman", {"number": 5.5}, "malformed", "Error: The argument number must be an integer, but is 5.5."),
        ("to_roman", {"number": True}, "malformed", "Error: The argument number must be an integer, but is true."),
        (
            "element_info",
            {"element": "iron", "field": "colour"},
            "malformed",
            'Error: The argument field must be one of "symbol", "number", "mass", but is "colour".',
        ),
        ("weekday", '{"date": ', "malformed", "Error: The arguments of weekday must be a JSON object."),
    ],
)
def test_a_call_is_checked_against_the_schema_and_told_in_a_sentence(
    name: str, arguments: dict[str, Any] | str, status: str, text: str
) -> None:
    box = Toolbox(builtin_tools())
    assert ended(box, ToolCall(name, arguments)) == (status, text)


@given(arguments=FITTING)
def test_arguments_that_fit_arrive_as_they_were_written(arguments: dict[str, Any]) -> None:
    arrived: list[Any] = []
    bound = BoundTool(EVERY_KIND.tool, lambda given: str(arrived.append(given)), "x.py")
    assert call(bound, "every_kind", **arguments)[0] == "done"
    assert arrived == [arguments]


@given(arguments=FITTING, name=st.sampled_from(sorted(EVERY_KIND.tool.parameters["properties"])), value=json_values)
def test_an_argument_of_another_kind_is_named_and_the_tool_not_run(
    arguments: dict[str, Any], name: str, value: Any
) -> None:
    kinds = {
        "text": str, "number": (int, float), "whole": (int, float), "truth": bool, "choice": (str, int, float),
        "items": list, "table": dict, "maybe": (str, type(None)),
    }  # fmt: skip
    is_truth_for_number = isinstance(value, bool) and name != "truth"
    if isinstance(value, kinds[name]) and not is_truth_for_number:
        return
    ran: list[Any] = []
    bound = BoundTool(EVERY_KIND.tool, lambda given: str(ran.append(given)), "x.py")
    status, text = call(bound, "every_kind", **arguments | {name: value})
    assert status == "malformed"
    assert text.startswith(f"Error: The argument {name} must be ")
    assert not ran


@given(arguments=st.dictionaries(st.text() | st.sampled_from(["text", "whole", "items"]), json_values) | st.text())
def test_no_arguments_make_a_call_raise(arguments: dict[str, Any] | str) -> None:
    status, text = ended(Toolbox([EVERY_KIND]), ToolCall("every_kind", arguments))
    assert status == "malformed"
    assert text.startswith("Error: ")


def test_a_number_that_is_whole_becomes_an_integer_wherever_one_is_asked_for() -> None:
    arguments = {
        "text": "", "number": 2.0, "whole": 2.0, "truth": True, "choice": "a", "items": [1.0, 2], "table": {"x": 1.0},
    }  # fmt: skip
    expected = '["", 2.0, 2, true, "a", [1, 2], {"x": 1.0}, null]'
    assert call(EVERY_KIND, "every_kind", **arguments) == ("done", expected)


def test_a_place_within_an_argument_is_named() -> None:
    arguments = {"text": "", "number": 2, "whole": 2, "truth": True, "choice": "a", "items": [1, "x"], "table": {}}
    expected = 'Error: The argument items[1] must be an integer, but is "x".'
    assert call(EVERY_KIND, "every_kind", **arguments) == ("malformed", expected)


@pytest.mark.parametrize(
    ("schema", "value", "text"),
    [
        ({"type": "integer", "maximum": 5}, 6, "The argument n of tool does not fit: 6 is"),
        ({"anyOf": [{"type": "integer"}, {"type": "array"}]}, "x", "The argument n must be an integer or a list, but"),
        ({"$ref": "#/$defs/nothing"}, 0, "The argument n must be null, but is 0."),
        ({"type": "string"}, [0] * 99, "The argument n must be a string, but is [0, 0, 0, 0,"),
        ({"type": "object", "required": ["a"]}, {}, "The argument n of tool does not fit: 'a' is a required"),
    ],
)
def test_schemas_of_others_are_understood(schema: Any, value: Any, text: str) -> None:
    bound = tool(
        json.dumps, properties={"n": schema}, additionalProperties=False, **{"$defs": {"nothing": {"type": "null"}}}
    )
    assert call(bound, m=value)[1].startswith("Error: tool has no argument m; it takes n (")
    status, said = call(bound, n=value)
    assert status == "malformed"
    assert said.startswith(f"Error: {text}")


def test_a_schema_may_ask_for_one_of_two_arguments() -> None:
    names = {"properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert call(tool(json.dumps, **names), b=1) == ("done", '{"b": 1}')
    assert call(tool(json.dumps, **names))[1].startswith("Error: The call of tool does not fit: ")


def test_arguments_beyond_the_named_ones_are_welcome_where_the_schema_says_so() -> None:
    assert call(tool(json.dumps, properties={}, additionalProperties=True), n=1) == ("done", '{"n": 1}')


@pytest.mark.parametrize("schema", [{"type": "strng"}, {"$ref": "http://127.0.0.1:9/schema"}, {"properties": 3}])
def test_a_broken_schema_fails_the_call_and_fetches_nothing(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it was fetched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    status, text = call(tool(json.dumps, **schema), n=1)
    assert status == "failed"
    assert "fetched" not in text


PATTERNS = [
    {"properties": {"a": {"type": "string", "pattern": SLOW}}},
    {"properties": {"a": {"$ref": "#/$defs/slow"}}, "$defs": {"slow": {"pattern": SLOW}}},
    {"patternProperties": {SLOW: {"type": "integer"}}},
    {"patternProperties": {SLOW: {}}, "additionalProperties": False},
    {"properties": {"a": {}}, "allOf": [{"patternProperties": {SLOW: {}}}], "unevaluatedProperties": False},
]


@pytest.mark.parametrize("schema", PATTERNS)
def test_a_servers_patterns_are_not_matched(schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it was matched")

    monkeypatch.setattr("jsonschema._keywords.re.search", refuse)
    assert call(tool(json.dumps, **schema), a="aaa!") == ("done", '{"a": "aaa!"}')
    assert call(tool(json.dumps, **schema), **{"a": "", "aaa!": 1})[1] != "Error: AssertionError: it was matched"


@pytest.mark.parametrize("name", ["pattern", "patternProperties", "properties", "enum"])
def test_an_argument_may_have_the_name_of_a_keyword(name: str) -> None:
    bound = tool(json.dumps, properties={name: {"type": "string"}}, required=[name])
    assert call(bound, **{name: "x"}) == ("done", json.dumps({name: "x"}))
    assert call(bound, **{name: 1}) == ("malformed", f"Error: The argument {name} must be a string, but is 1.")


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": r"^\p{L}+$"}}, "required": ["a"]}, None),
        ({}, None),
        ({"properties": {"a": {"enum": 5}}}, "5 is not of type 'array', at properties.a.enum"),
        ({"properties": ["x"]}, "['x'] is not of type 'object', at properties"),
        ({"required": 5}, "5 is not of type 'array', at required"),
        ({"type": "array"}, "it is not of type object"),
        ({"properties": {"a": ["x" * 500]}}, f"['{'x' * 57}…, at properties.a"),
    ],
)
def test_what_is_wrong_with_a_schema_is_told_shortly(schema: dict[str, Any], problem: str | None) -> None:
    assert problem_with_schema(schema) == problem


@given(enum=json_values, properties=json_values, required=json_values, kind=json_values)
def test_a_broken_schema_is_offered_in_some_way(enum: Any, properties: Any, required: Any, kind: Any) -> None:
    broken = {"properties": {"a": {"enum": enum, "type": kind, "items": kind}}, "required": required}
    for schema in (broken, {"properties": properties}):
        assert offer_tools("react", [Tool("tool", "", schema)])


def test_a_tool_that_is_not_there_is_told_with_those_that_are() -> None:
    box = Toolbox([answer("", name=name) for name in "ab"])
    assert ended(box, ToolCall("fly")) == ("invented", "Error: There is no tool fly. The tools are: a, b.")
    assert ended(Toolbox([]), ToolCall("fly")) == ("invented", "Error: There is no tool fly. No tools are on offer.")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("The date is over."), "Error: The date is over."),
        (KeyError("x"), "Error: KeyError: 'x'"),
        (OSError("first\nsecond"), "Error: OSError: first second"),
        (ValueError(), "Error: ValueError"),
        (SystemExit(2), "Error: SystemExit: 2"),
    ],
)
def test_what_a_tool_raises_is_told_in_a_line(error: BaseException, text: str) -> None:
    def fail(arguments: Mapping[str, Any]) -> str:
        raise error

    assert call(tool(fail)) == ("failed", text)


def test_a_tool_that_returns_nothing_says_so() -> None:
    def note(text: str) -> None:
        """Take a note."""

    assert call(tool_from(note, "x.py"), "note", text="x") == ("done", "(no result)")


def test_a_result_that_is_no_text_is_json() -> None:
    def look(what: str) -> Any:
        """Look."""
        return {"nothing in it": [None], "nan": float("nan"), "day": date(2024, 3, 15), "list": ["ä", 1]}[what]

    bound = tool_from(look, "x.py")
    found = {what: call(bound, "look", what=what)[1] for what in ("nothing in it", "nan", "day", "list")}
    assert found == {"nothing in it": "[null]", "nan": "NaN", "day": '"2024-03-15"', "list": '["ä", 1]'}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x" * 4000, 4000),
        ("x" * 4001, 4000),
        ("word " * 1000, 3999),
        ("a line of it\n" * 400, 3990),
        ("a\n" + "x" * 5000, 4000),
    ],
)
def test_a_long_result_is_cut_at_a_line_or_a_word_and_says_so(text: str, kept: int) -> None:
    told = call(answer(text))[1]
    note = f"\n({len(text) - kept:,} more characters are left out.)" if kept < len(text) else ""
    assert told == text[:kept] + note


def test_half_a_character_is_no_part_of_a_result() -> None:
    assert call(builtin_tools(), "reverse_text", text="a\ud83d") == ("done", "?a")


def test_a_tool_that_takes_too_long_is_given_up() -> None:
    release = threading.Event()
    box = Toolbox([tool(lambda arguments: str(release.wait(30)))], timeout_s=0.2)
    outcome = box.call(ToolCall("tool"), threading.Event())
    release.set()
    assert (outcome.status, outcome.text) == ("failed", "Error: tool took longer than 0.2 seconds.")
    assert 0.2 <= outcome.seconds < 5


def test_a_stop_ends_a_call_and_lets_none_begin() -> None:
    begun, release, stop = threading.Event(), threading.Event(), threading.Event()

    def hang(arguments: Mapping[str, Any]) -> str:
        begun.set()
        return str(release.wait(30))

    box = Toolbox([tool(hang)])
    threading.Thread(target=lambda: begun.wait() and stop.set()).start()
    assert box.call(ToolCall("tool"), stop).status == "stopped"
    release.set()
    begun.clear()
    assert box.call(ToolCall("tool"), stop).status == "stopped"
    assert not begun.wait(0.1)


def test_calls_run_side_by_side() -> None:
    everyone = threading.Barrier(20)
    box = Toolbox([tool(lambda arguments: str(everyone.wait(20)))])
    told: list[tuple[str, str]] = []
    threads = [threading.Thread(target=lambda: told.append(ended(box, ToolCall("tool")))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(text) for _, text in told) == list(range(20))


def test_a_hung_tool_does_not_keep_the_program_and_the_tools_need_no_torch() -> None:
    program = """
import sys, threading, time
from flanlite.agent.files import search_text
from flanlite.agent.mcp import McpServer
from flanlite.agent.tools import BoundTool, Toolbox
from flanlite.conversation import Tool, ToolCall
box = Toolbox([BoundTool(Tool("hang"), lambda arguments: time.sleep(60), "x.py")], timeout_s=0.1)
print(box.call(ToolCall("hang"), threading.Event()).status, "torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (run.stdout, run.stderr) == ("failed False\n", "")
