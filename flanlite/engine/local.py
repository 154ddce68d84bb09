"""A model with its weights here, as the agent loop asks it: one reply at a time, in the order in which they came."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flanlite.agent.model import Generation, Prompt, Sampling
from flanlite.conversation import Conversation, Turn
from flanlite.engine.generate import Stream, replies_as_they_come, token_losses
from flanlite.errors import FlanliteError
from flanlite.prompt.segments import break_marks
from flanlite.prompt.template import Template, Tokens, pieces, tokenize
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import ToolStyle, as_text, write_out

LEAST_NEW_TOKENS = 64
"""Room that a prompt must leave for the reply; a longer limit of new tokens is shortened to what is left."""

POLL_S = 0.2
"""How often somebody who waits is told of the others before."""


class SharedModel:
    """A loaded model, and the line of those who want a reply of it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @contextlib.contextmanager
    def place(self) -> Iterator[object]:
        """A place at the end of the line, given up on leaving."""
        place = object()
        with self._changed:
            self._line.append(place)
        try:
            yield place
        finally:
            with self._changed:
                self._line.remove(place)
                self._changed.notify_all()

    def ahead_of(self, place: object) -> int:
        """How many stand before the place, after a short wait if there are any."""
        with self._changed:
            if self._line[0] is not place:
                self._changed.wait(POLL_S)
            return self._line.index(place)

    @contextlib.contextmanager
    def adapted(self, uses_adapter: bool) -> Iterator[Any]:
        """The model with its adapter or without. For the head of the line only: it changes the model for all."""
        if uses_adapter or not hasattr(self.model, "disable_adapter"):
            yield self.model
        else:
            with self.model.disable_adapter():
                yield self.model


class LocalModel:
    """A ChatModel over a loaded model that others may share; with uses_adapter=False it is their base."""

    def __init__(
        self,
        name: str,
        shared: SharedModel,
        tokenizer: Tokenizer,
        template: Template,
        style: ToolStyle,
        context_tokens: int,
        *,
        uses_adapter: bool = True,
    ) -> None:
        self.name = name
        self.style = style
        self.shared = shared
        self.tokenizer = tokenizer
        self.template = template
        self.uses_adapter = uses_adapter
        self.context_tokens = context_tokens

    def ask(self, conversation: Conversation, sampling: Sampling, stop: threading.Event) -> Generation:
        """See ChatModel. A conversation that is too long loses its oldest exchanges, whole ones only."""
        tokens, dropped_turns = self._fitted(write_out(conversation, self.style))
        room = self.context_tokens - len(tokens.ids)
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
        shown = tuple((str(span.role), text) for text, span in pieces(tokens, self.tokenizer))
        prompt = Prompt(shown, len(tokens.ids), self.context_tokens, dropped_turns)
        return _LocalGeneration(self, prompt, tokens.ids, sampling, stop)

    def prompt_text(self, conversation: Conversation) -> str:
        """The whole prompt, nothing left out."""
        return self.tokenizer.decode(self._open_tokens(write_out(conversation, self.style)).ids, with_specials=True)

    def answer_all(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> Iterator[tuple[int, str | None]]:
        """Greedy replies, in batches by length; nothing is left out of a conversation, and None says it is too long."""
        prompts = [self._open_tokens(write_out(conversation, self.style)).ids for conversation in conversations]
        # Near the end of the context there is less room for a reply: those get what there is, each by itself.
        rooms = [self.context_tokens - len(prompt) for prompt in prompts]
        whole = [index for index, room in enumerate(rooms) if room >= max_new_tokens]
        short = [index for index, room in enumerate(rooms) if LEAST_NEW_TOKENS <= room < max_new_tokens]
        yield from ((index, None) for index, room in enumerate(rooms) if room < min(LEAST_NEW_TOKENS, max_new_tokens))
        with self.shared.adapted(self.uses_adapter) as model:
            for indices, new_tokens in [(whole, max_new_tokens), *(([index], rooms[index]) for index in short)]:
                chosen = [prompts[index] for index in indices]
                for number, ids in replies_as_they_come(model, chosen, self.template.stop_ids, new_tokens):
                    yield indices[number], self.tokenizer.decode(ids)

    def tokens(self, conversation: Conversation) -> Tokens:
        """A finished conversation's ids and labels, as in training."""
        return tokenize(self.template, self.tokenizer, self._safe(as_text(conversation, self.style)))

    def losses(self, rows: Iterable[Tokens]) -> Iterator[tuple[float, int]]:
        """For each row the sum of its trained tokens' losses, in nats, and how many those are."""
        with self.shared.adapted(self.uses_adapter) as model:
            for row in rows:
                yield token_losses(model, row.ids, row.labels)

    def _fitted(self, turns: list[Turn]) -> tuple[Tokens, int]:
        """The newest exchanges that leave room for a reply, and how many turns before them were left out."""
        first = 1 if turns[0].role == "system" else 0
        starts = [index for index, turn in enumerate(turns) if turn.role == "user"]
        for start in (first, *starts[1:]):
            tokens = self._open_tokens([*turns[:first], *turns[start:]])
            if len(tokens.ids) + LEAST_NEW_TOKENS <= self.context_tokens:
                return tokens, start - first
        raise FlanliteError(
            f"The question takes {len(tokens.ids):,} tokens with its tools, their results and the system text; "
            f"{self.name} reads {self.context_tokens:,}, of which a reply needs {LEAST_NEW_TOKENS}.",
            "Switch off tools that the question does not need, or ask for less.",
        )

    def _open_tokens(self, turns: list[Turn]) -> Tokens:
        """As in training: the template's marks in a text are broken, so that no text can open a turn.

        Raises FlanliteError where the template cannot write the turns.
        """
        try:
            return tokenize(self.template, self.tokenizer, self._safe(turns), is_open=True)
        except ValueError as error:
            raise FlanliteError(f"The model's template cannot write this conversation: {error}.") from error

    def _safe(self, turns: list[Turn]) -> list[Turn]:
        return break_marks(turns, self.template.marks, in_answers=self.template.encodes_specials_in_text)[0]


class _LocalGeneration:
    def __init__(
        self, asked: LocalModel, prompt: Prompt, ids: list[int], sampling: Sampling, stop: threading.Event
    ) -> None:
        self.prompt = prompt
        self.ahead = 0
        self.is_cut = False
        self._asked = asked
        self._ids = ids
        self._sampling = sampling
        self._stop = stop

    def __iter__(self) -> Iterator[str]:
        shared = self._asked.shared
        with shared.place() as place:
            while ahead := shared.ahead_of(place):
                if self._stop.is_set():
                    return
                self.ahead = ahead
                yield ""
            with shared.adapted(self._asked.uses_adapter) as model:
                yield from self._pieces(model)

    def _pieces(self, model: Any) -> Iterator[str]:
        sampling, tokenizer = self._sampling, self._asked.tokenizer
        written: list[int] = []
        shown = ""
        with Stream(
            model,
            self._ids,
            self._asked.template.stop_ids,
            sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
        ) as stream:
            for token in stream:
                if self._stop.is_set():
                    return
                written.append(token)
                text = tokenizer.decode(written)
                # A character of several tokens shows as U+FFFD until its last one has come.
                if len(text) > len(shown) and not text.endswith("\ufffd"):
                    yield text[len(shown) :]
                    shown = text
        self.is_cut = len(written) == sampling.max_new_tokens
