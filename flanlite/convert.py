"""Data in: rows of any known form to a training set, on every core, with an account of each row.

Nothing vanishes silently: a row is kept whole, cut at a turn's end, or rejected with its file, number and reason.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from flanlite import hub
from flanlite.bases import resolve
from flanlite.corpus.forms import FORMS, detect_form
from flanlite.corpus.rows import Block, parse_row, read_blocks
from flanlite.corpus.sources import Source, check_outside, find_sources
from flanlite.errors import FlanliteError
from flanlite.examples import OverlongError, Settings, Tally, convert_row
from flanlite.prompt.template import Template, choose_template
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import tool_prompt
from flanlite.recipe import Recipe
from flanlite.terminal import OnProgress, byte_progress, say
from flanlite.training_set import DATA, FILES, REJECTS, REPORT, SCHEMA, TrainingSet, record_batch
from flanlite.workers import cpu_count, in_order

VERSION = 2
"""Raised when the same data and settings would give other ids or another folder, so that no old cache is taken."""

ABANDONED_S = 24 * 3600
"""What nothing has been written to for so long, a convert that was killed has left half-written."""

EXAMPLE_ROW = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'

IN_PROCESS_BYTES = 4_000_000
"""Smaller inputs are done before a worker process has started."""


def convert_for(recipe: Recipe, out: Path | None = None) -> TrainingSet:
    """The training set that a recipe makes of its data, in `out` or, without one, in the cache.

    A set in the cache is taken as it is if data, tokenizer, template and settings are the same.
    """
    base = resolve(recipe.base)
    recipe = recipe.with_plain_rows(base.context_length)
    if out is not None:
        check_outside(out, recipe.data)
    sources = find_sources(recipe.data, recipe.subset, say=say)
    tokenizer = Tokenizer.load(hub.model_dir(base, weights=False, say=say))
    template = (base.template or "auto") if recipe.template == "base" else recipe.template
    settings = Settings(template, recipe.tool_style, recipe.form, recipe.row_tokens, recipe.overlong)
    if out is None:
        out = (
            hub.own_cache_dir() / "sets" / cache_key(sources, tokenizer, choose_template(template, tokenizer), settings)
        )
        if (out / REPORT).is_file():
            return TrainingSet(out)
        _clear_abandoned(out.parent)
    with byte_progress("converting") as on_progress:
        return convert(sources, tokenizer, settings, out, on_progress=on_progress)


def _clear_abandoned(cache: Path) -> None:
    """Remove what converts that were killed have left in the cache."""
    for folder in cache.glob(".*.*"):
        with contextlib.suppress(OSError):  # one that is just being renamed
            if time.time() - max(file.stat().st_mtime for file in (folder, *folder.iterdir())) > ABANDONED_S:
                shutil.rmtree(folder)


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
    on_progress: OnProgress = lambda done, total: None,
    processes: int | None = None,
) -> TrainingSet:
    """Write the training set `out`, beside first and renamed at the end.

    `on_progress` is told how many of the sources' bytes are done. Raises FlanliteError where nothing can be trained on.
    """
    template = choose_template(settings.template, tokenizer)
    out = out.resolve()
    replaces = _is_older_set(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, since another tune of the same data may be at it too.
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        tallies = _write(sources, tokenizer, settings, beside, on_progress, processes)
        key = cache_key(sources, tokenizer, template, settings)
        report = {
            "key": key,
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
        if replaces:
            shutil.rmtree(out)
            say(f"The older training set in {out} is replaced.")
        _put_in_place(beside, out, key)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return TrainingSet(out)


def _is_older_set(out: Path) -> bool:
    """Whether `out` holds an older training set. Raises FlanliteError where it holds anything else."""
    found = {file.name for file in out.iterdir()} if out.is_dir() else set()
    is_older_set = {DATA, REPORT, REJECTS} <= found and found <= FILES
    if (out.exists() and not out.is_dir()) or (found and not is_older_set):
        raise FlanliteError(f"{out} exists and is no training set.", "Name another --out.")
    return is_older_set


def _put_in_place(beside: Path, out: Path, key: str) -> None:
    """Rename the finished folder, unless another tune has put the same set there meanwhile and may be reading it."""
    beside.chmod(0o755)  # a temporary folder is its owner's alone
    with contextlib.suppress(OSError):
        out.rmdir()  # one that is empty
    try:
        beside.rename(out)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or TrainingSet(out).report["key"] != key:
            raise


def _check_trainable(tallies: Sequence[Tally], beside: Path, out: Path) -> None:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    if total.rows == 0:
        raise FlanliteError("The data holds no rows.", "Check that the files are the right ones.")
    if total.trained_tokens:
        return
    rejects = (beside / REJECTS).replace(out.with_name(out.name + "." + REJECTS))
    with rejects.open(encoding="utf-8") as lines:
        first = json.loads(next(lines))
    rows = f"All {total.rows:,} rows were" if total.rows > 1 else "The only row was"
    raise FlanliteError(
        f"{rows} rejected; {Path(first['file']).name} row {first['row']}: {first['reason']}.",
        f"Every row's reason is in {rejects}. A row that can be read: {EXAMPLE_ROW}",
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
    on_progress: OnProgress,
    processes: int | None,
) -> list[Tally]:
    tallies = [Tally() for _ in sources]
    starts = [0, *accumulate(source.file.stat().st_size for source in sources)]
    if processes is None:
        processes = 1 if starts[-1] < IN_PROCESS_BYTES else cpu_count()
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
            on_progress(starts[done.source] + done.position, starts[-1])
    return tallies


def _convert_blocks(
    sources: Sequence[Source], tokenizer: Tokenizer, settings: Settings, processes: int
) -> Iterator[_Done]:
    """Each block's result, in the sources' order whatever the number of processes."""
    blocks = ((number, *block) for number, source in enumerate(sources) for block in _blocks(source, settings.form))
    yield from in_order(_convert_block, blocks, processes, _start_worker, (tokenizer, settings))


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


def _convert_block(task: tuple[int, Block, str]) -> _Done:
    source, block, form = task
    tokenizer, template, settings = _worker
    tally, examples, rejects, fatal = Tally(), [], [], ""
    for number, raw in block.numbered():
        tally.rows += 1
        try:
            row = parse_row(raw)
            if form == "auto":
                keys = ", ".join(key for key, _ in FORMS.values())
                raise ValueError(f"the row is of no known form: none of its keys is {keys}")
            example = convert_row(row, form, template, tokenizer, settings)
        except OverlongError as error:
            fatal = f"{block.file} row {number} has {error}."
            break
        except (ValueError, RecursionError) as error:
            reason = "a value is nested too deeply" if isinstance(error, RecursionError) else str(error)
            tally.rejected += 1
            rejects.append({"file": str(block.file), "row": number, "reason": reason})
        else:
            tally.keep(example)
            examples.append((example.tokens, source, number))
    return _Done(source, block.position, record_batch(examples), tally, rejects, fatal)
