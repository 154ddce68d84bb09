"""What has been measured so far: results.json, written as each measurement ends, so that a benchmark can go on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from flanlite.errors import FlanliteError
from flanlite.run import write_json

LOSS_TOLERANCE = 0.4
"""Nats by which the loss of a single token may differ between variants. On small random models, on a CPU, 16 bits made
0.15 to 0.34 of it, weights rounded too, and conversations that see each other 0.6 to 1.9.
"""

Outcome = Literal["measured", "out of memory", "out of time", "failed"]


@dataclass(frozen=True)
class Measured:
    """Figures of one training: of each timed step its seconds and its tokens, and of the whole its memory.

    Padding is in no count of tokens. `first_losses` are the mean loss of each of the first conversations before the
    first update, in nats, and its trained tokens: the same in all variants, in one order. Bytes are the peaks of
    torch's allocator on the card, and what is taken of it beside that in the end, by CUDA itself and by other
    processes; None without one.
    """

    seconds: Sequence[float]
    tokens: Sequence[int]
    trained_tokens: Sequence[int]
    padding_share: float
    first_losses: Sequence[tuple[float, int]]
    allocated_bytes: int | None
    reserved_bytes: int | None
    settings: Mapping[str, Any]
    beside_bytes: int | None = None

    @property
    def first_loss(self) -> float:
        """The mean over the trained tokens of the first conversations."""
        return sum(loss * tokens for loss, tokens in self.first_losses) / sum(tokens for _, tokens in self.first_losses)

    def loss_difference(self, other: Measured) -> float:
        """By how much the loss of a single token differs from the other's, in nats; infinity for other conversations.

        The root mean square over the conversations; that of a mean over n tokens is the square root of n smaller.
        """
        pairs = list(zip(self.first_losses, other.first_losses, strict=False))
        if len(self.first_losses) != len(other.first_losses) or any(mine[1] != theirs[1] for mine, theirs in pairs):
            return math.inf
        squares = [tokens * (loss - theirs) ** 2 for (loss, tokens), (theirs, _) in pairs]
        return math.sqrt(sum(squares) / len(squares))

    @property
    def tokens_per_s(self) -> float:
        return sum(self.tokens) / sum(self.seconds)

    @property
    def trained_tokens_per_s(self) -> float:
        return sum(self.trained_tokens) / sum(self.seconds)

    @property
    def seconds_a_step(self) -> float:
        return sum(self.seconds) / len(self.seconds)

    @property
    def spread(self) -> float | None:
        """The standard error of the trained tokens a second, as a share of them; None for a single step.

        Of a ratio of sums: what the steps are off it, in tokens.
        """
        steps, rate = len(self.seconds), self.trained_tokens_per_s
        if steps < 2:
            return None
        off = [tokens - rate * seconds for tokens, seconds in zip(self.trained_tokens, self.seconds, strict=True)]
        return math.sqrt(sum(each**2 for each in off) * steps / (steps - 1)) / sum(self.trained_tokens)


@dataclass(frozen=True)
class Entry:
    """How the measurement of a variant with one micro-batch ended; `note` says why it was not measured, or not well.

    `limit_s` is the time that it had.
    """

    variant: str
    micro_batch: int
    accumulation: int
    outcome: Outcome
    limit_s: float
    note: str = ""
    measured: Measured | None = None


@dataclass
class Results:
    """The entries in a folder, and what they are about: all that has to be the same for them to be compared."""

    folder: Path
    about: dict[str, Any]
    entries: list[Entry] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "results.json"

    @classmethod
    def open(cls, folder: Path, about: Mapping[str, Any]) -> Results:
        """The folder's results, none where it is new. Raises FlanliteError where they are about something else."""
        results = cls(folder, {})
        if results.file.is_file():
            try:
                content = json.loads(results.file.read_text(encoding="utf-8"))
                results.about = content["about"]
                results.entries = [_entry(each) for each in content["entries"]]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise FlanliteError(f"{results.file} cannot be read: {error}.", "Name another --out.") from error
        results.agree(about)
        return results

    def agree(self, about: Mapping[str, Any]) -> None:
        """Note what the results are about. Raises FlanliteError where that contradicts what is there."""
        for key, value in about.items():
            there = self.about.setdefault(key, value)
            if there != value:
                raise FlanliteError(
                    f"{self.folder} holds results of another benchmark: {_difference(key, there, value)}.",
                    "Name another --out.",
                )

    def add(self, entry: Entry) -> None:
        """Add an entry in the place of an earlier one of the same training, and write them all."""
        self.entries = [each for each in self.entries if _training(each) != _training(entry)] + [entry]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.file, {"about": self.about, "entries": [asdict(each) for each in self.entries]})

    def forget_failed(self, variant: str, limit_s: float, steps: int) -> None:
        """Drop a variant's entries that ended in an error, or with fewer steps than wanted in less time than now."""
        kept = []
        for each in self.entries:
            was_short = each.outcome == "out of time" or (each.measured and len(each.measured.seconds) < steps)
            is_worth_a_try = each.outcome == "failed" or (was_short and each.limit_s < limit_s)
            if each.variant != variant or not is_worth_a_try:
                kept.append(each)
        self.entries = kept

    def of(self, variant: str) -> list[Entry]:
        """A variant's entries, in the order of their measurement."""
        return [entry for entry in self.entries if entry.variant == variant]

    def best(self, variant: str) -> Entry | None:
        """A variant's fastest entry by trained tokens; its last where none was measured, None where none was tried."""
        entries = self.of(variant)
        # Of equal ones the last: the sort is stable.
        return sorted(entries, key=speed_of)[-1] if entries else None


def speed_of(entry: Entry) -> float:
    """Trained tokens a second; 0 where nothing was measured."""
    return entry.measured.trained_tokens_per_s if entry.measured else 0.0


def _difference(key: str, there: Any, here: Any) -> str:
    """What is different, in words; of two tables the first line that is."""
    if isinstance(there, dict) and isinstance(here, dict):
        inner = next(each for each in {**there, **here} if there.get(each) != here.get(each))
        return _difference(f"{key}, {inner}", there.get(inner), here.get(inner))
    return f"{key} was {there} and is {here}"


def _training(entry: Entry) -> tuple[str, int]:
    return entry.variant, entry.micro_batch


def _entry(content: dict[str, Any]) -> Entry:
    measured = content["measured"] and Measured(**content["measured"])
    if measured and not (measured.seconds and measured.first_losses and "kept_layers" in measured.settings):
        raise ValueError(f"a figure of {content['variant']} is missing")
    return Entry(**content | {"measured": measured})
