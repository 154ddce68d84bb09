"""The benchmark on a card: every variant trains there from the same losses, and a cap acts as a smaller card."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from bench_base import small_base

from flanlite import bench as stage
from flanlite.bases import Shape
from flanlite.benchmark.results import LOSS_TOLERANCE
from flanlite.benchmark.table import as_json
from flanlite.benchmark.trial import Timing
from flanlite.plan import make_plan
from flanlite.planning.cards import GIB
from flanlite.planning.choose import least_bytes
from flanlite.planning.memory import CUDA_CONTEXT_BYTES
from flanlite.recipe import Recipe

SHAPE = Shape(layers=4, hidden=1024, intermediate=2816, heads=16, kv_heads=16, vocab=32_000)

MAX_TOKENS, BATCH_TOKENS = 1024, 4096

HAS_UNSLOTH = importlib.util.find_spec("unsloth") is not None


def order_for(base: Path, *variants: str, vram_gib: float | None = None) -> stage.Order:
    return stage.Order(
        str(base),
        max_tokens=MAX_TOKENS,
        batch_tokens=BATCH_TOKENS,
        vram_gib=vram_gib,
        variants=variants,
        timing=Timing(2, 3, 0.0),
    )


@pytest.mark.parametrize(
    "variants",
    [
        ("flanlite", "peft", "peft-packed"),
        pytest.param(
            ("flanlite", "unsloth-defaults", "unsloth-auto"),
            marks=pytest.mark.skipif(not HAS_UNSLOTH, reason="needs unsloth"),
        ),
    ],
    ids=["peft", "unsloth"],
)
def test_variants_begin_at_the_same_losses(tmp_path: Path, variants: tuple[str, ...]) -> None:
    results = stage.bench(order_for(small_base(tmp_path / "base", SHAPE), *variants), tmp_path / "out")
    best = [results.best(variant) for variant in variants]
    measured = [entry.measured for entry in best if entry and entry.measured]
    assert len(measured) == len(variants), as_json(results)
    for figures in measured:
        assert figures.loss_difference(measured[0]) <= LOSS_TOLERANCE
        assert figures.allocated_bytes is not None
        assert figures.reserved_bytes is not None
        assert figures.allocated_bytes <= figures.reserved_bytes


def test_flanlite_keeps_fewer_layers_under_a_cap_and_stays_below_it(tmp_path: Path) -> None:
    base = small_base(tmp_path / "base", SHAPE)
    backend = "unsloth" if HAS_UNSLOTH else "peft"
    recipe = Recipe(base=str(base), max_tokens=MAX_TOKENS, batch_tokens=BATCH_TOKENS, backend=backend)
    whole, _ = make_plan(recipe, vram_gib=80)
    assert whole.setup.kept_layers == SHAPE.layers
    cap_gib = (least_bytes(whole.work) + whole.peak_bytes) / 2 / GIB
    results = stage.bench(order_for(base, "flanlite", vram_gib=cap_gib), tmp_path / "out")
    [entry] = results.entries
    assert entry.measured is not None, as_json(results)
    settings, reserved = entry.measured.settings, entry.measured.reserved_bytes
    assert not entry.note, "the plan's layout ran out of memory"
    assert (settings["micro_rows"], settings["kept_layers"]) != (whole.setup.micro_rows, whole.setup.kept_layers)
    assert reserved is not None
    assert reserved + CUDA_CONTEXT_BYTES <= settings["planned_peak_bytes"] <= cap_gib * GIB
