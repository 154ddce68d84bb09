"""Tools that look into a user's own files and change nothing: a search in a folder's texts, SQL over CSV files."""

from __future__ import annotations

import csv
import io
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from flanlite.agent.tools import MAX_RESULT_CHARS, BoundTool
from flanlite.conversation import Tool
from flanlite.errors import FlanliteError

MAX_FILE_BYTES = 5_000_000
MAX_LINE_CHARS = 200
MAX_LINES = 50
SEARCH_S = 10.0

MAX_ROWS = 50
MAX_CELL_CHARS = 200
MAX_VALUE_BYTES = 10_000
MAX_SQL_BYTES = 10_000
MAX_PATTERN_BYTES = 200
QUERY_S = 5.0
STEPS_BETWEEN_CHECKS = 100

LONE_BAR = re.compile(r"(?<!\S)\|(?!\S)")

DELIMITERS = ",;\t|"
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
REAL = re.compile(r"-?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?")

FUNCTIONS = {
    "abs", "avg", "ceil", "ceiling", "char", "coalesce", "concat", "concat_ws", "count", "cume_dist", "date",
    "datetime", "dense_rank", "exp", "first_value", "floor", "format", "glob", "group_concat", "hex", "ifnull", "iif",
    "instr", "julianday", "lag", "last_value", "lead", "length", "like", "ln", "log", "log10", "log2", "lower",
    "ltrim", "max", "min", "mod", "nth_value", "ntile", "nullif", "percent_rank", "pi", "pow", "power", "printf",
    "quote", "random", "rank", "replace", "round", "row_number", "rtrim", "sign", "sqrt", "strftime", "string_agg",
    "substr", "substring", "sum", "time", "total", "trim", "trunc", "typeof", "unicode", "unixepoch", "upper",
}  # fmt: skip
"""The functions of SQLite that a query may use: none of them reaches anything but its arguments and the clock."""


def search_text(folder: Path) -> BoundTool:
    """A tool that finds a text, in upper or lower case, in the text files of a folder and below.

    It passes over hidden and binary files, those over 5 MB, and links, so that it reads nothing outside the folder.
    Raises FlanliteError where there is no such folder.
    """
    if not folder.is_dir():
        raise FlanliteError(f"There is no folder {folder}.", "Name a folder that holds text files.")
    root = folder.resolve()
    properties = {
        "query": {"type": "string", "minLength": 1},
        "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LINES},
    }
    tool = Tool(
        "search_text",
        f"Find the lines of the text files in {root.name} that hold a text.",
        {"type": "object", "properties": properties, "required": ["query"]},
    )
    return BoundTool(tool, lambda arguments: _search(root, **arguments), root.name)


def _search(root: Path, query: str, limit: int = 20) -> str:
    deadline = time.monotonic() + SEARCH_S
    found = _first(_matching_lines(root, query.casefold(), deadline), limit, "lines")
    late = f"(The search was ended after {SEARCH_S:g} seconds.)" if time.monotonic() > deadline else ""
    return "\n".join(filter(None, (found or f"No line holds {query}.", late)))


def _matching_lines(root: Path, query: str, deadline: float) -> Iterator[str]:
    for path in _visible_files(root):
        if time.monotonic() > deadline:
            return
        text = _text(path)
        if query not in text.casefold():
            continue
        for number, line in enumerate(io.StringIO(text, newline=None), 1):
            position = line.casefold().find(query)
            if position >= 0:
                yield f"{path.relative_to(root).as_posix()}:{number}: {_excerpt(line, position)}"


def _visible_files(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _text(path: Path) -> str:
    """A file's text, or none of a file that is not for reading: a link, a device, a large or a binary one."""
    try:
        status = path.lstat()
        is_readable = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES
        content = path.read_bytes() if is_readable else b""
    except OSError:
        return ""
    return "" if b"\0" in content else content.decode("utf-8-sig", "replace")


def _excerpt(line: str, position: int) -> str:
    """The line, or of a long one the part around the position."""
    start = max(0, position - MAX_LINE_CHARS // 2) if len(line) > MAX_LINE_CHARS else 0
    end = start + MAX_LINE_CHARS
    return f"{'…' * (start > 0)}{' '.join(line[start:end].split())}{'…' * (end < len(line))}"


def _first(lines: Iterable[str], limit: int, what: str) -> str:
    """The first lines, as many as a result holds and at most `limit`, and how many more there are."""
    kept: list[str] = []
    n_chars = n_more = 0
    for line in lines:
        n_chars += len(line) + 1
        if n_more or len(kept) == limit or n_chars > MAX_RESULT_CHARS - 200:
            n_more += 1
        else:
            kept.append(line)
    return "\n".join([*kept, f"({n_more:,} more {what}.)"] if n_more else kept)


def query_csv(files: Sequence[Path]) -> list[BoundTool]:
    """A tool that answers SQL over CSV files, each a table in memory that can only be read; none without files.

    Raises FlanliteError where a file is no CSV in UTF-8 with a header and rows of one length.
    """
    if not files:
        return []
    tables = _CsvTables(files)
    tool = Tool(
        "query_csv",
        f"Ask tables with an SQL SELECT. The tables are {', '.join(tables.described)}.",
        {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]},
    )
    return [BoundTool(tool, lambda arguments: tables.ask(arguments["sql"]), ", ".join(file.name for file in files))]


class _CsvTables:
    """CSV files as tables of one database; `described` holds each as name(column type, ...).

    Every query gets a copy of the database for itself, so that none waits for another, however slow.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._names: list[str] = []
        # One row of each table can always be read and sorted, however long it is.
        self._max_bytes = MAX_VALUE_BYTES
        with closing(sqlite3.connect(":memory:")) as connection:
            self.described = [self._load(file, connection) for file in files]
            connection.commit()
            self._content = connection.serialize()

    def _load(self, file: Path, connection: sqlite3.Connection) -> str:
        header, *rows = _read_csv(file)
        table = _identifier(file.stem, "table", self._names)
        self._names.append(table)
        self._max_bytes += max((sum(len(cell.encode()) for cell in row) for row in rows), default=0)
        names: list[str] = []
        for number, cell in enumerate(header, 1):
            names.append(_identifier(cell, f"column_{number}", names))
        kinds = [_kind(row[index] for row in rows) for index in range(len(names))]
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
        try:
            connection.execute(f"CREATE TABLE {table} ({columns})")
            marks = ", ".join("?" * len(names))
            typed = ([cell or None for cell in row] for row in rows)
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", typed)
        except sqlite3.Error as error:
            raise FlanliteError(f"{file} makes no table: {error}.", "Give it fewer columns or another name.") from error
        return f"{table}({columns})"

    def ask(self, sql: str) -> str:
        """The answer to a query as lines of cells. Raises ValueError, with SQLite's words, where there is none."""
        with closing(self._copy()) as connection:
            deadline = time.monotonic() + QUERY_S
            connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
            try:
                cursor = connection.execute(sql)
                if cursor.description is None:
                    raise ValueError("The SQL is no SELECT.")
                header = " | ".join(_cell(column[0]) for column in cursor.description)
                rows = _first((" | ".join(map(_cell, row)) for row in cursor), MAX_ROWS, "rows")
            except (sqlite3.Error, sqlite3.Warning) as error:
                _explain(str(error))
        return f"{header}\n{rows or '(No rows.)'}"

    def _copy(self) -> sqlite3.Connection:
        """The database for one query, whose time is checked between steps alone: the limits keep each of them short."""
        connection = sqlite3.connect(":memory:")
        connection.deserialize(self._content)
        # SQLite reads the schema at the first query; that of a wide table can be longer than a value may be.
        connection.execute("SELECT 1 FROM sqlite_schema")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self._max_bytes)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_PATTERN_BYTES)
        connection.set_authorizer(_authorize)
        return connection


def _identifier(text: str, otherwise: str, taken: Sequence[str]) -> str:
    """The text as a name that SQL takes without quotes, and that is not taken yet."""
    name = re.sub(r"\W+", "_", text).strip("_") or otherwise
    if name[0].isdigit() or _is_keyword(name):
        name = f"_{name}"
    lower, number = [other.lower() for other in taken], 1
    unique = name
    while unique.lower() in lower:
        number += 1
        unique = f"{name}_{number}"
    return unique


def _is_keyword(name: str) -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        try:
            row = connection.execute(f'SELECT {name} FROM (SELECT 0 AS "{name}")').fetchone()
        except sqlite3.OperationalError:
            return True
    return bool(row != (0,))


def _explain(message: str) -> NoReturn:
    if message == "interrupted":
        raise ValueError(f"The query took longer than {QUERY_S:g} seconds.")
    if message in ("not authorized", "authorization denied"):
        raise ValueError("Only a SELECT is allowed.")
    raise ValueError(f"SQLite refuses the query: {message.rstrip('.')}.")


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Whether a step of a query is allowed: those that read are, and so are known functions."""
    is_read = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
    is_known = action == sqlite3.SQLITE_FUNCTION and second in FUNCTIONS
    return sqlite3.SQLITE_OK if is_read or is_known else sqlite3.SQLITE_DENY


def _cell(value: Any) -> str:
    """The value on one line, and a bar in it told from those between cells."""
    if isinstance(value, str):
        text = " ".join(value.split())
        text = text if len(text) <= MAX_CELL_CHARS else f"{text[:MAX_CELL_CHARS]}…"
        return LONE_BAR.sub(r"\\|", text) or "''"
    if isinstance(value, float):
        return f"{value:.15g}"
    return "NULL" if value is None else value.hex() if isinstance(value, bytes) else str(value)


def _kind(cells: Iterable[str]) -> str:
    """The SQL type of a column: a number's where all cells that are not empty are plain numbers.

    "007" and "1,000" are none: such cells are codes, or written in ways that differ between countries.
    """
    filled = [cell for cell in cells if cell]
    if all(INTEGER.fullmatch(cell) for cell in filled):
        return "INTEGER" if filled else "TEXT"
    return "REAL" if all(REAL.fullmatch(cell) for cell in filled) else "TEXT"


def _read_csv(file: Path) -> list[list[str]]:
    """The header and the rows of a CSV file, all of one length."""
    text = _decoded(file)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows: list[list[str]] = []
    try:
        for row in filter(None, reader):
            rows.append([cell.strip() for cell in row])
            if len(row) != len(rows[0]):
                raise FlanliteError(
                    f"{file}, line {reader.line_num}, has {len(row)} cells, and the header {len(rows[0])}.",
                    "Put a cell that holds the delimiter in quotes.",
                )
    except csv.Error as error:
        raise FlanliteError(
            f"{file}, line {reader.line_num}, is no CSV: {error}.", "Mend the quotes of this line or one before it."
        ) from error
    if not rows or not any(character.isalpha() for cell in rows[0] for character in cell):
        raise FlanliteError(f"{file} has no header.", "Its first row must name the columns.")
    return rows


def _decoded(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FlanliteError(f"{file}, line {line}, is not UTF-8.", "Save the file as CSV in UTF-8.") from error
    except OSError as error:
        raise FlanliteError(f"{file} cannot be read: {error.strerror}.", "Name a CSV file.") from error


def _delimiter(text: str) -> str:
    """The mark that splits the first rows into equally many cells, and into the most of them."""

    def evidence(mark: str) -> tuple[bool, int]:
        rows = csv.reader(islice(io.StringIO(text, newline=""), 20), delimiter=mark)
        try:
            lengths = [len(row) for row in rows if row]
        except csv.Error:
            return False, 0
        return len(set(lengths)) == 1 and lengths[0] > 1, max(lengths, default=0)

    return max(DELIMITERS, key=evidence)
