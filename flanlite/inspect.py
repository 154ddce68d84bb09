"""Look at a training set: a row in colour, trained against masked, with token counts by role."""

from __future__ import annotations

import contextlib
import html
from collections import Counter
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flanlite.errors import FlanliteError
from flanlite.prompt.template import pieces
from flanlite.training_set import TrainingSet

COLOURS = {"template": "bright_black", "system": "magenta", "user": "cyan", "observation": "yellow"}
"""Of masked text, by role; trained text is black on green in the terminal."""


def render(training_set: TrainingSet, index: int) -> RenderableType:
    """One row for the terminal."""
    check_index(training_set, index)
    text = Text()
    for piece, span in pieces(training_set.tokens(index), training_set.tokenizer):
        text.append(piece, "black on green" if span.trained else COLOURS.get(span.role, "white"))
    return Group(_role_table(training_set, index), Panel(text, title=_title(training_set, index), title_align="left"))


def check_index(training_set: TrainingSet, index: int) -> None:
    """Raise FlanliteError where the set has no such row."""
    if not 0 <= index < len(training_set):
        raise FlanliteError(
            f"The training set has no row {index}.", f"Its rows are numbered 0 to {len(training_set) - 1}."
        )


def counts_by_role(training_set: TrainingSet, index: int) -> dict[str, tuple[int, int]]:
    """Tokens and trained tokens of one row, by role in order of appearance."""
    tokens: Counter[str] = Counter()
    trained: Counter[str] = Counter()
    for span in training_set.tokens(index).spans:
        tokens[span.role] += span.tokens
        trained[span.role] += span.tokens * span.trained
    return {role: (count, trained[role]) for role, count in tokens.items()}


def _title(training_set: TrainingSet, index: int) -> str:
    file, row = training_set.origin(index)
    return f"row {index} (of 0 to {len(training_set) - 1}), from {Path(file).name}, row {row}"


def _role_table(training_set: TrainingSet, index: int) -> Table:
    table = Table("role", "tokens", "trained", box=None)
    table.columns[1].justify = table.columns[2].justify = "right"
    for role, (count, trained) in counts_by_role(training_set, index).items():
        table.add_row(Text(role, COLOURS.get(role, "green")), f"{count:,}", f"{trained:,}")
    return table


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2330; --line: #d9dee6; --faint: #6b7484; --trained: #c9f0d3;
  --system: #7a3fa0; --user: #0b63a5; --observation: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161d; --ink: #e6e9ef; --line: #2c3440; --faint: #8b95a6;
  --trained: #175332; --system: #c99be8; --user: #7cc0f5; --observation: #e3b55f; } }
body { background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.25rem; margin-bottom: .25rem; } h2 { font-size: 1rem; margin: 2.2rem 0 .5rem; }
p, .legend { color: var(--faint); margin: .25rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
td, th { padding: .1rem 1.2rem .1rem 0; text-align: right; font-weight: normal; } td:first-child, th:first-child
  { text-align: left; } th { color: var(--faint); }
pre { border: 1px solid var(--line); border-radius: 8px; padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13.5px/1.6 ui-monospace, monospace; }
.trained { background: var(--trained); color: var(--ink); border-radius: 3px; } .template { color: var(--faint); }
.system { color: var(--system); } .user { color: var(--user); } .observation { color: var(--observation); }
"""


def write_page(training_set: TrainingSet, indices: list[int], file: Path) -> None:
    """Write rows as a page, beside first. Raises FlanliteError where the file cannot be written."""
    text = page(training_set, indices)
    beside = file.with_name(file.name + ".partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise FlanliteError(f"{file} cannot be written: {error.strerror}.", "Name another --html.") from error


def page(training_set: TrainingSet, indices: list[int]) -> str:
    """Rows as one HTML page that needs nothing from outside."""
    for index in indices:
        check_index(training_set, index)
    rows = "\n".join(_row_html(training_set, index) for index in indices)
    report = training_set.report
    about = (
        f"{len(training_set):,} rows, {int(training_set.tokens_of.sum()):,} tokens, of them "
        f"{int(training_set.trained_tokens_of.sum()):,} trained. Template {html.escape(report['template'])}."
    )
    legend = " · ".join(f'<span class="{role}">{role}</span>' for role in COLOURS)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(training_set.folder.name)}: training set</title>\n<style>{STYLE}</style>\n"
        f"<h1>{html.escape(training_set.folder.name)}</h1>\n<p>{about}</p>\n"
        f'<p class="legend"><span class="trained">trained</span> · masked: {legend}</p>\n{rows}\n</html>\n'
    )


def _row_html(training_set: TrainingSet, index: int) -> str:
    counts = "".join(
        f'<tr><td class="{role}">{role}</td><td>{count:,}</td><td>{trained:,}</td></tr>'
        for role, (count, trained) in counts_by_role(training_set, index).items()
    )
    text = "".join(
        f'<span class="{span.role}{" trained" if span.trained else ""}">{html.escape(piece, quote=False)}</span>'
        for piece, span in pieces(training_set.tokens(index), training_set.tokenizer)
    )
    return (
        f"<h2>{html.escape(_title(training_set, index))}</h2>\n"
        f"<table><tr><th>role</th><th>tokens</th><th>trained</th></tr>{counts}</table>\n<pre>{text}</pre>"
    )


def show(training_set: TrainingSet, indices: list[int], console: Console) -> None:
    """Print rows to the terminal."""
    for index in indices:
        console.print(render(training_set, index))
