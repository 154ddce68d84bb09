"""A few steps of one shape, and what the plan says of them.

`python planned_step.py write CASE FOLDER` makes a base with random weights, in a process of its own, since that needs
transformers and unsloth wants to come before it. `python planned_step.py train CASE FOLDER BACKEND` trains it and
leaves `outcome.json` in the folder.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from random_llama import make_rows, write_tokenizer
from rich.console import Console
from small_tune import small_recipe, tune

from flanlite.plan import make_plan
from flanlite.planning.setup import Setup
from flanlite.run import Run

STEPS = 3
SHORTEST, LONGEST = 100, 600
"""Tokens of a conversation."""


@dataclass(frozen=True)
class Case:
    """A shape, and the layout of its steps, each of two micro-steps."""

    setup: Setup
    max_tokens: int
    config: dict[str, Any] = field(hash=False)
    lora_dropout: float = 0.0


def llama(
    layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """The config.json of a base."""
    return {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 8192,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | more


CASES = {
    "wide": Case(Setup(1, 0, False), 4096, llama(2, 4096, 11008, 32, 32, 32_000)),
    "wide, grouped": Case(Setup(2, 1, False), 2048, llama(2, 4096, 14336, 32, 8, 128_256)),
    "tied": Case(Setup(2, 4, False), 4096, llama(4, 1536, 8960, 12, 2, 151_936, tie_word_embeddings=True)),
    "norms of Q and K": Case(
        Setup(4, 2, False),
        2048,
        llama(3, 2560, 9728, 32, 8, 151_936, model_type="qwen3", head_dim=128, tie_word_embeddings=True),
    ),
    "long rows, offloaded": Case(Setup(1, 0, True), 8192, llama(4, 2048, 5632, 32, 4, 32_000)),
    "narrow, some offloaded": Case(Setup(8, 2, True), 1024, llama(4, 1024, 2816, 16, 16, 32_000)),
    "dropout": Case(Setup(2, 3, False), 2048, llama(4, 2048, 5632, 16, 16, 32_000), lora_dropout=0.05),
}
"""None of them is one that the plan's constants were fitted to."""


def write_base(folder: Path, config: dict[str, Any]) -> None:
    """Random weights in bfloat16, made where they are made fastest."""
    from transformers import AutoConfig, AutoModelForCausalLM

    described = AutoConfig.for_model(**config)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(described, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    write_tokenizer(folder)


def measure(case: Case, folder: Path, backend: str) -> dict[str, Any]:
    """What was planned, and what was measured, in bytes; the plan's context is no part of it, since torch sees none."""
    base, run = folder / "base", Run(folder / "run")
    step_tokens = 2 * case.setup.micro_rows * case.max_tokens
    settings = [f"{name}={value}" for name, value in asdict(case.setup).items()]
    settings += [f"max_tokens={case.max_tokens}", f"batch_tokens={step_tokens}", f"backend={backend}", "epochs=1"]
    settings += [f"lora_dropout={case.lora_dropout}", "learning_rate=1e-4"]
    plan, _ = make_plan(small_recipe(base, *settings))
    assert plan.setup == case.setup
    count = math.ceil(STEPS * step_tokens / ((SHORTEST + LONGEST) / 2))
    tune(base, run, *settings, rows=make_rows(count, shortest=SHORTEST, longest=LONGEST), console=Console(stderr=True))
    measured = run.record["measured"]
    assert measured["setup"] == asdict(case.setup), "the plan's layout ran out of memory"
    context, margin = (plan.parts[name] for name in ("CUDA context", "margin"))
    return {
        "measured": measured["peak_memory_bytes"],
        "allocated": torch.cuda.max_memory_allocated(),
        "predicted": plan.peak_bytes - context - margin,
        "planned": plan.peak_bytes - context,
        "parts": plan.parts,
        "attention": plan.work.attention,
        "last_loss": measured["last_loss"],
    }


def main(task: str, name: str, folder: str, *backend: str) -> None:
    torch.set_num_threads(1)
    if task == "write":
        write_base(Path(folder) / "base", CASES[name].config)
    else:
        outcome = measure(CASES[name], Path(folder), *backend)
        (Path(folder) / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
