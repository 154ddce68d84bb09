"""What one optimizer step does on the card: `python profiled_step.py BASE FOLDER [key=value ...]`.

It leaves `outcome.json` in the folder: the calls that waited for the card, the kernels with their microseconds, the
operations of attention, and the matrix products in float32.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
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
        events = [event for event in self.profiler.events() if not event.is_user_annotation or event.name == WINDOW]
        called = [event for event in events if event.device_type == DeviceType.CPU]
        window = next(event.time_range for event in called if event.name == WINDOW)
        kernels: Counter[str] = Counter()
        for event in events:
            if event.device_type == DeviceType.CUDA and event.name != WINDOW:
                kernels[event.name] += event.time_range.elapsed_us()
        return {
            "waits": Counter(
                event.name
                for event in called
                if event.name in WAITING and window.start <= event.time_range.start <= window.end
            ),
            "kernels": kernels,
            "operations": sorted({event.name for event in called if any(word in event.name for word in ATTENTION)}),
            "products": sorted({_in_words(event) for event in called if _is_float32_product(event)}),
        }


def _is_float32_product(event: Any) -> bool:
    """Whether it is a matrix product of float32; the outer product that gives the angles of positions is none."""
    if event.name not in PRODUCTS:
        return False
    matrices = [index for index, shape in enumerate(event.input_shapes) if len(shape) > 1]
    left = matrices[-2:][0]
    return event.input_dtypes[left] == "float" and event.input_shapes[left][-1] > 1


def _in_words(event: Any) -> str:
    return f"{event.name} {event.input_shapes} {event.input_dtypes}"


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
