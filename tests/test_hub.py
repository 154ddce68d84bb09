"""Hub access against a real HTTP server on loopback that serves made-up files under the real names."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import GOOD_TOKEN, Hub, Repo, commit, serve
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from flanlite import hub
from flanlite.bases import BASES, Base, resolve
from flanlite.errors import FlanliteError

LLAMA = "models/NousResearch/Llama-2-7b-chat-hf"
SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
HALF = 2**18  # more than Python holds back when it writes to a file
INDEX = json.dumps({"weight_map": {"model.embed_tokens.weight": SHARD_1, "lm_head.weight": SHARD_2}}).encode()
CONFIG = json.dumps(
    {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 512,
    }
).encode()
TEXT = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "tokenizer.model": b"pieces",
    "tokenizer_config.json": b"{}",
    "README.md": b"read me",
}


def repositories() -> dict[str, Repo]:
    weights = {
        SHARD_1: bytes(range(256)) * (2 * HALF // 256),
        SHARD_2: b"b" * 3000,
        "model.safetensors.index.json": INDEX,
    }
    unwanted = {
        "modeling.py": b"import os",
        "pytorch_model.bin": b"pickle",
        "consolidated.safetensors": b"again",
        "original/params.json": b"{}",
    }
    bins = {"pytorch_model.bin": b"weights", "modeling_internlm.py": b"import os"}
    subsets = {f"data/{name}.jsonl": b'{"id": "%s"}\n' % name.encode() for name in hub.AGENT_FLAN_SUBSETS}
    return {
        LLAMA: Repo(TEXT | weights | unwanted),
        "models/unsloth/llama-2-7b-chat-bnb-4bit": Repo(TEXT | {"model.safetensors": b"four bits"}),
        "models/internlm/Agent-FLAN-7b": Repo(TEXT | bins),
        "models/meta-llama/Llama-2-7b-chat-hf": Repo(TEXT | weights, gated=True),
        "models/some/forbidden": Repo(TEXT, forbidden=True),
        "models/some/pickles": Repo(TEXT | {"pytorch_model.bin": b"pickle"}),
        "datasets/internlm/Agent-FLAN": Repo(subsets | {"README.md": b"card"}),
        f"datasets/{hub.GENERAL_REPO}": Repo({hub.GENERAL_FILE: b"[]", "clean_sharegpt.py": b"import os"}),
        "datasets/some/rows": Repo(
            {"train.jsonl": b"{}\n", "zh/more.json.gz": gzip.compress(b"[]"), "dataset_infos.json": b"{}"}
        ),
        "datasets/some/table": Repo({"train.csv": b"a,b"}),
        "datasets/some/parquet": Repo({f"data/{name}-00000-of-00001-6a1.parquet": b"PAR1" for name in ("db", "os")}),
    }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(repositories()) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", HALF)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("time.sleep", lambda _seconds: None)
        disable_progress_bars()
        yield served
        enable_progress_bars()
        huggingface_hub.close_session()


@pytest.fixture
def llama() -> Base:
    return resolve("llama2-7b-chat")


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_base_comes_without_code_pickles_and_second_copies(server: Hub, llama: Base) -> None:
    said: list[str] = []
    folder = hub.model_dir(llama, say=said.append)
    wanted = {"config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
    assert names_in(folder) == wanted | {SHARD_1, SHARD_2, "model.safetensors.index.json"}
    assert (folder / SHARD_1).read_bytes() == server.repos[LLAMA].files[SHARD_1]
    assert said == [f"downloading 528 kB from NousResearch/Llama-2-7b-chat-hf to {hub.cache_dir()}"]


def test_what_is_in_the_cache_needs_no_request(server: Hub, llama: Base) -> None:
    first = hub.model_dir(llama)
    files = [*hub.data_files(hub.AGENT_FLAN_REPO), hub.general_file()]
    server.requests.clear()
    assert hub.model_dir(llama) == first
    assert [*hub.data_files(hub.AGENT_FLAN_REPO), hub.general_file()] == files
    assert server.requests == []


def test_a_tokenizer_alone_brings_no_weights(server: Hub, llama: Base) -> None:
    folder = hub.model_dir(llama, weights=False)
    assert {"config.json", "tokenizer.json", "tokenizer.model"} <= names_in(folder)
    assert not list(folder.glob("*.safetensors"))
    assert (hub.model_dir(llama) / SHARD_2).is_file()


def test_a_4bit_copy_is_taken_where_there_is_one(server: Hub, llama: Base) -> None:
    assert (hub.model_dir(llama, quantised=True) / "model.safetensors").read_bytes() == b"four bits"
    flan = hub.model_dir(resolve("agent-flan-7b"), quantised=True)
    assert (flan / "pytorch_model.bin").read_bytes() == b"weights"
    assert not list(flan.glob("*.py"))


def test_a_snapshot_that_lost_a_shard_is_completed(server: Hub, llama: Base) -> None:
    folder = hub.model_dir(llama)
    (folder / SHARD_2).resolve().unlink()
    (folder / SHARD_2).unlink()
    server.requests.clear()
    assert (hub.model_dir(llama) / SHARD_2).is_file()
    fetched = [request for request in server.requests if request.startswith("GET") and "/resolve/" in request]
    assert [request.rpartition("/")[2] for request in fetched] == [SHARD_2]


def test_a_connection_cut_in_mid_file_is_resumed_by_a_range(server: Hub, llama: Base) -> None:
    server.cut_after[SHARD_1] = HALF
    folder = hub.model_dir(llama)
    assert server.ranges() == [f"GET /{llama.repo}/resolve/{commit(LLAMA)}/{SHARD_1} from {HALF}"]
    assert (folder / SHARD_1).read_bytes() == server.repos[LLAMA].files[SHARD_1]


def test_a_killed_download_goes_on_in_the_next_process(server: Hub, llama: Base, tmp_path: Path) -> None:
    """With HF_ENDPOINT, in processes of their own; huggingface_hub alone would start the file anew."""
    server.cut_after[SHARD_1], server.stall = HALF, threading.Event()
    script = (
        f"from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {HALF}\n"
        "from flanlite import bases, hub; print(hub.model_dir(bases.resolve('llama2-7b-chat')))"
    )
    home = tmp_path / "other"
    env = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    env.pop("HF_HUB_CACHE", None)
    process = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 8  # under huggingface_hub's own read timeout, after which it would go on by itself
    while (half := [path.stat().st_size for path in home.rglob("*.partial")]) != [HALF] and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    process.kill()
    process.wait()
    assert half == [HALF]
    server.stall.set()
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert server.ranges() == [f"GET /{llama.repo}/resolve/{commit(LLAMA)}/{SHARD_1} from {HALF}"]
    assert (Path(done.stdout.strip()) / SHARD_1).read_bytes() == server.repos[LLAMA].files[SHARD_1]


def test_a_damaged_partial_file_is_thrown_away(server: Hub, llama: Base) -> None:
    folder = hub.model_dir(llama)
    blob = (folder / SHARD_1).resolve()
    (folder / SHARD_1).unlink()
    blob.rename(blob.with_suffix(".partial"))
    with blob.with_suffix(".partial").open("r+b") as handle:
        handle.truncate(2048)
        handle.write(b"damage")
    with pytest.raises(FlanliteError, match="damaged"):
        hub.model_dir(llama)
    assert (hub.model_dir(llama) / SHARD_1).read_bytes() == server.repos[LLAMA].files[SHARD_1]


def refusal(name: str) -> FlanliteError:
    with pytest.raises(FlanliteError) as caught:
        hub.model_dir(resolve(name))
    return caught.value


def test_a_gated_model_without_a_token_says_how_to_get_in_and_names_the_copy(server: Hub) -> None:
    error = refusal("meta-llama/Llama-2-7b-chat-hf")
    assert error.message == "meta-llama/Llama-2-7b-chat-hf is gated, and no token is set."
    assert error.hint == (
        "Accept the licence at https://huggingface.co/meta-llama/Llama-2-7b-chat-hf, then run: hf auth login "
        "(or set HF_TOKEN), or use NousResearch/Llama-2-7b-chat-hf, a copy that asks for neither."
    )


def test_a_gated_model_opens_for_a_token_that_was_let_in(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert "has not been given access" in refusal("meta-llama/Llama-2-7b-chat-hf").message
    server.accepted_tokens.add(GOOD_TOKEN)
    assert (hub.model_dir(resolve("meta-llama/Llama-2-7b-chat-hf")) / SHARD_1).is_file()


def test_401_and_403_are_one_sentence_each(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("some/missing").message == "The hub has no model some/missing, or hides it."
    assert refusal("some/forbidden").message == "The hub refuses access to some/forbidden (403)."
    assert refusal("some/pickles").hint.startswith("flanlite loads no pickled .bin weights")
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert refusal("llama2-7b-chat").message == "The hub does not accept your token."


def test_a_hub_that_is_down_or_out_of_reach_is_said_so(
    server: Hub, llama: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.reach() == f"{server.endpoint} answers; no token is set (gated models need one)"
    server.broken = True
    assert refusal("llama2-7b-chat").message == "The hub answers with an error (503)."
    with pytest.raises(FlanliteError, match="503"):
        hub.reach()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    unreached = refusal("llama2-7b-chat")
    assert unreached.message == (
        "NousResearch/Llama-2-7b-chat-hf is not in the cache, and the hub (http://127.0.0.1:9) cannot be reached."
    )
    assert unreached.hint.endswith("--base tiny.")
    with pytest.raises(FlanliteError, match=r"The hub \(http://127\.0\.0\.1:9\) cannot be reached"):
        hub.reach()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal("llama2-7b-chat").message == (
        "NousResearch/Llama-2-7b-chat-hf is not in the cache, and HF_HUB_OFFLINE is set."
    )
    with pytest.raises(FlanliteError, match="HF_HUB_OFFLINE"):
        hub.data_files("some/rows")
    with pytest.raises(FlanliteError, match="the hub is not asked"):
        hub.reach()


def test_offline_everything_in_the_cache_still_works(server: Hub, llama: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = hub.model_dir(llama), hub.data_files("some/rows")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert hub.model_dir(llama) == folder
    assert hub.model_download(llama).missing_bytes == 0
    assert hub.data_files("some/rows") == rows
    assert server.requests == []


def test_offline_a_part_of_a_data_set_is_not_taken_for_the_whole(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    part = hub.data_files("some/rows", ["zh"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.data_files("some/rows", ["zh"]) == part
    with pytest.raises(FlanliteError, match="not in the cache"):
        hub.data_files("some/rows")


def test_a_full_disk_is_noticed_before_the_download(server: Hub, llama: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "free_bytes", lambda _folder: 50_000)
    error = refusal("llama2-7b-chat")
    assert error.message == (
        f"Downloading NousResearch/Llama-2-7b-chat-hf takes 528 kB, and {hub.cache_dir()} has 50 kB free."
    )
    assert not any("GET" in request and "/resolve/" in request for request in server.requests)


def test_the_size_of_a_download_is_measured_or_else_computed(
    server: Hub, llama: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [name for name in server.repos[LLAMA].files if name.startswith(("model", "tok", "config.json"))]
    wanted.remove("modeling.py")
    n_bytes = sum(len(server.repos[LLAMA].files[name]) for name in wanted)
    assert hub.model_download(llama) == hub.Download(llama.where, n_bytes, n_bytes)
    hub.model_dir(llama, weights=False)
    text = sum(len(TEXT[name]) for name in wanted if name in TEXT) + len(INDEX)
    assert hub.model_download(llama) == hub.Download(llama.where, n_bytes, n_bytes - text)
    hub.model_dir(llama)
    assert str(hub.model_download(llama)) == f"{llama.where}: nothing to download"
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    far = resolve("llama2-13b-chat")
    assert hub.model_download(far) == hub.Download(far.where, far.bytes_16bit, far.bytes_16bit, measured=False)
    assert str(hub.model_download(far)) == "NousResearch/Llama-2-13b-chat-hf: 26 GB to download"


def test_agent_flan_comes_subset_by_subset(server: Hub) -> None:
    files = hub.data_files(hub.AGENT_FLAN_REPO, ["toolbench_negative", "agent_instruct_react"])
    assert [file.name for file in files] == ["toolbench_negative.jsonl", "agent_instruct_react.jsonl"]
    assert files[0].read_text() == '{"id": "toolbench_negative"}\n'
    assert [file.stem for file in hub.data_files(hub.AGENT_FLAN_REPO)] == list(hub.AGENT_FLAN_SUBSETS)
    with pytest.raises(FlanliteError) as caught:
        hub.data_files(hub.AGENT_FLAN_REPO, ["toolbench_negativ"])
    assert caught.value.hint.startswith("Did you mean toolbench_negative?")


def test_any_data_set_gives_its_files_of_rows(server: Hub) -> None:
    assert [file.name for file in hub.data_files("some/rows")] == ["train.jsonl", "more.json.gz"]
    assert [file.name for file in hub.data_files("some/rows", ["zh"])] == ["more.json.gz"]
    assert gzip.decompress(hub.data_files("some/rows", ["more"])[0].read_bytes()) == b"[]"
    with pytest.raises(FlanliteError, match="no subset 'trian'"):
        hub.data_files("some/rows", ["trian"])
    assert [file.name[:3] for file in hub.data_files("some/parquet")] == ["db-", "os-"]
    assert [file.name[:3] for file in hub.data_files("some/parquet", ["os"])] == ["os-"]
    with pytest.raises(FlanliteError, match="holds no file of rows"):
        hub.data_files("some/table")
    with pytest.raises(FlanliteError, match="no data set some/missing"):
        hub.data_files("some/missing")


def test_the_general_chat_file_comes_alone(server: Hub) -> None:
    file = hub.general_file()
    assert file.read_bytes() == b"[]"
    assert names_in(file.parent) == {hub.GENERAL_FILE}


def test_a_hub_name_outside_the_table_is_described_by_its_config(server: Hub) -> None:
    base = hub.described(resolve("some/pickles"))
    assert base.shape is not None
    assert (base.shape.layers, base.context_length) == (2, 512)
    assert hub.described(BASES["llama2-7b-chat"]) is BASES["llama2-7b-chat"]


def test_a_local_folder_is_used_where_it_lies(server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    (folder / "tokenizer.json").write_text("{}")
    assert hub.model_dir(resolve(folder), weights=False) == folder
    with pytest.raises(FlanliteError, match="not a whole base model"):
        hub.model_dir(resolve(folder))
    (folder / "model.safetensors").write_bytes(b"weights")
    assert hub.model_dir(resolve(folder)) == folder
    assert hub.model_download(resolve(folder)).missing_bytes == 0
    assert server.requests == []


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [(13_476_831_232, "13.5 GB"), (7_300_000, "7.3 MB"), (12_345, "12 kB"), (3, "1 kB"), (0, "0 kB")],
)
def test_sizes_read_as_on_hub_pages(n_bytes: int, words: str) -> None:
    assert hub.in_words(n_bytes) == words
