"""Which rows to train on: agent data and general chat in the wanted proportion, within a budget of tokens.

Agent-FLAN mixes both 1 : 1. The sample of the agent data is stratified: every subset gives the same share of its
tokens, except that negatives, which are few and teach a model to hold back, are taken whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flanlite.errors import FlanliteError

NEGATIVE = "negative"
"""A source whose name holds this word is never sampled down."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One side's rows: each one's source number, tokens and trained tokens, arrays of one length."""

    names: Sequence[str]
    source: np.ndarray
    tokens: np.ndarray
    trained: np.ndarray

    def __len__(self) -> int:
        return len(self.source)


def mix(agent: Rows, general: Rows | None, share: float, budget: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the agent rows and of the general rows to take, each in the data's order.

    `share` is general chat's part of the trained tokens, `budget` the most tokens in all (infinity for every row).
    Where general chat is too little for its share, all of it is taken; the budget is kept to within a row a source.
    """
    order = np.random.default_rng(seed)
    general_per_agent = share / (1 - share) if general is not None else 0.0
    whole = np.array([NEGATIVE in agent.names[source] for source in agent.source], bool)
    fraction = _fitting_fraction(agent, whole, general, general_per_agent, budget)
    if fraction == 0 and not whole.all():
        raise FlanliteError(
            "The budget is used up by the negative samples and their general chat: nothing else could be learnt.",
            "Give more time, for example budget=3h, or budget=full.",
        )
    taken = [np.flatnonzero(whole)]
    for source in range(len(agent.names)):
        rows = np.flatnonzero((agent.source == source) & ~whole)
        taken.append(_draw(rows, agent.tokens, fraction * agent.tokens[rows].sum(), order))
    agent_rows = np.sort(np.concatenate(taken))
    if general is None:
        return agent_rows, np.zeros(0, np.int64)
    wanted = general_per_agent * agent.trained[agent_rows].sum()
    return agent_rows, np.sort(_draw(np.arange(len(general)), general.trained, wanted, order))


def _fitting_fraction(
    agent: Rows, whole: np.ndarray, general: Rows | None, general_per_agent: float, budget: float
) -> float:
    """The share of the sampled agent rows at which they, the negatives and their general chat meet the budget."""
    general_cost = 0.0
    if general is not None and general.trained.sum():
        general_cost = general_per_agent * general.tokens.sum() / general.trained.sum()
    cost = agent.tokens + general_cost * agent.trained
    sampled = cost[~whole].sum()
    if not sampled or math.isinf(budget):
        return 1.0
    if general is not None:
        # What all of the general chat would leave to the agent data, if that then asks for more of it than there is.
        left = budget - general.tokens.sum() - agent.tokens[whole].sum()
        fraction = float(np.clip(left / max(agent.tokens[~whole].sum(), 1), 0, 1))
        trained = fraction * agent.trained[~whole].sum() + agent.trained[whole].sum()
        if general_per_agent * trained > general.trained.sum():
            return fraction
    return float(np.clip((budget - cost[whole].sum()) / sampled, 0, 1))


def _draw(rows: np.ndarray, weight: np.ndarray, wanted: float, order: np.random.Generator) -> np.ndarray:
    """Rows in random order until their weights reach what is wanted: at least that much, where there is as much."""
    shuffled = order.permutation(rows)
    reached = np.cumsum(weight[shuffled])
    # A sum within rounding of all there is means all.
    if not len(shuffled) or wanted >= reached[-1] - 0.5:
        return shuffled
    return shuffled[: int(np.searchsorted(reached, wanted)) + (wanted > 0)]


def split(rows: np.ndarray, share: float, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows shuffled and split into those to train on and those held out: `share` of them, at most `most`."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    held_out = min(round(share * len(shuffled)), most, len(shuffled) - 1)
    return shuffled[held_out:], shuffled[:held_out]
