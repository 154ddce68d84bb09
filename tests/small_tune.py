"""A whole small tune in a process of its own: `python small_tune.py BASE RUN [--resume] [--cap=...] [key=value ...]`.

With `--cap=BYTES` the process may have so many bytes of the card, as if it were a smaller one; with `--cap=BYTES@STEP`
from the end of that step on.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from random_llama import dataset, make_rows
from rich.console import Console

from flanlite.engine import train as training
from flanlite.engine.checkpoints import newest_checkpoint, read_setup
from flanlite.engine.device import choose_machine, let_segments_grow
from flanlite.engine.load import load_model
from flanlite.engine.train import Result, train
from flanlite.errors import FlanliteError
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.recipe import Recipe, load_recipe
from flanlite.run import Origins, Run, SourceCount

SETTINGS = (
    "max_tokens=128",
    "batch_tokens=512",
    "micro_rows=2",
    "epochs=3",
    "learning_rate=5e-3",
    "kept_layers=2",
    "offload=false",
    "lora_r=8",
    "lora_alpha=16",
    "lora_dropout=0.1",
)


def small_recipe(base: Path, *overrides: str) -> Recipe:
    return load_recipe(None, [f"base={base}", *SETTINGS, *overrides])


def origins(recipe: Recipe, data_hash: str = "rows-0") -> Origins:
    machine = choose_machine(recipe)
    return Origins(
        base="example/random-llama",
        data_hash=data_hash,
        template="llama2",
        template_hash="template-0",
        tokenizer_hash="tokenizer-0",
        backend=machine.backend,
        dtype=machine.dtype,
        machine=machine.line,
        sources=(SourceCount("made up", 60, 2000, 1500),),
    )


def tune(
    base: Path,
    run: Run,
    *overrides: str,
    is_resumed: bool = False,
    console: Console | None = None,
    rows: list[dict[str, list[int]]] | None = None,
) -> Result:
    """Tune on rows, or on 60 small ones."""
    recipe = small_recipe(base, *overrides)
    if is_resumed:
        checkpoint = newest_checkpoint(run.checkpoints_dir)
        last = None if checkpoint is None else read_setup(checkpoint)
        recipe = recipe.with_setup(last) if last else recipe
        run.check_resumable(recipe, origins(recipe))
    else:
        run.begin(recipe, origins(recipe))
    machine = choose_machine(recipe)
    model = load_model(base, recipe, machine)
    return train(
        model,
        dataset(rows or make_rows(60)),
        dataset(make_rows(6, seed=1)),
        recipe,
        run,
        Tokenizer.load(base),
        machine,
        base="example/random-llama",
        is_resumed=is_resumed,
        console=console,
    )


def stir(model: Any) -> None:
    """Give the B matrices values: at zero, A has no gradient."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def cap(n_bytes: int) -> None:
    """Let this process have so many bytes of the card, and give back what it holds unused."""
    # As without a cap: it is read when the card is opened, which happens here.
    let_segments_grow()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(n_bytes / total)
    torch.cuda.empty_cache()


def cap_after(step: int, n_bytes: int) -> None:
    """Let the next training's card become smaller at the end of a step."""
    build = training.build_trainer

    def building(*arguments: Any) -> Any:
        # Not before: unsloth, which is loaded with the model, replaces what this binds.
        from transformers import TrainerCallback

        class Capping(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step == step:
                    cap(n_bytes)

        trainer = build(*arguments)
        trainer.add_callback(Capping())
        return trainer

    training.build_trainer = building


def main(*arguments: str) -> None:
    torch.set_num_threads(1)
    base, folder, *rest = arguments
    settings = [setting for setting in rest if not setting.startswith("--")]
    for option in rest:
        if option.startswith("--cap="):
            n_bytes, _, step = option.removeprefix("--cap=").partition("@")
            if step:
                cap_after(int(step), int(n_bytes))
            else:
                cap(int(n_bytes))
    try:
        tune(Path(base), Run(Path(folder)), *settings, is_resumed="--resume" in rest)
    except FlanliteError as error:  # as the command line does
        sys.exit(f"{error.message} {error.hint}")


def main_with_log(log: str, *arguments: str) -> None:
    """`main` with stdout and stderr in a file."""
    with open(log, "w") as stream:  # noqa: PTH123
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    main(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
