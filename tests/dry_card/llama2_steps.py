"""Steps of Llama-2-7B's true shape, for the dry card, and what they took.

`python llama2_steps.py write FOLDER` makes a base with random weights, in 4 bits, in a process of its own, since that
needs transformers and unsloth wants to come before it. `python llama2_steps.py train FOLDER MAX_TOKENS` trains it and
leaves `outcome.json` in the folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from planned_step import Case, llama, measure

from flanlite.benchmark.random_base import write_random_base
from flanlite.planning.setup import Setup

LLAMA2_7B = llama(32, 4096, 11008, 32, 32, 32_000, max_position_embeddings=4096)


def main(task: str, folder: str, *max_tokens: str) -> None:
    torch.set_num_threads(1)
    if task == "write":
        write_random_base(Path(folder) / "base", LLAMA2_7B, "cuda", "bfloat16", seed=0)
    else:
        case = Case(Setup(1, 0, False), int(*max_tokens), LLAMA2_7B)
        outcome = measure(case, Path(folder), "unsloth")
        (Path(folder) / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
