"""What the agent loop asks: a model with weights here, or one behind an endpoint, under one protocol."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from flanlite.conversation import Conversation
from flanlite.prompt.toolcalls import ToolStyle

ChatStyle = ToolStyle | Literal["openai"]
"""How tools are offered: written into the system text in a tool style, or natively, as a server takes them."""

TEMPERATURES = (0.0, 1.5)
TOP_PS = (0.05, 1.0)
"""The least and the most that a chat may set: hotter replies are noise."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn; temperature 0 takes the likeliest token every time."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 512


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked with: pieces of (owner, text) in order, special tokens written out.

    The owner is a role or "template". `tokens` and `context_tokens` are None where only a server knows them;
    `dropped_turns` of the oldest turns were left out so that the rest fits.
    """

    pieces: tuple[tuple[str, str], ...]
    tokens: int | None = None
    context_tokens: int | None = None
    dropped_turns: int = 0

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)


class Generation(Protocol):
    """One reply on its way: iterate for its pieces of text, in order; leaving the iteration ends it.

    A piece may be empty: the reply is then still waiting, behind `ahead` others.
    """

    prompt: Prompt
    ahead: int
    is_cut: bool
    """Known when the iteration is over: whether max_new_tokens ended the reply, not the model."""

    def __iter__(self) -> Iterator[str]: ...


class Respondent(Protocol):
    """A model that answers many conversations at once, greedily."""

    @property
    def name(self) -> str: ...

    @property
    def style(self) -> ChatStyle: ...

    def prompt_text(self, conversation: Conversation) -> str:
        """What the model is asked with; any change of it makes another question."""

    def answer_all(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> Iterator[tuple[int, str | None]]:
        """(a conversation's index, the reply) as they come; None where the model cannot be asked, being too long."""


class ChatModel(Protocol):
    """A model that continues a conversation."""

    @property
    def name(self) -> str: ...

    @property
    def style(self) -> ChatStyle: ...

    def ask(self, conversation: Conversation, sampling: Sampling, stop: threading.Event) -> Generation:
        """Begin a reply to the conversation, whose turns are text and whose tools are on offer.

        An assistant turn holds the reply as the model wrote it; an observation turn holds what a tool returned. `stop`
        ends the reply early when it is set. Raises FlanliteError where the conversation cannot be asked.
        """
