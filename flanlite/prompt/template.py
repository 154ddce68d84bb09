"""The three templates under one protocol, and how a base comes by its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from flanlite.conversation import Role, Turn
from flanlite.errors import FlanliteError
from flanlite.prompt.agent_flan import AgentFlan
from flanlite.prompt.jinja import Jinja
from flanlite.prompt.llama2 import Llama2
from flanlite.prompt.segments import Segment
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import ToolStyle, tool_prompt

MASKED = -100
"""The label of a token that is not trained, as torch's cross-entropy skips it."""


class Template(Protocol):
    """Turns in, segments out."""

    @property
    def name(self) -> str: ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that would open or close a turn if a turn's own text could hold them."""

    @property
    def encodes_specials_in_text(self) -> bool:
        """Whether control tokens are written as names in the segments' text, as Jinja templates do."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Generation stops on these; the first ends a trained turn."""

    @property
    def chat_template(self) -> str:
        """The template as Jinja, for other programs."""

    def render(self, turns: Sequence[Turn], *, is_open: bool = False) -> list[Segment]: ...


TEACHING_FILE = "flanlite.json"
"""In a merged model's folder: template, template_hash and tool_style of the run it came from, and its base."""

TEMPLATES: dict[str, Callable[[Tokenizer], Template]] = {"llama2": Llama2, "agent-flan": AgentFlan, "auto": Jinja}


def open_template(name: str, tokenizer: Tokenizer) -> Template:
    """The template that a run's record names, for the tokenizer in its adapter."""
    return TEMPLATES[name](tokenizer)


def fingerprint(template: Template, style: ToolStyle) -> str:
    """A hash of what a model is asked with: what the template writes, where generation stops, how tools are offered."""
    stops = ",".join(map(str, template.stop_ids))
    return hashlib.sha256(f"{template.chat_template}{stops}{tool_prompt(style)}".encode()).hexdigest()[:16]


def choose_template(name: str, tokenizer: Tokenizer) -> Template:
    """The template of that name for a tokenizer; `auto` is the base's own, which for a Llama-2 base is `llama2`."""
    if name not in TEMPLATES:
        raise FlanliteError(f"There is no template {name!r}.", f"Choose one of: {', '.join(TEMPLATES)}.")
    if name == "auto" and "<<SYS>>" in (tokenizer.chat_template or ""):
        name = "llama2"
    return TEMPLATES[name](tokenizer)


@dataclass(frozen=True, slots=True)
class Span:
    """A run of `tokens` ids with one owner."""

    role: Role | str
    tokens: int
    trained: bool


@dataclass(frozen=True, slots=True)
class Tokens:
    """A rendered conversation: its ids, and whose they are, in order."""

    ids: list[int]
    spans: list[Span]

    @property
    def labels(self) -> list[int]:
        """The ids where trained, MASKED elsewhere; as long as `ids`."""
        labels: list[int] = []
        for span in self.spans:
            start = len(labels)
            labels += self.ids[start : start + span.tokens] if span.trained else [MASKED] * span.tokens
        return labels

    @property
    def trained_tokens(self) -> int:
        """How many ids are trained."""
        return sum(span.tokens for span in self.spans if span.trained)


def tokenize(template: Template, tokenizer: Tokenizer, turns: Sequence[Turn], *, is_open: bool = False) -> Tokens:
    """Turns to tokens: for training as they are, for generation with `is_open`."""
    segments = template.render(turns, is_open=is_open)
    encode = tokenizer.encode_with_specials if template.encodes_specials_in_text else tokenizer.encode_segments
    ids, ends = encode(segments)
    spans: list[Span] = []
    start = 0
    for segment, end in zip(segments, ends, strict=True):
        if spans and (spans[-1].role, spans[-1].trained) == (segment.role, segment.trained):
            spans[-1] = Span(segment.role, spans[-1].tokens + end - start, segment.trained)
        elif end > start:
            spans.append(Span(segment.role, end - start, segment.trained))
        start = end
    return Tokens(ids, spans)


def pieces(tokens: Tokens, tokenizer: Tokenizer) -> Iterator[tuple[str, Span]]:
    """The text of the ids as they decode, span by span, control tokens as written."""
    end, shown = 0, 0
    for span in tokens.spans:
        end += span.tokens
        # Decoded from the start each time: the blank at a span's head is lost when it is decoded alone.
        text = tokenizer.decode(tokens.ids[:end], with_specials=True)
        yield text[shown:], span
        shown = len(text)
