"""The shares of a comparison as a picture: where both models stand, and how sure the change is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flanlite.scoring.comparison import Row, sections
from flanlite.scoring.table import title

INK, GREY = "#333333", "#8a8a8a"
MARKS = {
    "better": {"color": "#0072B2", "marker": "o"},
    "worse": {"color": "#D55E00", "marker": "s"},
    "unclear": {"color": GREY, "marker": "D"},
    "too few": {"color": GREY, "marker": "X"},
    None: {"color": INK, "marker": "o"},
}
"""How a verdict looks: each has its own form, and colour-blind eyes tell the blue from the orange."""

BEFORE_MARK = {"marker": "o", "s": 64, "facecolor": "white", "edgecolor": INK}
"""Large enough to be seen below a mark at the same place."""

LINE_INCHES = 0.23
NAME_CHARACTERS = 100


def draw_chart(rows: Sequence[Row], file: Path, before_name: str | None, after_name: str) -> None:
    """Draw the rows that are shares as a PNG: both models' values and, beside them, each change with its interval.

    Without `before_name`, the values alone, each with its own interval. The file is written beside, then renamed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    lines = _lines(rows)
    # A name may hold a dollar sign, which would begin a formula.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(8, 1.5 + LINE_INCHES * len(lines)), layout="constrained")
        if before_name is None:
            axes = _panel(figure, 111, lines)
            _draw_values(axes, lines)
            axes.set_xlabel("percent, with 95% interval")
            names = f"model: {_end(after_name)}"
        else:
            left = _panel(figure, 121, lines)
            _draw_values(left, lines)
            left.set_xlabel("percent")
            _explain(left, lines)
            _draw_changes(_panel(figure, 122, lines, beside=left), lines)
            names = f"before: {_end(before_name)}\nafter: {_end(after_name)}"
        figure.suptitle(names, x=0.01, horizontalalignment="left", fontsize=9)
        beside = file.with_name(file.name + ".partial")
        figure.savefig(beside, dpi=150, format="png")
    beside.replace(file)


def _lines(rows: Sequence[Row]) -> list[Row | str]:
    """The shares from top to bottom, below the names of their suite and group."""
    lines: list[Row | str] = []
    for (suite, group), found in sections(row for row in rows if row.is_share).items():
        lines += [title(suite, group), *found]
    return lines


def _end(name: str) -> str:
    """A path's end tells more than its beginning."""
    return name if len(name) <= NAME_CHARACTERS else f"...{name[-NAME_CHARACTERS:]}"


def _panel(figure: Any, place: int, lines: Sequence[Row | str], beside: Any = None) -> Any:
    """Axes with one height for each line, named at the left unless they stand beside others."""
    axes = figure.add_subplot(place, sharey=beside)
    for height, line in enumerate(lines):
        if isinstance(line, str):
            axes.axhspan(height - 0.5, height + 0.5, color="#f0f0f0", zorder=0)
    if beside is None:
        axes.set_yticks(range(len(lines)), [line if isinstance(line, str) else line.label for line in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        for label, line in zip(axes.get_yticklabels(), lines, strict=True):
            label.set_fontweight("bold" if isinstance(line, str) else "normal")
    axes.tick_params(length=0, labelleft=beside is None)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", alpha=0.3, zorder=0)
    axes.set_axisbelow(True)
    return axes


def _draw_values(axes: Any, lines: Sequence[Row | str]) -> None:
    """Both values of each row, joined by a line; or the one value on the line of its interval."""
    for height, row in enumerate(lines):
        if isinstance(row, str):
            continue
        after = 100 * row.after
        if row.before is not None:
            axes.plot((100 * row.before, after), (height, height), color=GREY, linewidth=1.2, zorder=1)
            axes.scatter(100 * row.before, height, zorder=2, **BEFORE_MARK)
        elif row.interval:
            bounds = (100 * row.interval.low, 100 * row.interval.high)
            axes.plot(bounds, (height, height), color=GREY, linewidth=1.5, marker="|", markersize=8, zorder=1)
        axes.scatter(after, height, s=30, zorder=3, **MARKS[row.verdict])
    axes.set(xlim=(-3, 103), xticks=range(0, 101, 25))


def _explain(axes: Any, lines: Sequence[Row | str]) -> None:
    """The legend below: the marks that are there."""
    rows = [line for line in lines if isinstance(line, Row)]
    axes.scatter([], [], label="before", **BEFORE_MARK)
    for verdict, mark in MARKS.items():
        if any(row.verdict == verdict for row in rows):
            axes.scatter([], [], s=30, label=f"after: {verdict}" if verdict else "after", **mark)
    axes.figure.legend(loc="outside lower left", ncols=6, frameon=False, handletextpad=0.1, columnspacing=1.2)


def _draw_changes(axes: Any, lines: Sequence[Row | str]) -> None:
    """The change of each row with the bounds of its interval, around a line for none."""
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for height, row in enumerate(lines):
        if isinstance(row, str) or row.before is None or row.interval is None:
            continue
        mark = MARKS[row.verdict]
        bounds = (100 * row.interval.low, 100 * row.interval.high)
        axes.plot(bounds, (height, height), color=mark["color"], linewidth=1.5, marker="|", markersize=8, zorder=2)
        axes.scatter(100 * row.interval.mean, height, s=16, zorder=3, **mark)
    axes.set_xlabel("change in points, with 95% interval")
