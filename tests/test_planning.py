"""The plan: what a step is predicted to take of a card, the layout that is chosen, and what is said where none fits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanlite import doctor
from flanlite import plan as stage
from flanlite.bases import BASES, Base, Shape, resolve
from flanlite.engine import device
from flanlite.engine.device import Machine
from flanlite.errors import FlanliteError
from flanlite.plan import make_plan
from flanlite.planning.attention import attention_kernel
from flanlite.planning.cards import CARDS, DESKTOP_SHARE, GIB, card_like, find_card, option
from flanlite.planning.choose import Plan, choose, divisors, least_bytes, row_lengths
from flanlite.planning.least import least_card_gib
from flanlite.planning.memory import Workload, layer_bytes, memory_parts, peak_bytes
from flanlite.planning.setup import Setup, can_offload, in_words, ladder, largest_part
from flanlite.planning.speed import flop_per_token, limit_tokens_per_s, predicted_tokens_per_s
from flanlite.recipe import Recipe, load_recipe
from flanlite.run import Run
from flanlite.tune import decide, show_finished

LLAMA2_7B = BASES["llama2-7b-chat"].known_shape
SHAPES = [base.shape for base in BASES.values() if base.shape]
SEVEN = Workload(LLAMA2_7B, 2048, 8, 16, False, "unsloth", "bfloat16", "adamw_8bit", "torch varlen")
WITH_PEFT = replace(SEVEN, backend="peft", attention="SDPA with a mask")

workloads = st.builds(
    replace,
    st.sampled_from([SEVEN, WITH_PEFT, replace(SEVEN, attention="SDPA by document"), replace(SEVEN, has_dropout=True)]),
    shape=st.sampled_from(SHAPES),
    max_tokens=st.integers(16, 16_384),
    batch_rows=st.integers(1, 24),
    lora_r=st.integers(1, 128),
)


@st.composite
def setups(draw: st.DrawFn, work: Workload) -> Setup:
    return Setup(
        draw(st.sampled_from(divisors(work.batch_rows))), draw(st.integers(0, work.shape.layers)), draw(st.booleans())
    )


@given(st.data())
def test_more_tokens_and_more_kept_layers_never_take_less_memory(data: st.DataObject) -> None:
    work = data.draw(workloads)
    setup = data.draw(setups(work))
    peak = peak_bytes(work, setup)
    assert peak_bytes(replace(work, max_tokens=work.max_tokens + data.draw(st.integers(1, 999))), setup) >= peak
    assert peak_bytes(work, replace(setup, micro_rows=2 * setup.micro_rows)) >= peak
    # With fewer than four inputs to offload, unsloth's buffers take more than they save.
    if work.shape.layers - setup.kept_layers >= 4:
        assert peak_bytes(work, replace(setup, offload=True)) <= peak
    if setup.kept_layers < work.shape.layers:
        assert peak_bytes(work, replace(setup, kept_layers=setup.kept_layers + 1)) >= peak


@given(st.data())
def test_every_step_down_the_ladder_takes_less_and_keeps_the_rows_of_a_step(data: st.DataObject) -> None:
    work = data.draw(workloads)
    setup: Setup | None = data.draw(setups(work))
    while setup is not None:
        lower = ladder(setup, work.shape.layers)
        if lower is not None:
            assert work.batch_rows % lower.micro_rows == 0
            assert lower != setup
            less = peak_bytes(work, setup) - peak_bytes(work, lower)
            # The last kept layer takes what recomputing one takes: without it only the loss has more room.
            assert less >= 0 if setup.kept_layers == 1 else less > 0
        else:
            assert setup == Setup(1, 0, offload=True)
        setup = lower


def test_the_ladder_goes_from_kept_layers_to_rows_to_offload() -> None:
    steps, setup = [], Setup(6, 32, offload=False)
    while (lower := ladder(setup, 32)) is not None:
        steps.append((lower.micro_rows, lower.kept_layers, lower.offload))
        setup = lower
    assert steps == [
        *((6, kept, False) for kept in (16, 8, 4, 2, 1, 0)),
        (3, 0, False), (1, 0, False), (1, 0, True),
    ]  # fmt: skip


def test_more_kept_layers_than_there_are_count_as_all_of_them() -> None:
    assert ladder(Setup(1, 99, offload=False), 8) == Setup(1, 4, offload=False)


def test_the_ladder_ends_before_an_offload_that_does_nothing() -> None:
    assert ladder(Setup(1, 0, offload=False), 8) == Setup(1, 0, offload=True)
    assert ladder(Setup(1, 0, offload=False), 8, may_offload=can_offload("unsloth", 256)) is None
    assert can_offload("peft", 256)
    assert can_offload("unsloth", 512)


@given(st.integers(2, 500))
def test_the_largest_part_divides_whatever_the_rows_divide(rows: int) -> None:
    part = largest_part(rows)
    assert part < rows
    assert rows % part == 0
    assert not any(rows % between == 0 for between in range(part + 1, rows))


def test_a_layer_of_llama2_7b_saves_what_was_counted_in_unsloth() -> None:
    assert layer_bytes(replace(SEVEN, attention="flash-attn"), 1) == 109_704
    assert layer_bytes(SEVEN, 1) == layer_bytes(replace(SEVEN, attention="SDPA by document"), 1) == 117_896


def test_a_layer_of_llama2_7b_saves_half_as_much_again_in_peft() -> None:
    casts, mask = 2 * WITH_PEFT.lora_parameters // LLAMA2_7B.layers, 2
    assert layer_bytes(WITH_PEFT, 1) - casts - mask == 20 * 4096 + 8 * 11008 + 14 * 16 + 136


def test_the_parts_are_those_of_the_base() -> None:
    parts = memory_parts(SEVEN, Setup(1, 0, offload=False))
    base = parts["4-bit weights"] + parts["their quantisation constants"] + parts["embedding, head and norms"]
    assert base == pytest.approx(LLAMA2_7B.bytes_4bit, rel=1e-4)
    assert SEVEN.lora_parameters == 39_976_960
    assert parts["LoRA matrices"] == parts["LoRA gradients"] == 4 * 39_976_960
    assert parts["optimizer states"] == pytest.approx(2 * 39_976_960, rel=0.02)
    assert parts["inputs of recomputed layers"] == 32 * 2048 * 8192


def smallest(name: str, max_tokens: int, *, offload: bool = False) -> float:
    """GiB of a base's smallest layout."""
    work = replace(SEVEN, shape=BASES[name].known_shape, max_tokens=max_tokens)
    return peak_bytes(work, Setup(1, 0, offload)) / GIB


def test_the_aims_are_met_by_prediction() -> None:
    assert smallest("llama2-7b-chat", 4096) < 11.0
    assert smallest("llama2-7b-chat", 2048) < 7.0
    assert smallest("llama2-13b-chat", 4096) < 15.0
    assert smallest("llama2-70b-chat", 4096) < 80.0


def test_arithmetic_of_llama2_7b_is_as_counted_by_hand() -> None:
    kept, recomputed = Setup(1, 32, offload=False), Setup(1, 0, offload=False)
    assert flop_per_token(SEVEN, kept) / 1e9 == pytest.approx(28.5, abs=0.1)
    assert flop_per_token(SEVEN, recomputed) / 1e9 == pytest.approx(42.1, abs=0.1)
    assert limit_tokens_per_s(SEVEN, kept, find_card("t4")) == pytest.approx(2277, rel=0.01)
    assert limit_tokens_per_s(SEVEN, recomputed, find_card("h200")) == pytest.approx(23_500, rel=0.01)


@given(st.data())
def test_keeping_layers_and_larger_micro_steps_are_never_predicted_slower(data: st.DataObject) -> None:
    work, card = replace(data.draw(workloads), backend="unsloth", attention="torch varlen"), find_card("rtx-3060")
    setup = data.draw(setups(work))
    rate = predicted_tokens_per_s(work, setup, card)
    assert rate < limit_tokens_per_s(work, setup, card)
    assert predicted_tokens_per_s(work, replace(setup, micro_rows=2 * setup.micro_rows), card) > rate
    if setup.kept_layers < work.shape.layers:
        assert predicted_tokens_per_s(work, replace(setup, kept_layers=setup.kept_layers + 1), card) > rate


@given(st.data())
def test_offloading_takes_time_for_each_layer_that_is_recomputed(data: st.DataObject) -> None:
    work, card = replace(data.draw(workloads), backend="unsloth"), find_card("rtx-3060")
    setup = replace(data.draw(setups(work)), offload=False)
    rates = [predicted_tokens_per_s(work, replace(setup, offload=offload), card) for offload in (False, True)]
    recomputed = work.shape.layers - setup.kept_layers
    moved = 4 * work.shape.hidden * recomputed
    assert 1 / rates[1] - 1 / rates[0] == pytest.approx(moved / 12e9, abs=1e-12)


def chosen(free_gib: float, *settings: str, work: Workload = SEVEN) -> Plan:
    """The plan for rows of one length, or where the recipe sets max_tokens for those."""
    recipe = load_recipe(None, settings)
    if recipe.max_tokens != "auto":
        work = replace(work, max_tokens=recipe.row_tokens, batch_rows=recipe.batch_rows)
    return choose([work], recipe, find_card("rtx-3060"), round(free_gib * GIB))


@pytest.mark.parametrize("free_gib", [6.5, 7, 8, 10, 12, 16, 24, 48, 140])
def test_no_layout_that_fits_is_faster_than_the_chosen_one(free_gib: float) -> None:
    plan = chosen(free_gib)
    assert plan.peak_bytes <= free_gib * GIB
    assert plan.setup.offload == (free_gib < smallest("llama2-7b-chat", 2048))
    for rows in (1, 2, 4, 8):
        for kept in range(33):
            other = replace(plan, setup=Setup(rows, kept, plan.setup.offload))
            assert other.peak_bytes > free_gib * GIB or other.tokens_per_s <= plan.tokens_per_s


def test_what_the_recipe_fixes_is_kept_and_the_rest_chosen() -> None:
    assert chosen(24, "micro_rows=2").setup.micro_rows == 2
    assert chosen(24, "kept_layers=3").setup.kept_layers == 3
    assert chosen(24, "offload=true").setup.offload
    assert chosen(140, "kept_layers=99").setup.kept_layers == 32


def test_where_nothing_fits_the_error_says_what_would() -> None:
    with pytest.raises(FlanliteError, match=r"needs 5\.4 GiB at the least, and RTX 3060 has 5\.0 GiB for it"):
        chosen(5)


@pytest.mark.parametrize(
    ("free_gib", "settings", "hint"),
    [
        (5.2, ["max_tokens=2048"], "max_tokens=1024 or --base qwen3-4b-instruct would fit."),
        # Of rows that the plan may choose, the shortest have been tried.
        (5, [], "--base qwen3-4b-instruct would fit."),
        (8, ["kept_layers=32"], "It fits if kept_layers is left to the plan."),
        (7, ["kept_layers=0", "micro_rows=8"], "It fits if micro_rows is left to the plan."),
        (7, ["kept_layers=32", "micro_rows=8"], "It fits if micro_rows, kept_layers are left to the plan."),
        (3, ["max_tokens=1024"], "--base qwen2.5-1.5b-instruct would fit."),
        (3, ["kept_layers=28", "max_tokens=1024"], "--base llama3.2-1b-instruct would fit."),
        (0.5, ["max_tokens=2048"], "It takes a card with more memory."),
    ],
)
def test_the_hint_names_what_fits_with_all_else_as_the_recipe_has_it(
    free_gib: float, settings: list[str], hint: str
) -> None:
    with pytest.raises(FlanliteError) as caught:
        chosen(free_gib, *settings)
    assert caught.value.hint == hint


SEVEN_ON_CARDS = {
    "rtx-2060": 1024, "rtx-3070": 4096, "rtx-4060": 4096, "rtx-3060": 4096, "t4": 4096, "rtx-3090": 4096,
    "rtx-4090": 4096, "h200": 4096,
}  # fmt: skip


@pytest.mark.parametrize(("card", "tokens"), SEVEN_ON_CARDS.items())
def test_rows_are_as_long_as_the_card_has_room_for(card: str, tokens: int) -> None:
    plan, _ = make_plan(load_recipe("agent-flan"), card)
    assert plan.work.max_tokens == tokens
    assert plan.work.max_tokens * plan.work.batch_rows == Recipe().batch_tokens
    assert plan.peak_bytes <= plan.free_bytes
    assert not plan.setup.offload
    assert Recipe().with_rows_of(tokens).with_setup(plan.setup).setup == plan.setup


def test_offloading_comes_in_only_where_not_even_the_shortest_rows_fit_without() -> None:
    shortest = smallest("llama2-7b-chat", 1024)
    for spare_gib, offload in ((0.01, False), (-0.01, True)):
        plan, _ = make_plan(load_recipe(None, []), vram_gib=(shortest + spare_gib) / (1 - DESKTOP_SHARE))
        assert plan.setup.offload == offload
        assert plan.work.max_tokens >= 1024
    enough = (smallest("llama2-7b-chat", 2048, offload=True) + 0.01) / (1 - DESKTOP_SHARE)
    assert make_plan(load_recipe(None, ["offload=true"]), vram_gib=enough)[0].work.max_tokens == 2048


@pytest.mark.parametrize(
    ("settings", "context", "lengths"),
    [
        ([], None, [4096, 2048, 1024]),
        ([], 131_072, [4096, 2048, 1024]),
        ([], 2048, [2048, 1024]),
        ([], 512, [512]),
        (["batch_tokens=3000"], 4096, [3000, 1500]),
        (["max_tokens=300"], 4096, [300]),
        (["micro_rows=8"], 4096, [2048, 1024]),
        (["micro_rows=5"], 4096, [4096]),
    ],
)
def test_rows_are_halved_down_to_the_length_of_most_conversations(
    settings: list[str], context: int | None, lengths: list[int]
) -> None:
    assert row_lengths(load_recipe(None, settings), context) == lengths


def test_unsloth_offloads_nothing_in_short_rows() -> None:
    short = replace(SEVEN, max_tokens=511)
    assert not chosen(24, "offload=true", work=short).setup.offload
    assert chosen(24, "offload=true", work=replace(short, max_tokens=512)).setup.offload
    assert chosen(24, "offload=true", work=replace(short, backend="peft")).setup.offload
    assert least_bytes(short) == peak_bytes(short, Setup(1, 0, offload=False))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "RTX 4090") for name in ("rtx-4090", "RTX 4090", "4090", "NVIDIA GeForce RTX 4090", "rtx4090")),
        *((name, "RTX 4090 D") for name in ("rtx-4090-d", "RTX 4090D")),
        ("rtx-3060-12gb", "RTX 3060"),
        ("rtx-3060-8gb", "RTX 3060 8GB"),
        ("RTX 3080 10GB", "RTX 3080"),
        ("rtx 4060 ti 8gb", "RTX 4060 Ti"),
        ("rtx 4060 ti 16 GB", "RTX 4060 Ti 16GB"),
        ("RTX 3050 6GB", "RTX 3050 6GB"),
        ("a100-40gb", "A100"),
        ("A100 80 GiB", "A100 80GB"),
        ("t4 16gb", "T4"),
    ],
)
def test_a_card_is_found_however_it_is_spelt(name: str, expected: str) -> None:
    assert find_card(name).name == expected


def test_every_card_is_found_by_its_option_and_an_unknown_one_names_the_nearest() -> None:
    assert [find_card(option(card)) for card in CARDS] == list(CARDS)
    with pytest.raises(FlanliteError, match="no card '4091'") as caught:
        find_card("4091")
    assert caught.value.hint.startswith("The nearest by name: rtx-4090, rtx-4090-d, ")
    assert caught.value.hint.endswith("For any other card, give its memory: --vram 12.")


@pytest.mark.parametrize("name", ["rtx 5090 d", "rtx-4090-laptop", "a10g", "rtx 4090 48gb", "12gb", "a card"])
def test_no_card_is_taken_for_another(name: str) -> None:
    with pytest.raises(FlanliteError, match="There is no card") as caught:
        find_card(name)
    assert ("--vram 48" in caught.value.hint) == ("48gb" in name)
    assert caught.value.hint.count("-") < 12 or caught.value.hint.startswith("Known: rtx-2060, ")


@pytest.mark.parametrize(
    ("name", "gib", "expected"),
    [
        ("NVIDIA GeForce RTX 4060 Ti", 15.6, 44.1),
        ("NVIDIA GeForce RTX 4060", 7.8, 30.2),
        ("NVIDIA GeForce RTX 3080", 9.8, 59.5),
        ("NVIDIA GeForce RTX 3080", 11.8, 61.3),
        ("NVIDIA GeForce RTX 3050", 5.8, 13.5),
        ("NVIDIA GeForce RTX 4090 D", 23.6, 147.1),
        ("NVIDIA GeForce RTX 5090 D", 31.8, 40),
        ("Tesla T4", 14.6, 65),
        ("NVIDIA A10", 22, 125),
        ("NVIDIA A100-SXM4-80GB", 79.2, 312),
        ("NVIDIA H100 80GB HBM3", 79.1, 989),
        ("NVIDIA H100 PCIe", 79.1, 756),
        ("NVIDIA A10G", 22, 40),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.6, 40),
    ],
)
def test_a_real_card_has_its_own_memory_and_the_speed_of_its_like(name: str, gib: float, expected: float) -> None:
    card = card_like(name, round(gib * GIB), (8, 6))
    assert (card.name, card.memory_bytes, card.tflops) == (name, round(gib * GIB), expected)
    assert card.is_known == (expected != 40)


@pytest.mark.parametrize(
    ("backend", "capability", "installed", "torch", "expected"),
    [
        ("unsloth", (8, 9), {"flash_attn", "xformers"}, "2.13.0+cu130", "flash-attn"),
        ("unsloth", (8, 9), {"xformers"}, "2.13.0+cu130", "torch varlen"),
        ("unsloth", (9, 0), {"xformers"}, "2.11.0", "xformers"),
        ("unsloth", (9, 0), set(), "2.11.0", "SDPA by document"),
        ("unsloth", (7, 5), {"flash_attn", "xformers"}, "2.13.0", "xformers"),
        ("unsloth", (7, 5), set(), "2.13.0", "SDPA by document"),
        ("peft", (9, 0), {"flash_attn", "xformers"}, "2.13.0", "SDPA with a mask"),
    ],
)
def test_the_attention_kernel_follows_card_and_packages(
    backend: str, capability: tuple[int, int], installed: set[str], torch: str, expected: str
) -> None:
    assert attention_kernel(backend, capability, installed, torch) == expected


def a_card(free_gib: float) -> Machine:
    return Machine("cuda", "NVIDIA L4", "peft", "bfloat16", (8, 9), 22 * GIB, free_bytes=round(free_gib * GIB))


def test_the_plan_goes_by_what_is_free_on_the_card_that_is_here() -> None:
    recipe, base = load_recipe(None, ["max_tokens=1024"]), resolve("llama2-7b-chat")
    whole, half = (stage.plan_here(recipe, base, a_card(gib)) for gib in (22, 8))
    assert whole is not None
    assert half is not None
    assert half.peak_bytes <= 8 * GIB < whole.peak_bytes <= 22 * GIB
    assert stage.plan_line(half).startswith("Plan: ")
    assert "attention: SDPA with a mask" in stage.plan_line(half)
    with pytest.raises(FlanliteError, match=r"NVIDIA L4 has 3\.0 GiB for it"):
        stage.plan_here(recipe, base, a_card(3))


def test_without_card_or_shape_there_is_a_layout_and_no_plan() -> None:
    cpu, unknown = Machine("cpu", "CPU", "peft", "float32"), Base("x", repo="some/model")
    tiny, large = resolve("tiny"), resolve("qwen2.5-0.5b-instruct")
    assert stage.plan_here(Recipe(), tiny, cpu) is None
    assert stage.plan_here(Recipe(), unknown, a_card(22)) is None
    assert stage.setup_without_plan(Recipe(), tiny, cpu) == Setup(1, tiny.known_shape.layers, offload=False)
    assert stage.setup_without_plan(Recipe(), large, cpu) == Setup(1, 0, offload=False)
    assert stage.setup_without_plan(Recipe(), unknown, a_card(22)) == Setup(1, 0, offload=False)
    assert stage.setup_without_plan(Recipe(micro_rows=4), unknown, a_card(22)) == Setup(4, 0, offload=False)


@pytest.mark.parametrize(
    ("name", "mib", "words"),
    [("NVIDIA GeForce RTX 3060", 8192, "--gpu rtx-3060-8gb"), ("NVIDIA GB10", "[N/A]", "--vram 12")],
)
def test_a_card_that_torch_cannot_use_is_named_to_be_planned_for(
    name: str, mib: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{name}, 560.35, {mib}, {mib}, 8.6'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    seen = Machine("cpu", "CPU", "peft", "float32", unused_card=f"There is an {name}, but.", mend="Mend it.")
    monkeypatch.setattr(stage, "choose_machine", lambda recipe: seen)
    with pytest.raises(FlanliteError) as refused:
        make_plan(Recipe())
    assert refused.value.message == f"There is an {name}, but."
    assert refused.value.hint.splitlines() == [f"To plan for it all the same: {words}", "Mend it."]


def test_a_prediction_has_no_more_digits_than_it_is_worth() -> None:
    recipe = load_recipe("tiny")
    made, _ = make_plan(recipe, "rtx-4070")
    rate, time = stage.speed_lines(made, recipe, 600_000)
    assert re.match(r"About \d,?\d00,000 tokens/s", rate)
    assert time == "600,000 tokens, epochs=1, take less than a minute."


def test_a_desktop_takes_no_more_of_a_large_card() -> None:
    small, large = (stage.machine_for(Recipe(), name, None)[0] for name in ("rtx-3060", "h200"))
    assert small.memory_bytes - small.free_bytes == round(0.04 * small.memory_bytes)
    assert large.memory_bytes - large.free_bytes == GIB


def test_a_card_that_is_given_by_its_memory_has_as_much_for_a_tune_as_one_of_that_size() -> None:
    named, given = stage.machine_for(Recipe(), "rtx-4070", None)[0], stage.machine_for(Recipe(), None, 12)[0]
    assert given.free_bytes == named.free_bytes < named.memory_bytes == 12 * GIB


def test_the_smallest_card_is_one_figure_for_tune_plan_and_doctor() -> None:
    base = resolve("llama2-7b-chat")
    gib = least_card_gib(Recipe(), base)
    with pytest.raises(FlanliteError, match=f"needs an NVIDIA card with {gib} G"):
        stage.check_without_card(Recipe(), base, base.parameters, Machine("cpu", "CPU", "peft", "float32"))
    assert f"needs an NVIDIA card with {gib} GiB or more" in doctor.cuda_check([], doctor.Torch("2.13.0")).detail
    assert make_plan(Recipe(), vram_gib=gib)[0].peak_bytes <= gib * GIB
    with pytest.raises(FlanliteError, match="at the least"):
        make_plan(Recipe(), vram_gib=gib - 1)
    # As the README says.
    assert gib <= 8


def test_other_processes_the_desktop_and_a_cap_count_as_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    figures = {"memory_reserved": 3 * GIB, "memory_allocated": GIB, "mem_get_info": (10 * GIB, 24 * GIB)}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda.memory, "get_per_process_memory_fraction", lambda: 1.0)
    assert device.free_card_bytes(24 * GIB) == 12 * GIB + device.FIRST_CONTEXT_BYTES
    monkeypatch.setattr(torch.cuda.memory, "get_per_process_memory_fraction", lambda: 0.25)
    assert device.free_card_bytes(24 * GIB) == 5 * GIB + device.CUDA_CONTEXT_BYTES


def test_the_least_memory_is_that_of_the_smallest_layout() -> None:
    assert least_bytes(SEVEN) == peak_bytes(SEVEN, Setup(1, 0, offload=True))
    assert least_bytes(SEVEN, Recipe(offload=False)) == peak_bytes(SEVEN, Setup(1, 0, offload=False))


@given(free_gib=st.floats(6.5, 140))
def test_the_bar_is_80_columns_and_never_more_full_than_the_card(free_gib: float) -> None:
    bar = stage.bar(chosen(free_gib))
    assert len(bar) == 80
    assert bar[0] == "█"


def flanlite(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # A socket would be a request: with a base of the table there is none.
    code = "import socket; socket.socket.connect = None; from flanlite.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environment)


def test_the_command_plans_for_a_named_card_without_a_request() -> None:
    done = flanlite("plan", "--base", "llama2-7b-chat", "--gpu", "rtx-4090", "--tokens", "1000000", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["peak_bytes"] == sum(plan["parts"].values()) <= plan["free_bytes"]
    assert plan["attention"] in ("flash-attn", "torch varlen", "xformers")
    assert plan["hours"] == pytest.approx(1e6 / plan["tokens_per_s"] / 3600, rel=0.01)
    assert (plan["max_tokens"], plan["batch_tokens"], plan["batch_rows"]) == (4096, 16_384, 4)
    assert plan["optimizer"] == "adamw_8bit"


@pytest.mark.parametrize(
    ("arguments", "hours"),
    [(["--gpu", "t4"], 3.0), (["--gpu", "t4", "budget=90m", "epochs=2"], 1.5), (["agent-flan", "--gpu", "t4"], None)],
)
def test_a_budget_tells_the_tokens_that_it_has_time_for(arguments: list[str], hours: float | None) -> None:
    plan = json.loads(flanlite("plan", *arguments, "--json").stdout)
    assert plan["hours"] == hours
    epochs = 2 if "epochs=2" in arguments else 1
    expected = None if hours is None else pytest.approx(hours * 3600 * plan["tokens_per_s"] / epochs, rel=0.001)
    assert plan["tokens"] == expected


def test_the_tokens_of_data_are_counted_as_a_tune_would_convert_and_mix_them(tmp_path: Path) -> None:
    for name, count in (("mine", 3), ("chat", 40)):
        turns = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes, it is."}]
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * count)
    cache = {"FLANLITE_CACHE": str(tmp_path / "cache")}
    asked = ["plan", "--base", "tiny", "--gpu", "t4", "--data", str(tmp_path / "mine.jsonl"), "--json"]
    alone = json.loads(flanlite(*asked, **cache).stdout)
    mixed = flanlite(*asked, "--general", str(tmp_path / "chat.jsonl"), **cache)
    # As many trained tokens of the other, which are as long.
    assert json.loads(mixed.stdout)["tokens"] == 2 * alone["tokens"] > 0
    assert re.search(r"chat +3 +40 ", mixed.stderr)


def test_the_command_shows_a_table_a_bar_and_sentences() -> None:
    done = flanlite("plan", "--vram", "12", "max_tokens=1024")
    assert done.returncode == 0, done.stderr
    for words in ("4-bit weights", "peak, predicted", "█ weights", "Chosen: ", "name it with --gpu", "GB to download"):
        assert words in done.stdout
    assert re.search(r"batch size \d+, gradient accumulation \d+", done.stdout)


def test_the_command_fails_where_nothing_fits() -> None:
    done = flanlite("plan", "--base", "llama2-70b-chat", "--gpu", "rtx-3060")
    assert done.returncode == 1
    assert "at the least, and RTX 3060 has 11.5 GiB for it" in done.stderr


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys, flanlite.planning.choose; print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_shape_that_is_made_up_plans_too() -> None:
    shape = Shape(layers=1, hidden=64, intermediate=128, heads=2, kv_heads=1, vocab=100)
    assert chosen(2, work=replace(SEVEN, shape=shape)).setup == Setup(8, 1, offload=False)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        (Setup(2, 8, False), "2 rows of 512 tokens at once, 4 times a step, 8 of 32 layers keep their activations"),
        (
            Setup(8, 0, True),
            "8 rows of 512 tokens at once, none of 32 layers keep their activations, the inputs of the others wait in "
            "the computer's memory",
        ),
        (Setup(1, 40, False), "1 row of 512 tokens at once, 8 times a step, all of 32 layers keep their activations"),
    ],
)
def test_a_setup_is_put_into_words(setup: Setup, words: str) -> None:
    assert in_words(setup, 32, 512, 8) == words


def on_a_card(free_gib: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an RTX 3060 were here, with so much of it free."""
    card = find_card("rtx-3060")
    machine = Machine(
        "cuda", card.name, "unsloth", "bfloat16", card.capability, card.memory_bytes, free_bytes=round(free_gib * GIB)
    )
    monkeypatch.setattr("flanlite.tune.choose_machine", lambda recipe: machine)


def test_a_resume_keeps_the_layout_it_stopped_with_though_more_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(11.5, monkeypatch)
    recipe, last = Recipe(), Setup(1, 4, False)
    assert decide(recipe).recipe.kept_layers > 4
    decision = decide(recipe.with_open_setup(), last)
    assert decision.recipe.setup == last
    assert decision.plan is not None
    assert decision.plan.setup == last


def test_a_resume_where_less_memory_is_free_is_planned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(11.5, monkeypatch)
    before = decide(Recipe()).recipe
    on_a_card(9.5, monkeypatch)
    after = decide(before.with_open_setup(), before.setup).recipe
    assert 0 < after.kept_layers < before.kept_layers


def test_what_a_resume_is_told_counts_more_than_what_it_stopped_with(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(11.5, monkeypatch)
    recipe = load_recipe(None, ["kept_layers=2"], None, Recipe().with_open_setup())
    assert decide(recipe, Setup(1, 4, True)).recipe.setup == Setup(1, 2, True)


def test_a_resume_keeps_the_length_of_its_rows_on_any_card(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(11.5, monkeypatch)
    before = decide(Recipe()).recipe
    assert before.max_tokens == 4096
    on_a_card(6, monkeypatch)
    assert decide(Recipe()).recipe.max_tokens == 2048
    assert decide(before.with_open_setup()).recipe.max_tokens == 4096


def test_rows_are_no_longer_than_the_base_reads_and_shorter_without_a_card() -> None:
    tiny = load_recipe(None, ["base=tiny"])
    assert decide(tiny).recipe.max_tokens == make_plan(tiny, "t4")[0].work.max_tokens == 1024
    assert decide(load_recipe(None, ["base=qwen2.5-0.5b-instruct"])).recipe.max_tokens == 2048


def test_a_run_keeps_the_optimizer_that_was_chosen_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide(load_recipe("tiny")).recipe.optimizer == "adamw_torch"
    on_a_card(11.5, monkeypatch)
    decision = decide(Recipe())
    assert decision.plan is not None
    assert decision.recipe.optimizer == decision.plan.work.optimizer == "adamw_8bit"
    assert decide(Recipe(optimizer="adamw_torch_fused")).recipe.optimizer == "adamw_torch_fused"


def test_a_paged_optimizer_without_a_card_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(FlanliteError, match="optimizer=paged_adamw_8bit moves its states off a card"):
        decide(load_recipe("tiny", ["optimizer=paged_adamw_8bit"]))


def test_rows_longer_than_the_base_reads_are_refused() -> None:
    with pytest.raises(FlanliteError, match="reads 4,096 tokens"):
        make_plan(load_recipe(None, ["max_tokens=8192"]), gpu="h200")


def test_float32_is_never_planned_for_unsloth() -> None:
    made, _ = make_plan(load_recipe(None, ["dtype=float32", "max_tokens=512"]), gpu="h200")
    assert made.work.backend == "peft"
    with pytest.raises(FlanliteError, match="float32"):
        load_recipe(None, ["backend=unsloth", "dtype=float32"])


@pytest.mark.parametrize("name", ["NVIDIA H200 MIG 1g.18gb", "NVIDIA GeForce RTX 2080 with Max-Q Design", "H100 NVL"])
def test_a_part_or_a_slower_kin_of_a_card_is_not_taken_for_it(name: str) -> None:
    assert not card_like(name, 8 * GIB, (9, 0)).is_known


def test_settings_that_fit_each_other_may_come_in_any_order() -> None:
    pairs = ["micro_rows=3", "batch_tokens=6144", "max_tokens=1024"]
    assert load_recipe(None, pairs) == load_recipe(None, pairs[::-1])


def finished(folder: Path, setup: Setup, **measured: object) -> Run:
    """A run planned with two kept layers, as it is when a tune has ended with this setup."""
    figures = {"steps": 9, "seconds": 60.0, "first_loss": 2.0, "last_loss": 1.0, "validation_loss": None}
    figures |= {"tokens_per_second": 100.0, "peak_memory_bytes": 7 * GIB, "setup": asdict(setup)}
    run = Run(folder)
    run.recipe_file.write_text(Recipe(max_tokens=2048).with_setup(Setup(1, 2, offload=False)).as_yaml())
    run.record_file.write_text(json.dumps({"planned_peak_bytes": 8 * GIB, "measured": figures | measured}))
    return run


def test_a_finished_tune_tells_its_memory_beside_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_finished(finished(tmp_path, Setup(1, 2, offload=False), peak_memory_of="card"))
    said = capsys.readouterr().out
    assert "Memory of the card at the peak: 7.6 GiB, with 0.6 assumed for CUDA itself; the plan said 8.0." in said
    assert all(f"flanlite {next_step} {tmp_path}" in said for next_step in ("chat", "eval", "merge"))


@pytest.mark.parametrize(("kept", "of"), [(2, "process"), (1, "card")])
def test_memory_of_a_process_or_of_another_setup_is_not_set_beside_the_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: int, of: str
) -> None:
    show_finished(finished(tmp_path, Setup(1, kept, offload=False), peak_memory_of=of))
    assert "the plan said" not in capsys.readouterr().out


@given(st.integers(1024, 100_000), st.sampled_from([None, 2048, 3000, 4096, 32_768]))
def test_open_lengths_lose_less_than_a_row_has_of_a_steps_tokens(batch_tokens: int, context: int | None) -> None:
    recipe = Recipe(batch_tokens=batch_tokens)
    for tokens in row_lengths(recipe, context):
        rows = recipe.with_rows_of(tokens).batch_rows
        assert batch_tokens - rows < rows * tokens <= batch_tokens
        assert tokens <= min(4096, context or 4096)
