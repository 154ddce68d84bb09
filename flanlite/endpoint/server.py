"""Finding a server and its models, and telling in one sentence what goes wrong with it."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    InternalServerError,
    NotFoundError,
    OpenAI,
)

from flanlite.errors import FlanliteError

CONNECT_S = 10.0


def find_server(url: str, model: str | None) -> tuple[str, list[str]]:
    """The address that the server answers at, `url` or `url`/v1, and the models it lists there."""
    _check_address(url)
    url = url.rstrip("/")
    for base in [url] if url.endswith("/v1") else [url, f"{url}/v1"]:
        with errors_told(base):
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
    with OpenAI(base_url=url, api_key=api_key(), timeout=CONNECT_S, max_retries=0) as client:
        try:
            answer = client.get("/models", cast_to=object)
        except NotFoundError:
            return None
    if isinstance(answer, dict) and "data" in answer:
        answer = answer["data"] or []
    if not isinstance(answer, list):
        return None
    return [str(entry["id"]) for entry in answer if isinstance(entry, dict) and "id" in entry]


def api_key() -> str:
    """The key to send; servers that want none take any text."""
    key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
    if not (key.isascii() and key.isprintable()):
        raise FlanliteError("OPENAI_API_KEY holds characters that no key has.", "Copy the key anew, without quotes.")
    return key


def only_model(names: Sequence[str], url: str) -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise FlanliteError(f"The server at {url} lists no model.", "Load one there, or name it with --model NAME.")
    listed = textwrap.shorten(", ".join(names), 400, placeholder=" and more")
    raise FlanliteError(f"The server at {url} has several models: {listed}.", "Choose one with --model NAME.")


@contextmanager
def errors_told(url: str) -> Iterator[None]:
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


def is_overlong(error: FlanliteError) -> bool:
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
