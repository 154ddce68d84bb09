"""One request and its reply, read as it comes, native tool calls included."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anyio.from_thread import start_blocking_portal
from openai import AsyncOpenAI, AsyncStream, BadRequestError, Timeout, UnprocessableEntityError
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

from flanlite.agent.model import Prompt
from flanlite.conversation import Conversation, ToolCall
from flanlite.endpoint.messages import readable_pieces
from flanlite.endpoint.server import CONNECT_S, api_key, errors_told, is_overlong
from flanlite.errors import FlanliteError
from flanlite.prompt.toolcalls import json_calls

if TYPE_CHECKING:
    from flanlite.endpoint import Endpoint

SILENCE_S = 600.0
"""How long a server may say nothing: a long prompt on a slow machine takes minutes before its first token."""

_STOP_CHECK_S = 0.05


class Reply:
    """The Generation of one request."""

    ahead = 0

    def __init__(
        self,
        endpoint: Endpoint,
        conversation: Conversation,
        sampled: Mapping[str, Any],
        stop: threading.Event,
        *,
        may_drop: bool,
    ) -> None:
        self.is_cut = False
        self._endpoint, self._conversation, self._sampled, self._stop = endpoint, conversation, sampled, stop
        self._may_drop = may_drop
        self._request = {**endpoint.request_for(conversation), **sampled}
        self.prompt = Prompt(readable_pieces(self._request))
        self._calls: list[_PartialCall] = []
        self._last_piece = ""
        self._finish_reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                yield from self._stream()
                return
            except FlanliteError as error:
                # A server refuses what is too long before it says anything.
                if self._last_piece or not is_overlong(error) or not self._drop_oldest():
                    raise

    def _drop_oldest(self) -> bool:
        """Leave out the oldest exchange; whether there was one beside the last."""
        turns = self._conversation.turns
        starts = [index for index, turn in enumerate(turns) if turn.role == "user"]
        if not self._may_drop or len(starts) < 2:
            return False
        kept = (*turns[: starts[0]], *turns[starts[1] :])
        dropped_turns = self.prompt.dropped_turns + len(turns) - len(kept)
        self._conversation = replace(self._conversation, turns=kept)
        self._request = {**self._endpoint.request_for(self._conversation), **self._sampled}
        self.prompt = Prompt(readable_pieces(self._request), dropped_turns=dropped_turns)
        return True

    def _stream(self) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # The request has an event loop of its own: cancelled there, it closes its connection at once, whatever it is
        # waiting for, and the server stops generating. A blocked read of a socket can only wait for its next byte.
        with start_blocking_portal() as portal:
            reading = portal.start_task_soon(self._read, pieces.put)
            reading.add_done_callback(lambda _: pieces.put(None))
            try:
                while not self._stop.is_set():
                    try:
                        piece = pieces.get(timeout=_STOP_CHECK_S)
                    except queue.Empty:
                        continue
                    if piece is None:
                        reading.result()
                        return
                    yield piece
            finally:
                reading.cancel()

    async def _read(self, take: Callable[[str], None]) -> None:
        """Send the request and take the reply's pieces as they come; native calls are its last one, as text."""
        url, timeout = self._endpoint.url, Timeout(SILENCE_S, connect=CONNECT_S)
        with errors_told(url):
            async with (
                AsyncOpenAI(base_url=url, api_key=api_key(), timeout=timeout) as client,
                await self._send(client) as stream,
            ):
                async for chunk in stream:
                    if piece := self._content(chunk):
                        take(piece)
        if self._finish_reason is None:
            raise FlanliteError(f"The server at {url} broke off its reply.", "Its own log may say why.")
        if self._calls:
            gap = "" if self._last_piece.endswith("\n") or not self._last_piece else "\n"
            take(gap + json_calls("", (call.whole() for call in self._calls)))
        self.is_cut = self._finish_reason == "length"

    def _content(self, chunk: ChatCompletionChunk) -> str:
        """The chunk's text; whatever else it tells is kept. Reasoning that a server sends apart is left out."""
        if chunk.usage:
            self.prompt = replace(self.prompt, tokens=chunk.usage.prompt_tokens)
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        # Some last chunks come without a delta.
        delta = choice.delta or ChoiceDelta()
        for piece in delta.tool_calls or ():
            _gather(piece, self._calls)
        self._last_piece = delta.content or self._last_piece
        return delta.content or ""

    async def _send(self, client: AsyncOpenAI) -> AsyncStream[ChatCompletionChunk]:
        """Send the request; a server that does not know stream_options is asked without, now and later."""
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if self._endpoint.tells_usage else {}
        try:
            stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(
                **self._request, **options, stream=True
            )
        except (BadRequestError, UnprocessableEntityError) as error:
            if not options or "stream_options" not in str(error.body):
                raise
            self._endpoint.tells_usage = False
            return await self._send(client)
        return stream


@dataclass(slots=True)
class _PartialCall:
    """A native call, as far as its pieces have come."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    def whole(self) -> ToolCall:
        """The call; arguments that are no JSON object stay the text that they are."""
        try:
            arguments = json.loads(self.arguments.strip() or "{}")
        except (ValueError, RecursionError):
            arguments = None
        return ToolCall(self.name, arguments if isinstance(arguments, dict) else self.arguments)


def _gather(piece: ChoiceDeltaToolCall, calls: list[_PartialCall]) -> None:
    """Put a piece to the call of its index, or begin one.

    A piece with an id of its own begins one too, since some servers give every call the index 0.
    """
    call = next((call for call in reversed(calls) if call.index == piece.index), None)
    if call is None or (piece.id and call.id and piece.id != call.id):
        call = _PartialCall(piece.index)
        calls.append(call)
    call.id = call.id or piece.id or ""
    if piece.function:
        call.name = call.name or piece.function.name or ""
        call.arguments += piece.function.arguments or ""
