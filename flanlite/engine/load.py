"""Bases from local folders in 4 bits, and the LoRA matrices on them: for training, and for generation.

Nothing is fetched and nothing in a folder is executed: weights come from safetensors, remote code stays off. Both
backends start from the same LoRA matrices, and keep them in float32: bfloat16 would lose most of a small update, and
float16's loss scaling needs float32 gradients.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from flanlite.engine.checkpointing import unsloth_mode
from flanlite.engine.device import Machine
from flanlite.engine.lora import Adapter
from flanlite.engine.noise import quiet
from flanlite.errors import FlanliteError
from flanlite.recipe import Recipe

UNSLOTH_CACHE_DIR = Path.home() / ".cache" / "flanlite" / "unsloth_compiled"
"""unsloth writes Python code and imports it again: in the user's own folder, not in the working one."""

UNSLOTH_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Every linear layer of the families that unsloth patches; peft finds the same by `all-linear`."""


def load_model(base_dir: Path, recipe: Recipe, machine: Machine) -> Any:
    """The 4-bit base with fresh LoRA matrices on every linear layer, as a peft model ready for `train`.

    unsloth, where chosen, is imported here, before transformers, trl and peft: import those later than this.
    Raises FlanliteError for a folder that holds no base in safetensors.
    """
    base_dir = base_dir.resolve()
    _check_base(base_dir)
    if machine.backend == "unsloth":
        model = _load_with_unsloth(base_dir, recipe, machine)
    else:
        model = _load_with_peft(base_dir, recipe, machine)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    fill_adapters(model, recipe.seed)
    return model


@quiet()
def load_for_generation(base_dir: Path, adapter_dir: Path | None, machine: Machine, *, is_4bit: bool = True) -> Any:
    """A base, with an adapter on it or without, ready for `generate`; is_4bit=False keeps its 16 bits.

    Always through transformers and peft, whatever the backend. Raises FlanliteError for a folder that lacks something
    or holds something broken.
    """
    _check_base(base_dir)
    if adapter_dir is not None:
        Adapter(adapter_dir)  # peft tells less of what is missing or broken, and later
    from transformers import GenerationConfig

    model = _load_base(base_dir.resolve(), machine, is_4bit=is_4bit)
    # A base's own file may sample, or punish repetition, which breaks the copying of arguments.
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    if adapter_dir is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter_dir))
    model.requires_grad_(False)
    return model.eval()


def fill_adapters(model: Any, seed: int) -> None:
    """Start values for the LoRA matrices: A uniform in +-1/sqrt(inputs) as peft draws it, B zero.

    Drawn in the order of the names from a generator of their own, so the backends agree to the bit.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            bound = parameter.shape[1] ** -0.5
            drawn = torch.rand(parameter.shape, generator=generator) * (2 * bound) - bound
            parameter.data.copy_(drawn)
        elif "lora_B" in name:
            parameter.data.zero_()


def _check_base(base_dir: Path) -> None:
    if not (base_dir / "config.json").is_file():
        raise FlanliteError(f"{base_dir} holds no base model: config.json is missing.", "`flanlite bases` lists some.")
    if not any(base_dir.glob("*.safetensors")):
        raise FlanliteError(
            f"{base_dir} has no weights in safetensors; other formats can run code when they are opened.",
            "Give a base that has safetensors.",
        )


def _is_prequantised(base_dir: Path) -> bool:
    config = json.loads((base_dir / "config.json").read_text(encoding="utf-8"))
    return "quantization_config" in config


def _load_base(base_dir: Path, machine: Machine, *, is_4bit: bool) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings: dict[str, Any] = {}
    if is_4bit and not _is_prequantised(base_dir):
        settings["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=machine.torch_dtype,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(base_dir),
            dtype=machine.torch_dtype,
            device_map={"": 0} if machine.kind == "cuda" else {"": "cpu"},
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **settings,
        )
    except (OSError, ValueError) as error:
        raise FlanliteError(f"{base_dir} cannot be loaded: {' '.join(str(error).split())}") from error
    _set_compute_type(model, machine)
    return model


def _set_compute_type(model: Any, machine: Machine) -> None:
    """Make every 4-bit layer compute as this machine does: a folder quantised elsewhere brings its own type along."""
    from bitsandbytes.nn import Linear4bit  # type: ignore[attr-defined]

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = machine.torch_dtype
            module.compute_type_is_set = True
            # bitsandbytes repacks the weights in the first evaluation on a CPU with avx512_bf16; training then stalls.
            module.support_avx512bf16_for_cpu = False


@quiet()
def _load_with_peft(base_dir: Path, recipe: Recipe, machine: Machine) -> Any:
    from peft import LoraConfig, get_peft_model

    base = _load_base(base_dir, machine, is_4bit=True)
    base.config.use_cache = False
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    config = LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def _load_with_unsloth(base_dir: Path, recipe: Recipe, machine: Machine) -> Any:
    with _quiet_and_offline():
        import unsloth

        model, _ = unsloth.FastLanguageModel.from_pretrained(
            model_name=str(base_dir),
            max_seq_length=recipe.row_tokens,
            dtype=machine.torch_dtype,
            load_in_4bit=True,
            use_exact_model_name=True,
            fix_tokenizer=False,
            trust_remote_code=False,
            use_gradient_checkpointing=unsloth_mode(recipe),
        )
        return unsloth.FastLanguageModel.get_peft_model(
            model,
            r=recipe.lora_r,
            target_modules=UNSLOTH_TARGETS,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            bias="none",
            use_gradient_checkpointing=unsloth_mode(recipe),
            random_state=recipe.seed,
            max_seq_length=recipe.row_tokens,
        )


@contextlib.contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """unsloth probes the network, reports statistics and prints banners to stdout unless it is told otherwise."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in offline}
    UNSLOTH_CACHE_DIR.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(UNSLOTH_CACHE_DIR))
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ.update(offline)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
