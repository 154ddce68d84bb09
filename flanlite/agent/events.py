"""What happens while an agent works on a question, as events; and what follows from them, by pure functions.

An event is a snapshot: a later one of the same kind, step and index replaces the earlier, so a thought that grows or a
call that goes from running to done is one event in the end. Page, terminal and evaluation read the same ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flanlite.agent.model import ChatStyle, Prompt
from flanlite.conversation import Conversation, Tool, ToolCall, Turn
from flanlite.prompt.toolcalls import write_out

CallStatus = Literal["running", "done", "failed", "malformed", "invented", "stopped"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reply is queued behind `ahead` others."""

    step: int
    ahead: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model saw in this step."""

    step: int
    prompt: Prompt
    index: int = 0


@dataclass(frozen=True, slots=True)
class Thought:
    """What the model says before a call or an answer, as far as it is written."""

    step: int
    text: str
    is_done: bool = False
    index: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a step, with the seconds it took once it is over.

    Malformed: its arguments cannot be read or do not fit the schema. Invented: no such tool is on offer.
    """

    step: int
    index: int
    call: ToolCall
    status: CallStatus
    seconds: float | None = None

    @property
    def duration(self) -> str:
        """The time it took, in words: 12 ms, 3.4 s; empty where it is not over."""
        if self.seconds is None:
            return ""
        return f"{self.seconds:.1f} s" if self.seconds >= 1 else f"{max(1, round(self.seconds * 1000))} ms"


@dataclass(frozen=True, slots=True)
class Observation:
    """What the model is told of the call of the same index."""

    step: int
    index: int
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Wrote:
    """The whole reply of a step, as the model wrote it: what it reads of itself in the next one.

    `is_cut` where the limit of new tokens ended it.
    """

    step: int
    text: str
    is_cut: bool = False
    index: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer, as far as it is written; `is_cut` where the limit of new tokens ended it."""

    step: int
    text: str
    is_done: bool = False
    is_cut: bool = False
    index: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody stopped the agent."""

    step: int
    index: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, and what may help."""

    step: int
    text: str
    hint: str = ""
    index: int = 0


Event = Waiting | Asked | Thought | Call | Observation | Wrote | Answer | Stopped | Failure


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and the events that followed, the latest of each kind, step and index."""

    question: str
    events: tuple[Event, ...] = ()

    def with_event(self, event: Event) -> Exchange:
        """The exchange after the event. What was shown of a reply gives way when the reply is whole."""
        if isinstance(event, Wrote):
            kept = tuple(known for known in self.events if not (is_draft(known) and known.step == event.step))
            return replace(self, events=(*kept, event))
        key = _key(event)
        for position, known in enumerate(self.events):
            if _key(known) == key:
                return replace(self, events=(*self.events[:position], event, *self.events[position + 1 :]))
        return replace(self, events=(*self.events, event))

    @property
    def steps(self) -> list[list[Event]]:
        """The events step by step."""
        numbers = dict.fromkeys(event.step for event in self.events)
        return [[event for event in self.events if event.step == number] for number in numbers]

    @property
    def answer(self) -> str | None:
        """The finished answer."""
        return next((event.text for event in self.events if isinstance(event, Answer) and event.is_done), None)

    @property
    def is_over(self) -> bool:
        """Whether an answer, a failure or a stop has ended it."""
        return self.answer is not None or any(isinstance(event, Failure | Stopped) for event in self.events)

    def calls(self, *statuses: CallStatus) -> list[Call]:
        """The calls with one of these statuses, or all of them."""
        calls = [event for event in self.events if isinstance(event, Call)]
        return [call for call in calls if not statuses or call.status in statuses]


def _key(event: Event) -> tuple[type[Event], int, int]:
    return type(event), event.step, event.index


def is_draft(event: Event) -> bool:
    """Whether more of the same text was on its way."""
    return isinstance(event, Thought | Answer) and not event.is_done


def as_conversation(exchanges: Iterable[Exchange], system: str, tools: Sequence[Tool]) -> Conversation:
    """What the model is asked to continue: replies as it wrote them, observations as the tools returned them.

    Exchanges that ended without an answer are left out. A reply is trained, should the conversation become data, where
    its exchange came to an answer, it was not cut, and each of its calls is well formed and of a tool on offer.
    """
    names = {tool.name for tool in tools}
    turns = [Turn("system", system)] if system.strip() else []
    for exchange in exchanges:
        if exchange.is_over and exchange.answer is None:
            continue
        turns.append(Turn("user", exchange.question))
        for events in exchange.steps:
            turns += _turns_of_step(events, is_trained=exchange.answer is not None and _is_sound(events, names))
    return Conversation(tuple(turns), tuple(tools))


def _is_sound(events: Sequence[Event], names: Collection[str]) -> bool:
    calls = [event for event in events if isinstance(event, Call)]
    is_cut = any(isinstance(event, Wrote) and event.is_cut for event in events)
    return not is_cut and all(call.call.name in names and call.status != "malformed" for call in calls)


def _turns_of_step(events: Sequence[Event], *, is_trained: bool) -> list[Turn]:
    replies = [Turn("assistant", event.text, trained=is_trained) for event in events if isinstance(event, Wrote)]
    observations = sorted((event for event in events if isinstance(event, Observation)), key=lambda event: event.index)
    return replies + [Turn("observation", event.text) for event in observations]


def as_agent_flan(conversation: Conversation, style: ChatStyle, identity: str) -> dict[str, Any]:
    """The conversation as a row in Agent-FLAN's schema, which `convert` and `tune` read; native calls become json."""
    return {
        "id": identity,
        "conversation": [
            {
                "role": "user" if turn.role == "observation" else turn.role,
                "content": turn.text,
                "loss": turn.trained,
            }
            for turn in write_out(conversation, "json" if style == "openai" else style)
        ],
    }
