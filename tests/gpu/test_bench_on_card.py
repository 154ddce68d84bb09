"""The benchmark on a card: every variant trains there from the same loss, and a cap acts as a smaller card."""

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
from flanlite.planning.cards import GIB

SHAPE = Shape(layers=4, hidden=1024, intermediate=2816, heads=16, kv_heads=16, vocab=32_000)

CAP_GIB = 8

needs_unsloth = pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs unsloth")


@pytest.mark.parametrize(
    "variants",
    [
        ("flanlite", "peft", "peft-packed"),
        pytest.param(("flanlite", "unsloth-defaults", "unsloth-auto"), marks=needs_unsloth),
    ],
    ids=["peft", "unsloth"],
)
def test_variants_begin_at_the_same_loss_and_stay_below_a_cap(tmp_path: Path, variants: tuple[str, ...]) -> None:
    order = stage.Order(
        str(small_base(tmp_path / "base", SHAPE)),
        max_tokens=1024,
        batch_tokens=4096,
        vram_gib=CAP_GIB,
        variants=variants,
        timing=Timing(2, 3, 0.0),
    )
    results = stage.bench(order, tmp_path / "out")
    best = [results.best(variant) for variant in variants]
    measured = [entry.measured for entry in best if entry and entry.measured]
    assert len(measured) == len(variants), as_json(results)
    for figures in measured:
        assert figures.loss_difference(measured[0]) <= LOSS_TOLERANCE
    for figures in measured:
        assert figures.allocated_bytes is not None
        assert figures.reserved_bytes is not None
        assert figures.allocated_bytes <= figures.reserved_bytes <= CAP_GIB * GIB
    assert results.about["memory_bytes"] > CAP_GIB * GIB
