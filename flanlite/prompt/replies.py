"""Assistant replies, read: the one parser, for every form in which agent data teaches a model to call a tool.

A reply is cut into parts by its marks: lines such as `Action:`, code fences, tags such as `<tool_call>`, a JSON object
at the start. Each kind of part has one reader; what no reader takes for a call stays text. Code is read strictly, since
ordinary answers hold code too; JSON is read leniently, since models get its commas and quotes wrong.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from flanlite.conversation import Tool, ToolCall
from flanlite.prompt.given import as_arguments, as_typed, by_position, parameters, plain, without_quotes
from flanlite.prompt.marks import Part, has_thought_mark, parts, settled, without_thought_mark
from flanlite.prompt.syntax import json_value, misspelled_json_value, python_calls, shell_calls, typed, yaml_value

KEYS: Mapping[str, tuple[str, ...]] = {
    "name": (
        "name", "action", "actionname", "api", "apiname", "command", "commandname", "function", "functioncall",
        "functionname", "tool", "toolcall", "toolcalls", "toolname",
    ),
    "arguments": ("arguments", "args", "parameters", "params"),
    "input": ("input", "actioninput", "apiinput", "toolinput"),
    "thought": (
        "thought", "thoughts", "innerthought", "innerthoughts", "cot", "chainofthought", "reasoning", "reason",
        "rationale", "content",
    ),
}  # fmt: skip
"""The keys of a call in JSON or YAML, compared without case, spaces, `_` and `-`.

Arguments are an object, or its JSON as a text; an input may be the tool's one argument itself.
"""

ENDINGS = frozenset({"finish", "finishaction", "finalaction", "finalanswer", "answer"})
"""Tools that a model is taught to answer with; where one is on offer, it is a tool like any other."""

DECLINED = re.compile(r"(?:n/?a|null|no|none|not|nothing)(?:[.,:;!]?\s.*|[.!])?", re.IGNORECASE | re.DOTALL)
"""The names of an action that is none, such as `None` and `no tool needed`; where one is on offer, it is a tool."""

NAME = re.compile(r"[\w.:/-]+")
"""The shape of a tool's name. Some data sets act in words, such as `go to cabinet 1`; answers have words there, too."""

CODE_KEYS = {"sql": "sql", "bash": "command", "sh": "command"}
"""The argument that a fence behind an action holds, by the fence's language, where no tool of that name says it."""

ANY_FORM = '{"parameter": "value"}'

Offered = Mapping[str, Tool]

_KIND = {key: kind for kind, keys in KEYS.items() for key in keys}
_GIVEN = {"arguments", "input"}
_KEY = re.compile(r"[\"'](?P<key>[\w -]{1,30}+)[\"']\s*+:\s*+(?P<value>(?:[\"'](?P<text>[^\"'\n]*)[\"'])?)")
_NEXT_JSON = re.compile(r"[\s,;]*+(?=[\[{])")


@dataclass(frozen=True, slots=True)
class Reply:
    """What an assistant's text says: a thought, calls, an answer, and what is wrong with a call that has no form.

    Each problem is a sentence for the model to read. A reply that is whole holds calls, problems or an answer.
    """

    thought: str = ""
    calls: tuple[ToolCall, ...] = ()
    answer: str | None = None
    problems: tuple[str, ...] = ()


class _Found(NamedTuple):
    """A call, or none where not even its name can be read; why it cannot be made; a thought that came with it."""

    call: ToolCall | None
    problem: str = ""
    thought: str = ""


def parse_reply(text: str, tools: Sequence[Tool] = (), *, is_whole: bool = True, is_whole_offer: bool = False) -> Reply:
    """Read an assistant's text in any of the forms. Text without a call is an answer.

    `tools` are those on offer, where they are known: they name arguments given by position and decide where code may
    or may not be a call. Calls of other tools are read all the same, but with `is_whole_offer`, where there are no
    other tools, code that calls one is an example in an answer, and so are words behind `Action:`. Arguments that
    cannot be read are kept as raw text, and a sentence in `problems` says why.

    Without `is_whole` the text is the beginning of a reply that is still being written: only what more text cannot take
    back is shown, and no problems.
    """
    offered = {tool.name: tool for tool in tools}
    text = text if is_whole else settled(text)
    found: list[_Found] = []
    declined: Part | None = None
    start = len(text)
    is_thought = not is_whole and has_thought_mark(text)
    for part in parts(text, is_whole=is_whole):
        if part.kind == "observation" and found:
            break
        if not is_whole and not part.is_complete and _may_call(part):
            start = min(start, part.start)
            is_thought = is_thought or part.kind == "action"
            break
        if calls := _calls_in(part, offered, is_whole_offer):
            start = min(start, part.start)
            found += calls
        elif not found and (final := _final(part)):
            return Reply(without_thought_mark(text[: part.start]), (), final.content.strip())
        elif _is_declined(part, offered):
            declined = declined or part
    before = without_thought_mark(text[:start])
    if found:
        return _reply(before, found, offered, is_whole)
    if declined:
        return _declining(text, declined, is_whole)
    return Reply(before) if is_thought else Reply(answer=before)


def before_made_up_result(text: str, tools: Sequence[Tool]) -> str:
    """The reply up to the line, behind a call, with which the model begins to make up what the tool returns.

    `tools` are all that there are on offer.
    """
    offered = {tool.name: tool for tool in tools}
    has_called = False
    for part in parts(text):
        if part.kind == "observation" and has_called:
            return text[: part.start]
        has_called = has_called or bool(_calls_in(part, offered, True))
    return text


def _final(part: Part) -> Part | None:
    """The answer that a part is, or that stands behind an action that is none."""
    return next((each for each in (part, part.argument) if each and each.kind == "final"), None)


def _declining(text: str, action: Part, is_whole: bool) -> Reply:
    """A reply with an action that is none: a thought ends there, and what stands behind the action is the answer."""
    last = action.argument if action.argument and action.argument.kind == "input" else action
    thought, behind = without_thought_mark(text[: action.start]), text[last.begin :].strip().partition("\n")[2].strip()
    if not is_whole:
        return Reply(thought)
    # Without the mark of a thought, what stands before the action may as well be a part of the answer.
    is_apart = behind and (has_thought_mark(text) or not thought)
    return Reply(thought, (), behind) if is_apart else Reply(answer=without_thought_mark(text))


def _reply(before: str, found: Sequence[_Found], offered: Offered, is_whole: bool) -> Reply:
    """Calls up to the one that ends the talk; that one is the answer where it stands alone."""
    thought = "\n".join(filter(None, [before, *(each.thought for each in found)]))
    calls: list[ToolCall] = []
    for call, problem, _ in found:
        if call and call.name not in offered and plain(call.name) in ENDINGS and not problem:
            if not calls:
                answer = _answer(call.arguments)
                return Reply(thought, (), answer) if answer else Reply(answer=thought)
            break
        calls += [call] if call else []
    return Reply(thought, tuple(calls), None, tuple(each.problem for each in found if each.problem and is_whole))


def _answer(arguments: Mapping[str, Any] | str) -> str:
    """All that a call to finish says, but for the type of its ending."""
    if isinstance(arguments, str):
        return without_quotes(arguments)
    said = [value for key, value in arguments.items() if plain(key) != "returntype"]
    return "\n".join(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in said)


# Readers: the calls in a part, or none where it is text


def _calls_in(part: Part, offered: Offered, is_whole_offer: bool) -> list[_Found]:
    found = _read(part, offered, is_whole_offer)
    return [each for each in found if not _declines(each.call, offered)]


def _declines(call: ToolCall | None, offered: Offered) -> bool:
    """Whether a call is of no tool, and has no arguments but words."""
    is_bare = call is not None and (isinstance(call.arguments, str) or not call.arguments)
    return call is not None and is_bare and _is_none(call.name, offered)


def _is_declined(part: Part, offered: Offered) -> bool:
    return part.kind == "action" and _is_none(_name_and_brackets(part.content.strip())[0], offered)


def _is_none(name: str, offered: Offered) -> bool:
    return name not in offered and DECLINED.fullmatch(name) is not None


def _is_in_words(name: str, offered: Offered) -> bool:
    """Whether an action tells what is done, as in `I called the bank`, rather than names a tool, be it misspelled."""
    return not NAME.fullmatch(name) and plain(name) not in ENDINGS.union(map(plain, offered))


def _read(part: Part, offered: Offered, is_whole_offer: bool) -> list[_Found]:
    match part.kind:
        case "action":
            return _read_action(part, offered, is_whole_offer)
        case "fence":
            return _read_fence(part, offered, is_whole_offer)
        case "json":
            return _read_json(part.content, offered)
        case "tag":
            return _read_json(part.content, offered) or _nameless(part)
    return []


def _may_call(part: Part) -> bool:
    """Whether a part that is still being written may be a call; code may until its first line says otherwise."""
    if part.kind != "fence":
        return part.kind in ("action", "json", "tag")
    code = part.content.lstrip()
    return any("\n" not in code or form.begins.match(code) for form in FENCES.get(part.detail.lower(), ()))


def _read_action(part: Part, offered: Offered, is_whole_offer: bool) -> list[_Found]:
    """`Action: name`, with its arguments in an `Action Input:`, in brackets, in a fence or in a `Value:`."""
    text = part.content.strip()
    kind, behind = (part.argument.kind, part.argument.content) if part.argument else ("", "")
    if not text or text.startswith("{"):
        fenced = _read_fence(part.argument, offered) if part.argument and kind == "fence" else []
        return _read_json(text, offered) or fenced or _nameless(part)
    name, given = _name_and_brackets(text)
    if kind == "input" or (kind == "final" and plain(name) in ENDINGS):
        return [_call(name, behind, offered)]
    if not given and (_is_none(name, offered) or (is_whole_offer and _is_in_words(name, offered))):
        return []
    if part.argument and kind == "fence" and not given:
        return [_call(name, _code_argument(part.argument, name, offered), offered)]
    if part.detail:
        value = re.search(r"^[ \t]*Value:(.*)", text, re.MULTILINE)
        return [_Found(ToolCall(name, {"element": part.detail} | ({"value": value[1].strip()} if value else {})))]
    return [_call(name, given, offered)]


def _nameless(part: Part) -> list[_Found]:
    if part.kind == "action":
        return [_Found(None, "The action has no name: write `Action:` and then the name of one tool.")]
    if _NEXT_JSON.match(part.content):
        return [_Found(None, f'The call is no JSON object: write {{"name": "the tool", "arguments": {ANY_FORM}}}.')]
    return []


def _name_and_brackets(text: str) -> tuple[str, str]:
    """`search[red shoes]` and `search(red shoes)` apart; a line without brackets is a name as a whole."""
    line = text.partition("\n")[0].strip("`*\"' ")
    for candidate in (line, text):
        call = re.fullmatch(r"([\w.-]++)\s*+(\[.*\]|\(.*\))", candidate, re.DOTALL)
        if call and (candidate is text or call[2].count("[") == call[2].count("]")):
            return call[1], call[2][1:-1]
    return line, ""


def _code_argument(fence: Part, name: str, offered: Offered) -> Any:
    """What a fence behind an action holds: JSON arguments, or code that is the one argument."""
    language, code = fence.detail.lower(), textwrap.dedent(fence.content).strip("\n")
    if language in ("", "json") and code.lstrip().startswith("{"):
        return code
    key, names = CODE_KEYS.get(language or name.lower(), "code"), list(parameters(offered.get(name)))
    return {names[0] if names and key not in names else key: code}


def _read_fence(fence: Part, offered: Offered, is_whole_offer: bool = False) -> list[_Found]:
    code = textwrap.dedent(fence.content)
    for form in FENCES.get(fence.detail.lower(), ()):
        found = form.read(code, offered)
        names = {each.call.name for each in found if each.call}
        is_example = is_whole_offer and form.is_in_answers and names.isdisjoint(offered)
        if found and not is_example:
            return found
    return []


def _read_json(text: str, offered: Offered) -> list[_Found]:
    """One call or several, in a list or one behind the other; what follows the last of them is passed over."""
    values: list[Any] = []
    position, reason = 0, ""
    try:
        while begin := _NEXT_JSON.match(text, position):
            position = begin.end()
            value, position = json_value(text, position)
            values.append(value)
    except ValueError as error:
        reason = str(error)
    if reason and not values:
        with suppress(ValueError):
            values, reason = [misspelled_json_value(text)], ""
    found: list[_Found] = []
    with suppress(RecursionError):
        found = _as_calls(values, offered)
    if reason and (found or not values):
        found += _broken_json(text[position:], reason, offered)
    return found


def _as_calls(value: Any, offered: Offered) -> list[_Found]:
    """The calls that a value is, under any of the key names; none where not all of it is calls."""
    if isinstance(value, list):
        each = [_as_calls(item, offered) for item in value]
        return [found for calls in each for found in calls] if all(each) else []
    if not isinstance(value, dict):
        return []
    fields = {kind: item for key, item in reversed(value.items()) if (kind := _KIND.get(plain(key)))}
    name, thought = fields.get("name"), fields.get("thought")
    found: list[_Found] = []
    if isinstance(name, dict | list):
        found = _as_calls(name, offered)
    elif isinstance(name, str) and name.strip() and "arguments" in fields:
        found = [_call(name.strip(), fields["arguments"], offered, in_words=False)]
    elif isinstance(name, str) and name.strip() and ("input" in fields or name in offered):
        found = [_call(name.strip(), fields.get("input"), offered)]
    return [found[0]._replace(thought=thought), *found[1:]] if found and isinstance(thought, str) else found


def _broken_json(text: str, reason: str, offered: Offered) -> list[_Found]:
    """A call whose JSON cannot be read but whose name can: its arguments are the text that stands where they should."""
    name = raw = None
    for key in _KEY.finditer(text):
        kind = _KIND.get(plain(key["key"]))
        if kind == "name" and key["text"] and name is None:
            name = key["text"]
        elif kind in _GIVEN and raw is None:
            raw = text[key.start("value") :].strip()
    if name is None or (raw is None and name not in offered):
        return []
    return [_malformed(name, raw or text.strip(), reason, offered)]


def _read_python(code: str, offered: Offered) -> list[_Found]:
    """`tool(key="value", other=3)`, one or several; without keywords only tools on offer."""
    found: list[_Found] = []
    try:
        for name, values, arguments in python_calls(code):
            if name in offered:
                arguments = by_position(values, offered[name]) | arguments
            elif values or not arguments:
                return []
            found.append(_Found(ToolCall(name, arguments)))
    except ValueError as error:
        begun = re.match(r"\s*([\w.]+)\s*\(", code)
        return [_malformed(begun[1], code.strip(), error, offered)] if begun and begun[1] in offered else []
    return found


def _read_bash(code: str, offered: Offered) -> list[_Found]:
    """`tool --key value --other 'two words'`, one or several; without keys only tools on offer."""
    with suppress(ValueError):
        calls = shell_calls(code)
        if all(re.fullmatch(r"[^\W\d][\w.]*", name) and (given or name in offered) for name, given in calls):
            return [_Found(ToolCall(name, _typed(given, offered.get(name)))) for name, given in calls]
    return []


def _typed(given: Mapping[str, str], tool: Tool | None) -> Mapping[str, Any]:
    return as_typed(given, tool) if tool else {key: typed(value) for key, value in given.items()}


def _read_yaml(code: str, offered: Offered) -> list[_Found]:
    """A mapping with the keys that JSON has."""
    with suppress(ValueError, RecursionError):
        return _as_calls(yaml_value(code), offered)
    return []


def _call(name: str, given: Any, offered: Offered, *, in_words: bool = True) -> _Found:
    try:
        return _Found(ToolCall(name, as_arguments(given, offered.get(name), in_words=in_words)))
    except ValueError as error:
        raw = given.strip() if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return _malformed(name, raw, error, offered)


def _malformed(name: str, raw: str, reason: object, offered: Offered) -> _Found:
    form = (
        json.dumps(dict.fromkeys(parameters(offered[name]), "..."), ensure_ascii=False) if name in offered else ANY_FORM
    )
    problem = f"The arguments of {name} cannot be read ({reason}): write them as a JSON object such as {form}."
    return _Found(ToolCall(name, raw), problem)


class _Form(NamedTuple):
    """How code in a fence is read, how a call begins in it, and whether answers show such code, too."""

    read: Callable[[str, Offered], list[_Found]]
    begins: re.Pattern[str]
    is_in_answers: bool = True


_AS_JSON = _Form(_read_json, re.compile(r"[\[{]"), is_in_answers=False)
_AS_PYTHON = _Form(_read_python, re.compile(r"[\w.]+\s*\("))
_AS_BASH = _Form(_read_bash, re.compile(r"[\w.]+[ \t]*(?:--|\\?\n)|#"))
_AS_YAML = _Form(_read_yaml, re.compile(r"[\w\"' -]+:"))
FENCES: Mapping[str, tuple[_Form, ...]] = {
    "": (_AS_JSON, _AS_PYTHON),
    "json": (_AS_JSON,), "tool_call": (_AS_JSON,),
    "python": (_AS_PYTHON,), "py": (_AS_PYTHON,),
    "tool_code": (_AS_PYTHON._replace(is_in_answers=False),),
    "bash": (_AS_BASH,), "sh": (_AS_BASH,), "shell": (_AS_BASH,),
    "yaml": (_AS_YAML,), "yml": (_AS_YAML,),
}  # fmt: skip
"""The forms of a call by a fence's language; code in any other language is text."""
