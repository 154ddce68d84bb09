"""A base of any shape with random weights, stored in 4 bits: all of a base that speed and memory depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flanlite.bases import NF4_BLOCK, Base

SPREAD = 0.02
"""Standard deviation of the weights, about that of real ones: an H200 multiplies zeros faster."""

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")


def config_of(base: Base, max_tokens: int) -> dict[str, Any]:
    """A config.json for rows of max_tokens: the folder's own where the base has one, else one of the base's shape."""
    shape = base.known_shape
    if base.folder is not None:
        config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
        config.pop("quantization_config", None)
    else:
        config = {
            "model_type": "qwen3" if shape.qk_norm else "qwen2" if shape.qkv_bias else "llama",
            "num_hidden_layers": shape.layers,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "vocab_size": shape.vocab,
            "tie_word_embeddings": shape.tied,
            "max_position_embeddings": base.context_length or max_tokens,
            "rms_norm_eps": 1e-5,
        }
    config["max_position_embeddings"] = max(config["max_position_embeddings"], max_tokens)
    whole: dict[str, Any] = config | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return whole


def write_random_base(folder: Path, config: Mapping[str, Any], device: str, dtype: str, seed: int) -> None:
    """Write config, tokenizer and weights in nf4 with double quantisation, a file a layer, as the hub's 4-bit copies.

    Only one layer is in memory at a time.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    described = AutoConfig.for_model(**{**config, "dtype": dtype})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(described)  # type: ignore[no-untyped-call]
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    head = model.get_output_embeddings().weight
    described.architectures = [type(model).__name__]
    described.quantization_config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    described.save_pretrained(folder)
    _write_tokenizer(folder)
    shards: dict[str, list[tuple[str, Tensor]]] = {}
    for name, parameter in model.named_parameters():
        layer = name.split(".")[2] if ".layers." in name else "rest"
        shards.setdefault(f"model-{layer}.safetensors", []).append((name, parameter))
    generator = torch.Generator(device).manual_seed(seed)
    file_of: dict[str, str] = {}
    for file, parameters in shards.items():
        tensors: dict[str, Tensor] = {}
        for name, parameter in parameters:
            values = _values(name, parameter, generator, getattr(torch, dtype))
            is_quantised = name in linear and parameter is not head
            tensors |= _quantised(name, values) if is_quantised else {name: values}
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, folder / file, {"format": "pt"})
        file_of |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _values(name: str, parameter: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Values of the parameter's shape: zeros for a bias, ones for a norm, normal ones for a matrix."""
    values = torch.empty(parameter.shape, dtype=dtype, device=generator.device)
    if parameter.dim() == 1:
        return values.fill_(0 if name.endswith(".bias") else 1)
    return values.normal_(0, SPREAD, generator=generator)


def _quantised(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The weight in nf4, with all that bitsandbytes needs to read it."""
    import bitsandbytes.functional

    bnb: Any = bitsandbytes.functional
    packed, state = bnb.quantize_4bit(weight, blocksize=NF4_BLOCK, compress_statistics=True, quant_type="nf4")
    parts = state.as_dict(packed=True)
    return {name: packed} | {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _write_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes: loaders want one, though no text is ever read."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL_TOKENS, *alphabet])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    backend.save(str(folder / "tokenizer.json"))
    names = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": names["unk_token"], **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
