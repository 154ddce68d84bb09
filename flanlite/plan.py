"""flanlite plan: what a tune will take of a card, before anything is downloaded; tune lays out its steps by it too."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, fields, replace
from typing import Any

from rich.table import Table

from flanlite import hub
from flanlite.bases import Base, resolve
from flanlite.driver import Card as DriversCard
from flanlite.driver import nvidia_smi
from flanlite.engine.device import (
    CPU_PARAMETERS,
    Machine,
    check_cpu_size,
    choose_dtype,
    choose_machine,
    choose_optimizer,
    wanted_backend,
)
from flanlite.errors import FlanliteError
from flanlite.planning.attention import Attention, attention_here
from flanlite.planning.cards import GIB, UNKNOWN, Card, card_like, card_meant, find_card, free_bytes_of, option
from flanlite.planning.choose import Plan, choose, row_lengths
from flanlite.planning.least import least_card_gib
from flanlite.planning.memory import CUDA_CONTEXT_BYTES, Workload, activation_parts
from flanlite.planning.setup import Setup
from flanlite.planning.speed import REACHED_SHARE
from flanlite.recipe import Recipe, budget_seconds
from flanlite.terminal import console, in_time, say

WITH_UNSLOTH = ("xformers",)
"""Of the packages that attention can run on, those that an installation of unsloth brings along."""

CPU_ACTIVATION_BYTES = 2 * GIB
"""On a CPU all layers keep their activations up to this size, and none above it."""

PLAIN_SETUP = Setup(micro_rows=1, kept_layers=0, offload=False)
"""The smallest layout without offload: where nothing is reckoned, this is where to start."""

BAR_WIDTH = 80

LEAST_SHOWN_BYTES = GIB // 200
"""A smaller part would be a row of zeros."""

GROUPS = {
    "weights": ("█", ("4-bit weights", "their quantisation constants", "embedding, head and norms")),
    "adapters": ("▓", ("LoRA matrices", "LoRA gradients", "optimizer states")),
    "activations": (
        "▒",
        ("activations of kept layers", "inputs of recomputed layers", "one layer recomputed", "masks and positions"),
    ),
    "at work": ("░", ("gradients in the backward", "logits and loss", "a weight in 16 bits", "buffers")),
    "context and margin": ("-", ("CUDA context", "margin")),
}
"""The bar's segments: their sign, and the parts in them."""


def machine_for(recipe: Recipe, gpu: str | None, vram_gib: float | None) -> tuple[Machine, Card | None]:
    """The machine that is here, and its card if there is one; or one with the card of that name or of that memory.

    On the latter unsloth is taken to be there unless the recipe says otherwise. Raises FlanliteError for a card that is
    not known.
    """
    if gpu is None and vram_gib is None:
        here = choose_machine(recipe)
        return here, card_of(here)
    card = UNKNOWN if gpu is None else find_card(gpu)
    total = card.memory_bytes if vram_gib is None else round(vram_gib * GIB)
    card = replace(card, name=card.name if gpu is not None else f"a card with {vram_gib:g} GiB", memory_bytes=total)
    wanted = wanted_backend(recipe)
    backend = "unsloth" if wanted == "auto" else wanted
    dtype = choose_dtype(recipe.dtype, card.capability)
    return Machine("cuda", card.name, backend, dtype, card.capability, total, free_bytes=free_bytes_of(total)), card


def make_plan(recipe: Recipe, gpu: str | None = None, vram_gib: float | None = None) -> tuple[Plan, Base]:
    """The plan for a recipe on the card that is here, or on one by name or memory; and the base.

    Raises FlanliteError where there is no card, where nothing fits, or for a base whose shape is not known.
    """
    machine, card = machine_for(recipe, gpu, vram_gib)
    if card is None:
        raise _no_card(recipe, machine)
    base = hub.described(resolve(recipe.base))
    check_context(recipe, base)
    assumed = () if gpu is None and vram_gib is None else WITH_UNSLOTH
    return _plan(recipe, base, machine, card, assumed), base


def _no_card(recipe: Recipe, machine: Machine) -> FlanliteError:
    if machine.unused_card:
        hint = f"To plan for it all the same: {_option_of_unused_card()}\n{machine.mend}"
        return FlanliteError(machine.unused_card, hint)
    hint = "Name one: --gpu rtx-4090, or its memory: --vram 12."
    base = resolve(recipe.base)
    if base.shape is not None and base.parameters <= CPU_PARAMETERS:
        hint += f"\n{base.name} needs none: flanlite tune --base {base.name}"
    return FlanliteError("There is no card here to plan for.", hint)


def _option_of_unused_card() -> str:
    seen = next(iter(nvidia_smi()), DriversCard("a card"))
    memory = seen.total_bytes or 12 * GIB
    card = card_meant(seen.name, memory)
    return f"--gpu {option(card)}" if card.is_known else f"--vram {round(memory / GIB)}"


def plan_here(recipe: Recipe, base: Base, machine: Machine) -> Plan | None:
    """The plan for this machine's card; None without one, or where the base's shape is not known.

    Raises FlanliteError where nothing fits.
    """
    card = card_of(machine)
    return None if card is None or base.shape is None else _plan(recipe, base, machine, card, ())


def card_of(machine: Machine) -> Card | None:
    """The machine's card with what the table knows of its speed, or None on a CPU."""
    if machine.capability is None:
        return None
    return card_like(machine.name, machine.memory_bytes, machine.capability)


def _plan(recipe: Recipe, base: Base, machine: Machine, card: Card, assumed: Collection[str]) -> Plan:
    attention = attention_here(machine.backend, card.capability, assumed)
    lengths = row_lengths(recipe, base.context_length)
    works = [_workload(recipe.with_rows_of(tokens), base, machine, attention) for tokens in lengths]
    return choose(works, recipe, card, machine.free_bytes)


def setup_without_plan(recipe: Recipe, base: Base, machine: Machine) -> Setup:
    """The layout on a CPU, or of a base whose shape is not known: what the recipe fixes, and else the plainest."""
    setup = PLAIN_SETUP
    if machine.kind == "cpu" and base.shape is not None:
        work = _workload(recipe.with_plain_rows(base.context_length), base, machine, "SDPA with a mask")
        all_kept = replace(setup, kept_layers=base.shape.layers)
        is_small = sum(activation_parts(work, all_kept).values()) <= CPU_ACTIVATION_BYTES
        setup = all_kept if is_small else setup
    return fixed_by(recipe, setup)


def fixed_by(recipe: Recipe, setup: Setup) -> Setup:
    """The layout with all that the recipe fixes."""
    values = {field.name: getattr(recipe, field.name) for field in fields(Setup)}
    return replace(setup, **{name: value for name, value in values.items() if value != "auto"})


def check_context(recipe: Recipe, base: Base) -> None:
    """Raises FlanliteError for rows that are longer than the base reads."""
    if recipe.max_tokens != "auto" and base.context_length and recipe.max_tokens > base.context_length:
        raise FlanliteError(
            f"max_tokens is {recipe.max_tokens:,}, and {base.name} reads {base.context_length:,} tokens.",
            "Lower it, or leave it out.",
        )


def check_without_card(recipe: Recipe, base: Base, parameters: int, machine: Machine) -> None:
    """Raises FlanliteError for a base that is too large for a CPU, with the memory of a card that would do."""
    needed = parameters
    if base.shape is not None:
        needed = least_card_gib(recipe, base) * GIB
    check_cpu_size(machine, base.name, parameters, needed)


def _workload(recipe: Recipe, base: Base, machine: Machine, attention: Attention) -> Workload:
    return Workload(
        shape=base.known_shape,
        max_tokens=recipe.row_tokens,
        batch_rows=recipe.batch_rows,
        lora_r=recipe.lora_r,
        has_dropout=recipe.lora_dropout > 0,
        backend=machine.backend,
        dtype=machine.dtype,
        optimizer=choose_optimizer(recipe.optimizer, has_card=machine.kind == "cuda"),
        attention=attention,
        context_length=base.context_length or 0,
        capability=machine.capability or (0, 0),
        card_bytes=machine.memory_bytes,
    )


def budget_tokens(recipe: Recipe, tokens_per_s: float) -> float:
    """Tokens of the data that the recipe's budget has time for; infinity where it takes all of them."""
    return budget_seconds(recipe.chosen_budget) * tokens_per_s / recipe.epochs


def plan_line(plan: Plan) -> str:
    """The plan in one line."""
    return (
        f"Plan: {_gib(plan.peak_bytes)} of {_gib(plan.free_bytes)} GiB at the peak, predicted; {plan.layout}; "
        f"attention: {plan.work.attention}."
    )


def peak_line(planned_bytes: int, reserved_bytes: int) -> str:
    """What a finished tune took of the card beside what was planned; torch does not count what CUDA itself takes."""
    taken, own = _gib(reserved_bytes + CUDA_CONTEXT_BYTES), _gib(CUDA_CONTEXT_BYTES)
    planned = _gib(planned_bytes)
    return f"Memory of the card at the peak: {taken} GiB, with {own} assumed for CUDA itself; the plan said {planned}."


def show(plan: Plan, recipe: Recipe, base: Base, origin: str, tokens: int | None) -> None:
    """Print a plan: the parts, a bar, the layout, the speed, and what has to be fetched."""
    say(f"{recipe.base} on {plan.card.name}. {origin}; all figures are predictions.\n")
    console.print(_table(plan))
    say(f"\n{bar(plan)}\n{_legend()}\n")
    say(f"Chosen: {plan.layout}.")
    work = plan.work
    micro_rows = plan.setup.micro_rows
    say(
        f"In other words: batch size {micro_rows}, gradient accumulation {work.batch_rows // micro_rows}, "
        f"{work.backend}, {work.dtype}, {work.optimizer}, attention: {work.attention}."
    )
    for line in [*speed_lines(plan, recipe, tokens), *disk_lines(base, base.parameters)]:
        say(line)


def as_json(plan: Plan, recipe: Recipe, base: Base, tokens: int | None) -> str:
    """The plan for other programs: sizes in bytes, all of it predicted; null where it is not known.

    `tokens` are those given, or else as many as the recipe's budget has time for.
    """
    work, knows_speed = plan.work, plan.card.is_known
    if tokens is None and knows_speed and math.isfinite(budget_tokens(recipe, plan.tokens_per_s)):
        tokens = round(budget_tokens(recipe, plan.tokens_per_s))
    content: dict[str, Any] = {
        "base": recipe.base,
        "card": plan.card.name,
        "memory_bytes": plan.card.memory_bytes,
        "free_bytes": plan.free_bytes,
        "peak_bytes": plan.peak_bytes,
        "parts": plan.parts,
        **asdict(plan.setup),
        "max_tokens": work.max_tokens,
        "batch_tokens": recipe.batch_tokens,
        "batch_rows": work.batch_rows,
        "backend": work.backend,
        "dtype": work.dtype,
        "optimizer": work.optimizer,
        "attention": work.attention,
        "tokens_per_s": round(plan.tokens_per_s, 1) if knows_speed else None,
        "limit_tokens_per_s": round(plan.limit_tokens_per_s, 1) if knows_speed else None,
        "tokens": tokens,
        "hours": round(tokens * recipe.epochs / plan.tokens_per_s / 3600, 3) if tokens and knows_speed else None,
        "download_bytes": 0 if base.folder else hub.expected_download(base, quantised=True).missing_bytes,
        "merged_bytes": base.known_shape.bytes_16bit,
    }
    return json.dumps(content, indent=2)


def _table(plan: Plan) -> Table:
    table = Table("on the card", "GiB", "share", box=None, header_style="bold", padding=(0, 1))
    for column in table.columns[1:]:
        column.justify = "right"
    peak = plan.peak_bytes
    for name, size in plan.parts.items():
        if size >= LEAST_SHOWN_BYTES:
            table.add_row(name, f"{size / GIB:.2f}", f"{size / peak:.0%}")
    table.add_section()
    table.add_row("peak, predicted", f"{peak / GIB:.2f}", "")
    table.add_row(f"free on {plan.card.name}", f"{plan.free_bytes / GIB:.2f}", "")
    return table


def bar(plan: Plan) -> str:
    """The memory that is free, in 80 columns: each group of parts with its sign, and what is left as dots."""
    drawn, total, parts = "", 0, plan.parts
    for sign, names in GROUPS.values():
        total += sum(parts[name] for name in names)
        drawn += sign * (round(total / plan.free_bytes * BAR_WIDTH) - len(drawn))
    return drawn.ljust(BAR_WIDTH, "·")


def _legend() -> str:
    return "  ".join(f"{sign} {name}" for name, (sign, _) in GROUPS.items()) + "  · left"


def speed_lines(plan: Plan, recipe: Recipe, tokens: int | None) -> list[str]:
    """Sentences on the speed and on the time for so many tokens, or for the recipe's budget."""
    if not plan.card.is_known:
        return ["How fast that is depends on the card: name it with --gpu."]
    rate = plan.tokens_per_s
    share = f"{REACHED_SHARE[plan.work.backend]:.0%}"
    lines = [
        f"About {_roughly(rate)} tokens/s, predicted and not measured: {share} of the arithmetic limit is assumed, "
        f"which is {_roughly(plan.limit_tokens_per_s)} tokens/s with this layout."
    ]
    affordable = budget_tokens(recipe, rate)
    if tokens is not None:
        seconds = tokens * recipe.epochs / rate
        time = f"about {in_time(seconds)}" if seconds >= 60 else "less than a minute"
        lines.append(f"{tokens:,} tokens, epochs={recipe.epochs:g}, take {time}.")
    elif math.isfinite(affordable):
        lines.append(f"budget={recipe.chosen_budget} is time for about {affordable / 1e6:,.1f} million tokens.")
    else:
        lines.append("How long your data takes: name it with --data, or its size with --tokens.")
    return lines


def disk_lines(base: Base, parameters: int, download: Callable[..., hub.Download] = hub.expected_download) -> list[str]:
    """Sentences on downloads and disk; `download` tells what a base's weights take, and may ask the hub."""
    merged = f"A merge writes {hub.in_words(2 * parameters)}."
    if base.folder is not None:
        return [merged]
    to_train, to_merge = download(base, quantised=True), download(base, quantised=False)
    lines = [f"Weights for training: {to_train}"]
    if to_merge.repo != to_train.repo:
        lines.append(f"16-bit weights, for a merge only: {to_merge}")
    if base.weights == "bin":
        lines.append(f"They are converted to safetensors once, which takes {hub.in_words(2 * parameters)} more.")
    return [*lines, merged]


def _roughly(number: float) -> str:
    """To two digits, as many as a prediction has."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.1f}"
