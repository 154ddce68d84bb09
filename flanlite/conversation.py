"""What every stage passes around: a conversation of turns, the tools it offers and the calls it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Role = Literal["system", "user", "assistant", "observation"]

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "observation": "observation",
    "function": "observation",
    "tool": "observation",
    "ipython": "observation",
}
"""The names that outside formats use for the four roles; `function_call` is a call, not a role."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool: its name and its arguments, or the arguments' raw text where that is no JSON object."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)

    def arguments_json(self) -> str:
        """The arguments as one line of JSON; raw text comes back as it is."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool on offer. `parameters` is a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: its text and, for an assistant turn only, the calls that follow it.

    `trained` says whether the model learns to write this turn; only assistant turns can be trained.
    """

    role: Role
    text: str
    calls: tuple[ToolCall, ...] = ()
    trained: bool = False

    def __post_init__(self) -> None:
        if self.role != "assistant" and (self.calls or self.trained):
            raise ValueError(f"a {self.role} turn can neither call a tool nor be trained")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, with at most one system turn, which comes first."""

    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if any(turn.role == "system" for turn in self.turns[1:]):
            raise ValueError("a system turn stands after the first turn")

    @property
    def system(self) -> str | None:
        """The system turn's text, or None without one."""
        return self.turns[0].text if self.turns and self.turns[0].role == "system" else None


def sound(value: T) -> T:
    """The value, made of dataclasses, if it is JSON and its texts are Unicode. Raises ValueError with the reason."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_object).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None
    except (TypeError, ValueError, RecursionError):
        raise ValueError("a value is no JSON") from None
    return value


def _as_object(value: Any) -> dict[str, Any]:
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is no JSON")
    return {field.name: getattr(value, field.name) for field in fields(value)}


def well_formed(value: Any) -> Any:
    """A JSON value whose texts are Unicode: half of a surrogate pair, which JSON can spell, becomes `?`.

    Raises RecursionError for a value that is nested some hundreds deep.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    return [well_formed(item) for item in value] if isinstance(value, list) else value
