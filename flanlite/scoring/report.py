"""What an evaluation leaves behind: a folder with its report, and a section in the model card.

report.json    the suites' own accounts, and every measure with its change and interval; `earlier` has the settings of
               suites that an earlier evaluation measured
report.md      the same to read, with what others published and some of the cases that flipped
report.png     the shares as a picture
flips.jsonl    every case that flipped, with both replies
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain, islice, zip_longest
from operator import add
from pathlib import Path
from typing import Any

import yaml

from flanlite.run import write_text
from flanlite.scoring.chart import draw_chart
from flanlite.scoring.comparison import Flip, Row, comparison, flips
from flanlite.scoring.earlier import Earlier
from flanlite.scoring.results import Results, notes_of
from flanlite.scoring.table import markdown_table, markdown_tables, plain
from flanlite.terminal import in_time

SHOWN_FLIPS = 10
SHOWN_CHARACTERS = 1500

RE_IMPLEMENTED = (
    "agent-h is a re-implementation, since the paper's cases and its whole list of phrases were never published: "
    "its scores are not to be set beside the paper's Agent-H."
)


CHANGES = ("gained", "lost")

NOTHING_EARLIER = Earlier()


def write_report(
    folder: Path, before: Results | None, after: Results, seed: int, earlier: Earlier = NOTHING_EARLIER
) -> list[Row]:
    """Compare, and write report.png, flips.jsonl, report.md and, at the end, report.json into the folder.

    Each is written beside its name and renamed. Without any share there is no picture. The rows are those of the
    report: the ones of earlier evaluations, then the new ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [*earlier.rows, *comparison(before, after, seed)]
    picture = folder / "report.png"
    if any(row.is_share for row in rows):
        draw_chart(rows, picture, _name(before), after.model)
    else:
        picture.unlink(missing_ok=True)
    _write(folder / "flips.jsonl", "".join(_flip_lines(before, after, earlier)))
    _write(folder / "report.md", report_markdown(before, after, rows, earlier))
    report = report_json(before, after, rows, seed, earlier)
    _write(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return rows


def _name(results: Results | None) -> str | None:
    return None if results is None else results.model


def _write(file: Path, text: str) -> None:
    # A reply can hold half of a surrogate pair, which has no bytes in UTF-8; its escape is also JSON's.
    write_text(file, text.encode(errors="backslashreplace").decode())


def _flip_lines(before: Results | None, after: Results, earlier: Earlier) -> Iterator[str]:
    yield from (json.dumps(line, ensure_ascii=False) + "\n" for line in earlier.lines)
    for change, found in zip(CHANGES, flips(before, after), strict=True):
        for flip in found:
            line = {
                "change": change,
                "suite": flip.suite,
                "id": flip.id,
                "question": flip.after.question,
                "wanted": flip.after.wanted,
                "before": {"score": flip.before.score, "reply": flip.before.reply},
                "after": {"score": flip.after.score, "reply": flip.after.reply},
            }
            yield json.dumps(line, ensure_ascii=False) + "\n"


def report_json(
    before: Results | None, after: Results, rows: Iterable[Row], seed: int, earlier: Earlier = NOTHING_EARLIER
) -> dict[str, Any]:
    """The content of report.json: shares as fractions, and None for what is not known.

    The account of the model after is at the top, that of the one before under `against`, which only a comparison has.
    """
    against = {"against": {**_account(before), **earlier.against}} if before else {}
    found = {"seed": seed, "earlier": dict(earlier.suites), "differences": [_row_json(row) for row in rows]}
    return {**_account(after), **earlier.details, **against, **found}


def _account(results: Results) -> dict[str, Any]:
    return {
        "model": results.model,
        "identity": results.identity,
        "seconds": results.seconds,
        "settings": dict(results.settings),
        "notes": list(results.notes),
        **results.details,
    }


def _row_json(row: Row) -> dict[str, Any]:
    interval = None if row.interval is None else row.interval._asdict()
    return vars(row) | {"interval": interval, "difference": row.difference, "verdict": row.verdict}


def report_markdown(
    before: Results | None, after: Results, rows: Sequence[Row], earlier: Earlier = NOTHING_EARLIER
) -> str:
    """The content of report.md. No text of a model or of a case can change how the page is built."""
    suites = {row.suite for row in rows}
    parts = [_opening(before, after)]
    if any(row.is_share for row in rows):
        parts.append("![The shares, and their changes, as a picture](report.png)")
    parts += ["## What was measured", markdown_tables(rows, _name(before))]
    if "agent-h" in suites:
        parts.append(RE_IMPLEMENTED)
    notes = [*notes_of(before.notes if before else None, after.notes), *earlier.notes]
    if notes:
        parts += ["## Notes", "\n".join(f"- {plain(note)}" for note in notes)]
    parts += _published(suites)
    if before:
        gained, lost = map(add, map(earlier.flips, CHANGES), flips(before, after))
        parts += _flip_parts("Gained", "scored under 0.5 before and scores 0.5 or more after", gained)
        parts += _flip_parts("Lost", "scored 0.5 or more before and scores under 0.5 after", lost)
    return "\n\n".join(parts) + "\n"


def _opening(before: Results | None, after: Results) -> str:
    models = [("model", after)] if before is None else [("before", before), ("after", after)]
    lines = [f"- {when}: {plain(each.model)}, asked in {in_time(each.seconds)} this time" for when, each in models]
    return "# Evaluation\n\n" + "\n".join(lines)


def _published(suites: set[str]) -> list[str]:
    tables = [each for each in published() if not suites.isdisjoint(each["suites"])]
    if not tables:
        return []
    parts = ["## Published by others, not measured here"]
    for each in tables:
        rows = [[name, *("-" if cell is None else f"{cell}" for cell in cells)] for name, cells in each["rows"].items()]
        parts += [f"{each['title']}:", markdown_table(["model", *each["columns"]], rows)]
    return parts


@cache
def published() -> list[dict[str, Any]]:
    """The tables in published.yaml: `title`, `suites`, `columns` and `rows`."""
    tables: list[dict[str, Any]] = yaml.safe_load(
        files("flanlite.scoring").joinpath("published.yaml").read_text("utf-8")
    )
    return tables


def _flip_parts(title: str, words: str, found: Sequence[Flip]) -> Iterator[str]:
    """A heading with the count, and some of the cases to read: as many of each suite as there is room for."""
    yield f"## {title}: {len(found):,}"
    shown = _some(found)
    if not shown:
        yield f"No case {words}."
        return
    rest = f" {len(shown)} of them are here; flips.jsonl has them all." if len(shown) < len(found) else ""
    yield f"Each case here {words}.{rest}"
    for flip in shown:
        yield f"### {plain(f'{flip.suite}, {flip.id}')}"
        yield f"Question:\n\n{_fenced(flip.after.question)}"
        yield f"Wanted:\n\n{_fenced(flip.after.wanted)}"
        for when, example in (("Before", flip.before), ("After", flip.after)):
            yield f"{when}, score {example.score:.2f}:\n\n{_fenced(example.reply)}"


def _some(found: Sequence[Flip]) -> list[Flip]:
    """The first ones of every suite, evenly, in the order they are found in."""
    suites = dict.fromkeys(flip.suite for flip in found)
    in_turn = zip_longest(*([flip for flip in found if flip.suite == suite] for suite in suites))
    chosen = set(islice((flip[:2] for flip in chain.from_iterable(in_turn) if flip), SHOWN_FLIPS))
    return [flip for flip in found if flip[:2] in chosen]


def _fenced(text: str) -> str:
    """The text as a block that nothing in it can end, cut where it is long."""
    more = len(text) - SHOWN_CHARACTERS
    if more > 0:
        text = f"{text[:SHOWN_CHARACTERS]}\n[{more:,} more characters]"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}" if text else "(empty)"


def card_section(rows: Sequence[Row], before_name: str | None, after_name: str) -> str:
    """The section of the model card that shows the table."""
    opening = f"Measured by `flanlite eval` on {plain(after_name)}"
    opening += "." if before_name is None else f" (after), against {plain(before_name)} (before)."
    parts = ["## Evaluation", opening, markdown_tables(rows, before_name)]
    if any(row.suite == "agent-h" for row in rows):
        parts.append(RE_IMPLEMENTED)
    return "\n\n".join(parts) + "\n"
