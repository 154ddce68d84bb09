"""The plan's bytes against what torch's own allocator gives out, on a card that does no arithmetic.

It needs torch's CUDA build, which PyPI has for Linux, and a C compiler; tests/gpu does the same on a real card.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dry_card import dry_card
from gpu.planned_step import CASES
from gpu.scenarios import BACKENDS, HAS_UNSLOTH, HERE, TESTS, Child
from random_llama import write_base

from flanlite.run import Run

pytestmark = pytest.mark.skipif(bool(dry_card.obstacle()), reason=dry_card.obstacle())

AT_ONCE = min(4, os.cpu_count() or 1)
"""Processes: each keeps a core busy, and has its weights in memory."""

MOST_TOO_MUCH = {"unsloth": 0.04, "peft": 0.07}
"""How much more than torch holds the parts without context and margin are: the worst of the cases, rounded up."""

LLAMA2_LENGTHS = (2048, 4096)
LLAMA2_DEVIATION = 0.01

LAYERS = 8
WHOLE_ROW = ("max_tokens=2048", "batch_tokens=2048", "micro_rows=1", "epochs=2", f"kept_layers={LAYERS}")

CAP = 0.75
"""Of what the layers take that are all kept; less than half of it would do for none."""

SEGMENT_BYTES = 20 * 2**20
"""In such pieces torch takes memory, and it looks at a cap before it rounds up to them."""


def on_base_of(folder: Path, name: str) -> Path:
    """A folder of its own for a training on the folder's base."""
    (folder / name).mkdir()
    (folder / name / "base").symlink_to(folder / "base")
    return folder / name


def outcome_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return found


def planned(folder: Path, case: str) -> dict[str, dict[str, Any]]:
    """What was planned and what was measured of one of planned_step's cases, by backend."""
    script, found = HERE / "planned_step.py", {}
    Child(script, "write", case, folder).finish()
    for backend in ("peft", "unsloth") if HAS_UNSLOTH else ("peft",):
        place = on_base_of(folder, backend)
        Child(script, "train", case, place, backend).finish()
        found[backend] = outcome_in(place)
    # Up to gigabytes each.
    shutil.rmtree(folder / "base")
    return found


def llama2(folder: Path) -> dict[int, dict[str, Any]]:
    """The same of all of Llama-2-7B with unsloth, by the length of its rows."""
    script, found = TESTS / "dry_card" / "llama2_steps.py", {}
    Child(script, "write", folder).finish()
    for max_tokens in LLAMA2_LENGTHS:
        place = on_base_of(folder, str(max_tokens))
        Child(script, "train", place, str(max_tokens)).finish()
        found[max_tokens] = outcome_in(place)
    shutil.rmtree(folder / "base")
    return found


def capped(folder: Path, backend: str) -> tuple[int, Run, str]:
    """A cap in bytes, a run under it, and what that printed."""
    base = write_base(
        folder / "base", layers=LAYERS, width=1024, intermediate=2816, head_width=64, spread=0.02, dtype="bfloat16"
    )
    whole, small = Run(folder / "whole"), Run(folder / "small")
    script, settings = TESTS / "small_tune.py", (*WHOLE_ROW, f"backend={backend}")
    Child(script, base, whole.folder, *settings).finish()
    cap = int(CAP * whole.record["measured"]["peak_memory_bytes"])
    said = Child(script, base, small.folder, *settings, f"--cap={cap}").finish()
    return cap, small, said


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Ask for what one of the functions above found; all of them are started at once, the longest first."""
    asked: list[tuple[Any, ...]] = [(llama2,)] if HAS_UNSLOTH else []
    asked += [(planned, case) for case in CASES] + [(capped, each) for each in ("peft", "unsloth")[: 1 + HAS_UNSLOTH]]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(AT_ONCE) as pool:
        for name, value in dry_card.environment(dry_card.build(tmp_path_factory.mktemp("card"))).items():
            patch.setenv(name, value)
        started = {
            (what, *about): pool.submit(what, tmp_path_factory.mktemp(what.__name__), *about) for what, *about in asked
        }
        yield lambda *key: started[key].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_what_torch_holds_is_never_more_than_planned_and_near_the_parts(
    outcome: Callable[..., Any], backend: str, case: str
) -> None:
    found = outcome(planned, case)[backend]
    measured, predicted, most = (found[key] for key in ("measured", "predicted", "planned"))
    of_parts, of_all = (measured / each for each in (predicted, most))
    print(f"{backend}, {case}: {measured / 2**20:.0f} MiB, {of_parts:.3f} of the parts, {of_all:.3f} of all")
    assert measured <= most
    assert predicted <= (1 + MOST_TOO_MUCH[backend]) * measured


@pytest.mark.skipif(not HAS_UNSLOTH, reason="needs the unsloth package")
@pytest.mark.parametrize("max_tokens", LLAMA2_LENGTHS)
def test_all_of_llama2_takes_at_its_peak_what_the_parts_say(outcome: Callable[..., Any], max_tokens: int) -> None:
    found = outcome(llama2)[max_tokens]
    print(f"{max_tokens}: {found['allocated'] / 2**20:.1f} MiB, predicted {found['predicted'] / 2**20:.1f}")
    assert found["predicted"] == pytest.approx(found["allocated"], rel=LLAMA2_DEVIATION)
    assert found["measured"] <= found["planned"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_a_cap_a_run_goes_down_the_ladder_says_so_and_ends(outcome: Callable[..., Any], backend: str) -> None:
    cap, run, said = outcome(capped, backend)
    measured = run.record["measured"]
    assert "The card ran out of memory before step 1; goes on with " in said
    assert measured["setup"]["kept_layers"] < LAYERS
    assert measured["peak_memory_bytes"] <= cap + SEGMENT_BYTES
    assert (run.adapter_dir / "adapter_model.safetensors").is_file()
