"""The agent loop: ask the model, read its reply, run the tools, hand back what they say, until there is an answer."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from flanlite.agent.events import (
    Answer,
    Asked,
    Call,
    Event,
    Exchange,
    Failure,
    Observation,
    Stopped,
    Thought,
    Waiting,
    Wrote,
    as_conversation,
)
from flanlite.agent.model import ChatModel, Generation, Sampling
from flanlite.agent.tools import Outcome, Toolbox
from flanlite.conversation import Conversation, ToolCall, well_formed
from flanlite.errors import FlanliteError
from flanlite.prompt.replies import Reply, before_made_up_result, parse_reply

log = logging.getLogger(__name__)

MAX_CALLS = 8
"""Calls of one reply that are run; what is above is told to the model."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an agent works: its own system text, how replies are drawn, and after how many of them it gives up."""

    system: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_steps: int = 8


def work(
    model: ChatModel,
    toolbox: Toolbox,
    past: Sequence[Exchange],
    question: str,
    settings: Settings,
    stop: threading.Event,
) -> Iterator[Event]:
    """Work on a question after past exchanges. The last event is a finished Answer, a Failure or Stopped.

    Never raises for what a model or a tool does. A malformed call is told to the model once; a second one in a row
    ends the work.
    """
    exchange = Exchange(well_formed(question))
    for step in range(1, settings.max_steps + 1):
        conversation = as_conversation([*past, exchange], settings.system, toolbox.tools)
        try:
            for event in _one_step(model, toolbox, conversation, settings.sampling, step, stop):
                exchange = exchange.with_event(event)
                yield event
        except FlanliteError as error:
            yield Failure(step, error.message, error.hint)
            return
        except Exception as error:  # of the model's engine, such as a card's memory running out
            log.exception("the model failed")
            yield Failure(step, f"The model failed: {type(error).__name__}: {error}", "The terminal says more.")
            return
        if exchange.is_over:
            return
        if all(_is_malformed(exchange, number) for number in (step - 1, step)):
            problem = "The model's calls could not be read, or did not fit their tools, twice in a row."
            yield Failure(step, problem, "Retry, or ask in other words.")
            return
    yield Failure(settings.max_steps, f"No answer after {settings.max_steps} steps.", "Raise the step limit.")


def _is_malformed(exchange: Exchange, step: int) -> bool:
    """Whether the step called, and nothing of it could be read."""
    statuses = {call.status for call in exchange.calls() if call.step == step}
    return statuses == {"malformed"}


def _one_step(
    model: ChatModel,
    toolbox: Toolbox,
    conversation: Conversation,
    sampling: Sampling,
    step: int,
    stop: threading.Event,
) -> Iterator[Event]:
    generation = model.ask(conversation, sampling, stop)
    yield Asked(step, generation.prompt)
    text = yield from _written(generation, toolbox, step)
    # Asked once more: some servers tell the prompt's length only at the end.
    yield Asked(step, generation.prompt)
    if stop.is_set():
        yield Stopped(step)
        return
    yield Wrote(step, text, generation.is_cut)
    reply = _readable(_read(text, toolbox))
    if reply.thought:
        yield Thought(step, reply.thought, is_done=True)
    if reply.answer is not None:
        yield Answer(step, reply.answer, is_done=True, is_cut=generation.is_cut)
        return
    if generation.is_cut:
        reply = _as_cut(reply, len(_read(text, toolbox, is_whole=False).calls))
    yield from _called(toolbox, reply, step, stop)
    if stop.is_set():
        yield Stopped(step)


def _read(text: str, toolbox: Toolbox, *, is_whole: bool = True) -> Reply:
    return parse_reply(text, toolbox.tools, is_whole=is_whole, is_whole_offer=True)


def _written(generation: Generation, toolbox: Toolbox, step: int) -> Generator[Event, None, str]:
    """Events while the reply is written; returns its text, up to where the model begins to make up a tool's result."""
    text, ahead = "", 0
    for piece in generation:
        if not piece:
            if generation.ahead != ahead:
                ahead = generation.ahead
                yield Waiting(step, ahead)
            continue
        if not text:
            yield Waiting(step, 0)
        text += well_formed(piece)
        kept = before_made_up_result(text, toolbox.tools)
        if kept != text:
            return kept
        reply = _read(text, toolbox, is_whole=False)
        if reply.thought:
            yield Thought(step, reply.thought)
        if reply.answer:
            yield Answer(step, reply.answer)
    return text


def _readable(reply: Reply) -> Reply:
    """The reply with calls whose names and arguments are Unicode and can be shown."""
    calls, problems = [], list(reply.problems)
    for call in reply.calls:
        try:
            calls.append(ToolCall(well_formed(call.name), well_formed(call.arguments)))
        except RecursionError:
            calls.append(ToolCall(well_formed(call.name), "{...}"))
            problems.append(f"The arguments of {call.name} are nested too deeply.")
    return replace(reply, calls=tuple(calls), problems=tuple(problems))


def _as_cut(reply: Reply, whole: int) -> Reply:
    """The reply with all calls behind the first `whole` ones malformed: what is there of them may be a part."""
    parts = tuple(ToolCall(call.name, call.arguments_json()) for call in reply.calls[whole:])
    problems = ("The reply was cut at the limit of new tokens.", *reply.problems)
    return replace(reply, calls=reply.calls[:whole] + parts, problems=problems)


def _called(toolbox: Toolbox, reply: Reply, step: int, stop: threading.Event) -> Iterator[Event]:
    """Run the reply's calls side by side, and tell of each as it begins and ends."""
    problem = " ".join(reply.problems)
    calls = reply.calls[:MAX_CALLS] or (ToolCall("", ""),)
    left_out = len(reply.calls) - len(calls)
    outcomes: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
    for index, call in enumerate(calls):
        yield Call(step, index, call, "running")
        run = threading.Thread(
            target=lambda index, call: outcomes.put((index, _outcome(toolbox, call, problem, stop))),
            args=(index, call),
            daemon=True,
        )
        run.start()
    for _ in calls:
        index, outcome = outcomes.get()
        yield Call(step, index, calls[index], outcome.status, outcome.seconds)
        if outcome.status != "stopped":
            text = outcome.text
            if left_out > 0 and index == len(calls) - 1:
                text += f"\n({left_out} more calls were not run: a reply may make {MAX_CALLS}.)"
            yield Observation(step, index, text, is_error=outcome.status != "done")


def _outcome(toolbox: Toolbox, call: ToolCall, problem: str, stop: threading.Event) -> Outcome:
    """The call's outcome; what the parser could not read is told in the parser's words."""
    if problem and (not call.name or (isinstance(call.arguments, str) and call.name in toolbox.names)):
        return Outcome("malformed", f"Error: {problem}", 0.0)
    return toolbox.call(call, stop)


def work_side_by_side(
    models: Sequence[ChatModel],
    toolbox: Toolbox,
    pasts: Sequence[Sequence[Exchange]],
    question: str,
    settings: Settings,
    stop: threading.Event,
) -> Iterator[tuple[int, Event]]:
    """The same question to several models, each after its own past, all at once: (model's index, event) as they come.

    Leaving the iteration stops them.
    """
    events: queue.SimpleQueue[tuple[int, Event | BaseException | None]] = queue.SimpleQueue()

    def run(index: int) -> None:
        try:
            for event in work(models[index], toolbox, pasts[index], question, settings, stop):
                events.put((index, event))
        except BaseException as error:  # raised where the events are read: left here, the reader would wait for ever
            events.put((index, error))
        else:
            events.put((index, None))

    for index in range(len(models)):
        threading.Thread(target=run, args=(index,), daemon=True, name=f"chat with {models[index].name}").start()
    running = len(models)
    try:
        while running:
            index, event = events.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                running -= 1
            else:
                yield index, event
    finally:
        stop.set()
