"""The one checkpoint that comes as pickles with code of its own, made up in its form."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import SIZES
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from flanlite.engine.convert_bin import convert_bin, llama_config
from flanlite.errors import FlanliteError

INTERNLM: dict[str, Any] = SIZES | {
    "architectures": ["InternLMForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_internlm.InternLMForCausalLM"},
    "bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "model_type": "internlm",
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-5,
    "rotary": {"base": 10000, "scaling_factor": 1.0, "type": "dynamic"},
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}


@pytest.fixture
def original() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, rms_norm_eps=1e-5), dtype=torch.float16)
    return model.eval()


@pytest.fixture
def source(tmp_path: Path, original: LlamaForCausalLM) -> Path:
    """Two shards with an index, a rotary buffer in one of them, code that must not run, and a tokenizer."""
    folder = tmp_path / "internlm"
    folder.mkdir()
    tensors = original.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    names = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((names[:10], names[10:]), start=1):
        file = f"pytorch_model-{i:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(INTERNLM))
    (folder / "modeling_internlm.py").write_text("raise SystemExit('run')")
    (folder / "tokenizer.model").write_bytes(b"pieces")
    tokenizer = {
        "auto_map": {"AutoTokenizer": ["x.Y", None]},
        "tokenizer_class": "InternLMTokenizer",
        "bos_token": "<s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_the_converted_folder_is_a_llama_with_the_same_outputs(
    source: Path, tmp_path: Path, original: LlamaForCausalLM
) -> None:
    heard: list[tuple[int, int]] = []
    convert_bin(source, tmp_path / "out", lambda done, total: heard.append((done, total)))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float16)
    assert type(model) is LlamaForCausalLM
    ids = torch.arange(3, 40)[None]
    assert torch.equal(model(ids).logits, original(ids).logits)
    assert heard[-1][0] == heard[-1][1] == sum(p.nbytes for p in original.parameters())
    assert not (tmp_path / "out.partial").exists()
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" not in load_file(tmp_path / "out" / "model.safetensors")


def test_the_tokenizer_loses_its_own_class(source: Path, tmp_path: Path) -> None:
    convert_bin(source, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config == {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>"}
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"pieces"


def test_a_single_bin_file_is_converted_too(source: Path, tmp_path: Path, original: LlamaForCausalLM) -> None:
    for file in source.glob("pytorch_model*"):
        file.unlink()
    torch.save(original.state_dict(), source / "pytorch_model.bin")
    convert_bin(source, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == original.state_dict().keys()


def test_dynamic_rotary_positions_keep_their_factor_and_length() -> None:
    config = LlamaConfig(**llama_config(INTERNLM))
    assert config.rope_parameters == {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 1.0}
    assert config.max_position_embeddings == 8192


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": True}, "biases"),
        ({"model_type": "llama"}, "Only internlm"),
        ({"rotary": {"type": "other"}}, "no counterpart"),
    ],
)
def test_what_is_no_llama_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FlanliteError, match=message):
        llama_config(INTERNLM | change)


def test_a_pickle_that_holds_more_than_tensors_is_not_run(source: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"lm_head.weight": Trap()}, source / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(FlanliteError, match="not a whole file of plain tensors"):
        convert_bin(source, tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


def test_a_tensor_of_another_shape_is_named_and_nothing_is_left(source: Path, tmp_path: Path) -> None:
    (source / "config.json").write_text(json.dumps(INTERNLM | {"intermediate_size": 256}))
    with pytest.raises(FlanliteError, match=r"mlp\.down_proj\.weight"):
        convert_bin(source, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["internlm"]
