"""What the page does: each visitor's questions go to the agent loop, and its events come back as they happen."""

from __future__ import annotations

import hmac
import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from flanlite.agent.events import Asked, Event, Exchange, Failure, Waiting, as_agent_flan, as_conversation, is_draft
from flanlite.agent.loop import Settings, work_side_by_side
from flanlite.agent.model import ChatModel, Sampling
from flanlite.agent.tools import Toolbox
from flanlite.conversation import well_formed
from flanlite.errors import FlanliteError
from flanlite.page import render
from flanlite.page.layout import Widgets, lay_out

log = logging.getLogger(__name__)

UPDATE_S = 0.1
WAITING_S = 1.0
"""Least time between two updates of a page while a text grows, and while others are before it: each costs some
hundredths of a second, which many visitors together would take from the model."""

PARALLEL_CHATS = 32
"""Chats that are worked on at once; a model takes their replies in turn."""

THREADS = 2 * PARALLEL_CHATS
"""Of the server: one a chat at work, and some for everything else."""

KEPT_S = 24 * 3600
"""How long gradio keeps its copy of an export, which a visitor may fetch late."""

EXPORT_NAME = "flanlite-chat.jsonl"

Update = dict[Any, Any]
"""What changes on the page: a widget and its new value or properties."""


@dataclass(frozen=True)
class Chat:
    """One visitor's exchanges, a list for each model, and what the last question was asked with."""

    threads: tuple[tuple[Exchange, ...], ...]
    settings: Settings = field(default_factory=Settings)
    tool_names: tuple[str, ...] = ()


class Page:
    """The page for one model, or for a base and its tuned self side by side; the last model's chat is exported."""

    def __init__(self, models: Sequence[ChatModel], toolbox: Toolbox, settings: Settings) -> None:
        self._models = models
        self._names = [model.name for model in models]
        self._toolbox = toolbox
        # By session: what stops the work on it, while there is some, and the same of its newest question.
        self._stops: dict[str | None, threading.Event] = {}
        self._newest: dict[str | None, threading.Event] = {}
        self._exports = tempfile.TemporaryDirectory(prefix="flanlite-chat-")
        title = f"{' and '.join(self._names)} · flanlite"
        self.blocks = gr.Blocks(title=title, analytics_enabled=False, fill_height=True, delete_cache=(3600, KEPT_S))
        with self.blocks:
            self._widgets = lay_out(self._names, toolbox, settings)
            self._chat = gr.State(self._empty_chat())
            self._again = gr.State("")
            self._wire(self._widgets)

    def serve(
        self, *, host: str, port: int | None, share: bool, password: str | None, opens_browser: bool
    ) -> list[str]:
        """Serve the page in the background; its addresses. With a password, any user name comes in with it.

        Raises FlanliteError where the port cannot be had.
        """
        try:
            _, local, shared = self.blocks.queue(max_size=None).launch(
                server_name=host,
                server_port=port,
                share=share,
                auth=(lambda _, given: hmac.compare_digest(given.encode(), password.encode())) if password else None,
                auth_message="Any user name will do." if password else None,
                inbrowser=opens_browser,
                prevent_thread_lock=True,
                quiet=True,
                max_threads=THREADS,
                footer_links=[],
                theme=_theme(),
                css_paths=Path(__file__).with_name("style.css"),
            )
        except OSError as error:
            what = f"Port {port} is" if port else "All ports from 7860 to 7959 are"
            hint = "Choose another port: --port 8080"
            raise FlanliteError(f"{what} in use, or closed to you at {host}.", hint) from error
        return [url for url in (local, shared) if url]

    def _empty_chat(self) -> Chat:
        return Chat(tuple(() for _ in self._models))

    def _wire(self, on: Widgets) -> None:
        options = [
            self._chat, on.tool_names, on.system, on.temperature, on.top_p, on.max_steps, on.max_new_tokens, on.box,
        ]  # fmt: skip
        changed = [
            self._chat, on.head, *on.transcripts, on.examples, on.box, on.send, on.stop, on.retry, on.edit, on.clear,
            on.export, on.seen,
        ]  # fmt: skip
        queued: dict[str, Any] = {
            "concurrency_limit": PARALLEL_CHATS,
            "concurrency_id": "chats",
            "show_progress": "hidden",
        }
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        gr.on([on.box.submit, on.send.click], self._ask, [on.box, *options], changed, api_name="ask", **queued)
        for button in on.example_buttons:
            button.click(self._ask, [button, *options], changed, api_visibility="private", **queued)
        on.edit.click(self._take_back, [self._chat], changed, **at_once)
        taken = on.retry.click(self._take_again, [self._chat], [*changed, self._again], **at_once)
        taken.then(self._ask, [self._again, *options], changed, api_visibility="private", **queued)
        on.clear.click(self._start_anew, None, changed, **at_once)
        on.stop.click(self._stop, None, None, **at_once)
        self.blocks.unload(self._leave)

    def _ask(
        self,
        question: str,
        chat: Chat,
        tool_names: list[str],
        system: str,
        temperature: float,
        top_p: float,
        max_steps: int,
        max_new_tokens: int,
        draft: str,
        request: gr.Request,
    ) -> Iterator[Update]:
        """Work on a question and show it as it goes. A visitor's second one at the same time is not taken.

        `draft` is what stands in the box: the question, which then goes, or something that is to stay.
        """
        session = request.session_hash
        if not question.strip() or session in self._stops:
            yield {self._chat: chat}
            return
        sampling = Sampling(float(temperature), float(top_p), int(max_new_tokens))
        chat = Chat(chat.threads, Settings(system, sampling, int(max_steps)), tuple(tool_names))
        stop = self._stops[session] = self._newest[session] = threading.Event()
        try:
            if draft == question:
                yield {self._widgets.box: ""}
            for update in self._work(well_formed(question.strip()), chat, stop, session):
                # Cleared by the visitor in between: what comes now belongs to a chat that is gone.
                if self._stops.get(session) is not stop:
                    break
                yield update
            if self._stops.get(session) is not stop and self._newest.get(session) is stop:
                # An update on its way may have reached the page behind the empty chat, which is therefore sent again.
                yield self._settled(self._empty_chat(), session)
        finally:
            stop.set()
            if self._stops.get(session) is stop:
                del self._stops[session]

    def _work(self, question: str, chat: Chat, stop: threading.Event, session: str | None) -> Iterator[Update]:
        on, toolbox = self._widgets, self._toolbox.only(chat.tool_names)
        current = [Exchange(question) for _ in self._models]
        yield {on.examples: gr.Row(visible=False)} | self._busy(True) | self._shown(chat, current)
        updated_at = 0.0
        try:
            for index, event in work_side_by_side(self._models, toolbox, chat.threads, question, chat.settings, stop):
                current[index] = current[index].with_event(event)
                if time.monotonic() - updated_at >= _least_pause(event):
                    updated_at = time.monotonic()
                    yield self._shown(chat, current, event)
        except Exception as error:
            # A fault of ours must not leave the page without its buttons; what cannot be shown is left out.
            log.exception("the page failed")
            failure = Failure(0, f"flanlite failed: {type(error).__name__}: {error}", "The terminal says more.")
            current = [Exchange(question).with_event(failure) for _ in self._models]
        threads = tuple((*thread, exchange) for thread, exchange in zip(chat.threads, current, strict=True))
        yield self._settled(replace(chat, threads=threads), session)

    def _shown(self, chat: Chat, current: Sequence[Exchange], event: Event | None = None) -> Update:
        """The chats with the exchanges being worked on, after an event."""
        update = self._transcripts([(*thread, now) for thread, now in zip(chat.threads, current, strict=True)])
        if isinstance(event, Asked):
            update[self._widgets.seen] = render.prompts(current[-1])
        return update

    def _transcripts(self, threads: Sequence[Sequence[Exchange]]) -> Update:
        shown = zip(self._widgets.transcripts, threads, self._names, strict=True)
        return {widget: render.transcript(thread, name) for widget, thread, name in shown}

    def _settled(self, chat: Chat, session: str | None) -> Update:
        """The page with a chat that nobody is working on."""
        on, thread = self._widgets, chat.threads[-1]
        return (
            self._transcripts(chat.threads)
            | self._busy(False, is_empty=not thread)
            | {
                self._chat: chat,
                on.head: render.head(self._names, chat.threads),
                on.examples: gr.Row(visible=not thread),
                on.export: self._export(chat, session),
                on.seen: render.prompts(thread[-1] if thread else None),
            }
        )

    def _busy(self, is_busy: bool, *, is_empty: bool = False) -> Update:
        on = self._widgets
        update: Update = {on.send: gr.Button(visible=not is_busy), on.stop: gr.Button(visible=is_busy)}
        for button in (on.retry, on.edit, on.clear):
            update[button] = gr.Button(interactive=not is_busy and not is_empty)
        return update

    def _export(self, chat: Chat, session: str | None) -> gr.DownloadButton:
        """The button with the chat as the visitor's file, of which gradio serves a copy."""
        thread = chat.threads[-1]
        if not any(exchange.answer is not None for exchange in thread):
            return gr.DownloadButton(interactive=False)
        tools = self._toolbox.only(chat.tool_names).tools
        conversation = as_conversation(thread, chat.settings.system, tools)
        row = as_agent_flan(conversation, self._models[-1].style, "flanlite-chat")
        file = self._export_dir(session) / EXPORT_NAME
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
        return gr.DownloadButton(value=str(file), interactive=True)

    def _export_dir(self, session: str | None) -> Path:
        return Path(self._exports.name) / str(session)

    def _take_back(self, chat: Chat, request: gr.Request) -> Update:
        """Take the last question out of the chat and into the box, to be edited."""
        if not chat.threads[-1]:
            return {self._chat: chat}
        return self._without_last(chat, request.session_hash) | {self._widgets.box: chat.threads[-1][-1].question}

    def _take_again(self, chat: Chat, request: gr.Request) -> Update:
        """Take the last question out of the chat, to be asked again; a draft in the box stays there."""
        if not chat.threads[-1]:
            return {self._chat: chat, self._again: ""}
        return self._without_last(chat, request.session_hash) | {self._again: chat.threads[-1][-1].question}

    def _without_last(self, chat: Chat, session: str | None) -> Update:
        return self._settled(replace(chat, threads=tuple(thread[:-1] for thread in chat.threads)), session)

    def _start_anew(self, request: gr.Request) -> Update:
        """Begin with an empty chat; what is still being worked on belongs to the old one, and ends."""
        self._stop(request)
        self._stops.pop(request.session_hash, None)
        return self._settled(self._empty_chat(), request.session_hash) | {self._widgets.box: ""}

    def _stop(self, request: gr.Request) -> None:
        """Stop what is being worked on for a visitor."""
        if stop := self._stops.get(request.session_hash):
            stop.set()

    def _leave(self, request: gr.Request) -> None:
        """A visitor has left: stop the work and forget the file."""
        self._stop(request)
        self._newest.pop(request.session_hash, None)
        shutil.rmtree(self._export_dir(request.session_hash), ignore_errors=True)


def _least_pause(event: Event) -> float:
    """How long after an update of the page the event may be shown; it is part of the next one in any case."""
    if isinstance(event, Waiting) and event.ahead:
        return WAITING_S
    return UPDATE_S if is_draft(event) else 0.0


def _theme() -> gr.themes.Base:
    """Gradio's own, in the reader's system fonts, so that the browser fetches none."""
    fonts, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono)
