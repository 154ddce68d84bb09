"""Results as a picture: each variant's trained tokens a second."""

from __future__ import annotations

from pathlib import Path

from flanlite.benchmark.results import Results, speed_of
from flanlite.benchmark.table import OURS, best_entries, headline

BLUE, GREY, INK = "#0072B2", "#8a8a8a", "#333333"

BAR_INCHES = 0.32


def draw_speeds(results: Results, file: Path) -> None:
    """Draw a bar for each variant's best entry as a PNG, with its outcome where it was not measured."""
    import matplotlib
    from matplotlib.figure import Figure

    best = best_entries(results)
    # A folder's name may hold a dollar sign, which would begin a formula.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(8, 1.8 + BAR_INCHES * len(best)), layout="constrained")
        axes = figure.subplots()
        speeds = [speed_of(entry) for entry in best]
        colours = [BLUE if entry.variant == OURS else GREY for entry in best]
        bars = axes.barh(range(len(best)), speeds, color=colours, height=0.7, zorder=2)
        words = [f"{speed:,.0f}" if speed else entry.outcome for speed, entry in zip(speeds, best, strict=True)]
        axes.bar_label(bars, words, padding=4, color=INK)
        axes.set_yticks(range(len(best)), [entry.variant for entry in best])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(speeds, default=0) or 1)
        axes.set_xlabel("trained tokens a second")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(axis="x", alpha=0.3, zorder=0)
        figure.suptitle(headline(results), x=0.01, horizontalalignment="left", fontsize=8, color=INK)
        beside = file.with_name(file.name + ".partial")
        figure.savefig(beside, dpi=150, format="png")
    beside.replace(file)
