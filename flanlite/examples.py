"""One row to one example: what is kept of it, what is cut, and why it is rejected; and the account of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from flanlite.conversation import Turn
from flanlite.corpus.forms import read_row
from flanlite.prompt.segments import break_marks
from flanlite.prompt.template import Template, Tokens, tokenize
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import ToolStyle, as_text


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the ids besides data and tokenizer. `form` is a name from FORMS or auto."""

    template: str
    tool_style: ToolStyle = "react"
    form: str = "auto"
    max_tokens: int = 2048
    overlong: Literal["turns", "drop", "error"] = "turns"


@dataclass(frozen=True, slots=True)
class Example:
    """A row that is kept: its tokens, and what was left out of it."""

    tokens: Tokens
    cut_turns: int = 0
    cut_trained_tokens: int = 0
    trailing_turns: int = 0
    broken_marks: int = 0


@dataclass(slots=True)
class Tally:
    """One source's account."""

    rows: int = 0
    kept: int = 0
    cut: int = 0
    rejected: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    cut_turns: int = 0
    cut_trained_tokens: int = 0
    trailing_turns: int = 0
    broken_marks: int = 0
    lengths: Counter[int] = field(default_factory=Counter)

    def keep(self, example: Example) -> None:
        """Count one kept row."""
        self.kept += 1
        self.cut += example.cut_turns > 0
        self.tokens += len(example.tokens.ids)
        self.trained_tokens += example.tokens.trained_tokens
        self.cut_turns += example.cut_turns
        self.cut_trained_tokens += example.cut_trained_tokens
        self.trailing_turns += example.trailing_turns
        self.broken_marks += example.broken_marks
        self.lengths[len(example.tokens.ids)] += 1

    def add(self, other: Tally) -> None:
        """Count what another tally counted."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_report(self) -> dict[str, int]:
        """The counts, and the lengths' median, 95th percentile and maximum in tokens."""
        report = {name: getattr(self, name) for name in self.__slots__ if name != "lengths"}
        return report | {"median": self._length_at(0.5), "p95": self._length_at(0.95), "longest": self._length_at(1)}

    def _length_at(self, share: float) -> int:
        rank, seen = share * self.kept, 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= rank:
                return length
        return 0


class OverlongError(ValueError):
    """A row over max_tokens where the settings make that an error."""


def convert_row(row: Any, form: str, template: Template, tokenizer: Tokenizer, settings: Settings) -> Example:
    """One parsed row to tokens. Raises ValueError with a sentence where the row has to be rejected."""
    turns, broken_marks = break_marks(
        as_text(read_row(row, form), settings.tool_style), template.marks, in_answers=template.encodes_specials_in_text
    )
    last_trained = max(index for index, turn in enumerate(turns) if turn.trained)
    trailing_turns = len(turns) - last_trained - 1
    turns = turns[: last_trained + 1]
    tokens = tokenize(template, tokenizer, turns)
    if len(tokens.ids) <= settings.max_tokens:
        return Example(tokens, trailing_turns=trailing_turns, broken_marks=broken_marks)
    if settings.overlong != "turns":
        error = OverlongError if settings.overlong == "error" else ValueError
        raise error(f"{len(tokens.ids):,} tokens, over max_tokens of {settings.max_tokens:,}")
    kept_turns, kept = _longest_fit(turns, template, tokenizer, settings.max_tokens)
    return Example(
        kept,
        cut_turns=len(turns) - kept_turns,
        cut_trained_tokens=tokens.trained_tokens - kept.trained_tokens,
        trailing_turns=trailing_turns,
        broken_marks=broken_marks,
    )


def _longest_fit(turns: Sequence[Turn], template: Template, tokenizer: Tokenizer, limit: int) -> tuple[int, Tokens]:
    """The most leading turns that end with a trained one and fit, and their tokens."""
    ends = [index + 1 for index, turn in enumerate(turns) if turn.trained]
    fitting: tuple[int, Tokens] | None = None
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        tokens = tokenize(template, tokenizer, turns[: ends[middle]])
        if len(tokens.ids) <= limit:
            fitting, low = (ends[middle], tokens), middle + 1
        else:
            high = middle
    if fitting is None:
        raise ValueError(f"the first trained turn ends behind max_tokens of {limit:,}")
    return fitting
