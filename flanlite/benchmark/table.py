"""Results as tables of 80 columns, as sentences, and for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from flanlite.benchmark.results import LOSS_TOLERANCE, Entry, Results, speed_of
from flanlite.benchmark.variants import VARIANTS
from flanlite.planning.cards import GIB
from flanlite.terminal import console, say

OURS = "flanlite"

NOTHING = "-"


def show(results: Results, picture: Path) -> None:
    """Print what was measured: speeds, memory, what has to be known of them, and where they lie."""
    best = best_entries(results)
    say(f"\n{headline(results)}\n")
    console.print(_table([_speeds(results, best, entry) for entry in best]))
    say("")
    console.print(_table([_memory(entry) for entry in best]))
    say("")
    for line in remarks(results, best):
        console.print(Text(line))  # broken between words, at the window's edge
    say(f"All figures: {results.file}, as a picture: {picture}")


def as_json(results: Results) -> str:
    """All results, and each variant's best beside flanlite."""
    best = best_entries(results)
    compared = [
        {
            "variant": entry.variant,
            "micro_batch": entry.micro_batch,
            "outcome": entry.outcome,
            "tokens_per_s": _rounded(entry.measured.tokens_per_s if entry.measured else None),
            "trained_tokens_per_s": _rounded(entry.measured.trained_tokens_per_s if entry.measured else None),
            "spread": _rounded(entry.measured.spread if entry.measured else None),
            "seconds_a_step": _rounded(entry.measured.seconds_a_step if entry.measured else None),
            "share_of_limit": _rounded(_share_of_limit(results, entry)),
            "flanlite_is": _rounded(ratio(best, entry)),
        }
        for entry in best
    ]
    entries = [asdict(entry) for entry in results.entries]
    return json.dumps({"about": results.about, "compared": compared, "entries": entries}, indent=2)


def best_entries(results: Results) -> list[Entry]:
    """Each variant's best entry, in the order of the variants; those that were not tried are left out."""
    return [entry for name in VARIANTS if (entry := results.best(name)) is not None]


def ratio(best: Sequence[Entry], other: Entry) -> float | None:
    """flanlite's trained tokens a second, in those of another entry; None where one of them was not measured."""
    ours = next((speed_of(entry) for entry in best if entry.variant == OURS), 0.0)
    theirs = speed_of(other)
    return ours / theirs if ours and theirs and other.variant != OURS else None


def headline(results: Results) -> str:
    """What was measured, on what, and with which versions."""
    about, rows = results.about, results.about["rows"]
    cap = "" if about["vram_gib"] is None else f", {about['vram_gib']:g} GiB of its memory"
    versions = ", ".join(
        f"{package} {about['versions'][package]}"
        for package in ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth")
        if package in about["versions"]
    )
    return (
        f"Measured on {about.get('card', 'no card yet')}{cap}; {about['base']}'s shape, random weights,\n"
        f"LoRA of rank {about['lora_r']}, rows of {about['max_tokens']:,} tokens, {about['batch_tokens']:,} a step;\n"
        f"{rows['from']}, {rows['mean_tokens']:,.0f} tokens on average, {rows['trained_share']:.0%} of them trained.\n"
        f"{versions}."
    )


def remarks(results: Results, best: Sequence[Entry]) -> Iterator[str]:
    """Sentences on what the tables cannot say."""
    yield "+-: the standard error over the steps. kept: layers that keep their activations."
    yield "flanlite: how many times the variant's trained tokens/s it reaches. Padding is in no count of tokens."
    if results.about.get("limit_tokens_per_s"):
        limit = results.about["limit_tokens_per_s"]
        yield f"The card's arithmetic limit on paper is {limit:,.0f} tokens/s on these rows, with nothing recomputed."
    if any(entry.variant == "unsloth-defaults" for entry in best):
        yield "A step of unsloth-defaults has 2 x 4 conversations, as its command line has it, and so fewer tokens."
    yield from _loss_remarks(best)
    wanted = results.about["timing"]["steps"]
    for entry in (*best, *(last for entry in best if (last := _broken_off(results, entry)))):
        if entry.measured is None or entry.note:
            why = f" ({entry.note.rstrip('.')})" if entry.note else ""
            yield f"{_named(entry)}: {entry.outcome}{why}."
        elif len(entry.measured.seconds) < wanted:
            yield f"{entry.variant}: time sufficed for {len(entry.measured.seconds)} of {wanted} steps."


def _broken_off(results: Results, best: Entry) -> Entry | None:
    """What ended a sweep before its best could be known: an error, or time."""
    last = results.of(best.variant)[-1]
    return last if last != best and last.outcome in ("failed", "out of time") else None


def _named(entry: Entry) -> str:
    return f"{entry.variant}, {_at_once(entry)}" if entry.micro_batch else entry.variant


def _loss_remarks(best: Sequence[Entry]) -> Iterator[str]:
    """Whether all variants compute the same: by the losses of single conversations, before the first step."""
    measured = {entry.variant: entry.measured for entry in best if entry.measured}
    if len(measured) < 2:
        return
    name, first = next(iter(measured.items()))
    differences = {each: figures.loss_difference(first) for each, figures in measured.items() if each != name}
    apart = {each: found for each, found in differences.items() if not found <= LOSS_TOLERANCE}
    if not apart:
        yield (
            f"All variants have the same losses of {len(first.first_losses)} conversations before step 1: a token's "
            f"differs by {max(differences.values()):.2g} nats."
        )
    for each, found in apart.items():
        yield (
            f"{each} computes something else than {name}: before step 1 the loss of a token differs by {found:.2g} "
            f"nats, and rounding makes no more than {LOSS_TOLERANCE}."
        )


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    """A table with the columns that hold something."""
    columns = [head for head in rows[0] if any(row[head] != NOTHING for row in rows)]
    table = Table(box=None, header_style="bold", padding=(0, 1), pad_edge=False)
    for number, head in enumerate(columns):
        table.add_column(head, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[head] for head in columns))
    return table


def _speeds(results: Results, best: Sequence[Entry], entry: Entry) -> dict[str, str]:
    measured = entry.measured
    return {
        "variant": entry.variant,
        "at once": _at_once(entry),
        "tokens/s": _written(measured and measured.tokens_per_s, ",.0f"),
        "trained/s": _written(measured and measured.trained_tokens_per_s, ",.0f"),
        "+-": _written(measured and measured.spread, ".1%"),
        "of limit": _written(_share_of_limit(results, entry), ".0%"),
        "flanlite": _written(ratio(best, entry), ".2f", "x"),
    }


def _memory(entry: Entry) -> dict[str, str]:
    measured = entry.measured
    return {
        "variant": entry.variant,
        "GiB used": _written(measured and _gib(measured.allocated_bytes), ".2f"),
        "reserved": _written(measured and _gib(measured.reserved_bytes), ".2f"),
        "kept": _written(measured and measured.settings["kept_layers"], "d"),
        "padding": _written(measured and measured.padding_share, ".0%"),
        "s a step": _written(measured and measured.seconds_a_step, ".2f"),
        "loss": _written(measured and measured.first_loss, ".4f"),
    }


def _at_once(entry: Entry) -> str:
    """Rows of a micro-batch and micro-batches of a step; flanlite's are those of the layout that it used."""
    if entry.micro_batch:
        return f"{entry.micro_batch} x {entry.accumulation}"
    if entry.measured is None:
        return "as planned"
    rows = entry.measured.settings["micro_rows"]
    return f"{rows} x {entry.measured.settings['batch_rows'] // rows}"


def _share_of_limit(results: Results, entry: Entry) -> float | None:
    limit = results.about.get("limit_tokens_per_s")
    return entry.measured.tokens_per_s / limit if entry.measured and limit else None


def _gib(n_bytes: int | None) -> float | None:
    return None if n_bytes is None else n_bytes / GIB


def _written(value: Any, form: str, unit: str = "") -> str:
    return NOTHING if value is None else f"{value:{form}}{unit}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
