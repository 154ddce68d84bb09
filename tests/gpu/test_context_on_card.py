"""What CUDA itself takes of a card. Nothing else may run on it meanwhile."""

import json
from pathlib import Path

import pytest
import torch
from random_llama import write_base
from scenarios import BACKENDS, HERE, Child, write_down

from flanlite.planning.memory import CUDA_CONTEXT_BYTES, MARGIN_BYTES


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_context_is_about_as_large_as_a_plan_takes_it_to_be(tmp_path: Path, backend: str) -> None:
    base = write_base(tmp_path / "base", width=256, intermediate=512, head_width=64, spread=0.02, dtype="bfloat16")
    free_before, _ = torch.cuda.mem_get_info()
    child = Child(HERE / "context_size.py", base, tmp_path / "run", f"backend={backend}")
    found = json.loads(child.finish().splitlines()[-1])
    context = free_before - found["free"] - found["reserved"]
    write_down("context.jsonl", {"backend": backend, "context": context, "planned": CUDA_CONTEXT_BYTES})
    # What it takes more than planned comes out of the margin, of which half is left for all else.
    assert context <= CUDA_CONTEXT_BYTES + MARGIN_BYTES // 2
