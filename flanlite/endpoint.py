"""A model behind an OpenAI-compatible server; tried with llama.cpp's and with `transformers serve`.

The styles react and json ask it as training would, with tools and observations as text. The style openai hands the
tools to the server, whose template then knows what to do with them. Calls that a server has parsed come back as text in
either case, so that all that follows reads one form.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from anyio.from_thread import start_blocking_portal
from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    Timeout,
    UnprocessableEntityError,
)
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

from flanlite.agent.model import ChatStyle, Generation, Prompt, Sampling
from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.errors import FlanliteError
from flanlite.prompt.replies import parse_reply
from flanlite.prompt.segments import join_same_side
from flanlite.prompt.toolcalls import OBSERVATION, as_schema, json_calls, write_out

Message = dict[str, Any]
"""One message of a request, as the API has it."""

CONNECT_S = 10.0
SILENCE_S = 600.0
"""How long a server may say nothing: a long prompt on a slow machine takes minutes before its first token."""

RETRY_PAUSES_S = (1.0, 5.0)
"""Before a request of an evaluation that failed is sent again: a server of many hours may hiccup."""

PARALLEL_REQUESTS = 16
"""Requests at a time in an evaluation: enough to fill the batches of a serving engine."""

_STOP_CHECK_S = 0.05
_NO_RESULT = "No result."


class Endpoint:
    """A ChatModel behind a server. `url` is where it answers /chat/completions; `name` is the model's."""

    def __init__(self, url: str, model: str | None, style: ChatStyle) -> None:
        """Find the server, whose URL may lack the closing /v1, and the model: without a name, the only one it lists.

        The key, if the server wants one, is the environment's OPENAI_API_KEY. Raises FlanliteError for a server that
        does not answer or refuses, and where the model has to be named.
        """
        self.style = style
        self.url, names = _find(url, model)
        self.name = model or _only(names, self.url)
        self._tells_usage = True

    def ask(self, conversation: Conversation, sampling: Sampling, stop: threading.Event) -> Generation:
        """Begin a reply, as ChatModel says.

        The request is sent when the iteration begins, and it is the iteration that raises FlanliteError. Where the
        server says that its context is too small, the oldest exchanges are left out, whole ones only.
        """
        return self._begin(conversation, sampling, stop, may_drop=True)

    def _begin(
        self, conversation: Conversation, sampling: Sampling, stop: threading.Event, *, may_drop: bool
    ) -> _Reply:
        sampled = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
        return _Reply(self, conversation, sampled, stop, may_drop=may_drop)

    def _request(self, conversation: Conversation) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.name}
        if self.style == "openai":
            request["messages"] = as_messages(conversation)
            if conversation.tools:
                request["tools"] = [{"type": "function", "function": as_schema(tool)} for tool in conversation.tools]
        else:
            request["messages"] = _text_messages(write_out(conversation, self.style))
        return request

    def prompt_text(self, conversation: Conversation) -> str:
        """The messages as they are sent, with the model's name."""
        return json.dumps(self._request(conversation), ensure_ascii=True)

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
                    if _is_overlong(error):
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


def _find(url: str, model: str | None) -> tuple[str, list[str]]:
    """The address that the server answers at, `url` or `url`/v1, and the models it lists there."""
    _check_address(url)
    url = url.rstrip("/")
    for base in [url] if url.endswith("/v1") else [url, f"{url}/v1"]:
        with _errors_told(base):
            try:
                names = _listed(base)
            except InternalServerError:
                # A server that fails only at listing can still be asked: transformers serve, with no hub cache to list.
                if model is None:
                    raise
                names = [model]
        if names is not None:
            return base, names
    raise FlanliteError(
        f"There is no OpenAI-compatible server at {url}: it lists no models.",
        "Give the address above /chat/completions, such as http://127.0.0.1:8080/v1.",
    )


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise FlanliteError(f"{url!r} is no web address.", "Write it as http://127.0.0.1:8080/v1.")


def _listed(url: str) -> list[str] | None:
    """The models that the server lists at this address; None where it has no such list."""
    with OpenAI(base_url=url, api_key=_key(), timeout=CONNECT_S, max_retries=0) as client:
        try:
            answer = client.get("/models", cast_to=object)
        except NotFoundError:
            return None
    if isinstance(answer, dict) and "data" in answer:
        answer = answer["data"] or []
    if not isinstance(answer, list):
        return None
    return [str(entry["id"]) for entry in answer if isinstance(entry, dict) and "id" in entry]


def _key() -> str:
    """The key to send; servers that want none take any text."""
    key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
    if not (key.isascii() and key.isprintable()):
        raise FlanliteError("OPENAI_API_KEY holds characters that no key has.", "Copy the key anew, without quotes.")
    return key


def _only(names: Sequence[str], url: str) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise FlanliteError(f"The server at {url} lists no model.", "Load one there, or name it with --model NAME.")
    listed = textwrap.shorten(", ".join(names), 400, placeholder=" and more")
    raise FlanliteError(f"The server at {url} has several models: {listed}.", "Choose one with --model NAME.")


class _Reply:
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
        self._request = {**endpoint._request(conversation), **sampled}
        self.prompt = Prompt(_pieces(self._request))
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
                if self._last_piece or not _is_overlong(error) or not self._drop_oldest():
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
        self._request = {**self._endpoint._request(self._conversation), **self._sampled}
        self.prompt = Prompt(_pieces(self._request), dropped_turns=dropped_turns)
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
        with _errors_told(url):
            async with (
                AsyncOpenAI(base_url=url, api_key=_key(), timeout=timeout) as client,
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
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if self._endpoint._tells_usage else {}
        try:
            stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(
                **self._request, **options, stream=True
            )
        except (BadRequestError, UnprocessableEntityError) as error:
            if not options or "stream_options" not in str(error.body):
                raise
            self._endpoint._tells_usage = False
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


def _text_messages(turns: Sequence[Turn]) -> list[Message]:
    """The turns as messages that any template takes: a system message, then user and assistant in alternation."""
    head, turns = _split(turns)
    return head + [{"role": _side(run), "content": _joined(run)} for run in join_same_side(turns)]


def as_messages(conversation: Conversation) -> list[Message]:
    """The conversation as messages with tool calls, which observations answer in order.

    A call that no observation answers is said to have no result, and an observation that answers no call is a user's
    text: servers refuse a conversation where the two do not match.
    """
    messages, turns = _split(conversation.turns)
    # Mistral's templates take no id but nine letters and digits.
    ids = (f"call{number:05}" for number in itertools.count())
    waiting: list[str] = []
    for run in join_same_side(turns):
        if _side(run) == "assistant":
            message = _assistant_message(_joined(run), conversation.tools, ids)
            waiting = [call["id"] for call in message.get("tool_calls", ())]
            messages.append(message)
            continue
        results = list(itertools.takewhile(lambda turn: turn.role == "observation", run))[: len(waiting)]
        messages += [
            {"role": "tool", "tool_call_id": call_id, "content": result.text if result else _NO_RESULT}
            for call_id, result in itertools.zip_longest(waiting, results)
        ]
        if rest := [_as_user(turn) for turn in run[len(results) :]]:
            messages.append({"role": "user", "content": _joined(rest)})
    return messages


def _split(turns: Sequence[Turn]) -> tuple[list[Message], Sequence[Turn]]:
    """The system message, if there is one, and the turns that follow it."""
    if turns and turns[0].role == "system":
        return [{"role": "system", "content": turns[0].text}], turns[1:]
    return [], turns


def _side(run: Sequence[Turn]) -> str:
    return "assistant" if run[0].role == "assistant" else "user"


def _joined(run: Iterable[Turn]) -> str:
    return "\n".join(turn.text for turn in run)


def _as_user(turn: Turn) -> Turn:
    return Turn("user", OBSERVATION + turn.text) if turn.role == "observation" else turn


def _assistant_message(text: str, tools: Sequence[Tool], ids: Iterator[str]) -> Message:
    """A past reply with its calls.

    Calls that cannot be read, or that name no tool on offer, stay text: servers read the arguments of past calls again,
    and refuse the whole request for one that is no JSON.
    """
    reply = parse_reply(text, tools)
    names = {tool.name for tool in tools}
    is_sound = all(call.name in names and not isinstance(call.arguments, str) for call in reply.calls)
    if not (reply.calls and is_sound):
        return {"role": "assistant", "content": text}
    functions = [{"name": call.name, "arguments": call.arguments_json()} for call in reply.calls]
    calls = [{"id": next(ids), "type": "function", "function": function} for function in functions]
    return {"role": "assistant", "content": reply.thought, "tool_calls": calls}


def _pieces(request: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What is sent, to be read: the tools, then each message on lines of its own."""
    pieces = [("template", _line(tool)) for tool in request.get("tools", ())]
    for message in request["messages"]:
        owner = "observation" if message["role"] == "tool" else message["role"]
        text = f"{message['content']}\n" if message["content"] else ""
        pieces.append((owner, text + "".join(map(_line, message.get("tool_calls", ())))))
    return tuple(pieces)


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


@contextmanager
def _errors_told(url: str) -> Iterator[None]:
    """Tell what goes wrong with a server as a FlanliteError, in the server's own words where it has any."""
    try:
        yield
    except APITimeoutError as error:
        raise FlanliteError(
            f"The server at {url} did not answer in time.", "It may be busy or stuck: see its own log."
        ) from error
    except APIConnectionError as error:
        raise FlanliteError(
            f"The connection to {url} failed: {error.__cause__ or error}.",
            "Is the server running? Start one with, for example, `llama-server -m model.gguf` or `ollama serve`.",
        ) from error
    except APIStatusError as error:
        sentence = _said(error) or error.response.reason_phrase
        raise FlanliteError(
            f"The server at {url} answers {error.status_code}: {sentence}", _hint(error.status_code, sentence)
        ) from error
    except APIError as error:
        sentence = _said(error) or error.message
        raise FlanliteError(f"The server at {url} says: {sentence}", _hint(None, sentence)) from error
    except json.JSONDecodeError as error:
        raise FlanliteError(
            f"The server at {url} does not answer in JSON.", "Is it a server for OpenAI's chat completions?"
        ) from error


_OVERLONG = re.compile(
    r"(answers (400|413|422)|says): .*(context[ _-]?(length|size|window)|maximum context|exceeds? .*context)", re.I
)


def _is_overlong(error: FlanliteError) -> bool:
    """Whether the server says, in one of the usual ways, that a request does not fit into its context."""
    return _OVERLONG.search(error.message) is not None


def _said(error: APIError) -> str:
    """What the server itself says is wrong, on one line; nothing where that is a page for browsers."""
    said = error.body
    if isinstance(said, Mapping):
        said = said.get("message") or said.get("detail") or said
    if not isinstance(said, str):
        said = json.dumps(said, ensure_ascii=False) if said else ""
    return "" if said.lstrip().startswith("<") else textwrap.shorten(said, 400, placeholder=" ...")


def _hint(status: int | None, sentence: str) -> str:
    if status in (401, 403):
        return "Set OPENAI_API_KEY to a key that the server takes."
    if status == 404:
        return "Name a model that the server has with --model NAME."
    if status == 429:
        return "Wait a while: the server limits how often it is asked."
    if "context" in sentence.lower():
        return "Begin a new conversation, offer fewer tools, or start the server with more context."
    return "The server's own log may say more."
