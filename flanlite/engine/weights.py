"""Checkpoint folders without a model: tensors by name, one at a time, and shards written as a stream.

Weights are read from safetensors only. A tensor is mapped into memory when it is asked for and let go with the last
reference to it, so that what a caller holds is what the process holds. A folder whose linear layers bitsandbytes has
already quantised to 4 bits reads like a 16-bit one: its weights come out dequantised.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flanlite.errors import FlanliteError

FLOAT_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
STORED_AS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
PACKED_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
PACKED_PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", *PACKED_STATES)
# The first Llama uploads carry this buffer, which the model computes for itself.
COMPUTED = ".rotary_emb.inv_freq"
# Whole for every projection of a 7B (so that a product is rounded as elsewhere), in pieces for a large vocabulary.
BLOCK_ELEMENTS = 1 << 27
PARTIAL = ".partial"

ALL_ROWS = slice(None)


class Weights(Protocol):
    """A model's tensors by name, on the CPU, in any of the three float types."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def load(self, name: str, rows: slice = ALL_ROWS) -> Tensor: ...


class Checkpoint:
    """A folder with model.safetensors, or with shards and model.safetensors.index.json.

    `shapes` gives every tensor's name and logical shape, in the order of the files; `quantised` names those stored in
    4 bits. Raises FlanliteError when a file is missing, broken or of a kind that is neither 16/32-bit nor nf4/fp4.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.quantised: frozenset[str] = frozenset()
        self._file_of: dict[str, Path] = {}
        for file in _weight_files(folder):
            self._add(file)
        self._check_index()

    def _add(self, file: Path) -> None:
        with _opened(file) as tensors:
            names = list(tensors.keys())
            packed = {name: state for name in names for state in PACKED_STATES if name + state in names}
            for name in names:
                self._file_of[name] = file
                if name.endswith((COMPUTED, *PACKED_PARTS)):
                    continue
                if name in packed:
                    state = json.loads(bytes(tensors.get_tensor(name + packed[name]).tolist()))
                    self.shapes[name], self.dtypes[name] = tuple(state["shape"]), getattr(torch, state["dtype"])
                    continue
                stored = tensors.get_slice(name)
                if stored.get_dtype() not in FLOAT_TYPES:
                    raise FlanliteError(
                        f"{file} holds {name} as {stored.get_dtype()}, which is neither 16-bit nor bitsandbytes nf4.",
                        "Give the 16-bit base, or its bnb-4bit folder.",
                    )
                self.shapes[name], self.dtypes[name] = tuple(stored.get_shape()), FLOAT_TYPES[stored.get_dtype()]
        self.quantised |= packed.keys()

    def _check_index(self) -> None:
        index_file = self.folder / "model.safetensors.index.json"
        listed = json.loads(index_file.read_text("utf-8"))["weight_map"] if index_file.is_file() else {}
        if absent := sorted(set(listed) - set(self._file_of)):
            raise FlanliteError(
                f"{self.folder} lacks {absent[0]}, which its index lists.", "Download the folder again; a shard is old."
            )

    def load(self, name: str, rows: slice = ALL_ROWS) -> Tensor:
        """The tensor [out, in] or [n], dequantised if it is stored in 4 bits; `rows` takes a part of its first axis."""
        if name not in self.shapes:
            raise FlanliteError(
                f"{self.folder} has no tensor {name}.", "Is this the base that the adapter was tuned on?"
            )
        with _opened(self._file_of[name]) as tensors:
            if name in self.quantised:
                from flanlite.engine.nf4 import dequantise

                parts = {part: tensors.get_tensor(name + part) for part in PACKED_PARTS if name + part in self._file_of}
                return dequantise(tensors.get_tensor(name), parts)[rows]
            everything = rows.indices(self.shapes[name][0]) == (0, self.shapes[name][0], 1)
            tensor: Tensor = tensors.get_tensor(name) if everything else tensors.get_slice(name)[rows]
            return tensor


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, in order; a FlanliteError when there are none or one is missing."""
    if not folder.is_dir():
        raise FlanliteError(f"There is no folder {folder}.", "Give a folder with config.json and safetensors files.")
    index_file = folder / "model.safetensors.index.json"
    if index_file.is_file():
        weight_map: dict[str, str] = json.loads(index_file.read_text("utf-8"))["weight_map"]
        files = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        files = [folder / "model.safetensors"]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is None:
        return files
    if any(folder.glob("*.bin")):
        raise FlanliteError(
            f"{folder} has its weights as .bin files, which are not read.", "Convert them to safetensors first."
        )
    raise FlanliteError(f"{missing} is missing.", "Download the base again.")


def _opened(file: Path) -> Any:
    """A safetensors file, open for reading; a FlanliteError when it is not a whole one."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise FlanliteError(
            f"{file} is not a whole safetensors file: {error}.", "Download or write it again."
        ) from error


def row_blocks(shape: Sequence[int], block_elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Slices of the first axis that hold at most `block_elements` each (one row at least)."""
    row_elements = max(1, torch.Size(shape[1:]).numel())
    step = max(1, block_elements // row_elements)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; a FlanliteError when it is missing or broken."""
    if not file.is_file():
        raise FlanliteError(f"{file} is missing.", f"Is {file.parent} the right folder?")
    try:
        content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise FlanliteError(f"{file} is not JSON: {error}.") from error
    return content


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def model_config(folder: Path) -> Any:
    """The folder's transformers config, without its quantisation; custom code is never run."""
    from transformers import AutoConfig

    read_json(folder / "config.json")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError) as error:
        raise FlanliteError(
            f"{folder} is not of an architecture that transformers itself knows.", "Custom model code is never run."
        ) from error
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return config


def skeleton(config: Any) -> Any:
    """The causal language model of a transformers config on the meta device: every module, no memory."""
    from transformers import AutoModelForCausalLM

    builder: Any = AutoModelForCausalLM
    with torch.device("meta"):
        return builder.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()


def quantised_linears(config: Any) -> frozenset[str]:
    """The weights that transformers quantises when it loads in 4 bits: every linear layer's but the output head's."""
    model = skeleton(config)
    head = model.get_output_embeddings()
    linears = (name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not head)
    return frozenset(f"{name}.weight" for name in linears)


@dataclass(frozen=True)
class Shard:
    """One file to be written: tensor names in file order."""

    file_name: str
    names: list[str]


def plan_shards(bytes_of: dict[str, int], shard_bytes: int) -> list[Shard]:
    """Tensors in the given order, cut into files of at most `shard_bytes` (a larger tensor has a file to itself)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in bytes_of.items():
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return [Shard("model.safetensors", groups[0])]
    count = len(groups)
    return [Shard(f"model-{i:05d}-of-{count:05d}.safetensors", names) for i, names in enumerate(groups, start=1)]


@dataclass(frozen=True)
class ShardWriter:
    """Writes tensors into `folder` piece by piece, so that none but the piece in hand is in memory.

    `shapes` and `dtypes` are known beforehand, so a file's header is written first and its data follows. `pieces`
    yields a tensor's rows in order. `on_bytes` hears of every piece.
    """

    folder: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    pieces: Callable[[str], Iterator[Tensor]]
    on_bytes: Callable[[int], None]

    @property
    def bytes_of(self) -> dict[str, int]:
        return {name: torch.Size(shape).numel() * self.dtypes[name].itemsize for name, shape in self.shapes.items()}

    def write(self, shard_bytes: int) -> None:
        """All shards, and the index when there is more than one."""
        bytes_of = self.bytes_of
        shards = plan_shards(bytes_of, shard_bytes)
        for shard in shards:
            self._write_shard(shard, bytes_of)
        if len(shards) > 1:
            weight_map = {name: shard.file_name for shard in shards for name in shard.names}
            content = {"metadata": {"total_size": sum(bytes_of.values())}, "weight_map": weight_map}
            write_json(self.folder / "model.safetensors.index.json", content)

    def _write_shard(self, shard: Shard, bytes_of: dict[str, int]) -> None:
        with (self.folder / shard.file_name).open("wb") as file:
            file.write(self._header(shard, bytes_of))
            for name in shard.names:
                written = 0
                for piece in self.pieces(name):
                    raw = piece.contiguous().view(-1).view(torch.uint8).numpy()
                    written += file.write(raw.data)
                    self.on_bytes(raw.nbytes)
                if written != bytes_of[name]:
                    raise ValueError(f"{name}: {written} bytes written, {bytes_of[name]} announced")
            file.flush()
            os.fsync(file.fileno())

    def _header(self, shard: Shard, bytes_of: dict[str, int]) -> bytes:
        """The safetensors header: its length in 8 bytes, then JSON padded with blanks to a multiple of 8."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in shard.names:
            start, end = end, end + bytes_of[name]
            kind = STORED_AS[self.dtypes[name]]
            header[name] = {"dtype": kind, "shape": list(self.shapes[name]), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def require_disk(folder: Path, bytes_needed: int) -> None:
    """Raises FlanliteError unless the disk that `folder` is or will be on has the bytes free, and a margin of 2 %."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    needed = int(bytes_needed * 1.02) + (64 << 20)
    if free < needed:
        raise FlanliteError(
            f"{needed / 1e9:.1f} GB are needed under {existing}, and {free / 1e9:.1f} GB are free.",
            "Free some space, or choose a folder on another disk.",
        )


def open_partial(out: Path, *, overwrite: bool) -> Path:
    """An empty folder beside `out` to write into; what an earlier, interrupted attempt left there is removed.

    Raises FlanliteError when `out` already holds something and may not be overwritten.
    """
    out = out.resolve()
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not overwrite):
        raise FlanliteError(f"{out} already exists.", "Choose another folder, or add --overwrite.")
    partial = out.with_name(out.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def publish(partial: Path, out: Path) -> None:
    """Gives a finished folder its final name: its files reach the disk first, and an old `out` goes last."""
    for file in partial.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    if not out.exists():
        partial.rename(out)
        return
    # A fresh name: a folder that only looks like a leftover may be somebody's.
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    out.rename(old / out.name)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)
