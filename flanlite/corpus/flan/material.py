"""All raw rows, read once on every core: what they hold goes to a spool, what cannot be used to an account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from flanlite.conversation import Conversation
from flanlite.corpus.flan.contamination import Contamination
from flanlite.corpus.flan.duplicates import Marks, marks_of, reasons_to_drop
from flanlite.corpus.raw.reading import Kind, Material, all_said, asked_texts, prefix_of, read_raw
from flanlite.corpus.raw.toolbench import Rank
from flanlite.corpus.raw.trajectory import Trajectory
from flanlite.corpus.rows import is_document, parse_row, read_blocks
from flanlite.corpus.spool import Place, SpoolReader, SpoolWriter, packed
from flanlite.workers import in_order

TASK_ROWS, TASK_BYTES = 256, 1_000_000
"""What a worker is given at once: so many rows or, of large ones, so much."""


PREFIX = "not the longest finished row of its query"


@dataclass(frozen=True, slots=True)
class RawSource:
    """What one option of the command named: files of one kind. `name` is told to people."""

    kind: Kind
    name: str
    files: tuple[Path, ...]

    @property
    def n_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


@dataclass(slots=True)
class SourceTally:
    """One source's account: its rows, those that are used, and the others by their reason."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        return self.kept + self.dropped.total()


class Origin(NamedTuple):
    """Where a raw row stands: numbers of source and file from 0, of the row from 1."""

    source: int
    file: int
    row: int


@dataclass(frozen=True, slots=True)
class Item:
    """One usable row: where it came from, where it lies in the spool, and what plans need to know of it.

    `identity` is the row's id and what it says, so that a draw does not depend on the rows around it. The rest is of
    trajectories: whether anything is called, whether the first thing done is a call that is trained, whether tools are
    on offer.
    """

    origin: Origin
    place: Place
    holds: type[Material]
    identity: str
    has_calls: bool
    opens_with_call: bool
    has_tools: bool


class Reject(NamedTuple):
    """A row that is not used, and why; `detail` says what is the row's own, so that reasons can be counted."""

    origin: Origin
    reason: str
    detail: str = ""


@dataclass
class Materials:
    """All that was read: the items in the order of the sources, and the account of every row."""

    sources: Sequence[RawSource]
    items: list[Item]
    tallies: list[SourceTally]
    rejects: list[Reject]
    spool: Path

    def kind(self, item: Item) -> Kind:
        return self.sources[item.origin.source].kind

    def load(self, item: Item) -> Any:
        """What the item holds."""
        return self._reader.read(item.place)

    @cached_property
    def _reader(self) -> SpoolReader:
        return SpoolReader(self.spool)


OnBytes = Callable[[int, int], None]


def read_materials(
    sources: Sequence[RawSource],
    spool: Path,
    contamination: Contamination | None,
    processes: int,
    on_progress: OnBytes,
) -> Materials:
    """Read every row of every source. `on_progress` is told how many of all bytes are done."""
    tasks = _tasks(sources, _longest_prefixes(sources, processes, on_progress), on_progress)
    writer = SpoolWriter(spool)
    items: list[Item] = []
    marks: list[Marks] = []
    rejects: list[Reject] = []
    for task_done in in_order(_read_rows, tasks, processes, _start, (contamination,)):
        for found in task_done:
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                items.append(replace(found.item, place=writer.add(found.pack)))
                marks.append(found.marks)
    writer.close()
    # Not before all are read, since of rows that begin alike the last may be the longest.
    reasons = list(reasons_to_drop(marks))
    rejects += [Reject(item.origin, reason) for item, reason in zip(items, reasons, strict=True) if reason]
    kept = [item for item, reason in zip(items, reasons, strict=True) if not reason]
    return Materials(sources, kept, _tallies(len(sources), kept, rejects), rejects, spool)


def _tallies(count: int, kept: Sequence[Item], rejects: Sequence[Reject]) -> list[SourceTally]:
    tallies = [SourceTally() for _ in range(count)]
    for item in kept:
        tallies[item.origin.source].kept += 1
    for reject in rejects:
        tallies[reject.origin.source].dropped[reject.reason] += 1
    return tallies


class _Raw(NamedTuple):
    """A raw row on its way to a worker. `stem` names a row that has no id; a prefix, without its value, is counted."""

    origin: Origin
    kind: Kind
    stem: str
    value: Any
    is_prefix: bool


class _Found(NamedTuple):
    """What a worker made of a row. The item has no place yet."""

    pack: bytes
    item: Item
    marks: Marks


def _tasks(
    sources: Sequence[RawSource], longest: dict[int, set[tuple[int, int]]], on_progress: OnBytes
) -> Iterator[list[_Raw]]:
    total, before, size = sum(source.n_bytes for source in sources), 0, 0
    rows: list[_Raw] = []
    for number, source in enumerate(sources):
        kept = longest.get(number)
        for file_number, file in enumerate(source.files):
            stem = file.name.split(".")[0]
            for block in read_blocks(file):
                for row, value in block.numbered():
                    is_prefix = kept is not None and (file_number, row) not in kept
                    value = None if is_prefix else value
                    rows.append(_Raw(Origin(number, file_number, row), source.kind, stem, value, is_prefix))
                    size += len(value) if isinstance(value, bytes) else 0
                    if len(rows) == TASK_ROWS or size > TASK_BYTES:
                        yield rows
                        rows, size = [], 0
                on_progress(before + block.position, total)
            before += file.stat().st_size
    yield rows


_contamination: Contamination | None = None


def _start(contamination: Contamination | None) -> None:
    global _contamination
    _contamination = contamination


def _read_rows(rows: list[_Raw]) -> list[_Found | Reject]:
    return [_read_row(raw) for raw in rows]


def _read_row(raw: _Raw) -> _Found | Reject:
    if raw.is_prefix:
        return Reject(raw.origin, PREFIX)
    try:
        value = parse_row(raw.value)
    except ValueError as error:
        reason, _, detail = str(error).partition(": ")
        return Reject(raw.origin, reason, detail)
    try:
        material = read_raw(raw.kind, value)
        if test := _repeated_test(material):
            return Reject(raw.origin, f"a request repeats a question of {test}")
        return _found(material, raw)
    except ValueError as error:
        return Reject(raw.origin, str(error))
    except RecursionError:
        return Reject(raw.origin, "a value is nested too deeply")


def _repeated_test(material: Material) -> str | None:
    """The test file, if any, that asks what a user asks here."""
    found = (_contamination.found_in(text) for text in asked_texts(material)) if _contamination else ()
    return next(filter(None, found), None)


def _found(material: Material, raw: _Raw) -> _Found:
    name = f"{raw.stem}_{raw.origin.row}"
    if isinstance(material, Trajectory | Conversation) and not material.id:
        material = replace(material, id=name)
    work = material if isinstance(material, Trajectory) else None
    marks = marks_of(all_said(material), (tool.name for tool in work.tools) if work else ())
    identity = f"{getattr(material, 'id', name)} {marks.beginnings[-1].hex()}"
    item = Item(
        raw.origin,
        Place(0, 0),
        type(material),
        identity,
        has_calls=bool(work and work.calls),
        opens_with_call=bool(work and work.opens_with_call),
        has_tools=bool(work and work.tools),
    )
    return _Found(packed(material), item, marks)


def _longest_prefixes(
    sources: Sequence[RawSource], processes: int, on_progress: OnBytes
) -> dict[int, set[tuple[int, int]]]:
    """Of the sources that hold trees' paths as rows of growing length: (file, row) of each query's row to keep."""
    found: dict[int, set[tuple[int, int]]] = {}
    for number, source in enumerate(sources):
        if source.kind != "toolbench" or not _holds_prefixes(source):
            continue
        best: dict[str, tuple[Rank, int, int]] = {}
        loose: set[tuple[int, int]] = set()
        tasks = _tasks([source], {}, on_progress)
        for keys in in_order(_prefix_keys, tasks, processes, _start, (None,)):
            for origin, key in keys:
                if key is None:
                    loose.add((origin.file, origin.row))
                elif key[0] not in best or best[key[0]][0] < key[1]:
                    best[key[0]] = (key[1], origin.file, origin.row)
        found[number] = loose | {(file, row) for _, file, row in best.values()}
    return found


def _holds_prefixes(source: RawSource) -> bool:
    """Whether the first row of one of its files is one. Answer trees, each a file, are not opened twice."""
    firsts = (next(read_blocks(file), None) for file in source.files if not is_document(file))
    return any(_prefix_key(row) is not None for block in firsts if block for row in block.rows[:1])


def _prefix_keys(rows: list[_Raw]) -> list[tuple[Origin, tuple[str, Rank] | None]]:
    return [(raw.origin, _prefix_key(raw.value)) for raw in rows]


def _prefix_key(row: Any) -> tuple[str, Rank] | None:
    try:
        return prefix_of("toolbench", parse_row(row))
    except ValueError:
        return None
