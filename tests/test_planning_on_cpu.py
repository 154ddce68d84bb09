"""The plan's bytes against what a model that flanlite loads really holds, saves and allocates, on a CPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_llama import dataset, write_tokenizer

from flanlite.bases import resolve
from flanlite.engine.checkpointing import decoder_layers, lay_out
from flanlite.engine.device import Machine
from flanlite.engine.load import load_model
from flanlite.engine.train import build_trainer
from flanlite.planning.memory import Workload, activation_parts, memory_parts, weight_parts
from flanlite.planning.setup import Setup
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.recipe import Recipe, load_recipe
from flanlite.run import Run

LAYERS, TOKENS, RANK = 6, 256, 8

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4},
    "llama with fewer key heads": {
        "hidden_size": 192, "intermediate_size": 448, "num_attention_heads": 6, "num_key_value_heads": 2,
    },
    "qwen2": {
        "hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64,
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A CPU that computes in this type.

    peft asks torch for the autocast of cards alone, and without one makes float32 copies that it makes on no card.
    """
    asked = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": asked(device))
    return Machine("cpu", "CPU", "peft", request.param)


@pytest.fixture(scope="module", params=CONFIGS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("base")
    config = AutoConfig.for_model(
        request.param.split()[0],
        vocab_size=320,
        num_hidden_layers=LAYERS,
        max_position_embeddings=2048,
        **({"num_key_value_heads": 4, "head_dim": 32} | CONFIGS[request.param]),
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def recipe_for(base: Path, kept_layers: int, *settings: str) -> Recipe:
    step = (f"max_tokens={TOKENS}", f"batch_tokens={TOKENS}", "micro_rows=1", f"kept_layers={kept_layers}")
    return load_recipe(None, [f"base={base}", *step, f"lora_r={RANK}", "offload=false", *settings])


def workload(base: Path, machine: Machine) -> Workload:
    shape = resolve(base).known_shape
    return Workload(shape, TOKENS, 1, RANK, False, "peft", machine.dtype, "adamw_torch", "SDPA with a mask")


def autocast(machine: Machine) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16 if machine.dtype == "float32" else machine.torch_dtype,
                          enabled=machine.dtype != "float32")  # fmt: skip


def held(tensors: Iterator[torch.Tensor]) -> dict[int, int]:
    """Bytes of the tensors' storages, each once."""
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}


def weights(model: Any) -> Iterator[torch.Tensor]:
    for parameter in model.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)


def saved_bytes(model: Any, kept: int) -> int:
    """What a forward keeps for the backward: saved tensors, and the inputs of the layers that recompute."""
    ids = torch.randint(3, 300, (1, TOKENS))
    positions = torch.cat([torch.arange(TOKENS // 2)] * 2)[None]
    ours, alive = held(weights(model)), []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: alive.append(inputs[0]))
        for layer in decoder_layers(model)
        if layer.gradient_checkpointing
    ]
    assert len(hooks) == LAYERS - kept

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.get_base_model().model(input_ids=ids, position_ids=positions, use_cache=False)
    for hook in hooks:
        hook.remove()
    return sum(size for place, size in held(iter(alive)).items() if place not in ours)


def test_weights_are_predicted_to_the_byte(base: Path, machine: Machine) -> None:
    model = load_model(base, recipe_for(base, 0), machine)
    assert sum(weight_parts(workload(base, machine)).values()) == sum(held(weights(model)).values())


def test_saved_activations_are_predicted_within_two_percent(base: Path, machine: Machine) -> None:
    work = workload(base, machine)
    model = load_model(base, recipe_for(base, 0), machine).train()
    final_norm = 4 * work.shape.hidden * TOKENS
    for kept in (0, 2, LAYERS):
        lay_out(model, recipe_for(base, kept), machine)
        parts = activation_parts(work, Setup(1, kept, offload=False))
        predicted = parts["activations of kept layers"] + parts["inputs of recomputed layers"] + final_norm
        with autocast(machine):
            assert predicted == pytest.approx(saved_bytes(model, kept), rel=0.02), kept


def allocated_at_peak(step: Any) -> int:
    """The most bytes that were allocated and not yet freed while it ran."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    live = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def test_a_step_allocates_what_is_predicted_or_a_little_less(base: Path, machine: Machine, tmp_path: Path) -> None:
    recipe, run = recipe_for(base, 0), Run(tmp_path)
    run.checkpoints_dir.mkdir()
    ids = [3 + number % 256 for number in range(TOKENS // 2)]
    rows = dataset([{"input_ids": ids, "labels": ids}] * 2)
    # A trainer's own autocast would stay with the process, so it gets none here.
    plain = replace(machine, dtype="float32")
    trainer = build_trainer(load_model(base, recipe, machine), rows, None, recipe, run, Tokenizer.load(base), plain)
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 1, torch.device("cpu"))
    assert batches[0]["input_ids"].shape == (1, TOKENS)

    def step() -> None:
        with autocast(machine):
            loss = trainer.compute_loss(trainer.model, batches[0], num_items_in_batch=count)
        loss.backward()

    work = workload(base, machine)
    beside = {*weight_parts(work), "optimizer states", "buffers", "CUDA context", "margin"}
    for kept in (0, 1, LAYERS):
        lay_out(trainer.model.train(), recipe_for(base, kept), machine)
        trainer.model.zero_grad()
        parts = memory_parts(work, Setup(1, kept, offload=False))
        predicted = sum(size for name, size in parts.items() if name not in beside)
        assert 0.8 * predicted < allocated_at_peak(step) <= predicted, kept
