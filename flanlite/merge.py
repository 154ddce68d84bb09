"""flanlite merge: a run's adapter and its base as one 16-bit model folder, checked against the two."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from rich.table import Table

from flanlite.bases import Base, resolve
from flanlite.corpus.forms import read_agent_flan
from flanlite.corpus.sources import find_sources
from flanlite.engine.fetch import base_dir
from flanlite.engine.merging import HOLDS, MergeInputs, MergeReport, merge
from flanlite.engine.noise import quiet
from flanlite.opening import check_finished, trained_template
from flanlite.prompt.template import Template, tokenize
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.run import Run, open_run
from flanlite.terminal import byte_progress, console, in_time, say, step_progress

CHECKED_ROWS, CHECKED_TOKENS = 4, 64
"""Conversations of the embedded corpus, and tokens of each, on which the merge is compared with its sources."""


def merge_run(
    name: str | None,
    out: Path,
    *,
    onto: Literal["base", "dequantised"],
    dtype: Literal["bfloat16", "float16"] | None,
    check: bool,
    overwrite: bool,
) -> bool:
    """Merge a run, the newest one if no name is given, and print what the check found; whether it passed."""
    run = open_run(name)
    check_finished(run)
    say(f"Merging {run.folder}")
    tokenizer = Tokenizer.load(run.adapter_dir)
    template = trained_template(run, tokenizer)
    inputs = _inputs(run, resolve(run.recipe.base), onto)
    with ExitStack() as stack:
        stack.enter_context(quiet())
        bars = {
            "merge": stack.enter_context(byte_progress("merging")),
            "check": stack.enter_context(step_progress("checking")),
        }
        report = merge(
            inputs,
            out,
            stop_ids=template.stop_ids,
            token_rows=_checked_rows(template, tokenizer) if check else None,
            pad_id=tokenizer.pad_id,
            dtype=dtype,
            base_name=run.record["base"],
            teaching={key: run.record[key] for key in ("template", "template_hash")}
            | {"tool_style": run.recipe.tool_style, "base": run.record["base"]},
            overwrite=overwrite,
            on_progress=lambda stage, done, total: bars[stage](done, total),
        )
    _show(report)
    return report.passed


def _inputs(run: Run, base: Base, onto: Literal["base", "dequantised"]) -> MergeInputs:
    trained = base_dir(base, quantised=True, say=say)
    chosen = base_dir(base, quantised=False, say=say) if onto == "base" else trained
    return MergeInputs(
        chosen,
        run.adapter_dir,
        onto,
        trained_base_dir=trained if trained != chosen else None,
        nf4_dtype=run.record["dtype"],
    )


def _checked_rows(template: Template, tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of a few conversations about tools."""
    source = next(source for source in find_sources(["sample"], say=say) if "react" in source.name)
    with source.file.open(encoding="utf-8") as lines:
        conversations = [read_agent_flan(json.loads(next(lines))) for _ in range(CHECKED_ROWS)]
    # The end of a conversation, where the calls and answers are.
    return [tokenize(template, tokenizer, found.turns).ids[-CHECKED_TOKENS:] for found in conversations]


def _show(report: MergeReport) -> None:
    written = f"{report.bytes_written / 1e6:,.0f} MB"
    say(f"{report.merged_modules} weights changed, {written} written in {in_time(report.seconds)}.")
    if report.parity is None:
        say(f"The merged model is in {report.folder}. It was not checked.")
        return
    table = Table("the merged model, measured", "value", "bound", "holds", box=None, header_style="bold")
    for what, value, bound, holds in report.parity.rows():
        table.add_row(what, value, bound, HOLDS[holds])
    console.print(table)
    if report.parity.advice:
        say(report.parity.advice)
    if report.passed:
        say(f"The merged model is in {report.folder}. Chat with it: flanlite chat {report.folder}")
    else:
        say(f"The check failed: the merged model is left in {report.folder} to be looked at.")
