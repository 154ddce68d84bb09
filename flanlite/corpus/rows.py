"""Rows of data files, streamed: JSON lines, a JSON array or a single JSON object, plain or gzipped; and parquet."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flanlite.errors import FlanliteError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet")
MANIFEST = "manifest.json"
"""In a corpus that `flanlite build` made, beside `data/`, which holds the rows."""
BOM = b"\xef\xbb\xbf"
BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 256
LARGEST_ITEM_BYTES = 1 << 26
"""A longer item of a JSON array is taken for one whose quote or bracket was never closed."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one file. A row is the bytes of its JSON, or a value already read from parquet.

    `first_row` counts from 1; in JSON lines it is the line's number. `position` is how far the file has been read, in
    bytes on the disk.
    """

    file: Path
    first_row: int
    rows: list[Any]
    position: int

    def numbered(self) -> Iterator[tuple[int, Any]]:
        """Each row with its number; a blank line is none."""
        for number, row in enumerate(self.rows, self.first_row):
            if not isinstance(row, bytes) or row.strip():
                yield number, row


def data_files(path: Path) -> list[Path]:
    """The data files at a path: itself, or those in a folder and below it, in order of their names."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise FlanliteError(f"There is no file or folder {path}.", "Check the spelling, or name a data set on the hub.")
    # Beside a corpus's data lie its manifest and its rejects, which are no rows.
    corpora = {file.parent for file in path.rglob(MANIFEST) if read_manifest(file.parent)}
    found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and _is_shown(file, path))
    found = [file for file in found if file.parent not in corpora]
    if not found:
        raise FlanliteError(f"{path} holds no data.", f"Looked for files that end in {', '.join(SUFFIXES)}.")
    return found


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a corpus that `flanlite build` made; None for a folder of anything else."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and {"flanlite", "subsets"} <= manifest.keys() else None


def _is_shown(file: Path, root: Path) -> bool:
    """Whether it is a file, and neither it nor a folder on the way to it is hidden: such are half-written."""
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def read_blocks(file: Path) -> Iterator[Block]:
    """The file's rows, block by block. Raises FlanliteError where the file cannot be read on."""
    if file.suffix == ".parquet":
        yield from _parquet_blocks(file)
        return
    try:
        with file.open("rb") as raw:
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw  # type: ignore[assignment]
            if stream.peek(len(BOM))[: len(BOM)] == BOM:  # type: ignore[attr-defined]
                stream.read(len(BOM))
            start = stream.peek(64).lstrip()[:64]  # type: ignore[attr-defined]
            if b"\0" in start:
                raise FlanliteError(f"{file} is no UTF-8 text, but perhaps UTF-16.", "Save it as UTF-8.")
            if start[:1] == b"[":
                blocks = _array_blocks(file, stream)
            elif _opens_document(start):
                blocks = iter([(1, [stream.read()])])  # one object over many lines, such as an answer tree
            else:
                blocks = _line_blocks(file, stream)
            for first_row, rows in blocks:
                yield Block(file, first_row, rows, raw.tell())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FlanliteError(f"{file} is a broken gzip file: {error}.", "Fetch or pack it again.") from error
    except OSError as error:
        raise FlanliteError(f"{file} cannot be read: {error.strerror or error}.") from error


def parse_row(row: Any) -> Any:
    """A row's value. Raises ValueError with a sentence where it is no JSON."""
    if not isinstance(row, bytes):
        return row
    try:
        return json.loads(row.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise ValueError("broken JSON: several values where one is expected") from None
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"broken JSON: {error.msg.removesuffix(' at')} at {where} of the row") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the row is no UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise ValueError("broken JSON: nested too deeply") from None


def _line_blocks(file: Path, stream: IO[bytes]) -> Iterator[tuple[int, list[Any]]]:
    line = 1
    while lines := stream.readlines(BLOCK_BYTES):
        yield line, lines
        line += len(lines)


def is_document(file: Path) -> bool:
    """Whether the file holds one JSON object over many lines, such as an answer tree."""
    with file.open("rb") as stream:
        return _opens_document(stream.read(64).removeprefix(BOM).lstrip())


def _opens_document(start: bytes) -> bool:
    return start.split(b"\n")[0].strip() == b"{"


def _parquet_blocks(file: Path) -> Iterator[Block]:
    import pyarrow
    import pyarrow.parquet

    row, size = 1, file.stat().st_size
    try:
        table = pyarrow.parquet.ParquetFile(file)
        for batch in table.iter_batches(BLOCK_ROWS):
            rows = [_without_nulls(value) for value in batch.to_pylist()]
            yield Block(file, row, rows, size * (row + len(rows) - 1) // max(table.metadata.num_rows, 1))
            row += len(rows)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise FlanliteError(f"{file} is broken parquet: {reason}.", "Fetch it again.") from error


def _without_nulls(value: Any) -> Any:
    """Parquet gives each object the keys of all rows, null where a row has none: without those it never had."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _array_blocks(file: Path, stream: IO[bytes]) -> Iterator[tuple[int, list[Any]]]:
    row = 1
    rows: list[bytes] = []
    try:
        for item in _array_items(stream):
            rows.append(item)
            if len(rows) == BLOCK_ROWS:
                yield row, rows
                row, rows = row + len(rows), []
    except ValueError as error:
        raise FlanliteError(
            f"{file} is broken JSON behind row {row + len(rows) - 1}: {error}.", "Repair the file or fetch it again."
        ) from error
    yield row, rows


_NEXT_SIGN = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+(["\[\]{},])', re.DOTALL)
"""All up to the next sign that is in no string; that sign is a quote where the string's end has not been read yet."""


def _array_items(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of each item of a JSON array; whether an item is sound JSON is left to parse_row.

    Raises ValueError where an item is missing or has no end, and where something follows the array.
    """
    text, start, place, depth = b"", 0, 0, 0
    while chunk := stream.read(BLOCK_BYTES):
        text, place, start = text[start:] + chunk, place - start, 0
        if len(text) > LARGEST_ITEM_BYTES:
            raise ValueError("a quote or a bracket has no end")
        while (found := _NEXT_SIGN.match(text, place)) and (sign := found[1]) != b'"':
            place = found.end()
            if sign in b"[{":
                depth += 1
                start = place if depth == 1 else start
            elif sign in b"]}":
                depth -= 1
                if depth == 0:
                    if item := text[start : place - 1].strip():
                        yield item
                    _check_rest(text[place:], stream)
                    return
            elif depth == 1:
                item = text[start : place - 1].strip()
                if not item:
                    raise ValueError("there is nothing between two commas")
                yield item
                start = place
    raise ValueError("it breaks off")


def _check_rest(rest: bytes, stream: IO[bytes]) -> None:
    """Reads on behind the array. Raises ValueError where there is more than blanks."""
    while not rest.strip():
        rest = stream.read(BLOCK_BYTES)
        if not rest:
            return
    raise ValueError("something follows the array")
