"""One training of a benchmark: flanlite's own, or a trl SFTTrainer as the users of unsloth or of peft set it up.

All of them begin with the same 4-bit weights, LoRA matrices of the same rank and values, and the same conversations.
Runs in a process of its own: unsloth changes transformers, trl and peft for the whole process. So what is imported
depends on the variant, and unsloth always comes first.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from flanlite.bases import resolve
from flanlite.benchmark.conversations import ids_and_labels, read_conversations
from flanlite.benchmark.results import Measured
from flanlite.benchmark.trial import Trial
from flanlite.benchmark.variants import VARIANTS, Variant
from flanlite.engine.device import Machine, choose_machine, let_segments_grow
from flanlite.engine.load import UNSLOTH_TARGETS, fill_adapters, load_model
from flanlite.plan import plan_here, setup_without_plan
from flanlite.planning.attention import attention_here
from flanlite.planning.memory import CUDA_CONTEXT_BYTES
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.recipe import Recipe
from flanlite.run import Run

CHECKED = 16
"""Conversations, the first ones, whose loss is compared between the variants."""

MOST_STEPS = 300
"""More than there is time for, as a rule: the clock ends a training. For longer ones unsloth compiles on some cards, in
the midst of the steps that are timed.
"""


@dataclass(frozen=True)
class Ended:
    """A training that has ended: what was measured, and what was not as it should be."""

    measured: Measured
    note: str = ""


def measure(trial: Trial) -> Ended:
    """Train and time a variant. Raises what the libraries raise, where memory runs out for example."""
    variant = VARIANTS[trial.variant]
    let_segments_grow()
    if trial.memory_bytes is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (trial.memory_bytes - CUDA_CONTEXT_BYTES) / total))
    recipe = Recipe(
        base=trial.base_dir,
        max_tokens=trial.max_tokens,
        batch_tokens=trial.batch_tokens,
        seed=trial.seed,
        save_minutes=float("inf"),
    )
    conversations = read_conversations(Path(trial.rows_file))
    base = resolve(trial.base_dir)
    columns = ids_and_labels(conversations, base.known_shape.vocab, trial.seed)
    if variant.code == "flanlite":
        return _measure_flanlite(trial, recipe, columns)
    machine = choose_machine(replace(recipe, backend=variant.code))
    return _measure_plain(trial, variant, recipe, machine, columns)


def _measure_flanlite(trial: Trial, recipe: Recipe, columns: Mapping[str, Any]) -> Ended:
    """flanlite as `tune` runs it, with the layout that is planned for this card and the ladder below it."""
    machine = choose_machine(recipe)
    base = resolve(trial.base_dir)
    plan = plan_here(recipe, base, machine)
    setup = plan.setup if plan else setup_without_plan(recipe, base, machine)
    recipe = replace(recipe.with_setup(setup), backend=machine.backend, dtype=machine.dtype)
    model = load_model(Path(trial.base_dir), recipe, machine)

    # unsloth, where it is used, has been imported by now.
    from flanlite.benchmark.stopwatch import Stopwatch
    from flanlite.engine.ladder import train_down_the_ladder
    from flanlite.engine.noise import quiet
    from flanlite.engine.progress import TrainingProgress
    from flanlite.engine.train import build_trainer

    rows, checked = _datasets(columns)
    run = Run(Path(trial.work_dir) / "run")
    run.folder.mkdir()
    watches: list[Stopwatch] = []

    def build(recipe: Recipe) -> Any:
        tokenizer = Tokenizer.load(Path(trial.base_dir))
        trainer = build_trainer(model, rows, checked, recipe, run, tokenizer, machine)
        trainer.args.max_steps = MOST_STEPS
        watches.append(Stopwatch(trainer, trial))
        trainer.add_callback(watches[-1])
        return trainer

    with quiet(), TrainingProgress(Console(file=sys.stderr)) as shown:
        trainer, conduct = train_down_the_ladder(build, recipe, run, None, shown)
    used = conduct.recipe.setup
    settings = {
        **asdict(used),
        "batch_rows": recipe.batch_rows,
        "backend": machine.backend,
        "dtype": machine.dtype,
        "optimizer": _optimizer(trainer),
        "attention": plan.work.attention if plan else "SDPA with a mask",
        "lora_r": recipe.lora_r,
        "planned_peak_bytes": plan.peak_bytes if plan else None,
    }
    note = "" if used == setup else f"the plan did not fit: {asdict(setup)} ran out of memory"
    last = watches[-1]
    last.first_losses = last.first_losses or watches[0].first_losses
    return Ended(last.measured(settings), note)


def _measure_plain(
    trial: Trial, variant: Variant, recipe: Recipe, machine: Machine, columns: Mapping[str, Any]
) -> Ended:
    """trl's SFTTrainer on a model of unsloth or peft, its settings left alone as far as the comparison allows."""
    if variant.code == "unsloth":
        model = _with_unsloth(trial, variant, recipe, machine)
    else:
        model = _with_peft(trial, recipe, machine)

    from trl import SFTTrainer  # type: ignore[attr-defined]

    from flanlite.benchmark.stopwatch import Stopwatch
    from flanlite.engine.checkpointing import decoder_layers
    from flanlite.engine.noise import quiet

    rows, checked = _datasets(columns)
    with quiet():
        trainer: Any = SFTTrainer(
            model=model,
            args=_arguments(trial, variant, recipe, machine),
            train_dataset=rows,
            eval_dataset=checked,
            processing_class=_tokenizer(trial),
        )
        fill_adapters(trainer.model, trial.seed)
        if machine.dtype == "float16":
            # trl has cast them to bfloat16, which float16's loss scaling cannot work with: users cast them back.
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        watch = Stopwatch(trainer, trial)
        trainer.add_callback(watch)
        trainer.train()
    settings = {
        "micro_batch": trial.micro_batch,
        "accumulation": trial.accumulation,
        "packing": variant.packs,
        "kept_layers": sum("_unsloth_skip_checkpoint" in vars(layer) for layer in decoder_layers(trainer.model)),
        "backend": variant.code,
        "dtype": machine.dtype,
        "optimizer": _optimizer(trainer),
        "attention": _attention(trainer, variant, machine),
        "lora_r": recipe.lora_r,
    }
    return Ended(watch.measured(settings))


def _attention(trainer: Any, variant: Variant, machine: Machine) -> str:
    """The kernel: what transformers was told, or the one that unsloth is expected to take of its own accord."""
    if variant.code == "unsloth" and machine.capability is not None:
        return attention_here("unsloth", machine.capability)
    name: str = trainer.model.config._attn_implementation
    return name


def _optimizer(trainer: Any) -> str:
    name: str = trainer.args.optim.value
    return name


def _with_unsloth(trial: Trial, variant: Variant, recipe: Recipe, machine: Machine) -> Any:
    """A model as unsloth's own command makes it, with flanlite's rank of the LoRA matrices."""
    import unsloth

    model, _ = unsloth.FastLanguageModel.from_pretrained(
        model_name=trial.base_dir,
        max_seq_length=trial.max_tokens,
        dtype=machine.torch_dtype,
        load_in_4bit=True,
        use_exact_model_name=True,
        fix_tokenizer=False,
        use_gradient_checkpointing="unsloth",
    )
    return unsloth.FastLanguageModel.get_peft_model(
        model,
        r=recipe.lora_r,
        target_modules=UNSLOTH_TARGETS,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=trial.seed,
        max_seq_length=trial.max_tokens,
        # Left out where it is off: older versions do not know it.
        **({"checkpoint_skip_layers": variant.kept_layers} if variant.kept_layers else {}),
    )


def _with_peft(trial: Trial, recipe: Recipe, machine: Machine) -> Any:
    """A model as transformers and peft make it; with FlashAttention where its package is installed."""
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    has_flash = machine.kind == "cuda" and importlib.util.find_spec("flash_attn") is not None
    model = AutoModelForCausalLM.from_pretrained(
        trial.base_dir,
        dtype=machine.torch_dtype,
        device_map={"": 0} if machine.kind == "cuda" else {"": "cpu"},
        attn_implementation="flash_attention_2" if has_flash else "sdpa",
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # bitsandbytes repacks the weights in the first evaluation on some CPUs; training then stalls.
            module.support_avx512bf16_for_cpu = False
    lora = LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def _arguments(trial: Trial, variant: Variant, recipe: Recipe, machine: Machine) -> Any:
    from trl import SFTConfig  # type: ignore[attr-defined]

    return SFTConfig(
        output_dir=str(Path(trial.work_dir) / "checkpoints"),
        max_length=trial.max_tokens,
        packing=variant.packs,
        per_device_train_batch_size=trial.micro_batch,
        per_device_eval_batch_size=1 if variant.packs else min(2, trial.micro_batch),
        gradient_accumulation_steps=trial.accumulation,
        max_steps=MOST_STEPS,
        learning_rate=recipe.learning_rate,
        optim="adamw_8bit" if machine.kind == "cuda" else "adamw_torch",
        bf16=machine.dtype == "bfloat16",
        fp16=machine.dtype == "float16",
        use_cpu=machine.kind == "cpu",
        dataloader_pin_memory=machine.kind == "cuda",
        seed=trial.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _tokenizer(trial: Trial) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(trial.base_dir)


def _datasets(columns: Mapping[str, Any]) -> tuple[Any, Any]:
    """The rows to train on, and the first of them."""
    import datasets

    features = datasets.Features({name: datasets.List(datasets.Value("int32")) for name in columns})
    rows = datasets.Dataset.from_dict(columns, features=features)
    return rows, rows.select(range(min(CHECKED, len(rows))))
