"""A model behind an OpenAI-compatible server; tried with llama.cpp's and with `transformers serve`.

The styles react and json ask it as training would, with tools and observations as text. The style openai hands the
tools to the server, whose template then knows what to do with them. Calls that a server has parsed come back as text in
either case, so that all that follows reads one form.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from flanlite.agent.model import ChatStyle, Generation, Sampling
from flanlite.conversation import Conversation
from flanlite.endpoint.messages import as_messages, text_messages
from flanlite.endpoint.reply import Reply
from flanlite.endpoint.server import find_server, is_overlong, only_model
from flanlite.errors import FlanliteError
from flanlite.prompt.toolcalls import as_schema, write_out

RETRY_PAUSES_S = (1.0, 5.0)
"""Before a request of an evaluation that failed is sent again: a server of many hours may hiccup."""

PARALLEL_REQUESTS = 16
"""Requests at a time in an evaluation: enough to fill the batches of a serving engine."""


class Endpoint:
    """A ChatModel behind a server. `url` is where it answers /chat/completions; `name` is the model's.

    `tells_usage` turns False with the first request that the server refuses for asking how long its prompt is.
    """

    def __init__(self, url: str, model: str | None, style: ChatStyle) -> None:
        """Find the server, whose URL may lack the closing /v1, and the model: without a name, the only one it lists.

        The key, if the server wants one, is the environment's OPENAI_API_KEY. Raises FlanliteError for a server that
        does not answer or refuses, and where the model has to be named.
        """
        self.style = style
        self.url, names = find_server(url, model)
        self.name = model or only_model(names, self.url)
        self.tells_usage = True

    def ask(self, conversation: Conversation, sampling: Sampling, stop: threading.Event) -> Generation:
        """Begin a reply, as ChatModel says.

        The request is sent when the iteration begins, and it is the iteration that raises FlanliteError. Where the
        server says that its context is too small, the oldest exchanges are left out, whole ones only.
        """
        return self._begin(conversation, sampling, stop, may_drop=True)

    def _begin(self, conversation: Conversation, sampling: Sampling, stop: threading.Event, *, may_drop: bool) -> Reply:
        sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
        return Reply(self, conversation, sampled, stop, may_drop=may_drop)

    def request_for(self, conversation: Conversation) -> dict[str, Any]:
        """Model, messages and tools, as the style has them; not yet how to sample."""
        request: dict[str, Any] = {"model": self.name}
        if self.style == "openai":
            request["messages"] = as_messages(conversation)
            if conversation.tools:
                request["tools"] = [{"type": "function", "function": as_schema(tool)} for tool in conversation.tools]
        else:
            request["messages"] = text_messages(write_out(conversation, self.style))
        return request

    def prompt_text(self, conversation: Conversation) -> str:
        """The messages as they are sent, with the model's name."""
        return json.dumps(self.request_for(conversation), ensure_ascii=True)

    def answer_all(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> Iterator[tuple[int, str | None]]:
        """Greedy replies, many requests at a time; None where the server refuses a conversation as too long."""
        sampling = Sampling(max_new_tokens=max_new_tokens)

        def answer(index: int) -> tuple[int, str | None]:
            for pause_s in (*RETRY_PAUSES_S, None):
                try:
                    return index, "".join(self._begin(conversations[index], sampling, stop, may_drop=False))
                except FlanliteError as error:
                    if is_overlong(error):
                        return index, None
                    if pause_s is None or stop.wait(pause_s):
                        raise
            raise AssertionError

        stop = threading.Event()
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            running = [pool.submit(answer, index) for index in range(len(conversations))]
            try:
                for done in as_completed(running):
                    yield done.result()
            finally:
                stop.set()
                for waiting in running:
                    waiting.cancel()
