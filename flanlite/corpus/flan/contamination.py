"""Test questions that must not be trained on, known by the runs of words that a text shares with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flanlite.conversation import ROLES
from flanlite.corpus.flan.shingles import Hashes, run_hashes, word_hashes
from flanlite.corpus.forms import FORMS, detect_form
from flanlite.corpus.raw.toolbench import form_of
from flanlite.corpus.rows import data_files, parse_row, read_blocks
from flanlite.errors import FlanliteError

RUN_WORDS = 13
LEAST_WORDS = 6
"""A test text of fewer words could be anyone's."""

HINT = (
    "Give files or folders of T-Eval's questions, of ToolBench's queries or of rows in a form that `flanlite convert` "
    "reads; or a .txt file with one text a line."
)


def test_texts(file: Path) -> Iterator[str]:
    """What users say in a test file: T-Eval's, ToolBench's queries, rows in a known form, or the lines of a .txt file.

    Raises FlanliteError where the file cannot be read or has no user's text: a check must not pass by finding nothing.
    """
    is_empty = True
    for text in _lines(file) if file.suffix == ".txt" else _user_texts(file):
        is_empty = is_empty and not text.strip()
        yield text
    if is_empty:
        raise FlanliteError(f"{file} holds no test texts.", HINT)


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig") as stream:
            yield from (line.rstrip("\n") for line in stream)
    except OSError as error:
        raise FlanliteError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FlanliteError(f"{file} is no UTF-8 text.", HINT) from error


def _user_texts(file: Path) -> Iterator[str]:
    for block in read_blocks(file):
        for number, row in block.numbered():
            try:
                yield from _texts_of_row(parse_row(row))
            except ValueError as error:
                raise FlanliteError(f"{file}, row {number}: {error}.", HINT) from error


def _texts_of_row(row: Any) -> Iterator[str]:
    """The user texts of a row, or of all questions where the row is a whole file of T-Eval."""
    if form := detect_form(row):
        yield from (turn.text for turn in FORMS[form][1](row).turns if turn.role == "user")
        return
    if form_of(row) == "query":
        yield row["query"]
        return
    questions = list(row.values()) if isinstance(row, Mapping) else []
    if not questions or not all(isinstance(question, Mapping) for question in questions):
        raise ValueError("this is neither a conversation, nor a query, nor a file of T-Eval")
    for question in questions:
        turns = question.get("origin_prompt")
        if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
            raise ValueError("a question has no list of turns named 'origin_prompt'")
        for turn in turns:
            if ROLES.get(str(turn.get("role"))) == "user":
                yield _text(turn.get("content"))


def _text(content: Any) -> str:
    if not isinstance(content, str):
        raise ValueError("a user turn's content is no text")
    return content


class Contamination:
    """What test files, or folders of them, say, to look for in other texts.

    A text is contaminated where it shares RUN_WORDS words in a row with a test text, or holds the whole of one that is
    shorter, if that has at least LEAST_WORDS. Case and punctuation make no difference. `texts` is the number of the
    test texts that are looked for, `too_short` that of the others.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [file for path in paths for file in data_files(path)]
        self.texts = self.too_short = 0
        found: dict[int, list[tuple[Hashes, int]]] = {}
        for number, file in enumerate(self.files):
            for text in test_texts(file):
                words = word_hashes(text)
                if len(words) < LEAST_WORDS:
                    self.too_short += 1
                    continue
                length = min(len(words), RUN_WORDS)
                found.setdefault(length, []).append((run_hashes(words, length), number))
                self.texts += 1
        self._runs = {length: _sorted_runs(runs) for length, runs in sorted(found.items())}

    def found_in(self, text: str) -> str | None:
        """The name of the test file that the text repeats a text of, or None."""
        words = word_hashes(text)
        for length, (known, owners) in self._runs.items():
            runs = run_hashes(words, length)
            places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
            if (is_known := known[places] == runs).any():
                return self.files[int(owners[places[is_known.argmax()]])].name
        return None


def _sorted_runs(found: Sequence[tuple[Hashes, int]]) -> tuple[Hashes, NDArray[np.int32]]:
    """The runs in order, each once, and the number of the first test file that each is from."""
    runs, first = np.unique(np.concatenate([each for each, _ in found]), return_index=True)
    owners = np.repeat([owner for _, owner in found], [len(each) for each, _ in found])
    return runs, owners[first].astype(np.int32)
