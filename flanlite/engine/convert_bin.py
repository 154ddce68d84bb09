"""internlm/Agent-FLAN-7b as a plain Llama folder, for the comparison with the model that the method was published with.

That repository has pickled .bin shards and code of its own for what is Llama's architecture under Llama's tensor names.
This is the one place where a pickle is read, and only by torch's restricted loader (`weights_only=True`), which builds
tensors and runs nothing. The repository's own code is never run: its config is translated instead.
"""

import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flanlite.engine.weights import (
    COMPUTED,
    ShardWriter,
    model_config,
    open_partial,
    publish,
    read_json,
    require_disk,
    row_blocks,
    skeleton,
    write_json,
)
from flanlite.errors import FlanliteError

SAME_IN_LLAMA = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rms_norm_eps",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
    "vocab_size",
)
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "special_tokens_map.json", "generation_config.json")
SHARD_BYTES = 5_000_000_000


def llama_config(internlm: dict[str, Any]) -> dict[str, Any]:
    """The Llama config that computes what an InternLM (1) config without biases computes.

    Its `rotary` {"base", "type", "scaling_factor"} becomes rope_theta and rope_scaling. "dynamic" is kept even with a
    factor of 1.0: it changes nothing up to max_position_embeddings and stretches the base beyond, in both. Raises
    FlanliteError for another model type, a bias or a rotary type that Llama has no counterpart of.
    """
    if internlm.get("model_type") != "internlm":
        raise FlanliteError(
            f"Only internlm checkpoints are converted, and this is {internlm.get('model_type')!r}.",
            "Use a base that has safetensors files.",
        )
    if internlm.get("bias", True):
        raise FlanliteError("This InternLM has biases, which Agent-FLAN-7b has not.", "Use a base in Llama's form.")
    rotary = internlm.get("rotary") or {}
    kind = rotary.get("type", "origin")
    if kind not in ("origin", "dynamic"):
        raise FlanliteError(f"Rotary type {kind!r} has no counterpart in Llama.")
    config = {key: internlm[key] for key in SAME_IN_LLAMA if key in internlm}
    scaling = (
        {"rope_type": "dynamic", "factor": float(rotary.get("scaling_factor", 1.0))} if kind == "dynamic" else None
    )
    return config | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_key_value_heads": internlm.get("num_key_value_heads", internlm["num_attention_heads"]),
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": float(rotary.get("base", 10000)),
        "rope_scaling": scaling,
    }


def convert_bin(source: Path, out: Path, on_bytes: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Writes `source` (config.json, pytorch_model*.bin, a SentencePiece tokenizer) as a Llama folder to `out`.

    One tensor is in memory at a time. The folder gets its name when it is complete; `on_bytes` hears how many of the
    bytes are written. Raises FlanliteError for a folder of another form, a broken shard or too little disk.
    """
    config = llama_config(read_json(source / "config.json"))
    file_of = _tensor_files(source)
    shards = {file: _load_shard(file) for file in dict.fromkeys(file_of.values())}
    tensors = {name: shards[file][name] for name, file in file_of.items() if not name.endswith(COMPUTED)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    del shards, tensors
    partial = open_partial(out, overwrite=False)
    try:
        write_json(partial / "config.json", config)
        _check_names(partial, shapes)
        _copy_tokenizer(source, partial)
        _write(partial, file_of, shapes, dtypes, on_bytes)
        publish(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(
    partial: Path,
    file_of: dict[str, Path],
    shapes: dict[str, tuple[int, ...]],
    dtypes: dict[str, torch.dtype],
    on_bytes: Callable[[int, int], None],
) -> None:
    done = 0

    def pieces(name: str) -> Iterator[Tensor]:
        # A shard's pages stay in memory as long as it is open, so it is opened for every tensor anew.
        tensor = _load_shard(file_of[name])[name]
        for rows in row_blocks(tensor.shape):
            yield tensor[rows]

    def report(size: int) -> None:
        nonlocal done
        done += size
        on_bytes(done, total)

    writer = ShardWriter(partial, shapes, dtypes, pieces, report)
    total = sum(writer.bytes_of.values())
    require_disk(partial, total)
    writer.write(SHARD_BYTES)


def _tensor_files(source: Path) -> dict[str, Path]:
    """{tensor name: its .bin file}, in the order of the index."""
    index_file = source / "pytorch_model.bin.index.json"
    if index_file.is_file():
        files = {name: source / file for name, file in read_json(index_file)["weight_map"].items()}
        if missing := [file for file in files.values() if not file.is_file()]:
            raise FlanliteError(f"{missing[0]} is missing.", "Download the model again.")
        return files
    single = source / "pytorch_model.bin"
    if not single.is_file():
        raise FlanliteError(f"{source} has neither pytorch_model.bin nor its index.", "Download the model again.")
    return dict.fromkeys(_load_shard(single), single)


def _load_shard(file: Path) -> dict[str, Tensor]:
    """The shard's tensors, mapped into memory and not yet read."""
    try:
        shard: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FlanliteError(f"{file} is not a whole file of plain tensors.", "Download it again.") from error
    return shard


def _check_names(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises FlanliteError unless the tensors are exactly those of the Llama that the config describes."""
    expected = {name: tuple(part.shape) for name, part in skeleton(model_config(folder)).named_parameters()}
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            raise FlanliteError(
                f"{name} has shape {shapes.get(name)} here, {expected.get(name)} in a Llama of its config.",
                "Is this internlm/Agent-FLAN-7b?",
            )


def _copy_tokenizer(source: Path, out: Path) -> None:
    """The tokenizer is Llama's under a class of the repository's own; the class is replaced by its name."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    if (source / "tokenizer_config.json").is_file():
        config = read_json(source / "tokenizer_config.json")
        config.pop("auto_map", None)
        write_json(out / "tokenizer_config.json", config | {"tokenizer_class": "LlamaTokenizer"})
