"""A training set on disk: token ids and labels as Arrow, with an account of where every row went.

data.arrow      input_ids, labels, span_roles, span_tokens, source, row
report.json     settings, and per source: rows kept, cut and rejected, tokens, trained tokens, lengths
rejects.jsonl   file, row and reason of every rejected row
tokenizer.json  and its companions: what the ids mean
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flanlite.errors import FlanliteError
from flanlite.prompt.template import MASKED, Span, Tokens
from flanlite.prompt.tokenizer import Tokenizer

if TYPE_CHECKING:
    import datasets

DATA, REPORT, REJECTS = "data.arrow", "report.json", "rejects.jsonl"
FILES = {DATA, REPORT, REJECTS, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
"""All that a training set's folder holds."""
ROLES = ("template", "system", "user", "observation", "assistant")
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("span_roles", pa.list_(pa.int8())),
        ("span_tokens", pa.list_(pa.int32())),
        ("source", pa.int32()),
        ("row", pa.int32()),
    ]
)


def record_batch(examples: Sequence[tuple[Tokens, int, int]]) -> pa.RecordBatch:
    """One Arrow batch from (tokens, source's number, row's number) triples."""
    lengths = [len(tokens.ids) for tokens, _, _ in examples]
    ids = np.fromiter((index for tokens, _, _ in examples for index in tokens.ids), np.int32, sum(lengths))
    labels = ids.copy()
    roles, counts, span_counts, start = [], [], [], 0
    for tokens, _, _ in examples:
        span_counts.append(len(tokens.spans))
        for span in tokens.spans:
            roles.append(ROLES.index(span.role))
            counts.append(span.tokens)
            if not span.trained:
                labels[start : start + span.tokens] = MASKED
            start += span.tokens
    columns = [
        _lists(lengths, pa.array(ids)),
        _lists(lengths, pa.array(labels)),
        _lists(span_counts, pa.array(roles, pa.int8())),
        _lists(span_counts, pa.array(counts, pa.int32())),
        pa.array([source for _, source, _ in examples], pa.int32()),
        pa.array([row for _, _, row in examples], pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _lists(lengths: Sequence[int], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths], dtype=np.int32)), values)


class TrainingSet:
    """A training set's folder, memory-mapped. Raises FlanliteError where the folder is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            self.table: pa.Table = pa.ipc.open_stream(pa.memory_map(str(folder / DATA))).read_all()
        except (OSError, ValueError) as error:
            raise FlanliteError(
                f"{folder} is no training set.", "`flanlite convert SOURCE --base NAME --out DIR` makes one."
            ) from error

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def sources(self) -> list[str]:
        """The sources' names, by their number in the column `source`."""
        return [source["name"] for source in self.report["sources"]]

    @cached_property
    def source_of(self) -> np.ndarray:
        """Each row's source number: int32 of shape (rows,)."""
        return np.asarray(self.table["source"].to_numpy())

    @cached_property
    def tokens_of(self) -> np.ndarray:
        """Each row's length in tokens: int64 of shape (rows,)."""
        return self._list_lengths("input_ids")

    @cached_property
    def trained_tokens_of(self) -> np.ndarray:
        """Each row's number of trained tokens: int64 of shape (rows,)."""
        sums = []
        for chunk in self.table["labels"].chunks:
            trained = np.concatenate([[0], np.cumsum(chunk.flatten().to_numpy() != MASKED)])
            offsets = chunk.offsets.to_numpy() - chunk.offsets[0].as_py()
            sums.append(np.diff(trained[offsets]))
        return np.concatenate(sums) if sums else np.zeros(0, np.int64)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the ids."""
        return Tokenizer.load(self.folder)

    def tokens(self, index: int) -> Tokens:
        """One row's ids and spans."""
        row = self.table.slice(index, 1).to_pylist()[0]
        spans, start = [], 0
        for role, count in zip(row["span_roles"], row["span_tokens"], strict=True):
            spans.append(Span(ROLES[role], count, row["labels"][start] != MASKED))
            start += count
        return Tokens(row["input_ids"], spans)

    def origin(self, index: int) -> tuple[str, int]:
        """One row's file and its number there, counted from 1."""
        row = self.table.slice(index, 1)
        source = self.report["sources"][row["source"][0].as_py()]
        return source["file"], row["row"][0].as_py()

    def dataset(self, indices: Sequence[int] | np.ndarray | None = None) -> datasets.Dataset:
        """The ids and labels as trl takes them, of all rows or of those named, in that order."""
        import datasets

        whole = datasets.Dataset.from_file(str(self.folder / DATA)).select_columns(["input_ids", "labels"])
        return whole if indices is None else whole.select(indices)

    def _list_lengths(self, column: str) -> np.ndarray:
        chunks = [np.diff(chunk.offsets.to_numpy()) for chunk in self.table[column].chunks]
        return np.concatenate(chunks).astype(np.int64) if chunks else np.zeros(0, np.int64)
