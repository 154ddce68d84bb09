"""The rows of a benchmark: lengths and trained spans of real conversations, with ids drawn at random.

conversations.json holds lengths alone, in Llama-2's tokens and template: for each conversation and each of its trained
spans the masked tokens in front of it and the trained ones. They were counted in three public sets: 16 conversations of
FireAct's 1,344 (anchen1011/FireAct, multitask) and 16 of glaive-function-calling's 299 (hiyouga/LLaMA-Factory, demo),
at equal steps of their order by length, and the last path of 13 answer trees of ToolBench (OpenBMB/ToolBench, example).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flanlite.errors import FlanliteError
from flanlite.prompt.template import MASKED
from flanlite.training_set import TrainingSet

FIRST_ID = 3
"""The ids below it are the tokenizer's special tokens."""


class Turn(NamedTuple):
    """A trained span of tokens, and the masked tokens in front of it."""

    masked: int
    trained: int


Conversation = tuple[Turn, ...]


def tokens_in(conversation: Conversation) -> int:
    """All tokens of a conversation."""
    return sum(turn.masked + turn.trained for turn in conversation)


def public_conversations() -> list[Conversation]:
    """The lengths that come with the package."""
    return read_conversations(Path(__file__).with_name("conversations.json"))


def read_conversations(file: Path) -> list[Conversation]:
    """The lengths in a JSON file: a list of conversations, each of pairs of masked and trained tokens."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return [tuple(Turn(*turn) for turn in turns) for turns in content]


def conversations_in(training_set: TrainingSet) -> list[Conversation]:
    """The lengths in a training set. Raises FlanliteError for one without trained tokens."""
    found = []
    for index in range(len(training_set)):
        turns, masked = [], 0
        for is_trained, spans in groupby(training_set.tokens(index).spans, key=lambda span: span.trained):
            count = sum(span.tokens for span in spans)
            if is_trained:
                turns.append(Turn(masked, count))
            masked = 0 if is_trained else count
        found.append(tuple(turns))
    trained = [conversation for conversation in found if conversation]
    if not trained:
        raise FlanliteError(f"{training_set.folder} trains no token.", "See `flanlite inspect`.")
    return trained


def draw(known: Sequence[Conversation], tokens: int, max_tokens: int, seed: int) -> list[Conversation]:
    """Conversations in random order, all of the known ones before one comes again, of so many tokens or a little more.

    Turns behind max_tokens are left out.
    """
    fitting = [_cut(conversation, max_tokens) for conversation in known]
    random = np.random.default_rng(seed)
    drawn: list[Conversation] = []
    count = 0
    while count < tokens:
        for index in random.permutation(len(fitting)):
            drawn.append(fitting[index])
            count += tokens_in(fitting[index])
    return drawn


def _cut(conversation: Conversation, max_tokens: int) -> Conversation:
    """The turns that fit; of the first one a part, so that something is left of every conversation."""
    ends = np.cumsum([turn.masked + turn.trained for turn in conversation])
    fitting = conversation[: int(np.searchsorted(ends, max_tokens, side="right"))]
    if fitting:
        return fitting
    trained = min(conversation[0].trained, max_tokens // 2)
    return (Turn(max_tokens - trained, trained),)


def ids_and_labels(conversations: Sequence[Conversation], vocabulary: int, seed: int) -> dict[str, list[list[int]]]:
    """Random ids for conversations, and their labels, as columns."""
    random = np.random.default_rng(seed)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for conversation in conversations:
        ids = random.integers(FIRST_ID, vocabulary, tokens_in(conversation)).tolist()
        labels: list[int] = []
        for turn in conversation:
            labels += [MASKED] * turn.masked
            labels += ids[len(labels) : len(labels) + turn.trained]
        columns["input_ids"].append(ids)
        columns["labels"].append(labels)
    return columns


def trained_share(conversations: Sequence[Conversation]) -> float:
    """The share of the tokens that are trained."""
    trained = sum(turn.trained for conversation in conversations for turn in conversation)
    return trained / sum(map(tokens_in, conversations))


def attended_tokens(conversations: Sequence[Conversation]) -> int:
    """The length of equally long conversations whose tokens would have as many others to look at."""
    lengths = np.array([tokens_in(conversation) for conversation in conversations], np.float64)
    return round(float(np.square(lengths).sum() / lengths.sum()))
