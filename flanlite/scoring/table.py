"""A comparison as a table, in the terminal and in Markdown: the same cells, and the same words to explain them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flanlite.scoring.comparison import FEWEST, Row, sections

ALONE = ("measure", "n", "value", "95% interval")
COMPARED = ("measure", "n", "before", "after", "change", "95% interval", "verdict")

JUDGED = ("change", "95% interval", "verdict")
STYLES = {"better": "green", "worse": "red", "unclear": "dim", "too few": "dim", None: ""}

MARKS = re.compile(r"[\\`*\[<&|~]|(?<![^\W_])_|_(?![^\W_])")
"""What begins something in Markdown; an underscore does where it does not stand between two letters."""


def table(rows: Sequence[Row], before_name: str | None, after_name: str) -> Table:
    """The rows for a terminal of 80 columns or more; without `before_name`, the values alone."""
    heads = _heads(before_name)
    found = Table(box=None, header_style="bold", padding=(0, 1), collapse_padding=True, pad_edge=False)
    found.title = Text(f"model: {after_name}" if before_name is None else f"before: {before_name}\nafter: {after_name}")
    found.caption = Text("\n".join(_explanations(rows, before_name)))
    found.title_justify = found.caption_justify = "left"
    found.add_column(heads[0])
    for head in heads[1:]:
        found.add_column(head, justify="left" if head == "verdict" else "right", no_wrap=True)
    suite_above = None
    for (suite, group), members in sections(rows).items():
        if suite != suite_above:
            found.add_row(Text(f"\n{suite}", style="bold"))
        if group:
            found.add_row(_indented(group, 2))
        for row in members:
            name, *figures = _cells(row, heads)
            styles = (STYLES[row.verdict] if head in JUDGED else "" for head in heads[1:])
            found.add_row(_indented(name, 4 if group else 2), *map(Text, figures, styles))
        suite_above = suite
    return found


def _indented(name: str, columns: int) -> Padding:
    return Padding(Text(name), (0, 0, 0, columns))


def markdown_tables(rows: Sequence[Row], before_name: str | None) -> str:
    """The rows in Markdown, each suite and group under a heading of the third level, and the explanations below."""
    heads = _heads(before_name)
    parts = []
    for (suite, group), members in sections(rows).items():
        cells = [_cells(row, heads) for row in members]
        parts += [f"### {plain(title(suite, group))}", markdown_table(heads, cells)]
    explanations = "\n".join(f"- {plain(line)}" for line in _explanations(rows, before_name))
    return "\n\n".join([*parts, explanations])


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain cells as a table in Markdown, all but the first column to the right."""
    rule = ("---", *("---:" for _ in heads[1:]))
    lines = [map(plain, heads), rule, *(map(plain, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """The text on one line, and so that Markdown shows it as it is."""
    return MARKS.sub(r"\\\g<0>", " ".join(text.split()))


def title(suite: str, group: str) -> str:
    """The words for a group of cases of a suite."""
    return f"{suite}: {group}" if group else suite


def _heads(before_name: str | None) -> tuple[str, ...]:
    return ALONE if before_name is None else COMPARED


def _cells(row: Row, heads: Sequence[str]) -> list[str]:
    found = {
        "measure": row.label,
        "n": f"{row.n:,}" if row.n else "-",
        "before": "-" if row.before is None else _value(row.before, row),
        "after": _value(row.after, row),
        "value": _value(row.after, row),
        "change": "-" if row.change is None else _change(row.change, row),
        "95% interval": _bounds(row),
        "verdict": row.verdict or "-",
    }
    return [found[head] for head in heads]


def _bounds(row: Row) -> str:
    if row.interval is None:
        return "-"
    write = _value if row.before is None else _change
    return f"{write(row.interval.low, row)} to {write(row.interval.high, row)}{'*' * row.is_of_cases}"


def _value(value: float, row: Row) -> str:
    return f"{value:.1%}" if row.is_share else f"{value:,.4g}"


def _change(value: float, row: Row) -> str:
    # Adding 0.0 takes the sign from a zero that rounding made.
    return f"{round(100 * value, 1) + 0.0:+.1f}" if row.is_share else f"{value:+,.3g}"


def _explanations(rows: Sequence[Row], before_name: str | None) -> Iterator[str]:
    """What the table's words and marks mean, as far as they stand in it."""
    if before_name is None:
        yield "Intervals are bootstrap ones of the mean over the cases, and exact ones where all cases agree."
    else:
        yield "Changes of shares are in percentage points, with the interval of a paired bootstrap."
        yield "Where all cases agree, which a bootstrap takes for certain, the interval is the exact one."
    verdicts = {row.verdict for row in rows}
    if "unclear" in verdicts:
        yield "unclear: the interval holds 0."
    if "too few" in verdicts:
        yield f"too few: under {FEWEST} cases, chance alone may turn all of them the same way."
    if any(row.name == "HScore" for row in rows):
        yield "H_ReAct, H_General: plain replies with a ReAct mark, or with talk of a call. HScore: 1 less their mean."
    if any(row.is_of_cases for row in rows):
        what = "the interval is" if before_name is None else "change and interval are"
        yield f"*: {what} of the mean over the cases, and the value is no such mean."
    if not all(row.is_better_high for row in rows):
        yield "↓: less is better."
