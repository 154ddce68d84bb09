"""The main job as a user does it, by the commands: data in, a tuned and merged model out that answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Repo, serve
from random_llama import write_base

from flanlite.conversation import Turn
from flanlite.hub import AGENT_FLAN_REPO, AGENT_FLAN_SUBSETS, GENERAL_FILE, GENERAL_REPO
from flanlite.prompt.template import choose_template, tokenize
from flanlite.run import Run


def flanlite(folder: Path, *arguments: str | Path, **environment: str) -> str:
    command = [sys.executable, "-m", "flanlite", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("whole_job")


@pytest.fixture(scope="module")
def llama2_shaped(place, llama2_folder) -> Path:
    """A few layers with Llama-2's 32,000 pieces, random weights and the real tokenizer."""
    base = write_base(
        place / "base", layers=3, width=128, intermediate=320, vocabulary=32000, spread=0.02, dtype="float16"
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    for file in llama2_folder.iterdir():
        shutil.copy(file, base / file.name)
    return base


@pytest.fixture(scope="module")
def tuned(place, llama2_shaped, shared_data) -> Path:
    lines = (shared_data / "fireact" / "multitask.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    (place / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings = (
        "template=llama2",
        "general=none",
        "budget=full",
        "max_tokens=512",
        "batch_tokens=1024",
        "learning_rate=1e-2",
    )
    flanlite(place, "tune", "--base", llama2_shaped, "--data", "rows.jsonl", "--out", "runs/mine", *settings)
    return place / "runs" / "mine"


def test_a_llama2_shaped_model_learns_from_the_data(tuned):
    measured = Run(tuned).record["measured"]
    assert measured["validation_loss"] < measured["first_validation_loss"] - 0.2


def test_it_merges_within_its_bounds(tuned, place):
    said = flanlite(place, "merge", "runs/mine", "--out", "merged")
    assert "The merged model is in" in said
    assert json.loads((place / "merged" / "generation_config.json").read_text())["eos_token_id"] == [2]


def test_the_merged_model_is_asked_as_it_was_taught_by_transformers_alone(tuned, place, llama2_tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (place / "merged").is_dir():
        flanlite(place, "merge", "runs/mine", "--out", "merged")
    tokenizer = AutoTokenizer.from_pretrained(place / "merged")
    model = AutoModelForCausalLM.from_pretrained(place / "merged")
    asked = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Are both  American?"}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    turns = [Turn("system", "Be brief."), Turn("user", "Are both  American?")]
    taught = tokenize(choose_template("llama2", llama2_tokenizer), llama2_tokenizer, turns, is_open=True)
    assert asked["input_ids"][0].tolist() == taught.ids
    reply = model.generate(**asked, max_new_tokens=12, do_sample=False)
    assert len(tokenizer.decode(reply[0, len(taught.ids) :])) > 0


def test_the_default_job_fetches_agent_flan_and_general_chat_from_the_hub_and_mixes_them(tmp_path):
    base = write_base(tmp_path / "base", layers=1, width=64, intermediate=128)
    subsets = {
        f"data/{subset}.jsonl": "\n".join(
            json.dumps(
                {"conversation": [{"role": "user", "content": f"q{row}"}, {"role": "assistant", "content": "Act: x"}]}
            )
            for row in range(20)
        ).encode()
        for subset in AGENT_FLAN_SUBSETS
    }
    chat = [
        {"conversations": [{"from": "human", "value": f"hi {row}"}, {"from": "gpt", "value": "Hello there!"}]}
        for row in range(200)
    ]
    repos = {
        f"datasets/{AGENT_FLAN_REPO}": Repo(subsets),
        f"datasets/{GENERAL_REPO}": Repo({GENERAL_FILE: json.dumps(chat).encode()}),
        "models/some/small-chat": Repo({file.name: file.read_bytes() for file in base.iterdir()}),
    }
    environment = {
        "HF_HOME": str(tmp_path / "hf"),
        "FLANLITE_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
    }
    with serve(repos) as hub:
        settings = ("template=llama2", "max_tokens=256", "validation_share=0.05", "budget=full")
        said = flanlite(tmp_path, "tune", "--base", "some/small-chat", "--out", "run", *settings,
                        HF_ENDPOINT=hub.endpoint, **environment)  # fmt: skip
    sources = {source["name"]: source for source in Run(tmp_path / "run").record["sources"]}
    assert [sources[subset]["rows"] for subset in AGENT_FLAN_SUBSETS] == [20] * 7
    trained = {name: source["trained_tokens"] for name, source in sources.items()}
    general = trained.pop(GENERAL_FILE.removesuffix(".json"))
    assert general == pytest.approx(sum(trained.values()), rel=0.02)
    assert "some/small-chat" in said
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
