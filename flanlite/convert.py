"""Data in: rows of any known form to a training set, on every core, with an account of each row.

Nothing vanishes silently: a row is kept whole, cut at a turn's end, or rejected with its file, number and reason.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from flanlite.conversation import Turn
from flanlite.corpus.forms import FORMS, detect_form, read_row
from flanlite.corpus.rows import Block, parse_row, read_blocks
from flanlite.errors import FlanliteError
from flanlite.prompt.segments import break_marks
from flanlite.prompt.template import Template, Tokens, choose_template, tokenize
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import ToolStyle, as_text, tool_prompt
from flanlite.training_set import DATA, REJECTS, REPORT, SCHEMA, TrainingSet, record_batch

VERSION = 1
"""Raised when the same data and settings would give other ids or another folder, so that no old cache is taken."""

IN_PROCESS_BYTES = 4_000_000
"""Smaller inputs are done before a worker process has started."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file to convert, and the name it has in the report."""

    name: str
    file: Path


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
    turns, broken_marks = break_marks(as_text(read_row(row, form), settings.tool_style), template.marks)
    last_trained = max(index for index, turn in enumerate(turns) if turn.trained)
    trailing_turns = len(turns) - last_trained - 1
    turns = turns[: last_trained + 1]
    try:
        tokens = tokenize(template, tokenizer, turns)
        if len(tokens.ids) <= settings.max_tokens:
            return Example(tokens, trailing_turns=trailing_turns, broken_marks=broken_marks)
        if settings.overlong != "turns":
            error = OverlongError if settings.overlong == "error" else ValueError
            raise error(f"{len(tokens.ids):,} tokens, over max_tokens of {settings.max_tokens:,}")
        kept_turns, kept = _longest_fit(turns, template, tokenizer, settings.max_tokens)
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None
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


def cache_key(sources: Sequence[Source], tokenizer: Tokenizer, template: Template, settings: Settings) -> str:
    """A hash of all that decides a training set: the files' bytes, the tokenizer, the template and the settings."""
    digest = hashlib.sha256()
    parts = [VERSION, tokenizer.fingerprint, template.chat_template, tool_prompt(settings.tool_style), asdict(settings)]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for source in sources:
        with source.file.open("rb") as file:
            digest.update(source.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def convert(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    settings: Settings,
    out: Path,
    *,
    on_progress: Callable[[int], None] = lambda done: None,
    processes: int | None = None,
) -> TrainingSet:
    """Write the training set `out`, beside first and renamed at the end.

    `on_progress` is told how many of the sources' bytes are done. Raises FlanliteError where nothing can be trained on.
    """
    template = choose_template(settings.template, tokenizer)
    beside = out.with_name(out.name + ".partial")
    _make_room(out, beside)
    try:
        tallies = _write(sources, tokenizer, settings, beside, on_progress, processes)
        report = {
            "key": cache_key(sources, tokenizer, template, settings),
            "template": template.name,
            "settings": asdict(settings),
            "sources": [
                {"name": source.name, "file": str(source.file), **tally.as_report()}
                for source, tally in zip(sources, tallies, strict=True)
            ],
        }
        (beside / REPORT).write_text(json.dumps(report, indent=2), encoding="utf-8")
        tokenizer.save(beside)
        _check_trainable(tallies, beside, out)
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return TrainingSet(out)


def _make_room(out: Path, beside: Path) -> None:
    if out.exists() and not (out / REPORT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise FlanliteError(f"{out} exists and is no training set.", "Name another --out.")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)


def _check_trainable(tallies: Sequence[Tally], beside: Path, out: Path) -> None:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    if total.rows == 0:
        raise FlanliteError("The data holds no rows.", "Check that the files are the right ones.")
    if total.trained_tokens:
        return
    rejects = (beside / REJECTS).rename(out.with_name(out.name + "." + REJECTS))
    with rejects.open(encoding="utf-8") as lines:
        first = json.loads(next(lines))
    raise FlanliteError(
        f"All {total.rows:,} rows were rejected; {Path(first['file']).name} row {first['row']}: {first['reason']}.",
        f"Every row's reason is in {rejects}.",
    )


@dataclass(slots=True)
class _Done:
    """What a worker makes of one block."""

    source: int
    position: int
    batch: pa.RecordBatch
    tally: Tally
    rejects: list[dict[str, Any]]
    fatal: str = ""


def _write(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    settings: Settings,
    folder: Path,
    on_progress: Callable[[int], None],
    processes: int | None,
) -> list[Tally]:
    tallies = [Tally() for _ in sources]
    sizes = [source.file.stat().st_size for source in sources]
    if processes is None:
        processes = 1 if sum(sizes) < IN_PROCESS_BYTES else len(os.sched_getaffinity(0))
    with (
        pa.OSFile(str(folder / DATA), "wb") as sink,
        pa.ipc.new_stream(sink, SCHEMA) as writer,
        (folder / REJECTS).open("w", encoding="utf-8") as rejects,
    ):
        for done in _convert_blocks(sources, tokenizer, settings, processes):
            if done.fatal:
                raise FlanliteError(done.fatal, "Choose overlong=turns or overlong=drop, or a larger max_tokens.")
            tallies[done.source].add(done.tally)
            if done.batch.num_rows:
                writer.write_batch(done.batch)
            rejects.writelines(json.dumps(reject, ensure_ascii=True) + "\n" for reject in done.rejects)
            on_progress(sum(sizes[: done.source]) + done.position)
    return tallies


def _convert_blocks(
    sources: Sequence[Source], tokenizer: Tokenizer, settings: Settings, processes: int
) -> Iterator[_Done]:
    """Each block's result, in the sources' order whatever the number of processes."""
    blocks = ((number, *block) for number, source in enumerate(sources) for block in _blocks(source, settings.form))
    if processes == 1:
        _start_worker(tokenizer, settings)
        yield from (_convert_block(*block) for block in blocks)
        return
    # Spawned, not forked: the caller may have threads, and the behaviour is the same on every system.
    context = multiprocessing.get_context("spawn")
    pending: deque[Future[_Done]] = deque()
    with ProcessPoolExecutor(processes, context, _start_worker, (tokenizer, settings)) as pool:
        try:
            for block in blocks:
                pending.append(pool.submit(_convert_block, *block))
                if len(pending) >= 3 * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise FlanliteError(
                "A worker process was killed, most likely for want of memory.", "Free memory and run it again."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _blocks(source: Source, form: str) -> Iterator[tuple[Block, str]]:
    for block in read_blocks(source.file):
        if form == "auto":
            form = _form_of(block) or "auto"
        yield block, form


def _form_of(block: Block) -> str | None:
    """The form of the block's first row that has one; a later block is asked where none has."""
    for row in block.rows:
        try:
            if found := detect_form(parse_row(row)):
                return found
        except ValueError:
            continue
    return None


_worker: tuple[Tokenizer, Template, Settings]


def _start_worker(tokenizer: Tokenizer, settings: Settings) -> None:
    global _worker
    _worker = (tokenizer, choose_template(settings.template, tokenizer), settings)


def _convert_block(source: int, block: Block, form: str) -> _Done:
    tokenizer, template, settings = _worker
    tally, examples, rejects, fatal = Tally(), [], [], ""
    for number, raw in enumerate(block.rows, block.first_row):
        if isinstance(raw, bytes) and not raw.strip():
            continue
        tally.rows += 1
        try:
            if form == "auto":
                keys = ", ".join(key for key, _ in FORMS.values())
                raise ValueError(f"the row is of no known form: none of its keys is {keys}")
            example = convert_row(parse_row(raw), form, template, tokenizer, settings)
        except OverlongError as error:
            fatal = f"{block.file} row {number} has {error}."
            break
        except ValueError as error:
            tally.rejected += 1
            rejects.append({"file": str(block.file), "row": number, "reason": str(error)})
        else:
            tally.keep(example)
            examples.append((example.tokens, source, number))
    return _Done(source, block.position, record_batch(examples), tally, rejects, fatal)
