"""What the commands print: progress, tables and single lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from flanlite import hub
from flanlite.bases import Base

console = Console()


def say(line: str) -> None:
    """Print one line, as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


OnProgress = Callable[[int, int], None]
"""Told what is done, and of how much."""


@contextmanager
def byte_progress(what: str) -> Iterator[OnProgress]:
    """A bar over bytes, with rate and remaining time."""
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _bar(what, columns) as on_progress:
        yield on_progress


@contextmanager
def step_progress(what: str) -> Iterator[OnProgress]:
    """A bar over steps, with the remaining time."""
    with _bar(what, (MofNCompleteColumn(), TimeRemainingColumn())) as on_progress:
        yield on_progress


@contextmanager
def _bar(what: str, columns: Iterable[ProgressColumn]) -> Iterator[OnProgress]:
    """A bar that shows with its first progress and goes when all is done."""
    shown = (TextColumn("{task.description}"), BarColumn(), *columns)
    # Into a file or a pipe it would write empty lines.
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


ACCOUNT = {
    "rows": "rows",
    "kept": "kept",
    "cut": "cut",
    "rejected": "rejected",
    "tokens": "tokens",
    "trained_tokens": "trained",
    "median": "median",
    "p95": "95%",
    "longest": "longest",
}
"""The columns of a training set's account: the report's key and the head."""


def account_table(sources: list[dict[str, Any]]) -> Table:
    """Per source: rows kept, cut and rejected, tokens, trained tokens, and lengths in tokens."""
    table = Table("source", *ACCOUNT.values(), box=None, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for source in sources:
        table.add_row(source["name"], *(f"{source[key]:,}" for key in ACCOUNT))
    return table


def show_losses(sources: list[dict[str, Any]], folder: str) -> None:
    """Print, in sentences, what a training set leaves out of its rows or changes in them."""
    keys = ("cut", "cut_turns", "cut_trained_tokens", "trained_tokens", "trailing_turns", "broken_marks", "rejected")
    total = {key: sum(source[key] for source in sources) for key in keys}
    if total["cut"]:
        share = total["cut_trained_tokens"] / (total["cut_trained_tokens"] + total["trained_tokens"])
        say(
            f"{_were(total['cut'], 'row')} cut at a turn's end: {counted(total['cut_turns'], 'turn')} and "
            f"{counted(total['cut_trained_tokens'], 'trained token')} ({share:.1%}) fell away."
        )
    if total["trailing_turns"]:
        say(f"{_were(total['trailing_turns'], 'turn')} left out, behind the last trained one.")
    if total["broken_marks"]:
        say(f"{_were(total['broken_marks'], 'mark')} broken: the template's own, in texts.")
    if total["rejected"]:
        say(f"{_were(total['rejected'], 'row')} rejected{_first_reason(folder)}. All reasons: {folder}/rejects.jsonl")


def _first_reason(folder: str) -> str:
    """Why the first row of a training set was rejected, in words."""
    try:
        with Path(folder, "rejects.jsonl").open(encoding="utf-8") as rejects:
            first = json.loads(next(rejects))
    except (OSError, StopIteration):  # somebody has tidied up
        return ""
    return f"; {Path(first['file']).name} row {first['row']}: {first['reason']}"


def counted(number: int, noun: str) -> str:
    """The number with its noun: 1 row, 2 rows."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def _were(number: int, noun: str) -> str:
    return f"{counted(number, noun)} {'was' if number == 1 else 'were'}"


def table_of_bases(bases: Sequence[Base]) -> Table:
    """The bases by name: size of the weights, context in tokens, and where they come from; 80 columns wide."""
    table = Table("base", "16-bit", "4-bit", "context", "weights from", box=None, header_style="bold", pad_edge=False)
    table.padding = (0, 1, 0, 0)
    for column in table.columns[1:4]:
        column.justify = "right"
    for column in table.columns:
        column.no_wrap = True
    for base in bases:
        four_bit = hub.in_words(base.bytes_4bit) + ("" if base.repo_4bit else "*")
        numbers = (hub.in_words(base.bytes_16bit), four_bit)
        origin = base.repo or "in the package"
        table.add_row(base.name, *numbers, f"{base.context_length:,}", origin)
    table.caption = "* no 4-bit copy on the hub: the 16-bit weights are fetched and quantised on load"
    return table


def in_time(seconds: float) -> str:
    """Seconds as people write them: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
