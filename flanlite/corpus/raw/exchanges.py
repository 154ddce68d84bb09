"""Turns in order to exchanges, and what holds for a trajectory of every raw source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import repeat

from flanlite.conversation import Tool, Turn, sound
from flanlite.corpus.raw.trajectory import Exchange, Step, Trajectory
from flanlite.prompt.given import parameters
from flanlite.prompt.replies import Reply


def exchanges(said: Iterable[Turn | Reply], trained: Iterable[bool] = repeat(True)) -> tuple[Exchange, ...]:
    """The exchanges that user turns, observations and an agent's replies make up; `trained` has a flag for each reply.

    What the agent says before it goes on is a thought, and what is partly not trained is not trained. User turns in a
    row are one request, and a last one without a reply falls away. Only the last exchange may come to its end without
    an answer. Raises ValueError with the reason where they make up none.
    """
    found: list[Exchange] = []
    flags = iter(trained)
    for turn in said:
        if isinstance(turn, Turn) and turn.role == "user":
            _ask(found, _filled(turn.text, "a request is empty"))
        elif not found:
            raise ValueError("the first turn is not the user's")
        elif isinstance(turn, Reply):
            found[-1] = _replied(found[-1], turn, next(flags))
        else:
            found[-1] = _observed(found[-1], turn.text)
    if found and _is_open(found[-1]):
        found.pop()
    if not found:
        raise ValueError("a request has no answer")
    return tuple(found)


def _ask(found: list[Exchange], request: str) -> None:
    if found and _is_open(found[-1]):
        found[-1] = replace(found[-1], request=f"{found[-1].request}\n{request}")
    elif found and found[-1].answer is None:
        raise ValueError("a request has no answer")
    else:
        found.append(Exchange(request))


def _is_open(exchange: Exchange) -> bool:
    return exchange.answer is None and not exchange.steps


def _replied(exchange: Exchange, reply: Reply, trained: bool) -> Exchange:
    if exchange.steps and not exchange.steps[-1].observations:
        raise ValueError("a call has no observation")
    thought = "\n".join(filter(None, [exchange.thought, exchange.answer, reply.thought]))
    trained = trained and exchange.trained
    if reply.calls:
        steps = (*exchange.steps, Step(thought, reply.calls, (), trained))
        return replace(exchange, steps=steps, thought="", answer=None, trained=True)
    answer = None if reply.answer is None else _filled(reply.answer, "an answer is empty")
    return replace(exchange, thought=thought, answer=answer, trained=trained)


def _observed(exchange: Exchange, text: str) -> Exchange:
    *before, step = exchange.steps or (None,)
    is_awaited = step is not None and len(step.observations) < len(step.calls)
    if step is None or not is_awaited or exchange.thought or exchange.answer is not None:
        raise ValueError("an observation has no call")
    return replace(exchange, steps=(*before, replace(step, observations=(*step.observations, text))))


def _filled(text: str, reason: str) -> str:
    if not text.strip():
        raise ValueError(reason)
    return text.strip()


def well_typed(tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """The tools, if the types and required names among their parameters have a JSON schema's form."""
    tools = tuple(tools)
    for tool in tools:
        kinds = [schema.get("type") or "" for schema in parameters(tool).values() if isinstance(schema, Mapping)]
        if not all(isinstance(each, str | list) for each in [*kinds, tool.parameters.get("required") or []]):
            raise ValueError("the parameters of a tool are no JSON schema")
    return tools


def checked(trajectory: Trajectory) -> Trajectory:
    """The trajectory, if no call is of a tool that is missing from those on offer, and if all of it is sound."""
    offered = {tool.name for tool in trajectory.tools}
    if offered and any(call.name not in offered for calls in trajectory.calls for call in calls):
        raise ValueError("a tool is called that is not on offer")
    return sound(trajectory)
