"""The merge: equal to peft's, complete, all or nothing, and clear about what it cannot do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import token_rows, write_adapter, write_base
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from flanlite.engine.merging import MergeInputs, merge
from flanlite.engine.weights import Checkpoint
from flanlite.errors import FlanliteError

STOP_IDS = [2, 7]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MergeInputs]:
    """A 16-bit base and an adapter for it, of each family."""
    inputs = {}
    for family in ("llama", "qwen2", "qwen3"):
        folder = tmp_path_factory.mktemp(family)
        base = write_base(folder / "base", family)
        inputs[family] = MergeInputs(base, write_adapter(folder / "adapter", base), nf4_dtype="float16")
    return inputs


@pytest.fixture
def llama(folders: dict[str, MergeInputs]) -> MergeInputs:
    return folders["llama"]


def merged_by_peft(inputs: MergeInputs, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    base = AutoModelForCausalLM.from_pretrained(inputs.base_dir, dtype=dtype)
    return PeftModel.from_pretrained(base, inputs.adapter_dir).merge_and_unload().state_dict()


def read(folder: Path) -> dict[str, Tensor]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.load(name) for name in checkpoint.shapes}


def quick(inputs: MergeInputs, out: Path, **options: Any) -> Path:
    """A merge without its check."""
    return merge(inputs, out, **{"stop_ids": STOP_IDS, "token_rows": None} | options).folder


def with_config(inputs: MergeInputs, folder: Path, **changes: Any) -> MergeInputs:
    """The same inputs with a changed adapter_config.json."""
    folder.mkdir()
    for file in inputs.adapter_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return MergeInputs(inputs.base_dir, folder)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_merge_equals_pefts_bit_for_bit(folders: dict[str, MergeInputs], family: str, tmp_path: Path) -> None:
    expected = merged_by_peft(folders[family])
    report = merge(folders[family], tmp_path / "out", stop_ids=STOP_IDS, token_rows=token_rows())
    assert report.passed
    assert report.parity is not None
    assert report.parity.against_trained is not None
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == torch.float16
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    changed = read(folders[family].base_dir)
    assert sum(not torch.equal(expected[name], changed[name]) for name in changed) == report.merged_modules == 21


def test_large_tensors_merged_in_pieces_are_the_same(
    llama: MergeInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanlite.engine.weights.row_blocks.__defaults__", (1000,))
    monkeypatch.setattr("flanlite.engine.merging.BLOCK_ELEMENTS", 1000)
    report = merge(llama, tmp_path / "out", stop_ids=STOP_IDS, token_rows=token_rows())
    expected = merged_by_peft(llama)
    assert report.passed
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read(tmp_path / "out").items())


def test_rank_stabilised_scaling_is_honoured(llama: MergeInputs, tmp_path: Path) -> None:
    inputs = MergeInputs(llama.base_dir, write_adapter(tmp_path / "adapter", llama.base_dir, use_rslora=True))
    expected = merged_by_peft(inputs)
    merged = read(quick(inputs, tmp_path / "out"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())


def test_shards_load_as_one_model(llama: MergeInputs, tmp_path: Path) -> None:
    quick(llama, tmp_path / "out", shard_gb=1e-4)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    loaded, expected = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict(), merged_by_peft(llama)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


def test_dequantised_is_the_base_as_4_bit_training_saw_it(llama: MergeInputs, tmp_path: Path) -> None:
    inputs = MergeInputs(llama.base_dir, llama.adapter_dir, onto="dequantised", nf4_dtype="float32")
    report = merge(inputs, tmp_path / "out", stop_ids=STOP_IDS, token_rows=token_rows())
    assert report.passed
    assert report.parity is not None
    assert report.parity.against_trained is None
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    trained = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(llama.base_dir, quantization_config=quantisation, dtype=torch.float32),
        llama.adapter_dir,
    )
    for part in trained.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            # Some CPUs would otherwise generate with weights repacked for bfloat16 products, which training does not.
            part.support_avx512bf16_for_cpu = False
    ids = torch.tensor(token_rows()[:1])
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(ids).logits
    assert torch.allclose(ours.log_softmax(-1), trained(ids).logits.float().log_softmax(-1), atol=0.01)


def test_a_bnb_4bit_folder_is_enough_for_dequantised(llama: MergeInputs, tmp_path: Path) -> None:
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    AutoModelForCausalLM.from_pretrained(
        llama.base_dir, quantization_config=quantisation, dtype=torch.float16
    ).save_pretrained(tmp_path / "4bit")
    from_16bit = MergeInputs(llama.base_dir, llama.adapter_dir, onto="dequantised", nf4_dtype="float16")
    from_4bit = MergeInputs(tmp_path / "4bit", llama.adapter_dir, onto="dequantised")
    expected = read(quick(from_16bit, tmp_path / "a"))
    report = merge(from_4bit, tmp_path / "b", stop_ids=STOP_IDS, token_rows=token_rows(), dtype="float16")
    assert report.passed
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read(tmp_path / "b").items())
    assert "quantization_config" not in json.loads((tmp_path / "b" / "config.json").read_text())
    with pytest.raises(FlanliteError, match="in 4 bits only"):
        quick(MergeInputs(tmp_path / "4bit", llama.adapter_dir), tmp_path / "c")
    trained_on_it = MergeInputs(llama.base_dir, llama.adapter_dir, trained_base_dir=tmp_path / "4bit")
    assert merge(trained_on_it, tmp_path / "d", stop_ids=STOP_IDS, token_rows=token_rows()).passed


def test_the_folder_has_settings_tokenizer_template_and_card(llama: MergeInputs, tmp_path: Path) -> None:
    out = merge(
        llama, tmp_path / "my_agent", stop_ids=STOP_IDS, token_rows=token_rows(), pad_id=0, base_name="some/base"
    ).folder
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == STOP_IDS
    assert generation["pad_token_id"] == 0
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float16"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (llama.adapter_dir / name).read_bytes()
    card = (out / "README.md").read_text()
    assert "base_model: some/base" in card
    assert "# my_agent" in card
    assert "16-bit base + adapter: mean KL" in card


def test_a_merge_without_its_check_says_so(llama: MergeInputs, tmp_path: Path) -> None:
    assert "was not checked" in (quick(llama, tmp_path / "out") / "README.md").read_text()


def test_progress_ends_at_the_whole(llama: MergeInputs, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    report = merge(
        llama,
        tmp_path / "out",
        stop_ids=STOP_IDS,
        token_rows=token_rows(),
        on_progress=lambda stage, done, total: heard.append((stage, done, total)),
    )
    assert [stage for stage, done, total in heard if done == total] == ["merge", "check"]
    assert max(done for stage, done, _ in heard if stage == "merge") == report.bytes_written


def test_an_exception_half_way_leaves_nothing(llama: MergeInputs, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(llama, tmp_path / "out", on_progress=stop)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from flanlite.engine.merging import MergeInputs, merge
def wait(stage, done, total):
    if done > total / 2:
        print("half", flush=True)
        time.sleep(60)
base, adapter, out = map(Path, sys.argv[1:])
merge(MergeInputs(base, adapter), out, stop_ids=[2], token_rows=None, on_progress=wait)
"""


def test_a_killed_merge_leaves_no_model_and_the_next_clears_up(llama: MergeInputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, llama.base_dir, llama.adapter_dir, out],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert [file.name for file in tmp_path.iterdir()] == ["out.partial"]
    quick(llama, out)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert read(out).keys() == read(llama.base_dir).keys()


def test_too_little_disk_is_found_before_anything_is_written(
    llama: MergeInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(FlanliteError, match="are needed") as error:
        quick(llama, tmp_path / "out")
    assert "Free some space" in error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_kept_unless_told_otherwise(llama: MergeInputs, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(FlanliteError, match="already exists"):
        quick(llama, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    quick(llama, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mine").exists()


def test_a_merge_that_fails_its_check_does_not_get_the_name(
    llama: MergeInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = lambda base, delta, kind: base.to(kind)  # noqa: E731 - a stand-in for one line
    monkeypatch.setattr("flanlite.engine.merging.merged_rows", wrong)
    report = merge(llama, tmp_path / "out", stop_ids=STOP_IDS, token_rows=token_rows())
    assert not report.passed
    assert report.folder == tmp_path / "out.failed"
    assert [file.name for file in tmp_path.iterdir()] == ["out.failed"]


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"fan_in_fan_out": True},
        {"init_lora_weights": "pissa"},
        {"rank_pattern": {"q_proj": 4}},
    ],
)
def test_more_than_plain_lora_is_refused(llama: MergeInputs, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(FlanliteError, match=next(iter(change))):
        quick(with_config(llama, tmp_path / "adapter", **change), tmp_path / "out")


def change_adapter(inputs: MergeInputs, folder: Path, **tensors: Tensor) -> MergeInputs:
    changed = with_config(inputs, folder)
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, file)
    return changed


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.embed_tokens.lora_embedding_A", (8, 320), r"lora_embedding_A, which is no part of a LoRA pair"),
        ("lm_head.weight", (320, 64), r"lm_head\.weight, which is no part"),
        ("model.layers.0.mlp.up_proj.lora_A.weight", (8, 32), r"up_proj as \[128, 32\], whose shape .* \[128, 64\]"),
        ("model.layers.0.mlp.up_proj.lora_A.weight", (4, 64), r"not \[8, in\]"),
        ("model.layers.9.mlp.up_proj.lora_A.weight", (8, 64), r"layers\.9\.mlp\.up_proj is A \[8, 64\], B \[\]"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    llama: MergeInputs, tmp_path: Path, name: str, shape: tuple[int, int], message: str
) -> None:
    inputs = change_adapter(llama, tmp_path / "adapter", **{name: torch.zeros(shape)})
    with pytest.raises(FlanliteError, match=message):
        quick(inputs, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_an_adapter_of_a_deeper_base_is_refused(llama: MergeInputs, tmp_path: Path) -> None:
    pair = {f"model.layers.9.mlp.up_proj.lora_{f}.weight": torch.zeros(s) for f, s in (("A", (8, 64)), ("B", (128, 8)))}
    with pytest.raises(FlanliteError, match=r"layers\.9\.mlp\.up_proj as \[128, 64\], which the base does not have"):
        quick(change_adapter(llama, tmp_path / "adapter", **pair), tmp_path / "out")


def test_a_weight_that_overflows_float16_is_said(llama: MergeInputs, tmp_path: Path) -> None:
    huge = {"model.layers.0.mlp.up_proj.lora_B.weight": torch.full((128, 8), 1e7)}
    with pytest.raises(FlanliteError, match="not finite"):
        quick(change_adapter(llama, tmp_path / "adapter", **huge), tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("gone", ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"])
def test_a_missing_file_is_said(llama: MergeInputs, tmp_path: Path, gone: str) -> None:
    inputs = with_config(llama, tmp_path / "adapter")
    (tmp_path / "adapter" / gone).unlink()
    with pytest.raises(FlanliteError, match=gone.removesuffix(".json")):
        quick(inputs, tmp_path / "out")
