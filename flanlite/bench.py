"""flanlite bench: flanlite's training beside unsloth's and peft's on this machine, with a random base of any shape.

Each measurement is a process of its own and is written down as it ends; a second call does what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from flanlite import hub
from flanlite.bases import Base, resolve
from flanlite.benchmark.conversations import (
    Conversation,
    attended_tokens,
    conversations_in,
    draw,
    public_conversations,
    tokens_in,
    trained_share,
)
from flanlite.benchmark.picture import draw_speeds
from flanlite.benchmark.results import Entry, Measured, Results, speed_of
from flanlite.benchmark.trial import Preparation, Timing, Trial
from flanlite.benchmark.variants import Layout, Variant, choose_variants, next_layout, rows_a_step
from flanlite.benchmark.workbench import Workbench, workbench
from flanlite.engine.device import choose_machine
from flanlite.errors import FlanliteError
from flanlite.plan import check_without_card
from flanlite.planning.cards import GIB, card_like
from flanlite.planning.memory import Workload
from flanlite.planning.setup import Setup
from flanlite.planning.speed import limit_tokens_per_s
from flanlite.recipe import Recipe
from flanlite.run import installed_versions
from flanlite.terminal import say
from flanlite.training_set import TrainingSet

DRAWN_STEPS = 32
"""Steps' worth of conversations; a longer training sees them again."""

SEED = 1

LAST_STEP_SHARE = 0.85
"""Of a measurement's time: no step begins behind it, so that the process ends by itself."""

SPEEDS = "speeds.png"


@dataclass(frozen=True)
class Order:
    """What to measure: the base's shape, the rows, the variants (all that this machine can, if none is named).

    With `vram_gib` no process takes more of the card. A measurement takes `limit_s` seconds at most, loading included;
    `data` is a training set whose lengths are taken.
    """

    base: str = Recipe.base
    max_tokens: int = 2048
    batch_tokens: int = Recipe.batch_tokens
    vram_gib: float | None = None
    variants: tuple[str, ...] = ()
    limit_s: float = 480.0
    data: Path | None = None
    timing: Timing = field(default_factory=Timing)


def bench(order: Order, out: Path | None = None, tell: Callable[[str], None] = say) -> Results:
    """Measure what is missing in the folder `out`, and leave results.json, logs and a picture there.

    `tell` is told in sentences what is done. Raises FlanliteError where this machine cannot do what is asked for, or
    the folder is another benchmark's.
    """
    has_card = torch.cuda.is_available()
    variants, left_out = choose_variants(order.variants, has_card=has_card, unsloth=_version_of("unsloth"))
    base = hub.described(resolve(order.base))
    if not has_card:
        _check_without_card(order, base)
    known = public_conversations() if order.data is None else conversations_in(TrainingSet(order.data))
    rows = draw(known, DRAWN_STEPS * order.batch_tokens, order.max_tokens, SEED)
    results = Results.open(out or Path("bench") / _name(order, base), _about(order, base, rows))
    for line in left_out:
        tell(line)
    with _cleaned_up(), contextlib.ExitStack() as stack:
        bench: Workbench | None = None
        # flanlite comes last, when the card is warmest: where that slows it down, the others have the advantage.
        for variant in reversed(variants):
            results.forget_failed(variant.name, order.limit_s, order.timing.steps)
            while (layout := _missing(variant, results, order, rows)) is not None:
                if bench is None:
                    bench = stack.enter_context(workbench(rows, base.bytes_4bit, results.folder / "logs"))
                    tell(_announced(variants, order))
                    tell(f"Writing random weights of {base.name}'s shape ({hub.in_words(base.bytes_4bit)}).")
                    _prepare(bench, order, base, rows, results)
                with Console(stderr=True).status(
                    f"Measuring {_named(variant.name, layout)}, at most {order.limit_s / 60:g} minutes"
                ):
                    entry = _measured(bench, order, variant, layout, results)
                tell(_in_words(entry))
    draw_speeds(results, results.folder / SPEEDS)
    return results


def _announced(variants: Sequence[Variant], order: Order) -> str:
    names = ", ".join(variant.name for variant in variants)
    swept = "; some are measured with several layouts" if any(variant.is_swept for variant in variants) else ""
    return f"Measuring {names}, each for at most {order.limit_s / 60:g} minutes{swept}. What is measured stays."


def _check_without_card(order: Order, base: Base) -> None:
    """Raises FlanliteError where a card is meant, or the base is too large to do without."""
    if order.vram_gib is not None:
        raise FlanliteError("--vram caps the memory of a card, and torch sees none.", "Leave it out.")
    recipe = Recipe(base=order.base, max_tokens=order.max_tokens, batch_tokens=order.batch_tokens)
    check_without_card(recipe, base, base.parameters, choose_machine(recipe))


def _name(order: Order, base: Base) -> str:
    name = f"{Path(base.name).name}-{order.max_tokens}"
    return name if order.vram_gib is None else f"{name}-{order.vram_gib:g}gib"


def _about(order: Order, base: Base, rows: Sequence[Conversation]) -> dict[str, Any]:
    """All that has to be the same for figures to be compared, but for the card."""
    return {
        "base": base.name,
        "shape": asdict(base.known_shape),
        "max_tokens": order.max_tokens,
        "batch_tokens": order.batch_tokens,
        "lora_r": Recipe.lora_r,
        "vram_gib": order.vram_gib,
        "rows": {
            "from": "public conversations" if order.data is None else str(order.data),
            "hash": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16],
            "mean_tokens": round(sum(map(tokens_in, rows)) / len(rows), 1),
            "trained_share": round(trained_share(rows), 3),
        },
        "timing": asdict(order.timing),
        "seed": SEED,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    others = {package: _version_of(package) for package in ("unsloth_zoo", "xformers", "flash_attn", "triton")}
    return installed_versions() | {package: version for package, version in others.items() if version is not None}


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def _cleaned_up() -> Iterator[None]:
    """Within it a closed terminal and SIGTERM end this process as Ctrl-C does: the one that measures with it, and the
    random base is removed.
    """
    before = {}
    for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
        # nohup has a closed terminal ignored.
        if signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _missing(variant: Variant, results: Results, order: Order, rows: Sequence[Conversation]) -> Layout | None:
    """The layout of a variant to measure next, if there is one: an error would come again with any other."""
    if any(entry.outcome == "failed" for entry in results.of(variant.name)):
        return None
    speeds = {entry.micro_batch: speed_of(entry) or None for entry in results.of(variant.name)}
    mean_tokens = sum(map(tokens_in, rows)) / len(rows)
    return next_layout(variant, speeds, rows_a_step(variant, order.batch_tokens, order.max_tokens, mean_tokens))


def _prepare(bench: Workbench, order: Order, base: Base, rows: Sequence[Conversation], results: Results) -> None:
    """Let the base be written, and see that the card is the one that the results are of."""
    from flanlite.benchmark.random_base import config_of

    task = Preparation(str(bench.base_dir), config_of(base, order.max_tokens), SEED)
    answer = bench.ask(task, "base", order.limit_s)
    if "outcome" in answer:
        raise FlanliteError(
            f"The random weights could not be written: {answer['note'].rstrip('.') or answer['outcome']}.",
            f"{bench.log_dir / 'base.txt'} says more.",
        )
    results.agree({**answer, "limit_tokens_per_s": _limit_tokens_per_s(base, rows, **answer)})


def _limit_tokens_per_s(
    base: Base, rows: Sequence[Conversation], card: str, memory_bytes: int | None, capability: Sequence[int] | None
) -> float | None:
    """What the card's arithmetic would allow on these rows if nothing were recomputed; None where it is not known."""
    if memory_bytes is None or capability is None:
        return None
    known = card_like(card, memory_bytes, (capability[0], capability[1]))
    shape = base.known_shape
    work = Workload(
        shape=shape,
        max_tokens=attended_tokens(rows),
        batch_rows=1,
        lora_r=Recipe.lora_r,
        has_dropout=False,
        backend="unsloth",
        dtype="bfloat16",
        optimizer="adamw_8bit",
        attention="torch varlen",
    )
    share = trained_share(rows)
    return limit_tokens_per_s(work, Setup(1, shape.layers, offload=False), known, share) if known.is_known else None


def _measured(bench: Workbench, order: Order, variant: Variant, layout: Layout, results: Results) -> Entry:
    """How it ended that a variant was measured with a layout; it is among the results."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as work_dir:
        task = Trial(
            variant=variant.name,
            micro_batch=layout.micro_batch,
            accumulation=layout.accumulation,
            base_dir=str(bench.base_dir),
            rows_file=str(bench.rows_file),
            work_dir=work_dir,
            max_tokens=order.max_tokens,
            batch_tokens=order.batch_tokens,
            memory_bytes=None if order.vram_gib is None else round(order.vram_gib * GIB),
            timing=order.timing,
            deadline=time.time() + LAST_STEP_SHARE * order.limit_s,
            seed=SEED,
        )
        answer = bench.ask(task, f"{variant.name}-{layout.micro_batch}", order.limit_s)
    measured = answer.get("measured")
    entry = Entry(
        variant=variant.name,
        micro_batch=layout.micro_batch,
        accumulation=layout.accumulation,
        outcome=answer["outcome"],
        limit_s=order.limit_s,
        note=answer["note"],
        measured=None if measured is None else Measured(**measured),
    )
    results.add(entry)
    return entry


def _in_words(entry: Entry) -> str:
    figure = f"{speed_of(entry):,.0f} trained tokens/s" if entry.measured else entry.outcome
    name = _named(entry.variant, Layout(entry.micro_batch, entry.accumulation))
    return f"{name}: {figure}" + (f"; {entry.note}" if entry.note else "")


def _named(variant: str, layout: Layout) -> str:
    return f"{variant}, {layout.micro_batch} x {layout.accumulation} rows" if layout.micro_batch else variant
