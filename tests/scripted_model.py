"""A model that says what it is told to, in small pieces: for everything around a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from flanlite.agent.model import Prompt, Sampling
from flanlite.conversation import Conversation


class ScriptedModel:
    """Gives its replies in order, one a call of `ask`, and keeps what it was asked; the last one is said for ever."""

    style = "react"

    def __init__(self, *replies: str, name: str = "scripted", pause_s: float = 0.0) -> None:
        self.name = name
        self.asked: list[Conversation] = []
        self._replies = replies
        self._pause_s = pause_s

    def ask(self, conversation: Conversation, sampling: Sampling, stop: threading.Event) -> ScriptedGeneration:
        reply = self._replies[min(len(self.asked), len(self._replies) - 1)]
        self.asked.append(conversation)
        return ScriptedGeneration(reply, conversation, sampling, self._pause_s, stop)


class ScriptedGeneration:
    def __init__(
        self, reply: str, conversation: Conversation, sampling: Sampling, pause_s: float, stop: threading.Event
    ) -> None:
        pieces = tuple((turn.role, turn.text) for turn in conversation.turns)
        self.prompt = Prompt(pieces, sum(len(text) for _, text in pieces), 1000)
        self.ahead = 0
        self.is_cut = len(reply) > sampling.max_new_tokens
        self.was_left_early = True
        self._reply = reply[: sampling.max_new_tokens]
        self._pause_s = pause_s
        self._stop = stop

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self._reply), 3):
            if self._stop.wait(self._pause_s):
                return
            yield self._reply[start : start + 3]
        self.was_left_early = False


def until(condition: object, seconds: float = 10.0) -> None:
    """Wait until a condition holds; fail where it never does."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
