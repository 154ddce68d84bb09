"""The chat in a terminal: the same events as on the page, printed as they happen."""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flanlite.agent.events import (
    Answer,
    Asked,
    Call,
    CallStatus,
    Event,
    Exchange,
    Failure,
    Observation,
    Stopped,
    Thought,
    Waiting,
    as_agent_flan,
    as_conversation,
)
from flanlite.agent.loop import Settings, work
from flanlite.agent.model import TEMPERATURES, TOP_PS, ChatModel
from flanlite.agent.tools import Toolbox
from flanlite.conversation import well_formed
from flanlite.errors import FlanliteError
from flanlite.run import write_text

STATUS_STYLES: Mapping[CallStatus, str] = {
    "running": "blue", "done": "green", "failed": "red", "malformed": "yellow", "invented": "bold magenta",
    "stopped": "dim",
}  # fmt: skip

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_Key = tuple[type[Event], int]

SETTINGS = ("system TEXT", "temperature 0.7", "top_p 0.9", "steps 8", "tokens 512")

LIMITS: Mapping[str, tuple[float, float]] = {
    "temperature": TEMPERATURES, "top_p": TOP_PS, "steps": (1, 100), "tokens": (1, 2**15),
}  # fmt: skip
"""The least and the most of each setting that is a number."""

COMMANDS = "/tools [NAME... | all | none], /set NAME VALUE, /saw (the prompt), /retry, /clear, /export FILE, /quit"


class TerminalChat:
    """A chat with one model, or with several that answer one after the other."""

    def __init__(self, models: Sequence[ChatModel], toolbox: Toolbox, settings: Settings, console: Console) -> None:
        self._models = models
        self._all_tools = self._toolbox = toolbox
        self._settings = settings
        self._console = console
        self._threads: list[list[Exchange]] = [[] for _ in models]
        self._commands: dict[str, Callable[[str], None]] = {
            "/tools": self._choose_tools,
            "/set": self._set,
            "/saw": self._show_prompt,
            "/retry": self._retry,
            "/clear": self._clear,
            "/export": self._export,
        }

    def run(self) -> None:
        """Read questions and commands until the input ends."""
        names = " and ".join(model.name for model in self._models)
        self._console.print(Text.assemble((names, "bold"), f", {len(self._toolbox.names)} tools."))
        self._console.print(Text(f"Ask something, or: {COMMANDS}. Ctrl-C stops a reply.", "dim"))
        while (line := self._read()) not in (None, "/quit"):
            try:
                if line and line.startswith("/"):
                    self._obey(line)
                elif line:
                    self._ask(line)
            except FlanliteError as error:
                self._console.print(Text.assemble((error.message, "red"), " ", error.hint))

    def _read(self) -> str | None:
        try:
            return self._console.input("\n[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            self._console.print()
            return None

    def _ask(self, question: str) -> None:
        for model, thread in zip(self._models, self._threads, strict=True):
            if len(self._models) > 1:
                self._console.rule(Text(plain(model.name)), align="left", style="dim")
            thread.append(self._work(model, thread, question))

    def _work(self, model: ChatModel, past: Sequence[Exchange], question: str) -> Exchange:
        question = well_formed(question)
        printer, exchange, stop = Printer(self._console), Exchange(question), threading.Event()
        try:
            for event in work(model, self._toolbox, past, question, self._settings, stop):
                exchange = exchange.with_event(event)
                printer.show(event)
        except KeyboardInterrupt:
            stop.set()
            stopped = Stopped(max((event.step for event in exchange.events), default=1))
            exchange = exchange.with_event(stopped)
            printer.show(stopped)
        return exchange

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command not in self._commands:
            raise FlanliteError(f"There is no {command}.", f"The commands are: {COMMANDS}")
        self._commands[command](rest.strip())

    def _choose_tools(self, names: str) -> None:
        """List the tools, those on offer in bold; names given are offered from now on, and no others."""
        if names:
            chosen = {"all": self._all_tools.names, "none": ()}.get(names, names.split())
            self._toolbox = self._all_tools.only(chosen)
        for bound in self._all_tools.bound:
            parameters = ", ".join(bound.tool.parameters.get("properties") or ())
            is_offered = bound.tool.name in self._toolbox.names
            name = plain(bound.tool.name), "bold" if is_offered else "dim strike"
            origin = f"  {plain(bound.origin)}", "dim"
            described = f"({plain(parameters)})  {plain(bound.tool.description)}"
            self._console.print(Text.assemble(name, described, origin))

    def _set(self, assignment: str) -> None:
        """Change one setting: `system`, or a number."""
        name, _, value = assignment.partition(" ")
        if name == "system":
            self._settings = replace(self._settings, system=value.strip())
        elif name == "steps":
            self._settings = replace(self._settings, max_steps=int(_number(name, value)))
        elif name in LIMITS:
            number = _number(name, value)
            changed = {"max_new_tokens": int(number)} if name == "tokens" else {name: number}
            self._settings = replace(self._settings, sampling=replace(self._settings.sampling, **changed))
        else:
            message = f"There is no setting {name!r}." if name else "Set what?"
            raise FlanliteError(message, "/set " + " | ".join(SETTINGS))

    def _show_prompt(self, _: str) -> None:
        asked = [event for event in self._last().events if isinstance(event, Asked)]
        if not asked:
            raise FlanliteError("The model saw nothing yet.", "Ask something first.")
        prompt = asked[-1].prompt
        styles = {"template": "red", "system": "magenta", "user": "blue", "observation": "yellow", "assistant": "green"}
        self._console.print(Text.assemble(*((plain(text), styles.get(role, "")) for role, text in prompt.pieces)))
        if prompt.tokens is not None:
            of = f" of {prompt.context_tokens:,}" if prompt.context_tokens else ""
            self._console.print(Text(f"{prompt.tokens:,}{of} tokens", "dim"))

    def _retry(self, _: str) -> None:
        question = self._last().question
        for thread in self._threads:
            thread.pop()
        self._console.print(Text.assemble(("> ", "bold"), plain(question)))
        self._ask(question)

    def _clear(self, _: str) -> None:
        for thread in self._threads:
            thread.clear()
        self._console.print("A new chat.")

    def _export(self, name: str) -> None:
        if not name:
            raise FlanliteError("Export where to?", "/export my_chat.jsonl")
        if Path(name).exists():
            raise FlanliteError(f"{name} is there already.", "Name another file.")
        self._last()
        conversation = as_conversation(self._threads[-1], self._settings.system, self._toolbox.tools)
        row = as_agent_flan(conversation, self._models[-1].style, "flanlite-chat")
        try:
            write_text(Path(name), json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise FlanliteError(f"{name} cannot be written: {error.strerror}.", "Name another file.") from error
        self._console.print(f"Wrote {name}. Tune on it: flanlite tune --data {name}", markup=False)

    def _last(self) -> Exchange:
        if not self._threads[-1]:
            raise FlanliteError("Nothing was asked yet.", "Ask something first.")
        return self._threads[-1][-1]


class Printer:
    """Prints one exchange's events: texts as they grow, calls when they are over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[_Key, str] = {}
        self._growing: _Key | None = None

    def show(self, event: Event) -> None:
        """Print what is new in the event."""
        if isinstance(event, Thought):
            self._grow(event, "dim")
        elif isinstance(event, Answer):
            self._grow(event, None)
            if event.is_cut:
                self._console.print(Text("Cut at the limit of new tokens.", "dim"))
        elif (told := told_of(event)) is not None:
            self._end_line()
            self._console.print(told)

    def _grow(self, event: Thought | Answer, style: str | None) -> None:
        """Print what was added to a text; one that changed in between is printed anew."""
        key = type(event), event.step
        shown = self._shown.get(key, "")
        if event.text == shown and self._growing != key:
            return
        if self._growing != key or not event.text.startswith(shown):
            self._end_line()
            shown = shown if event.text.startswith(shown) else ""
        self._console.out(plain(event.text[len(shown) :]), end="", style=style, highlight=False)
        self._shown[key], self._growing = event.text, key
        if event.is_done:
            self._end_line()

    def _end_line(self) -> None:
        if self._growing:
            self._console.print()
        self._growing = None


def _number(name: str, value: str) -> float:
    """The value of a setting. Raises FlanliteError where it is none that makes sense."""
    low, high = LIMITS[name]
    try:
        number = int(value) if name in ("steps", "tokens") else float(value)
    except ValueError:
        raise FlanliteError(f"{value!r} is no number for {name}.", f"/set {name} 1") from None
    if not low <= number <= high:
        raise FlanliteError(f"{name} goes from {low:g} to {high:,g}.", f"/set {name} 1")
    return number


def told_of(event: Event) -> RenderableType | None:
    """An event as it is printed, where that is not a growing text; None for what needs no line."""
    if isinstance(event, Call) and event.status != "running":
        return _call(event)
    if isinstance(event, Observation):
        return Padding(Text.assemble(("result  ", "dim"), (plain(event.text), "red" * event.is_error)), (0, 0, 0, 2))
    if isinstance(event, Waiting) and event.ahead:
        return Text(f"Waiting: {event.ahead} before this one.", "dim")
    if isinstance(event, Asked) and event.step == 1 and event.prompt.dropped_turns:
        return Text(
            f"The oldest of the chat, {event.prompt.dropped_turns} turns, no longer fits and was left out.", "dim"
        )
    if isinstance(event, Failure):
        return Text.assemble((plain(event.text), "red"), " ", plain(event.hint))
    return Text("Stopped.", "dim") if isinstance(event, Stopped) else None


def _call(event: Call) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    status = Text(f"{event.status} call" if event.status == "malformed" else event.status, STATUS_STYLES[event.status])
    table.add_row(Text(plain(event.call.name) or "unreadable", "bold"), status + Text(f"  {event.duration}", "dim"))
    arguments = event.call.arguments
    if isinstance(arguments, str):
        table.add_row("", Text(plain(arguments)))
    else:
        for name, value in arguments.items():
            written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            table.add_row(Text(f"  {plain(name)}", "dim"), Text(plain(written)))
    return Padding(table, (0, 0, 0, 2))


def plain(text: str) -> str:
    """The text without what could steer the terminal: control characters, and marks that turn the line around."""
    return "".join("\ufffd" if character in _TURNING or _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cs")
