"""The losses of a run as a table and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flanlite.run import write_text

COLUMNS = ("step", "epoch", "loss", "validation_loss", "learning_rate", "grad_norm")


def write_losses(history: Iterable[Mapping[str, Any]], csv_file: Path) -> None:
    """Write the Trainer's log as CSV: one row a step, validation losses in the row of the step they follow."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        row = rows.setdefault(entry["step"], {"step": entry["step"], "epoch": round(entry.get("epoch", 0.0), 4)})
        row |= {key: entry[key] for key in ("loss", "learning_rate", "grad_norm") if key in entry}
        if "eval_loss" in entry:
            row["validation_loss"] = entry["eval_loss"]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    write_text(csv_file, table.getvalue())


def draw_losses(csv_file: Path, png_file: Path) -> None:
    """Draw loss.csv: the training loss of every step and, where there is one, the validation loss."""
    from matplotlib.figure import Figure

    with csv_file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for column, label, style in (
        ("loss", "training", {"linewidth": 1.0}),
        ("validation_loss", "validation", {"marker": "o", "linewidth": 1.5}),
    ):
        points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per trained token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(png_file, dpi=120)
