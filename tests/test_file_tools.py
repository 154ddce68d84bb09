"""Tools over a user's files: what a search in a folder and a query over CSV files find, and what they never touch."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlite.agent import files
from flanlite.agent.files import query_csv, search_text
from flanlite.agent.tools import MAX_RESULT_CHARS, BoundTool, Toolbox
from flanlite.conversation import ToolCall
from flanlite.errors import FlanliteError


def call(bound: BoundTool, **arguments: Any) -> str:
    """What the model is told of a call."""
    return Toolbox([bound]).call(ToolCall(bound.tool.name, arguments), threading.Event()).text


def write(folder: Path, texts: dict[str, str | bytes]) -> Path:
    for name, text in texts.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


# A search in a folder.


def search(folder: Path, **arguments: Any) -> str:
    return call(search_text(folder), **arguments)


def test_a_search_finds_lines_in_any_case_and_says_where(tmp_path: Path) -> None:
    write(
        tmp_path, {"b.txt": "One\nthe STRASSE\n", "a/c.md": "\ufeffStraße ahead\r\n\r\n  a straße\r\n", "d": "nothing"}
    )
    assert search(tmp_path, query="straße").splitlines() == [
        "b.txt:2: the STRASSE",
        "a/c.md:1: Straße ahead",
        "a/c.md:3: a straße",
    ]
    assert search(tmp_path, query="street") == "No line holds street."


def test_a_search_reads_only_plain_and_visible_texts_within_the_folder(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret": "find me"})
    hidden = {".hidden": "find me", ".git/config": "find me", "binary": "find me\0"}
    folder = write(tmp_path / "folder", {**hidden, "latin": b"find me \xe9", "large": "find me\n" * 700_000})
    (folder / "link").symlink_to(outside / "secret")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    assert search(folder, query="find me") == "latin:1: find me \ufffd"


def test_a_search_tells_how_many_lines_it_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, {"a": "hit\n" * 30, "b": "a hit\n"})
    assert search(tmp_path, query="hit", limit=2) == "a:1: hit\na:2: hit\n(29 more lines.)"
    assert search(tmp_path, query="hit").endswith("a:20: hit\n(11 more lines.)")


def test_long_lines_are_shown_around_the_text_and_fewer_of_them(tmp_path: Path) -> None:
    write(tmp_path, {"a": ("x" * 300 + "hit" + "y" * 300 + "\n") * 50})
    told = search(tmp_path, query="hit", limit=50)
    assert told.startswith(f"a:1: …{'x' * 100}hit{'y' * 97}…\n")
    assert told.endswith(f"\n({50 - told.count('hit')} more lines.)")
    assert len(told) <= MAX_RESULT_CHARS


def test_a_search_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SEARCH_S", -1)
    told = search(write(tmp_path, {"a": "hit"}), query="hit")
    assert told == "No line holds hit.\n(The search was ended after -1 seconds.)"


@pytest.mark.parametrize("arguments", [{}, {"query": ""}, {"query": "x", "limit": 0}, {"query": "x", "folder": "/"}])
def test_a_search_takes_a_text_and_a_limit_alone(tmp_path: Path, arguments: dict[str, Any]) -> None:
    outcome = Toolbox([search_text(tmp_path)]).call(ToolCall("search_text", arguments), threading.Event())
    assert outcome.status == "malformed"


def test_a_search_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match="There is no folder"):
        search_text(tmp_path / "none")


# Queries over CSV files.

SALES = "\ufeffRegion,units,price,order,zip,2020,units\nnorth,12,3.5,x,007,,1\nsouth,,4,y,081,5,\n"
TOWNS = "name;region\nLeeds;north\nYork;north\nBath;south\n"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n{}) SELECT i FROM n"
REFUSED = "Error: SQLite refuses the query: "
NO_SELECT = "Error: Only a SELECT is allowed."


@pytest.fixture(scope="module")
def sales(tmp_path_factory: pytest.TempPathFactory) -> BoundTool:
    folder = write(tmp_path_factory.mktemp("csv"), {"sales 2024.csv": SALES, "towns.csv": TOWNS})
    (bound,) = query_csv([folder / "sales 2024.csv", folder / "towns.csv"])
    return bound


def test_the_tables_and_their_columns_are_told(sales: BoundTool) -> None:
    assert sales.tool.description == (
        "Ask tables with an SQL SELECT. The tables are sales_2024(Region TEXT, units INTEGER, price REAL, _order TEXT, "
        "zip TEXT, _2020 INTEGER, units_2 INTEGER), towns(name TEXT, region TEXT)."
    )
    assert sales.origin == "sales 2024.csv, towns.csv"
    assert query_csv([]) == []


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        (
            "SELECT name, units, price FROM towns t JOIN sales_2024 s ON s.region = t.region ORDER BY name",
            "name | units | price\nBath | NULL | 4\nLeeds | 12 | 3.5\nYork | 12 | 3.5",
        ),
        ("SELECT typeof(zip) z, sum(units), 0.1 + 0.2 f FROM sales_2024;", "z | sum(units) | f\ntext | 12 | 0.3"),
        ("SELECT name FROM towns WHERE name = 'Rome'", "name\n(No rows.)"),
        ("SELECT 'a\nb' x, x'00ff' y", "x | y\na b | 00ff"),
        ("SELECT 'a | b\n1 |\t| 2' \"x | y\", '|', 'c|d'", "x \\| y | '|' | 'c|d'\na \\| b 1 \\| \\| 2 | \\| | c|d"),
        ("SELECT '' x", "x\n''"),
        ("SELECT printf('%.300d', 0) x", f"x\n{'0' * 200}…"),
        (
            NUMBERS.format(" LIMIT 1060"),
            "i\n" + "".join(f"{number}\n" for number in range(1, 51)) + "(1,010 more rows.)",
        ),
    ],
)
def test_a_query_is_answered_as_lines_of_cells(sales: BoundTool, sql: str, told: str) -> None:
    assert call(sales, sql=sql) == told


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT town FROM towns", f"{REFUSED}no such column: town."),
        ("SELEC 1", f'{REFUSED}near "SELEC": syntax error.'),
        ("SELECT hex(printf('%.*c', 9000, 'a'))", f"{REFUSED}string or blob too big."),
        (f"SELECT {'1 + ' * 3000}1", f"{REFUSED}query string is too large."),
        ("SELECT 1; DELETE FROM towns", f"{REFUSED}You can only execute one statement at a time."),
        ("SELECT load_extension('x')", f"{REFUSED}not authorized to use function: load_extension."),
        ("SELECT randomblob(1000000000)", f"{REFUSED}not authorized to use function: randomblob."),
        ("", "Error: The SQL is no SELECT."),
        ("DELETE FROM towns", NO_SELECT),
        ("INSERT INTO towns VALUES ('a', 'b')", NO_SELECT),
        ("CREATE TABLE more (x)", NO_SELECT),
        ("ATTACH 'other.db' AS other", NO_SELECT),
        ("PRAGMA query_only = OFF", NO_SELECT),
        ("SELECT * FROM pragma_database_list", NO_SELECT),
        ("VACUUM INTO 'copy.db'", NO_SELECT),
    ],
)
def test_what_is_no_plain_query_is_refused_in_a_sentence(sales: BoundTool, sql: str, told: str) -> None:
    assert call(sales, sql=sql) == told
    assert call(sales, sql="SELECT count(*) FROM towns") == "count(*)\n3"


@given(
    sql=st.text() | st.lists(st.sampled_from([*"*(),;'\"%?1=", "SELECT", "FROM", "towns", "name", "--"])).map(" ".join)
)
def test_any_text_as_sql_is_answered_or_refused(sales: BoundTool, sql: str) -> None:
    outcome = Toolbox([sales]).call(ToolCall("query_csv", {"sql": sql}), threading.Event())
    is_refused = outcome.text.startswith(("Error: SQLite refuses", "Error: The SQL is no SELECT", NO_SELECT))
    assert outcome.status == ("failed" if is_refused else "done")


def test_an_endless_query_ends(sales: BoundTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "QUERY_S", 0.1)
    assert call(sales, sql=NUMBERS.format("")) == "Error: The query took longer than 0.1 seconds."
    assert call(sales, sql="SELECT count(*) FROM towns") == "count(*)\n3"


def text(length: int) -> str:
    """SQL for a text of about that length, another one for each i."""
    return f"(printf('%.*c', {length} + i % 9, 'a') || 'b')"


@pytest.mark.parametrize(
    "slow",
    [
        f"instr({text(900_000)}, {text(450_000)})",
        f"instr({text(9_000)}, 'a' || {text(4_500)})",
        f"length(rtrim({text(9_000)}, {text(800)} || 'c'))",
        f"{text(9_000)} GLOB '*' || {text(150)} || 'c'",
    ],
)
def test_a_query_of_slow_functions_ends(sales: BoundTool, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    monkeypatch.setattr(files, "QUERY_S", 0.1)
    begun = time.monotonic()
    told = call(sales, sql=NUMBERS.format("").replace("SELECT i FROM n", f"SELECT sum({slow}) FROM n"))
    assert told == "Error: The query took longer than 0.1 seconds."
    assert time.monotonic() - begun < 2


def test_a_query_that_runs_keeps_no_other_waiting(sales: BoundTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "QUERY_S", 3)
    endless = threading.Thread(target=lambda: call(sales, sql=NUMBERS.format("")))
    endless.start()
    assert call(sales, sql="SELECT count(*) FROM towns") == "count(*)\n3"
    assert endless.is_alive()
    endless.join()


def test_a_query_that_runs_does_not_keep_the_program(tmp_path: Path) -> None:
    file = write(tmp_path, {"t.csv": "a\n1\n"}) / "t.csv"
    program = f"""
import threading
from pathlib import Path
from flanlite.agent import files
from flanlite.agent.tools import Toolbox
from flanlite.conversation import ToolCall
files.QUERY_S = 60
box = Toolbox(files.query_csv([Path({str(file)!r})]), timeout_s=0.2)
print(box.call(ToolCall("query_csv", {{"sql": {NUMBERS.format("")!r}}}), threading.Event()).text)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (run.stdout, run.stderr) == ("Error: query_csv took longer than 0.2 seconds.\n", "")


def test_long_rows_and_wide_tables_can_be_read_and_sorted(tmp_path: Path) -> None:
    long = "a,b\n" + "\n".join(f"{letter * 60_000},{'ä' * 30_000}" for letter in "yx")
    wide = ",".join(f"a_long_name_of_column_{number}" for number in range(1900)) + "\n" + ",".join(["1"] * 1900)
    folder = write(tmp_path, {"long.csv": long, "wide.csv": wide})
    (bound,) = query_csv([folder / "long.csv", folder / "wide.csv"])
    told = call(bound, sql="SELECT * FROM long ORDER BY a")
    assert told == f"a | b\n{'x' * 200}… | {'ä' * 200}…\n{'y' * 200}… | {'ä' * 200}…"
    assert call(bound, sql="SELECT sum(length(a || b)) n FROM long, wide").startswith("n\n180000")


def test_queries_come_from_many_threads(sales: BoundTool) -> None:
    told: list[str] = []
    query = "SELECT count(*) FROM towns a, towns b, towns c"
    threads = [threading.Thread(target=lambda: told.append(call(sales, sql=query))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["count(*)\n27"] * 8


@pytest.mark.parametrize(
    ("content", "table"),
    [
        ("a,b\n1,2\n", "t(a INTEGER, b INTEGER)"),
        ("a;b\n1,5;2\n", "t(a TEXT, b INTEGER)"),
        ("a\tb\n1,5\t2.\n", "t(a TEXT, b REAL)"),
        ("a|b, c\n1|2\n", "t(a INTEGER, b_c INTEGER)"),
        ('"a;b",c\n"1;2",3\n\n"4\n5",6\n', "t(a_b TEXT, c INTEGER)"),
        ("name\nx\ny\n", "t(name TEXT)"),
        ("a,\n1,\n", "t(a INTEGER, column_2 TEXT)"),
        ("größe, select ,NULL\n-1,1e3,\n.5,-0.5,\n", "t(größe REAL, _select REAL, _NULL TEXT)"),
        ("id,long\n12345678901234567890,123456789012345678\n", "t(id TEXT, long INTEGER)"),
        ("a,b", "t(a TEXT, b TEXT)"),
    ],
)
def test_columns_are_split_named_and_typed(tmp_path: Path, content: str, table: str) -> None:
    file = write(tmp_path, {"t.csv": content}) / "t.csv"
    assert query_csv([file])[0].tool.description.endswith(f"The tables are {table}.")


def test_two_files_of_one_name_are_two_tables(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a/T.csv": "x\n1\n", "b/t.csv": "y\n2\n"})
    (bound,) = query_csv([folder / "a" / "T.csv", folder / "b" / "t.csv"])
    assert call(bound, sql="SELECT x, y FROM T, t_2") == "x | y\n1 | 2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", "t.csv, line 3, has 3 cells, and the header 2."),
        ('a,b\n1,2\n"1,2\n', "t.csv, line 3, is no CSV: unexpected end of data."),
        ("a,b\n1," + "x" * 200_000, "t.csv, line 2, is no CSV: field larger than field limit (131072)."),
        ("", "t.csv has no header."),
        ("1,2\n3,4\n", "t.csv has no header."),
        (b"a,b\n1,\xe9\n", "t.csv, line 2, is not UTF-8."),
        (",".join(f"c{number}" for number in range(2001)), "t.csv makes no table: too many columns on t."),
    ],
)
def test_a_broken_csv_is_refused_with_the_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = write(tmp_path, {"t.csv": content}) / "t.csv"
    with pytest.raises(FlanliteError) as caught:
        query_csv([file])
    assert caught.value.message.endswith(message)
    assert caught.value.hint


def test_a_csv_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match="cannot be read: No such file"):
        query_csv([tmp_path / "none.csv"])
