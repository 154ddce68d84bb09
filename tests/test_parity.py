"""The check of a merge: honest ones pass, wrong ones do not, and its figures are those of whole models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_up import token_rows, write_adapter, write_base
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

from flanlite.engine.merging import MergeInputs, check, merge
from flanlite.engine.parity import Parity
from flanlite.errors import FlanliteError

Tensors = dict[str, Tensor]
UP = "model.layers.1.mlp.up_proj.weight"
QUERY = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> MergeInputs:
    folder = tmp_path_factory.mktemp("parity")
    base = write_base(folder / "base")
    return MergeInputs(base, write_adapter(folder / "adapter", base), nf4_dtype="float16")


def merged(inputs: MergeInputs, out: Path, dtype: str = "bfloat16") -> tuple[Path, Parity]:
    report = merge(inputs, out, stop_ids=[2], token_rows=token_rows(), dtype=dtype)
    assert report.parity is not None
    return report.folder, report.parity


def without_one_delta(tensors: Tensors, base: Tensors, adapter: Tensors) -> None:
    tensors[UP] = base[UP].to(tensors[UP].dtype)


def with_twice_the_scale(tensors: Tensors, base: Tensors, adapter: Tensors) -> None:
    for name, weight in base.items():
        tensors[name] = (2 * tensors[name].float() - weight.float()).to(tensors[name].dtype)


def with_a_pair_transposed(tensors: Tensors, base: Tensors, adapter: Tensors) -> None:
    a, b = (adapter[f"base_model.model.{QUERY}.lora_{factor}.weight"] for factor in "AB")
    kind = tensors[f"{QUERY}.weight"].dtype
    tensors[f"{QUERY}.weight"] = (base[f"{QUERY}.weight"].float() + 2 * (b @ a).T).to(kind)


def with_two_layers_swapped(tensors: Tensors, base: Tensors, adapter: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.1.")]:
        other = name.replace("layers.1.", "layers.2.")
        tensors[name], tensors[other] = tensors[other], tensors[name]


def with_one_number_wrong(tensors: Tensors, base: Tensors, adapter: Tensors) -> None:
    tensors[UP][5, 7] *= 1.02


def with_another_norm(tensors: Tensors, base: Tensors, adapter: Tensors) -> None:
    tensors["model.norm.weight"][3] += 0.1


def with_a_number_missing(tensors: Tensors, base: Tensors, adapter: Tensors) -> None:
    tensors["model.embed_tokens.weight"][300, 0] = torch.nan


CORRUPTIONS = [
    without_one_delta,
    with_twice_the_scale,
    with_a_pair_transposed,
    with_two_layers_swapped,
    with_one_number_wrong,
    with_another_norm,
    with_a_number_missing,
]


def corrupt(folder: Path, inputs: MergeInputs, corruption: Callable[[Tensors, Tensors, Tensors], None]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    base = load_file(inputs.base_dir / "model.safetensors")
    corruption(tensors, base, load_file(inputs.adapter_dir / "adapter_model.safetensors"))
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_honest_merge_passes_with_room(inputs: MergeInputs, tmp_path: Path, dtype: str) -> None:
    _, parity = merged(inputs, tmp_path / "out", dtype)
    assert parity.passed
    assert parity.against_base.mean_kl < parity.against_base.bounds.mean_kl / 10
    assert parity.weights.kept == pytest.approx(1.0, abs=0.01)
    assert parity.against_base.positions == sum(map(len, token_rows()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_merge_is_caught(
    inputs: MergeInputs, tmp_path: Path, dtype: str, corruption: Callable[[Tensors, Tensors, Tensors], None]
) -> None:
    folder, _ = merged(inputs, tmp_path / "out", dtype)
    corrupt(folder, inputs, corruption)
    parity = check(inputs, folder, token_rows())
    assert not parity.passed
    assert not parity.weights.passed


@pytest.mark.parametrize("corruption", [with_twice_the_scale, with_two_layers_swapped])
def test_the_outputs_alone_show_a_large_corruption(
    inputs: MergeInputs, tmp_path: Path, corruption: Callable[[Tensors, Tensors, Tensors], None]
) -> None:
    folder, _ = merged(inputs, tmp_path / "out", "float16")
    corrupt(folder, inputs, corruption)
    assert not check(inputs, folder, token_rows()).against_base.passed


def test_the_wrong_tensor_is_named(inputs: MergeInputs, tmp_path: Path) -> None:
    folder, _ = merged(inputs, tmp_path / "out")
    corrupt(folder, inputs, without_one_delta)
    parity = check(inputs, folder, token_rows())
    assert parity.weights.worst_name == UP
    assert any(UP in what and holds is False for what, _, _, holds in parity.rows())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_streamed_figures_are_those_of_whole_models(tmp_path: Path, family: str) -> None:
    base = write_base(tmp_path / "base", family)
    inputs = MergeInputs(base, write_adapter(tmp_path / "adapter", base), trained_in_nf4=False)
    folder, parity = merged(inputs, tmp_path / "out")
    merged_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    unmerged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), inputs.adapter_dir
    )
    kl, largest = 0.0, 0.0
    with torch.inference_mode():
        for row in token_rows():
            ids = torch.tensor([row])
            q, p = (log_softmax(model(ids).logits, -1) for model in (merged_model, unmerged))
            kl += float((p.exp() * (p - q)).sum())
            largest = max(largest, float((p - q).abs().max()))
    assert parity.against_base.mean_kl == pytest.approx(kl / sum(map(len, token_rows())), rel=0.01)
    assert parity.against_base.max_logprob_diff == pytest.approx(largest, rel=0.01)
    assert parity.against_trained is None


def test_an_adapter_that_the_rounding_swallows_is_said(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter_dir = write_adapter(tmp_path / "adapter", base)
    file = adapter_dir / "adapter_model.safetensors"
    small = {name: tensor * 0.01 if "lora_B" in name else tensor for name, tensor in load_file(file).items()}
    save_file(small, file)
    coarse = merged(MergeInputs(base, adapter_dir), tmp_path / "a", "bfloat16")[1]
    fine = merged(MergeInputs(base, adapter_dir), tmp_path / "b", "float16")[1]
    assert coarse.passed
    assert coarse.weights.kept < 0.6
    assert "--dtype float16" in coarse.advice
    assert fine.weights.kept > 0.9
    assert fine.advice == ""


def test_an_adapter_of_another_base_is_beyond_the_bound(inputs: MergeInputs, tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = AutoModelForCausalLM.from_pretrained(inputs.base_dir, dtype=torch.float16)
    for parameter in other.parameters():
        parameter.data.copy_(torch.randn_like(parameter))
    other.save_pretrained(tmp_path / "other")
    strange = MergeInputs(inputs.base_dir, inputs.adapter_dir, trained_base_dir=tmp_path / "other", nf4_dtype="float16")
    parity = merged(strange, tmp_path / "out")[1]
    assert parity.against_base.passed
    assert parity.against_trained is not None
    assert not parity.against_trained.passed


def test_a_changed_config_is_caught(inputs: MergeInputs, tmp_path: Path) -> None:
    folder, _ = merged(inputs, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(FlanliteError, match="rms_norm_eps"):
        check(inputs, folder, token_rows())


def test_ids_beyond_the_vocabulary_are_said(inputs: MergeInputs, tmp_path: Path) -> None:
    folder, _ = merged(inputs, tmp_path / "out")
    with pytest.raises(FlanliteError, match="more tokens than the base"):
        check(inputs, folder, [[1, 2, 320]])
    with pytest.raises(FlanliteError, match="none were given"):
        check(inputs, folder, [])
