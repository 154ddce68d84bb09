"""Reading checkpoints lazily, writing shards as a stream, nf4 as bitsandbytes has it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from made_up import write_base
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from flanlite.engine.nf4 import Nf4Rounded
from flanlite.engine.weights import (
    Checkpoint,
    ShardWriter,
    model_config,
    open_partial,
    publish,
    quantised_linears,
    require_disk,
    row_blocks,
)
from flanlite.errors import FlanliteError


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "llama")


def load_in_4bit(base_dir: Path, dtype: torch.dtype) -> torch.nn.Module:
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(base_dir, quantization_config=quantisation, dtype=dtype)


def dequantised_modules(model: torch.nn.Module) -> dict[str, Tensor]:
    import bitsandbytes as bnb

    return {
        f"{name}.weight": bnb.functional.dequantize_4bit(part.weight.data, part.weight.quant_state)
        for name, part in model.named_modules()
        if isinstance(part, bnb.nn.Linear4bit)
    }


def writer(folder: Path, tensors: dict[str, Tensor], block: int = 1000) -> ShardWriter:
    def pieces(name: str) -> Iterator[Tensor]:
        for rows in row_blocks(tensors[name].shape, block):
            yield tensors[name][rows]

    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return ShardWriter(folder, shapes, {name: t.dtype for name, t in tensors.items()}, pieces, lambda size: None)


def test_a_single_file_reads_as_safetensors_reads_it(base: Path) -> None:
    checkpoint, expected = Checkpoint(base), load_file(base / "model.safetensors")
    assert checkpoint.shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert all(torch.equal(checkpoint.load(name), tensor) for name, tensor in expected.items())


def test_rows_are_a_part_of_the_tensor(base: Path) -> None:
    whole = Checkpoint(base).load("lm_head.weight")
    assert torch.equal(Checkpoint(base).load("lm_head.weight", slice(10, 25)), whole[10:25])


def test_shards_written_as_a_stream_read_back_equal(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    writer(tmp_path, tensors).write(shard_bytes=40_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(list(tmp_path.glob("model-*.safetensors"))) == len(set(index["weight_map"].values())) > 3
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    read = {name: tensor for file in tmp_path.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    checkpoint = Checkpoint(tmp_path)
    assert all(torch.equal(checkpoint.load(name), tensors[name]) for name in tensors)


def test_a_tensor_larger_than_a_shard_has_a_file_to_itself(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(4), "b": torch.ones(500), "c": torch.ones(4)}
    writer(tmp_path, tensors).write(shard_bytes=100)
    assert [len(load_file(file)) for file in sorted(tmp_path.glob("*.safetensors"))] == [1, 1, 1]


def test_a_missing_shard_is_named(base: Path, tmp_path: Path) -> None:
    writer(tmp_path, load_file(base / "model.safetensors")).write(shard_bytes=60_000)
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(FlanliteError, match=gone.name):
        Checkpoint(tmp_path)


def test_a_truncated_file_is_named(base: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(FlanliteError, match="not a whole safetensors file"):
        Checkpoint(tmp_path)


def test_bin_files_are_not_read(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FlanliteError, match=r"\.bin files, which are not read"):
        Checkpoint(tmp_path)


def test_an_8_bit_checkpoint_is_refused(tmp_path: Path) -> None:
    save_file({"x.weight": torch.ones(2, 2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(FlanliteError, match=r"x\.weight as I8"):
        Checkpoint(tmp_path)


def test_the_buffers_of_old_uploads_are_left_out(tmp_path: Path) -> None:
    save_file({"a.rotary_emb.inv_freq": torch.ones(2), "b": torch.ones(2)}, tmp_path / "model.safetensors")
    assert list(Checkpoint(tmp_path).shapes) == ["b"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nf4_rounding_is_what_the_4_bit_loader_makes_of_a_base(base: Path, dtype: torch.dtype) -> None:
    loaded = dequantised_modules(load_in_4bit(base, dtype))
    rounded = Nf4Rounded(Checkpoint(base), quantised_linears(model_config(base)), dtype)
    assert rounded.quantised == loaded.keys()
    assert all(torch.equal(rounded.load(name), weight) for name, weight in loaded.items())
    assert torch.equal(rounded.load("lm_head.weight"), Checkpoint(base).load("lm_head.weight"))


def test_nf4_rounding_in_pieces_is_rounding_in_one(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = Nf4Rounded(Checkpoint(base), ["lm_head.weight"], torch.float16)
    whole = rounded.load("lm_head.weight")
    monkeypatch.setattr("flanlite.engine.nf4.PIECE_ELEMENTS", 640)
    assert torch.equal(rounded.load("lm_head.weight"), whole)


def test_a_bnb_4bit_folder_reads_dequantised(base: Path, tmp_path: Path) -> None:
    model = load_in_4bit(base, torch.bfloat16)
    model.save_pretrained(tmp_path)
    checkpoint, loaded = Checkpoint(tmp_path), dequantised_modules(model)
    assert checkpoint.quantised == loaded.keys()
    assert checkpoint.shapes == Checkpoint(base).shapes
    assert all(torch.equal(checkpoint.load(name), weight) for name, weight in loaded.items())


def test_too_little_disk_is_said_in_gigabytes(tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match=r"1020\d+\.\d GB are needed") as error:
        require_disk(tmp_path / "not" / "yet", 10**16 // 1000)
    assert "another disk" in error.value.hint


def test_a_folder_gets_its_name_at_the_end_and_replaces_an_old_one(tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(FlanliteError, match="already exists"):
        open_partial(out, overwrite=False)
    partial = open_partial(out, overwrite=True)
    (partial / "new").write_text("new")
    assert (out / "old").is_file()
    publish(partial, out)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert [file.name for file in out.iterdir()] == ["new"]


def test_custom_model_code_is_never_run(tmp_path: Path) -> None:
    config = {"model_type": "of_its_own", "auto_map": {"AutoConfig": "configuration.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration.py").write_text("raise SystemExit('run')")
    with pytest.raises(FlanliteError, match="architecture"):
        model_config(tmp_path)
