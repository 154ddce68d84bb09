"""unsloth's path for cards on a CPU: all of its own code, with Triton interpreting its kernels.

In a process of its own with UNSLOTH_ALLOW_CPU=1 and TRITON_INTERPRET=1:
`python unsloth_on_cpu.py micro_steps BASE OUT 1,2,false ...`, the same with `micro_steps_of_peft`, which is to be
compared with it, or `tune BASE OUT`. What only a card has is stood in for:
streams that do everything at once, one device whatever its index, ordinary memory where it would be page-locked. The
type is float16, which the interpreter computes well; bfloat16 it does not.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

CAPABILITY = (7, 5)
MEMORY_BYTES = 2**34
STEP = ("max_tokens=512", "batch_tokens=512", "micro_rows=1")
"""unsloth offloads from this length on."""


class Nothing:
    """A stream or an event of a card, with nothing to wait for."""

    cuda_stream = 0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, *_: Any) -> None: ...

    def wait_event(self, *_: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def record_event(self, *_: Any) -> Nothing:
        return self


class OneDevice(list[Any]):
    """What a list holds for each card, of which there is one; a tensor on a CPU has no index to look it up by."""

    def __init__(self, _: int, make: Any) -> None:
        super().__init__([make(None)])

    def __getitem__(self, _: Any) -> Any:
        return super().__getitem__(0)

    def __setitem__(self, _: Any, value: Any) -> None:
        super().__setitem__(0, value)


class OneCard(int):
    """The number of cards: a list times this is one for one device."""

    def __rmul__(self, values: Any) -> OneDevice:
        return OneDevice(1, lambda _: values[0])


class Symbols:
    """bitsandbytes' library with the names of its kernels for cards, which are looked up and never called."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cdequantize_blockwise", "cgemm_4bit")):
            return SimpleNamespace(restype=None)
        return getattr(self.library, name)


def stand_in_for_a_card() -> None:
    """What unsloth asks of torch and bitsandbytes, before it is imported."""
    import bitsandbytes

    cuda: Any = torch.cuda
    cuda.Stream = cuda.Event = cuda.current_stream = cuda.default_stream = Nothing
    cuda.stream = cuda.device = lambda _: contextlib.nullcontext()
    cuda.is_current_stream_capturing = lambda: False
    cuda.current_device = lambda: torch.device("cpu")
    # In a CUDA build of torch it is there, and refuses a CPU.
    torch._C._cuda_getCurrentRawStream = lambda _: 0
    cuda.mem_get_info = lambda *_: (MEMORY_BYTES, MEMORY_BYTES)
    cuda.get_device_capability = lambda *_: CAPABILITY
    properties = SimpleNamespace(name="CPU", total_memory=MEMORY_BYTES, major=CAPABILITY[0], minor=CAPABILITY[1])
    cuda.get_device_properties = lambda *_: properties
    functional: Any = bitsandbytes.functional
    functional.lib = Symbols(functional.lib)


def load_unsloth() -> None:
    """Import it, and have it patch trl's trainer, which it leaves out where it is told that there is no card."""
    stand_in_for_a_card()
    import unsloth  # noqa: F401 - before all that it patches
    from unsloth.models import llama, rl
    from unsloth.trainer import _patch_trl_trainer

    llama.DEVICE_COUNT = OneCard(1)
    rl.patch_trl_disable_gradient_checkpointing()
    # Of trl's fourteen trainers; each takes a second.
    rl._patch_trl_rl_trainers("sft_trainer")
    _patch_trl_trainer()
    offload_to_ordinary_memory()


def offload_to_ordinary_memory() -> None:
    """Let the layers whose inputs are to be offloaded do so, with inputs of any size."""
    from unsloth_zoo import gradient_checkpointing as offloading

    def with_buffers(prepare: Any) -> Any:
        def prepared(*arguments: Any, **named: Any) -> None:
            prepare(*arguments, **named)
            offloading.MINIMUM_SIZE = 0
            offloading.NEXT_BUFFER_SLOT = OneDevice(1, lambda _: 0)
            offloading.BUFFER_EVENTS_A = offloading.BUFFER_EVENTS_B = OneDevice(1, Nothing)

        return prepared

    offloading._PerDeviceSlots = OneDevice
    offloading._new_gpu_buffer = lambda _: torch.empty(1, dtype=torch.float16)
    offloading._new_extra_stream = offloading._main_stream = Nothing
    for name in ("initialize_unsloth_gradient_checkpointing", "reset_unsloth_gradient_checkpointing_buffers"):
        setattr(offloading, name, with_buffers(getattr(offloading, name)))


def tune_twice(base: Path, folder: Path) -> None:
    """A tune, and the same one with memory that runs out in its probe and in a validation."""
    import pytest
    from rich.console import Console
    from small_tune import tune
    from test_ladder import SmallCard

    from flanlite.engine.trainer import Conduct
    from flanlite.run import Run

    settings = ("max_tokens=16", "batch_tokens=16", "micro_rows=1", "epochs=2", "save_minutes=60")
    said, begin = io.StringIO(), Conduct.on_train_begin

    def probing(conduct: Any, *arguments: Any, **named: Any) -> None:
        conduct.trainer.probe(16)
        begin(conduct, *arguments, **named)

    tune(base, Run(folder / "whole"), *settings, console=Console(file=io.StringIO()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conduct, "on_train_begin", probing)
        SmallCard({"training_step": {1}, "prediction_step": {2}}).install(patch)
        tune(base, Run(folder / "small"), *settings, console=Console(file=said, width=200))
    (folder / "said.txt").write_text(said.getvalue())


def main(what: str, base: str, folder: str, *setups: str) -> None:
    torch.set_num_threads(1)
    backend = "peft" if what == "micro_steps_of_peft" else "unsloth"
    if backend == "unsloth":
        load_unsloth()
    import micro_steps
    import random_llama
    import small_tune

    from flanlite.engine.device import Machine

    machine = Machine("cpu", "CPU", backend, "float32" if backend == "peft" else "float16")
    # Every token takes the interpreter milliseconds in each layer.
    rows = random_llama.make_rows(2, seed=4, shortest=6, longest=8)
    for module in (micro_steps, small_tune):
        vars(module).update(choose_machine=lambda _: machine, make_rows=lambda *_, **__: rows)
    if what == "tune":
        tune_twice(Path(base), Path(folder))
    else:
        micro_steps.main(base, folder, "lora_dropout=0", *STEP, "--", *setups)


if __name__ == "__main__":
    main(*sys.argv[1:])
