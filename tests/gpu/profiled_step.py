"""What one optimizer step does on the card: `python profiled_step.py BASE FOLDER [key=value ...]`.

It leaves `outcome.json` in the folder: the calls that waited for the card, the step's microseconds, those in which the
card was busy, the kernels with theirs, the operations of attention, and the matrix products in float32.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from random_llama import dataset, make_rows
from small_tune import small_recipe
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from flanlite.engine.device import choose_machine
from flanlite.engine.load import load_model
from flanlite.planning.attention import attention_here
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.run import Run

WARM_UP = 3
"""Steps before the one that is looked at: kernels are compiled in the first."""

WAITING = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::mv", "aten::addmv")
ATTENTION = ("attention", "attn", "xformers", "flash_fwd")
WINDOW = "the step that is looked at"


class _Watch:
    """Profiles one step of a training."""

    def __init__(self) -> None:
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self.profiler = profile(activities=activities, record_shapes=True, acc_events=True)
        self.window = record_function(WINDOW)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            self.profiler.__enter__()
            self.window.__enter__()
        if state.global_step == WARM_UP + 1:
            self.window.__exit__(None, None, None)
            self.profiler.__exit__(None, None, None)

    def found(self) -> dict[str, Any]:
        raw: Any = self.profiler.profiler
        types = {event.correlation_id(): event.dtypes() for event in raw.kineto_results.events() if event.dtypes()}
        events = [event for event in self.profiler.events() if not event.is_user_annotation or event.name == WINDOW]
        called = [event for event in events if event.device_type == DeviceType.CPU]
        window = next(event.time_range for event in called if event.name == WINDOW)
        kernels: Counter[str] = Counter()
        on_card = [event for event in events if event.device_type == DeviceType.CUDA and event.name != WINDOW]
        for event in on_card:
            kernels[event.name] += event.time_range.elapsed_us()
        return {
            "step_us": window.elapsed_us(),
            "busy_us": _covered((event.time_range.start, event.time_range.end) for event in on_card),
            "waits": Counter(
                event.name
                for event in called
                if event.name in WAITING and window.start <= event.time_range.start <= window.end
            ),
            "kernels": kernels,
            "operations": sorted({event.name for event in called if any(word in event.name for word in ATTENTION)}),
            "products": sorted(
                {
                    f"{event.name} {event.input_shapes} {types[event.id]}"
                    for event in called
                    if event.name in PRODUCTS and _is_in_float32(event.input_shapes, types.get(event.id, []))
                }
            ),
        }


def _is_in_float32(shapes: list[list[int]], types: list[str]) -> bool:
    """Whether a product's left matrix is float32; the outer product for positions does not count."""
    matrices = [(shape, name) for shape, name in zip(shapes, types, strict=False) if len(shape) > 1]
    return any(name == "float" and shape[-1] > 1 for shape, name in matrices[-2:][:1])


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the spans lasted."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def main(base: str, folder: str, *settings: str) -> None:
    torch.set_num_threads(1)
    recipe = small_recipe(Path(base), *settings)
    machine, run = choose_machine(recipe), Run(Path(folder) / "run")
    run.checkpoints_dir.mkdir(parents=True)
    model = load_model(Path(base), recipe, machine)
    # Not before: unsloth, which load_model imports, replaces what these bind.
    from transformers import TrainerCallback

    from flanlite.engine.train import build_trainer

    class Watch(_Watch, TrainerCallback):
        pass

    watch = Watch()
    rows = dataset(make_rows(400, longest=200))
    trainer = build_trainer(model, rows, None, recipe, run, Tokenizer.load(Path(base)), machine)
    trainer.args.max_steps = WARM_UP + 3
    trainer.add_callback(watch)
    trainer.train()
    capability = machine.capability or (0, 0)
    found = watch.found() | {"attention": attention_here(machine.backend, capability), "dtype": machine.dtype}
    (Path(folder) / "outcome.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
