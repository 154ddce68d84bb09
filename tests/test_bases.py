import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flanlite.bases import BASES, Base, Shape, resolve
from flanlite.errors import FlanliteError

LLAMA_CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama2-7b-chat", 6_738_415_616),
        ("llama2-13b-chat", 13_015_864_320),
        ("llama2-70b-chat", 68_976_648_192),
        ("agent-flan-7b", 6_738_415_616),
        ("qwen2.5-0.5b-instruct", 494_032_768),
        ("qwen2.5-1.5b-instruct", 1_543_714_304),
        ("qwen2.5-7b-instruct", 7_615_616_512),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-4b-instruct", 4_022_468_096),
        ("llama3.2-1b-instruct", 1_235_814_400),
        ("llama3.2-3b-instruct", 3_212_749_824),
        ("mistral-7b-instruct", 7_248_023_552),
    ],
)
def test_parameters_are_the_published_ones(name: str, parameters: int) -> None:
    assert resolve(name).parameters == parameters


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [("llama2-7b-chat", 9.98 + 3.5), ("qwen3-0.6b", 1.5), ("mistral-7b-instruct", 4.95 + 5.0 + 4.55)],
)
def test_16_bit_sizes_are_those_of_the_hub_pages(name: str, gigabytes: float) -> None:
    assert resolve(name).bytes_16bit / 1e9 == pytest.approx(gigabytes, abs=0.011)


def test_the_4_bit_size_is_that_of_the_hub_page_of_an_unsloth_copy() -> None:
    assert resolve("llama2-7b-chat").bytes_4bit / 1e9 == pytest.approx(3.87, abs=0.005)


SMALL = Shape(layers=3, hidden=192, intermediate=448, heads=6, kv_heads=2, vocab=1000)
SMALL_QWEN2 = replace(SMALL, tied=True, qkv_bias=True)
SMALL_QWEN3 = replace(SMALL, tied=True, qk_norm=True, head_dim=64)


@pytest.mark.parametrize(
    ("shape", "bytes_16bit", "bytes_4bit"),
    [(SMALL, None, 1_348_652), (SMALL_QWEN2, 2_526_720, 966_568), (SMALL_QWEN3, 3_115_392, 1_117_556)],
    ids=["llama", "qwen2", "qwen3"],
)
def test_sizes_are_what_transformers_and_bitsandbytes_write(
    shape: Shape, bytes_16bit: int | None, bytes_4bit: int
) -> None:
    """Tensor bytes of models saved by transformers 5.17.0 with bitsandbytes 0.50.2; the JSON varies by some bytes."""
    if bytes_16bit is not None:
        assert shape.bytes_16bit == bytes_16bit
    assert abs(shape.bytes_4bit - bytes_4bit) <= 5 * 7 * shape.layers


def test_pre_quantised_copies_are_named_only_where_they_exist() -> None:
    without = {name for name, base in BASES.items() if base.repo_4bit is None}
    assert without == {"tiny", "llama2-13b-chat", "llama2-70b-chat", "agent-flan-7b"}


def test_only_agent_flan_has_pickled_weights_and_its_own_template() -> None:
    assert [name for name, base in BASES.items() if base.weights == "bin"] == ["agent-flan-7b"]
    assert {name for name, base in BASES.items() if base.template} == {
        "llama2-7b-chat",
        "llama2-13b-chat",
        "llama2-70b-chat",
        "agent-flan-7b",
    }


def test_no_base_of_the_table_is_gated() -> None:
    assert not any(base.gated for base in BASES.values())


def test_a_gated_original_keeps_its_template_and_names_the_copy() -> None:
    base = resolve("meta-llama/Llama-2-13b-chat-hf")
    assert (base.repo, base.gated, base.template) == ("meta-llama/Llama-2-13b-chat-hf", True, "llama2")
    assert base.ungated == "NousResearch/Llama-2-13b-chat-hf"
    assert resolve("nousresearch/llama-2-13b-chat-hf") is BASES["llama2-13b-chat"]
    assert resolve("unsloth/llama-2-7b-chat-bnb-4bit") is BASES["llama2-7b-chat"]


def test_any_hub_name_will_do() -> None:
    assert resolve("someone/Some-Model_v1.5") == Base("someone/Some-Model_v1.5", repo="someone/Some-Model_v1.5")
    with pytest.raises(FlanliteError, match="size of someone/model is not known"):
        _ = resolve("someone/model").bytes_16bit


def test_an_unknown_base_names_the_nearest() -> None:
    with pytest.raises(FlanliteError) as caught:
        resolve("llama2-7b")
    assert caught.value.message == "There is no base called 'llama2-7b'."
    assert caught.value.hint.startswith("Did you mean llama2-7b-chat? The names are: tiny, llama2-7b-chat,")


@pytest.mark.parametrize("path", ["./missing", "/no/such/folder", "~/missing", "a/b/c"])
def test_a_missing_folder_is_not_taken_for_a_hub_name(path: str) -> None:
    with pytest.raises(FlanliteError, match="no folder"):
        resolve(path)


def test_a_folder_is_described_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG))
    base = resolve(folder)
    assert (base.shape, base.context_length) == (BASES["llama2-7b-chat"].shape, 4096)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model").folder == folder


def test_a_folder_with_pickled_weights_is_marked(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA_CONFIG | {"model_type": "internlm"}))
    assert resolve(tmp_path).weights == "bin"
    (tmp_path / "model.safetensors").touch()
    assert resolve(tmp_path).weights == "safetensors"


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"model_type": "qwen2"}, True),
        ({"model_type": "internlm", "bias": False}, True),
        ({"model_type": "gemma2"}, False),
        ({"attention_bias": True}, False),
    ],
)
def test_only_known_architectures_are_counted(change: dict[str, object], counted: bool) -> None:
    assert (Shape.from_config(LLAMA_CONFIG | change) is not None) == counted


def test_a_folder_that_is_no_base_says_why(tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match=r"holds no config\.json"):
        resolve(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FlanliteError, match="is not JSON"):
        resolve(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FlanliteError, match="holds an adapter"):
        resolve(tmp_path)


def test_a_list_of_the_bases_in_80_columns_has_every_name_whole_to_be_copied() -> None:
    from rich.console import Console

    from flanlite.terminal import table_of_bases

    console = Console(width=80)
    with console.capture() as capture:
        console.print(table_of_bases([resolve(name) for name in BASES]))
    words = capture.get().split()
    assert {base.name for base in BASES.values()} | {base.repo for base in BASES.values() if base.repo} <= set(words)


def test_the_table_is_light() -> None:
    code = "import sys, flanlite.bases; print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
