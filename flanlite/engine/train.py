"""One training, from a loaded model and tokenised rows to a finished run folder; also its resume.

Every optimizer step sees `batch_rows` packed rows and averages the loss over all their trained tokens, however the
rows are split into micro-steps. On a CPU a resumed run ends in the very weights of one that was never interrupted.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError

from flanlite.engine.checkpointing import lay_out
from flanlite.engine.checkpoints import (
    Interrupted,
    Progress,
    newest_checkpoint,
    remove_others,
    resume_line,
)
from flanlite.engine.curve import draw_losses, write_losses
from flanlite.engine.device import Machine, choose_optimizer
from flanlite.engine.ladder import train_down_the_ladder
from flanlite.engine.noise import quiet
from flanlite.engine.progress import TrainingProgress
from flanlite.errors import FlanliteError
from flanlite.planning.setup import Setup
from flanlite.prompt.template import MASKED
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.recipe import Recipe
from flanlite.run import Run

if TYPE_CHECKING:
    from datasets import Dataset

    from flanlite.engine.trainer import Conduct, PackedTrainer

LEAST_STEPS = 2
"""The first step's rate is almost nothing, so fewer would train nothing."""


@dataclass(frozen=True)
class Result:
    """What a training measured; goes into run.json as `measured`.

    Losses are means over trained tokens, in nats; `seconds` and the token counts cover all sittings of a resumed run;
    peak memory is the card's, or without one the whole process's, with the `setup` that the run ended with.
    """

    steps: int
    first_loss: float
    last_loss: float
    first_validation_loss: float | None
    validation_loss: float | None
    seconds: float
    tokens: int
    trained_tokens: int
    tokens_per_second: float
    peak_memory_bytes: int
    peak_memory_of: str
    setup: Setup


def train(
    model: Any,
    rows: Dataset,
    validation_rows: Dataset | None,
    recipe: Recipe,
    run: Run,
    tokenizer: Tokenizer,
    machine: Machine,
    *,
    base: str = "",
    is_resumed: bool = False,
    console: Console | None = None,
) -> Result:
    """Train what `load_model` gave, and leave adapter, losses, record and card in the run folder.

    rows have `input_ids` and `labels` (MASKED where not trained), none empty or longer than recipe.row_tokens; the
    tokenizer carries the run's chat template; `base` is the name that the adapter records for its base. `run.begin` has
    been called. With is_resumed it goes on from the newest complete checkpoint, or from the start where there is none.
    Where the card's memory runs out it goes on with less of it; the checkpoints name the setup that it then has.
    Raises Interrupted after Ctrl-C or SIGTERM, with a checkpoint written, and FlanliteError where it cannot go on.
    """
    _check_rows(rows, recipe.row_tokens)
    checkpoint = newest_checkpoint(run.checkpoints_dir) if is_resumed else None
    remove_others(run.checkpoints_dir, checkpoint)

    def build(recipe: Recipe) -> PackedTrainer:
        return build_trainer(model, rows, validation_rows, recipe, run, tokenizer, machine)

    with quiet(), TrainingProgress(console or Console()) as shown:
        result = _finish(*train_down_the_ladder(build, recipe, run, checkpoint, shown), run)
    run.replace_adapter(lambda folder: _write_adapter(model, tokenizer, base, folder))
    draw_losses(run.loss_csv, run.loss_png)
    run.finish(asdict(result))
    return result


def build_trainer(
    model: Any,
    rows: Dataset,
    validation_rows: Dataset | None,
    recipe: Recipe,
    run: Run,
    tokenizer: Tokenizer,
    machine: Machine,
) -> PackedTrainer:
    """trl's trainer on these rows, packed, with the recipe's setup, float32 adapters and a fixed number of steps."""
    from transformers.trainer_callback import PrinterCallback

    from flanlite.engine.trainer import PackedTrainer

    lay_out(model, recipe, machine)
    # trl puts its loss around whatever forward is there: an earlier trainer's too.
    vars(model.get_base_model()).pop("forward", None)
    adapters = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    trainer = PackedTrainer(
        model=model,
        args=_arguments(recipe, run, machine),
        train_dataset=rows,
        eval_dataset=validation_rows or None,
        processing_class=_hub_tokenizer(tokenizer),
    )
    for parameter, data in adapters:
        # trl has cast them to bfloat16, which float16's loss scaling cannot work with and a resume cannot restore.
        parameter.data = data
    trainer.remove_callback(PrinterCallback)
    packed_rows: Any = trainer.train_dataset
    steps_per_epoch = math.ceil(len(packed_rows) / recipe.batch_rows)
    trainer.args.max_steps = max(LEAST_STEPS, math.ceil(recipe.epochs * steps_per_epoch))
    return trainer


def _arguments(recipe: Recipe, run: Run, machine: Machine) -> Any:
    from trl import SFTConfig  # type: ignore[attr-defined]

    micro_rows = recipe.setup.micro_rows
    schedule = "constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.folder / "tensorboard")
    try:
        arguments = SFTConfig(
            output_dir=str(run.checkpoints_dir),
            run_name=run.name,
            packing=True,
            packing_strategy="bfd",
            max_length=recipe.row_tokens,
            per_device_train_batch_size=micro_rows,
            # One row never takes more than a micro-step, and the losses do not depend on the setup.
            per_device_eval_batch_size=1,
            gradient_accumulation_steps=recipe.batch_rows // micro_rows,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=schedule,
            warmup_steps=recipe.warmup_share,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            optim=choose_optimizer(recipe.optimizer, has_card=machine.kind == "cuda"),
            # Off, so that transformers leaves the layers as they are laid out; unsloth's own marks outlive its switch.
            gradient_checkpointing=machine.backend == "unsloth",
            bf16=machine.dtype == "bfloat16",
            fp16=machine.dtype == "float16",
            use_cpu=machine.kind == "cpu",
            dataloader_pin_memory=machine.kind == "cuda",
            accelerator_config={"non_blocking": machine.kind == "cuda"},
            seed=recipe.seed,
            data_seed=recipe.seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            # unsloth's default gives memory back in the midst of the first step, the probe's too, and waits for that.
            torch_empty_cache_steps=None,
            disable_tqdm=True,
            report_to=_trackers(recipe.report_to),
        )
    except ValueError as error:
        raise FlanliteError(f"The trainer refuses a setting: {' '.join(str(error).split())}") from error
    # One card trains; transformers would multiply the rows of a step by the number of cards it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _trackers(report_to: str) -> list[str]:
    """The trackers' names. Raises FlanliteError for one that trl does not know, or that is not installed."""
    from transformers.integrations import integration_utils

    names = [name.strip() for name in report_to.split(",") if name.strip() not in ("", "none")]
    for name in names:
        known = list(integration_utils.INTEGRATION_TO_CALLBACK)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise FlanliteError(
                f"There is no tracker {name!r}.", f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
            )
        available = integration_utils.get_available_reporting_integrations()  # type: ignore[no-untyped-call]
        if name not in available:
            raise FlanliteError(f"report_to={name} needs its package, which is not installed.", f"pip install {name}")
    return names


def _finish(trainer: PackedTrainer, conduct: Conduct, run: Run) -> Result:
    """What a training measured. Raises Interrupted where it was stopped before the end."""
    steps, done = trainer.state.max_steps, trainer.state.global_step
    if done < steps:
        raise Interrupted(
            f"Stopped after step {done} of {steps}; a checkpoint is written.", f"Go on with `{resume_line(run)}`."
        )
    write_losses(trainer.state.log_history, run.loss_csv)
    return _result(trainer.state.log_history, conduct.spent, conduct.recipe.setup)


def _result(history: list[dict[str, Any]], spent: Progress, setup: Setup) -> Result:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    validation = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return Result(
        steps=spent.step,
        first_loss=losses[0],
        last_loss=losses[-1],
        first_validation_loss=validation[0] if validation else None,
        validation_loss=validation[-1] if validation else None,
        seconds=spent.seconds,
        tokens=spent.tokens,
        trained_tokens=spent.trained_tokens,
        tokens_per_second=spent.tokens / max(spent.seconds, 1e-9),
        peak_memory_bytes=spent.peak_memory_bytes,
        peak_memory_of="card" if torch.cuda.is_available() else "process",
        setup=setup,
    )


def _check_rows(rows: Dataset, max_tokens: int) -> None:
    """Raises FlanliteError without anything to train, ValueError for rows that packing would cut or drop."""
    if len(rows) == 0:
        raise FlanliteError("There is nothing to train on: no conversation is left.", "Name more data.")
    lengths = np.fromiter((len(ids) for ids in rows.with_format("numpy")["input_ids"]), dtype=np.int64)
    if lengths.min() == 0 or lengths.max() > max_tokens:
        raise ValueError(f"rows of {lengths.min()} to {lengths.max()} tokens, where 1 to {max_tokens} can be packed")
    if not any((labels != MASKED).any() for labels in rows.with_format("numpy")["labels"]):
        raise FlanliteError("There is nothing to train on: no token is trained.", "See `flanlite inspect`.")


def _hub_tokenizer(tokenizer: Tokenizer) -> Any:
    """transformers' view of the tokenizer, which trl demands and saves into checkpoints."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        loaded = PreTrainedTokenizerFast.from_pretrained(folder)
    if loaded.pad_token is None:
        loaded.pad_token = loaded.convert_ids_to_tokens(tokenizer.pad_id)
    return loaded


def _write_adapter(model: Any, tokenizer: Tokenizer, base: str, folder: Path) -> None:
    """The adapter in peft's format, its settings in a fixed order, with the tokenizer beside it.

    Raises FlanliteError where the disk has no room for it.
    """
    try:
        model.save_pretrained(str(folder))
    except SafetensorError as error:
        raise FlanliteError(
            f"The adapter cannot be written: {error}.", f"Free some space, then `{resume_line(Run(folder.parent))}`."
        ) from error
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    # safetensors writes for its owner alone, and a run is there to be shared.
    shutil.copymode(file, folder / "adapter_model.safetensors")
    settings = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    if base:
        settings["base_model_name_or_path"] = base
    file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    tokenizer.save(folder)
