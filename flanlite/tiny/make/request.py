"""A request with everything that is true of it: the topic, the tool and arguments, the result and the answer."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from flanlite.agent.builtin import BUILTIN
from flanlite.tiny.make.domains import DOMAINS, NOUN_REQUESTS, NOUN_TOOLS, NOUNS, Domain
from flanlite.tiny.make.phrases import (
    AFTER,
    AFTER_UNSEEN,
    ANSWERS,
    BEFORE,
    BEFORE_UNSEEN,
    FIELD_REQUESTS,
    FRAMES,
    NOUN_PHRASES,
    PHRASES,
)  # fmt: skip
from flanlite.tiny.make.values import FILL, Filled, anything, fill, made_up_word, reword

Wording = Literal["known", "wider", "framed", "unseen"]
TYPE_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}
TOOLS = {function.__name__: function for function in BUILTIN}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Listed:
    """A tool as the prompt lists it; the topic is what a thought calls it, and is not shown."""

    name: str
    parameters: tuple[tuple[str, str], ...]
    description: str
    topic: str

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(f'{name}: {kind}' for name, kind in self.parameters)})"

    @property
    def line(self) -> str:
        return f"- {self.signature}: {self.description}"


@dataclass(frozen=True)
class Request:
    """What is asked, and what follows from it; `tool` is None where none exists."""

    text: str
    topic: str
    tool: Listed | None
    arguments: dict[str, Any]
    result: str
    answer: str

    @property
    def arguments_json(self) -> str:
        return json.dumps(self.arguments, ensure_ascii=False)


def listed(function: Callable[..., str]) -> Listed:
    """Reads a built-in tool's line from its signature and docstring."""
    hints = typing.get_type_hints(function)
    parameters = tuple((name, _type_name(hints[name])) for name in inspect.signature(function).parameters)
    return Listed(function.__name__, parameters, inspect.getdoc(function) or "", PHRASES[function.__name__].topic)


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "|".join(f'"{choice}"' for choice in typing.get_args(hint))
    return TYPE_NAMES[hint]


BUILTIN_LISTED = {name: listed(function) for name, function in TOOLS.items()}


def builtin_request(rng: Random, name: str, wordings: tuple[Wording, ...]) -> Request:
    """A request for one built-in tool, in one of the wordings of the given lists."""
    wording = rng.choice(wordings)
    filled = FILL[name](rng)
    phrasing = reword(rng, rng.choice(_phrasings(rng, name, filled, wording)))
    arguments = dict(filled.arguments)
    if "{days_before}" in phrasing:
        arguments["days"] = -arguments["days"]
    text = fill(_wrapped(rng, phrasing, wording), filled.said)
    result, answer = outcome(name, arguments)
    return Request(text, PHRASES[name].topic, BUILTIN_LISTED[name], arguments, result, answer)


def _phrasings(rng: Random, name: str, filled: Filled, wording: Wording) -> tuple[str, ...]:
    """The tool's own phrasings, and as often those that say its field in other words."""
    if wording == "framed":
        return (fill(rng.choice(FRAMES), {"wanted": rng.choice(NOUN_PHRASES[name])}),)
    phrasings: tuple[str, ...] = getattr(PHRASES[name], wording)
    field = filled.arguments.get("field")
    if field is None or wording == "unseen":
        return phrasings
    more = FIELD_REQUESTS[name, str(field)][wording == "wider"]
    return phrasings + more * (len(phrasings) // len(more))


def _wrapped(rng: Random, phrasing: str, wording: Wording) -> str:
    """Adds what people say before and after a request."""
    before = rng.choice(BEFORE_UNSEEN) if wording == "unseen" and rng.random() < 0.3 else rng.choice(BEFORE)
    after = rng.choice(AFTER_UNSEEN) if wording == "unseen" and rng.random() < 0.3 else rng.choice(AFTER)
    if rng.random() < (0.5 if before else 0.1) and not phrasing.startswith(("I ", "{")):
        phrasing = phrasing[0].lower() + phrasing[1:]
    if not after and rng.random() < 0.2:
        phrasing = phrasing.rstrip(".?")
    return before + phrasing + after


def outcome(name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Really runs the tool: its observation and the answer's sentence."""
    try:
        result = TOOLS[name](**arguments)
    except ValueError as error:
        return f"Error: {error}", f"That did not work: {error}"
    values = {key: str(value) for key, value in arguments.items()} | {"result": result}
    sentence = ANSWERS[name]
    if name == "add_days":
        days = int(arguments["days"])
        sentence = f"{abs(days)} days {'before' if days < 0 else 'after'} {{date}} it is {{result}}."
    return result, fill(sentence, values)


def foreign_request(rng: Random, domains: tuple[Domain, ...] = DOMAINS, invented: bool = True) -> Request:
    """A request no built-in tool is for; `tool` is one that would be, for lists in pre-training."""
    values = anything(rng, NOUNS)
    if invented and rng.random() < 0.3:
        noun = values["noun"]
        name, description = rng.choice(NOUN_TOOLS)
        tool = Listed(fill(name, values), (("city", "string"),), fill(description, values), noun)
        phrasing, topic = reword(rng, rng.choice(NOUN_REQUESTS)), noun
    else:
        domain = rng.choice(domains)
        tool = Listed(rng.choice(domain.names), domain.parameters, domain.description, domain.topic)
        frame = fill(rng.choice(FRAMES), {"wanted": domain.topic})
        phrasing = reword(rng, frame if invented and rng.random() < 0.1 else rng.choice(domain.requests))
        topic = domain.topic
    return Request(fill(_wrapped(rng, phrasing, "known"), values), topic, tool, {}, "", "")


def invented_tool_request(rng: Random) -> Request:
    """A tool that exists nowhere, with parameters to be copied from the list and values from the request."""
    noun, name = rng.choice(NOUNS), made_up_word(rng)
    verb = rng.choice(("find", "get", "set", "make", "count", "move", "check", "sort", "send", "plan"))
    keys = rng.sample(("city", "name", "size", "color", "code", "level", "amount", "date", "place", "year", name), 2)
    keys = keys[: rng.choice((1, 2, 2))]
    values: dict[str, Any] = {key: _invented_value(rng, key) for key in keys}
    kinds = tuple((key, TYPE_NAMES[type(value)]) for key, value in values.items())
    called = rng.choice((f"{verb}_{noun}", f"{name}_{noun}", f"{verb}_{name}"))
    tool = Listed(called, kinds, f"{verb.capitalize()} {noun}.", noun)
    said = rng.choice((" and ", ", ", " with ")).join(f"{key} {value}" for key, value in values.items())
    frame = rng.choice(
        ("{verb} {noun} with {said}.", "Can you {verb} {noun} for {said}?", "I want to {verb} {noun}: {said}.",
         "Please {verb} the {noun} of {said}.")
    )  # fmt: skip
    text = fill(frame, {"verb": verb, "noun": noun, "said": said})
    result = rng.choice((str(rng.randint(1, 9999)), made_up_word(rng), f"{rng.randint(2, 99)} {noun}"))
    return Request(text[0].upper() + text[1:], noun, tool, values, result, f"The result for {said} is {result}.")


def _invented_value(rng: Random, key: str) -> str | int | float:
    if key in ("size", "level", "year"):
        return rng.randint(1, 3000)
    if key == "amount":
        return round(rng.randint(1, 999) + rng.randint(1, 9) / 10, 1)
    if key == "date":
        return f"{rng.randint(1950, 2050)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    return made_up_word(rng).capitalize() if key in ("city", "place") else made_up_word(rng)
