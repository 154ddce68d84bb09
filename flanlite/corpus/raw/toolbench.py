"""ToolBench's files: raw answer trees, the training rows made of them, and queries with the APIs on offer."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal

from flanlite.conversation import Tool, ToolCall, Turn, sound
from flanlite.corpus.raw.exchanges import checked, exchanges, well_typed
from flanlite.corpus.raw.trajectory import Trajectory
from flanlite.prompt.given import as_arguments
from flanlite.prompt.replies import Reply, parse_reply

FINISH = "Finish"
"""The function that only ends the work, with an answer or by giving up."""

MAX_API_CHARS = 500_000
"""A longer list of APIs in a system turn is refused; real ones have some thousands."""

MAX_NAME_CHARS = 64
MAX_DESCRIPTION_CHARS = 256
"""ToolBench cuts names at the front, and descriptions at the end, to these lengths."""

SCHEMA_KEYS = frozenset({"type", "description", "properties", "required", "items", "enum", "default"})

NO_ARGUMENTS = "the arguments of a call are no JSON object"

_APIS = "you have access to the following APIs: "
_ACTION = "\nAction: "
_WRAPPING = re.compile(
    r'This is the subfunction for tool "[^"]*", you can use this tool\.'
    r'(?:The description of this function is: "(?P<description>.*)")?',
    re.DOTALL,
)
_THOUGHT = re.compile(r"^[ \t]*(?:Thought:[ \t]*)+", re.MULTILINE)
_NO_NAME_CHARS = re.compile(r"[^\u4e00-\u9fa5a-zA-Z0-9]+")
_RESERVED = frozenset({"from", "class", "return", "false", "true", "id", "and"})
_TYPES = {"NUMBER": "integer", "BOOLEAN": "boolean"}


@dataclass(frozen=True, slots=True)
class Query:
    """What a user asks, and the tools that it was written for."""

    request: str
    tools: tuple[Tool, ...]


def form_of(value: Any) -> Literal["tree", "toolllama", "query"] | None:
    """Which of ToolBench's three forms a JSON value has, by its keys."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("answer_generation"), Mapping):
        return "tree"
    if isinstance(value.get("query"), str) and isinstance(value.get("api_list"), list):
        return "query"
    turns = value.get("conversations")
    first = turns[0] if isinstance(turns, list) and turns else None
    system = first.get("value") if isinstance(first, Mapping) and first.get("from") == "system" else None
    return "toolllama" if isinstance(system, str) and _APIS in system else None


Rank = tuple[bool, int]
"""Of training rows of one query the greatest is kept: whether the row ends in the answer, and its length in turns."""


def prefix_key(row: Any) -> tuple[str, Rank] | None:
    """What names the query, with its tools, that a training row is for, and the row's rank among the query's rows.

    None for what is no training row.
    """
    if form_of(row) != "toolllama":
        return None
    turns = row["conversations"]
    queries = (turn.get("value") for turn in turns if isinstance(turn, Mapping) and turn.get("from") == "user")
    query = next(queries, None)
    if not isinstance(query, str):
        return None
    return _digest(turns[0]["value"], query), (_is_answer(turns[-1]), len(turns))


def _is_answer(turn: Any) -> bool:
    with suppress(ValueError):
        said = _of_turn(turn, (Tool(FINISH),)) if isinstance(turn, Mapping) else None
        return isinstance(said, Reply) and said.answer is not None
    return False


def read_tree(document: Mapping[str, Any]) -> Trajectory:
    """The work that a raw answer tree finished with an answer, at the first attempt. Raises ValueError if it did not.

    It is the longest list of messages that the tree was exported as or, without any, the path of first children.
    """
    answer = document.get("answer_generation")
    if not isinstance(answer, Mapping):
        raise ValueError("the document is no answer tree")
    if answer.get("valid_data") is not True:
        raise ValueError("the tree has no valid answer")
    messages = answer.get("train_messages")
    said = _of_messages(messages) if messages else _of_nodes(_first_path(document.get("tree")), answer.get("query"))
    return _trajectory(list(said), _tools(answer.get("function")))


def read_toolllama(row: Mapping[str, Any]) -> Trajectory:
    """The work that a training row shows up to its last turn, which has to be the answer."""
    turns = _objects(row.get("conversations"), "the row has no list of turns")
    if not turns or turns[0].get("from") != "system":
        raise ValueError("the first turn lists no APIs")
    tools = _tools(_listed(_text(turns[0].get("value"))))
    # The tools' parameters stay unknown, so that a value without its name is not taken for arguments.
    offered = (*(Tool(tool.name) for tool in tools), Tool(FINISH))
    return _trajectory([_of_turn(turn, offered) for turn in turns[1:]], tools)


def read_query(row: Mapping[str, Any]) -> Query:
    """A query and its APIs, which are named, typed and cut to length as in the trees."""
    request = _text(row.get("query")).strip()
    if not request:
        raise ValueError("a request is empty")
    apis = _objects(row.get("api_list"), "the row has no list of APIs")
    return sound(Query(request, _distinct(_api(api) for api in apis)))


def _trajectory(said: Sequence[Turn | Reply], tools: tuple[Tool, ...]) -> Trajectory:
    if sum(isinstance(turn, Turn) and turn.role == "user" for turn in said) > 1:
        raise ValueError("the work starts over")
    (exchange,) = exchanges(said)
    if exchange.answer is None:
        raise ValueError("the work has no final answer")
    trajectory = checked(Trajectory("", (exchange,), tools))
    # One query may have several paths.
    calls = (f"{call.name} {call.arguments_json()}" for step in exchange.steps for call in step.calls)
    return replace(trajectory, id=f"toolbench_{_digest(exchange.request, *calls, exchange.answer)[:12]}")


# What was said, in each of the forms


def _of_messages(lists: Any) -> Iterator[Turn | Reply]:
    if not isinstance(lists, list) or not all(isinstance(each, list) for each in lists):
        raise ValueError("the tree has no lists of messages")
    for message in _objects(max(lists, key=len), "the tree has no lists of messages"):
        role, content, call = message.get("role"), message.get("content"), message.get("function_call")
        if role == "assistant":
            thought = "" if content is None else _text(content)
            yield _reply(thought, call) if call else Reply(_without_marks(thought))
        elif role != "system":
            yield _heard(role, content)


def _first_path(tree: Any) -> list[Mapping[str, Any]]:
    """The nodes that no other was tried before; an answer that is not their last came of another attempt."""
    node = tree.get("tree") if isinstance(tree, Mapping) else None
    path = []
    while isinstance(node, Mapping):
        path.append(node)
        node = next(iter(_objects(node.get("children"), "the tree has a node without a list of children")), None)
    if not path or not path[-1].get("finished"):
        raise ValueError("the work starts over")
    return path[1:]


def _of_nodes(path: Iterable[Mapping[str, Any]], query: Any) -> Iterator[Turn | Reply]:
    yield _heard("user", query)
    thought = name = ""
    for node in path:
        kind, text = node.get("node_type"), _text(node.get("description"))
        if kind == "Thought":
            thought = f"{thought}\n{text}"
        elif kind == "Action":
            name = text
        else:
            yield _reply(thought, {"name": name, "arguments": text})
            if name != FINISH:
                yield _heard("function", node.get("observation"))
            thought = ""


def _of_turn(turn: Mapping[str, Any], offered: Sequence[Tool]) -> Turn | Reply:
    if turn.get("from") != "assistant":
        return _heard(turn.get("from"), turn.get("value"))
    # A thought may hold marks of its own.
    thought, mark, call = _text(turn.get("value")).rpartition(_ACTION)
    calls = parse_reply(mark + call, offered).calls
    if not mark or len(calls) != 1:
        raise ValueError("a turn is not in Thought/Action form")
    return _called(thought, calls[0])


def _heard(role: Any, content: Any) -> Turn:
    if role == "user":
        return Turn("user", _text(content).removesuffix("\nBegin!\n"))
    if role == "function":
        return Turn("observation", _text(content))
    raise ValueError("a turn has an unknown role")


def _reply(thought: str, call: Any) -> Reply:
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise ValueError("a call has no name")
    try:
        arguments = as_arguments(_text(call.get("arguments")), Tool(call["name"]))
    except ValueError:
        raise ValueError(NO_ARGUMENTS) from None
    return _called(thought, ToolCall(call["name"], arguments))


def _called(thought: str, call: ToolCall) -> Reply:
    if not isinstance(call.arguments, Mapping):
        raise ValueError(NO_ARGUMENTS)
    thought = _without_marks(thought)
    if call.name != FINISH:
        return Reply(thought, (call,))
    if call.arguments.get("return_type") != "give_answer":
        raise ValueError("the work is given up")
    return Reply(thought, answer=_text(call.arguments.get("final_answer")))


def _without_marks(thought: str) -> str:
    return _THOUGHT.sub("", thought).strip()


# The tools on offer


def _listed(system: str) -> Any:
    """The functions at the end of a system turn, which Python wrote."""
    _, mark, functions = system.rpartition(_APIS)
    if not mark:
        raise ValueError("the first turn lists no APIs")
    if len(functions) > MAX_API_CHARS:
        raise ValueError("the list of APIs is too long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python keeps an unknown escape such as \d as it is, and warns.
        try:
            return ast.literal_eval(functions.strip())
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise ValueError("the list of APIs cannot be read") from None


def _tools(functions: Any) -> tuple[Tool, ...]:
    tools = _distinct(map(_tool, _objects(functions, "the list of APIs cannot be read")))
    if tools := tuple(tool for tool in tools if tool.name != FINISH):
        return tools
    raise ValueError("no API is on offer")


def _distinct(tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """The first tool of each name."""
    named: dict[str, Tool] = {}
    for tool in tools:
        named.setdefault(tool.name, tool)
    return well_typed(named.values())


def _tool(function: Mapping[str, Any]) -> Tool:
    name, description = _text(function.get("name")), _text(function.get("description"))
    wrapped = _WRAPPING.fullmatch(description)
    description = (wrapped["description"] or "") if wrapped else description
    try:
        return Tool(name, description, _schema(function.get("parameters")))
    except RecursionError:
        raise ValueError("the parameters of a tool are nested too deeply") from None


def _schema(schema: Any) -> dict[str, Any]:
    """The schema with the keys of a JSON schema alone; ToolBench adds `optional` and `example_value`."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("properties", {}), Mapping):
        raise ValueError("the parameters of a tool are no JSON schema")
    kept = {key: value for key, value in schema.items() if key in SCHEMA_KEYS}
    if "items" in kept:
        kept["items"] = _schema(kept["items"])
    if "properties" in kept:
        kept["properties"] = {_text(name): _schema(each) for name, each in kept["properties"].items()}
    return kept


def _api(api: Mapping[str, Any]) -> Tool:
    tool, written = _standard(_text(api.get("tool_name"))), _text(api.get("api_name"))
    name = f"{_unreserved(_standard(written))}_for_{tool}"[-MAX_NAME_CHARS:]
    required = dict(map(_parameter, _parameters(api, "required_parameters")))
    optional = dict(map(_parameter, _parameters(api, "optional_parameters")))
    schema = {"type": "object", "properties": required | optional, "required": list(required)}
    # ToolBench puts the new name for the old one in the description too.
    description = _text(api.get("api_description")).strip().replace(written, name)
    return Tool(name, description[:MAX_DESCRIPTION_CHARS], schema)


def _parameters(api: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return _objects(api.get(key, []), "an API has no list of parameters")


def _parameter(parameter: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    description = _text(parameter.get("description"))[:MAX_DESCRIPTION_CHARS]
    kind = _TYPES.get(_text(parameter.get("type")), "string")
    return _unreserved(_standard(_text(parameter.get("name")))), {"type": kind, "description": description}


def _standard(name: str) -> str:
    """A name of small letters and digits, in words with `_` between them."""
    words = _NO_NAME_CHARS.sub("_", name).strip("_").lower()
    if not words:
        raise ValueError("an API has no name")
    return f"get_{words}" if words[0].isdigit() else words


def _unreserved(name: str) -> str:
    return f"is_{name}" if name in _RESERVED else name


# Values of JSON


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is missing")
    return value


def _objects(value: Any, reason: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise ValueError(reason)
    return value


def _digest(*texts: str) -> str:
    return sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
