"""What a report keeps of earlier evaluations: suites that are not measured again, where the models are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from flanlite.scoring.bootstrap import Interval
from flanlite.scoring.comparison import Flip, Row
from flanlite.scoring.results import Example, Results, notes_of


@dataclass(frozen=True)
class Earlier:
    """The kept suites, as report.json and flips.jsonl have them.

    `suites` has the settings and notes that a suite was measured with, by its name; `details` and `against` its
    accounts of the model after and of the one before. `lines` are those of flips.jsonl. `gone` names the suites with
    figures that the report loses: of other models, or of a suite that is now measured in part.
    """

    suites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    lines: Sequence[Mapping[str, Any]] = ()
    gone: Sequence[str] = ()

    @property
    def notes(self) -> list[str]:
        """That the suites are of an earlier evaluation, and what was noted there."""
        told = [f"{name}: measured by an earlier evaluation" for name in self.suites]
        return told + [note for suite in self.suites.values() for note in suite["notes"]]

    def flips(self, change: str) -> list[Flip]:
        """The kept cases that were `gained` or `lost`."""
        return [_flip(line) for line in self.lines if line["change"] == change]


def read_earlier(folder: Path, before: Results | None, after: Results) -> Earlier:
    """What the folder's report keeps beside these results; nothing where there is no report, or a broken one."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        # Not splitlines: a reply may hold one of Unicode's other ends of a line.
        lines = (folder / "flips.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        return _kept(report, [json.loads(line) for line in lines], before, after)
    except (OSError, ValueError, KeyError, TypeError):
        return Earlier()


def _kept(
    report: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], before: Results | None, after: Results
) -> Earlier:
    rows = [_row(row) for row in report["differences"]]
    measured = {measure.suite for measure in after.measures}
    against = report.get("against", {})
    models = [report.get("identity"), against.get("identity")]
    is_same = models == [after.identity, before.identity if before else None]
    kept = [row for row in rows if is_same and row.suite not in measured]
    found = {measure.key for measure in after.measures} | {row.key for row in kept}
    names = dict.fromkeys(row.suite for row in kept)
    return Earlier(
        {name: report.get("earlier", {}).get(name) or _origin(report, name) for name in names},
        {name: report[name] for name in names if name in report},
        {name: against[name] for name in names if name in against},
        kept,
        [line for line in lines if line["suite"] in names],
        list(dict.fromkeys(row.suite for row in rows if row.key not in found)),
    )


def _origin(report: Mapping[str, Any], suite: str) -> dict[str, Any]:
    """The settings that the suite was measured with, and what was noted of it."""

    def noted(account: Mapping[str, Any]) -> list[str]:
        return [note for note in account["notes"] if note.casefold().startswith(f"{suite}: ")]

    before = noted(report["against"]) if "against" in report else None
    return {"settings": report["settings"], "notes": notes_of(before, noted(report))}


def _row(written: Mapping[str, Any]) -> Row:
    values = {each.name: written[each.name] for each in fields(Row)}
    return Row(**values | {"interval": values["interval"] and Interval(**values["interval"])})


def _flip(line: Mapping[str, Any]) -> Flip:
    before, after = (
        Example(line["question"], line["wanted"], line[when]["reply"], line[when]["score"])
        for when in ("before", "after")
    )
    return Flip(line["suite"], line["id"], before, after)
