"""The agent loop: ask the model, read its reply, run the tools, hand back what they say, until there is an answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

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
from flanlite.conversation import Conversation, ToolCall
from flanlite.errors import FlanliteError
from flanlite.prompt.replies import Reply, before_made_up_result, parse_reply


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
    exchange = Exchange(question)
    for step in range(1, settings.max_steps + 1):
        conversation = as_conversation([*past, exchange], settings.system, toolbox.tools)
        try:
            for event in _one_step(model, toolbox, conversation, settings.sampling, step, stop):
                exchange = exchange.with_event(event)
                yield event
        except FlanliteError as error:
            yield Failure(step, error.message, error.hint)
            return
        if exchange.is_over:
            return
        if all(_is_malformed(exchange, number) for number in (step - 1, step)):
            yield Failure(
                step, "The model wrote calls that cannot be read, twice in a row.", "Retry, or ask in other words."
            )
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
    text = yield from _written(generation, toolbox, step)
    # Asked once more: some servers tell the prompt's length only at the end.
    yield Asked(step, generation.prompt)
    if stop.is_set():
        yield Stopped(step)
        return
    yield Wrote(step, text)
    reply = parse_reply(text, toolbox.tools)
    if reply.thought:
        yield Thought(step, reply.thought, is_done=True)
    if reply.answer is not None:
        yield Answer(step, reply.answer, is_done=True, is_cut=generation.is_cut)
        return
    yield from _called(toolbox, reply, step, stop, is_cut=generation.is_cut)
    if stop.is_set():
        yield Stopped(step)


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
            yield Asked(step, generation.prompt)
        text += piece
        kept = before_made_up_result(text)
        if kept != text:
            return kept
        reply = parse_reply(text, toolbox.tools, is_whole=False)
        if reply.thought:
            yield Thought(step, reply.thought)
        if reply.answer:
            yield Answer(step, reply.answer)
    return text


def _called(toolbox: Toolbox, reply: Reply, step: int, stop: threading.Event, *, is_cut: bool) -> Iterator[Event]:
    """Run the reply's calls side by side, and tell of each as it begins and ends."""
    problem = " ".join(("The reply was cut at the limit of new tokens.",) * is_cut + reply.problems)
    calls = reply.calls or (ToolCall("", ""),)
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
            yield Observation(step, index, outcome.text, is_error=outcome.status != "done")


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
