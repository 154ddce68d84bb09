"""Any base's own chat template, with its labels found exactly.

The template is rendered once with stand-ins for the messages' texts, which shows what it writes around each; the texts
are then put back, and the result must equal what the template itself makes of the conversation. Nothing is searched
for: a template that rewrites the texts is refused instead of mislabelled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from flanlite.conversation import Turn
from flanlite.errors import FlanliteError
from flanlite.prompt.segments import Segment, join_same_side, joined, stripped
from flanlite.prompt.tokenizer import Tokenizer

STAND_IN = "\ue000{}\ue001"
STAND_INS = re.compile("\ue000(\\d+)\ue001")

TODAY = date(2024, 7, 26)
"""What a template that asks for the date is told, else every day's training set were another one; Llama 3's own."""


class Jinja:
    """The template that a base ships. Turns of one side that follow each other are one message."""

    name = "auto"
    encodes_specials_in_text = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.chat_template:
            raise FlanliteError(
                "The base has no chat template of its own.",
                "Use a chat or instruct model, or choose template=llama2 or template=agent-flan.",
            )
        self.chat_template = tokenizer.chat_template
        try:
            self._template = _environment().from_string(self.chat_template)
        except jinja2.TemplateSyntaxError as error:
            raise FlanliteError(
                f"The base's chat template is broken at line {error.lineno}: {error.message}.",
                "Choose template=llama2.",
            ) from error
        self._names = {key: tokenizer.config.get(key) or "" for key in ("bos_token", "eos_token")}
        self._special = re.compile("|".join(re.escape(token) for token in tokenizer.special_tokens) or r"(?!)")
        self._shape = lru_cache(maxsize=1024)(self._shape_of)
        self._takes_system = self._find_out_about_system()
        try:
            closing = self._special.search(self._shape(("user", "assistant"), False)[-1])
            headers = self._plain_headers(tokenizer.special_tokens)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise FlanliteError(f"{reason[0].upper()}{reason[1:]}.", "Choose template=llama2.") from error
        if closing is None:
            raise FlanliteError(
                "The base's chat template ends an assistant turn with no control token, so generation could not stop.",
                "Choose template=llama2, or a base whose template ends its turns.",
            )
        self.marks = tokenizer.special_tokens + headers
        stops = (tokenizer.id_of(closing[0]), tokenizer.find_id(tokenizer.eos_token))
        self.stop_ids = tuple(dict.fromkeys(stop for stop in stops if stop is not None))

    def render(self, turns: Sequence[Turn], *, is_open: bool = False) -> list[Segment]:
        """Segments of the turns; with `is_open` the header of the assistant's turn follows.

        Raises ValueError where the template refuses the conversation or rewrites its texts.
        """
        messages = self._messages(turns)
        # Many templates trim texts: what they make of trimmed ones is then the same, and can be labelled.
        for candidate in (messages, [message.trimmed() for message in messages]):
            rendered = self._fill(candidate, is_open)
            if _text(rendered) == self._render([(message.role, message.text) for message in candidate], is_open):
                return self._fill(candidate, is_open, as_asked=True)
        raise ValueError("the base's chat template rewrites the text of a turn")

    def _messages(self, turns: Sequence[Turn]) -> list[_Message]:
        system = turns[0].text if turns and turns[0].role == "system" else None
        runs = join_same_side(turns[1:] if system is not None else turns)
        messages = [
            _Message("assistant" if run[0].role == "assistant" else "user", joined(run), run[-1].trained)
            for run in runs
        ]
        if system is None:
            return messages
        if self._takes_system:
            return [_Message("system", [Segment(system, "system")]), *messages]
        if not messages or messages[0].role == "assistant":
            messages.insert(0, _Message("user", []))
        folded = [Segment(system, "system"), Segment("\n\n"), *messages[0].segments]
        return [_Message("user", folded), *messages[1:]]

    def _fill(self, messages: Sequence[_Message], is_open: bool, *, as_asked: bool = False) -> list[Segment]:
        """The messages' texts in the template's shape.

        What the template writes behind its own generation prompt and before the text, such as Mistral's blank, is the
        assistant's to write; so is the control token that ends its turn. With `as_asked`, every answer stands behind
        the generation prompt: templates that think leave part of it out of earlier turns, where no chat will ask.
        """
        roles = tuple(message.role for message in messages)
        around = self._shape(roles, is_open)
        segments = [Segment(around[0])]
        for index, (message, behind) in enumerate(zip(messages, around[1:], strict=True)):
            if message.role != "assistant":
                segments += [*message.segments, Segment(behind)]
                continue
            header = segments.pop().text
            prompt = self._shape(roles[:index], True)[-1]
            if as_asked and not header.startswith(prompt):
                header = prompt
            cut = len(prompt) if header.startswith(prompt) else len(header)
            closing = self._special.search(behind)
            end = closing.end() if closing else 0
            own = [Segment(header[cut:], "assistant", bool(message.segments) and message.segments[0].trained)]
            ending = Segment(behind[:end], "assistant", message.is_trained)
            segments += [Segment(header[:cut]), *own, *message.segments, ending, Segment(behind[end:])]
        return [segment for segment in segments if segment.text]

    def _shape_of(self, roles: tuple[str, ...], is_open: bool) -> list[str]:
        """What the template writes before the first message's text, between the texts, and behind the last."""
        text = self._render([(role, STAND_IN.format(index)) for index, role in enumerate(roles)], is_open)
        parts = STAND_INS.split(text)
        if parts[1::2] != [str(index) for index in range(len(roles))]:
            raise ValueError("the base's chat template leaves out or reorders turns")
        return parts[::2]

    def _render(self, messages: Sequence[tuple[str, str]], is_open: bool) -> str:
        try:
            return self._template.render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=is_open,
                enable_thinking=False,
                **self._names,
            )
        except Exception as error:  # a template is a program of somebody else's
            raise ValueError(f"the base's chat template refuses the conversation: {error}") from error

    def _plain_headers(self, special_tokens: Sequence[str]) -> tuple[str, ...]:
        """What the template writes between turns with no control token in it, such as Mistral's first `[INST]`."""
        around = self._shape(("user", "assistant", "user"), True)
        words = {word for text in around for word in self._special.sub(" ", text).split()}
        return tuple(sorted(word for word in words if not word.isalnum() and word not in special_tokens))

    def _find_out_about_system(self) -> bool:
        try:
            return len(self._shape_of(("system", "user", "assistant"), False)) == 4
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class _Message:
    """What the template calls a message: a role's joined turns, and whether the last of them is trained."""

    role: str
    segments: list[Segment]
    is_trained: bool = False

    @property
    def text(self) -> str:
        return _text(self.segments)

    def trimmed(self) -> _Message:
        return replace(self, segments=stripped(self.segments))


def _text(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


class _Generation(jinja2.ext.Extension):
    """Reads transformers' `{% generation %}` blocks as their content: labels come from the shape, not from them."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """The sandbox in which transformers renders chat templates, with the same functions."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    return environment


def _to_json(value: Any, indent: int | None = None) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
