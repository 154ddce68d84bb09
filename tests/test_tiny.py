"""The embedded base, its sample corpus and its cases: what the files must hold, and how replies are scored."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from flanlite.agent.builtin import BUILTIN
from flanlite.conversation import Tool, Turn
from flanlite.prompt.replies import parse_reply
from flanlite.prompt.template import choose_template, tokenize
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import offer_tools
from flanlite.tiny.cases import cases
from flanlite.tiny.make.__main__ import make_corpus
from flanlite.tiny.make.dialogues import Dialogue, list_prompt, pretraining_dialogues
from flanlite.tiny.make.request import BUILTIN_LISTED
from flanlite.tiny.score import main, score_all, score_reply, table

TINY = Path(__file__).parents[1] / "flanlite" / "tiny"
BASE = TINY / "base"
JSON_TYPES = {"string": str, "integer": int, "number": (int, float)}

ODD_TEXTS = (
    "a   b    c\n\n\n d\t\te", "  leading", "trailing  ", "\n\n\n", "12345 3.14 -7 1,000", "it's we'll I'D 'quoted'",
    "café naïve Straße", "日本語 中文", "🙂🙃 👩\u200d👩\u200d👧", "Привет мир", "[INST][/INST]<<SYS>><</SYS>>",
    "[INST ] <<SYS> x", '{"a": [1, 2.5, "b"], "c": {"d": null}}', "a_b__c--d//e**f((g))", "²³ ½ ①", "\u00a0\u2003em",
    "\r\nwin\r\n", "~!@#$%^&*()_+`-={}|[]\\:\";'<>?,./", "don’t “quotes”", "e\u0301", "Ⅻ 𝔘𝔫",
)  # fmt: skip


def rows() -> list[list[dict[str, Any]]]:
    texts = [file.read_text("utf-8") for file in sorted((TINY / "corpus" / "data").glob("*.jsonl"))]
    return [json.loads(line)["conversation"] for text in texts for line in text.splitlines()]


def test_the_sample_corpus_and_its_raw_rows_are_made_by_their_script(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    for folder in ("raw", "corpus"):
        made, shipped = (
            {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}
            for root in (tmp_path / folder, TINY / folder)
        )
        assert made == shipped


def test_turns_alternate_and_only_the_assistants_are_trained() -> None:
    for conversation in rows():
        assert all(turn["loss"] == (turn["role"] == "assistant") for turn in conversation)
        roles = [turn["role"] for turn in conversation if turn["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_every_call_of_the_corpus_is_offered_and_its_observation_is_true() -> None:
    tools = {tool.__name__: tool for tool in BUILTIN}
    called: Counter[str] = Counter()
    for conversation in rows():
        for turn, following in zip(conversation, [*conversation[1:], {}], strict=True):
            for call in parse_reply(turn["content"]).calls if turn["role"] == "assistant" else ():
                assert isinstance(call.arguments, dict)
                assert f"- {call.name}(" in conversation[0]["content"]
                try:
                    result = tools[call.name](**call.arguments)
                except ValueError as error:
                    result = f"Error: {error}"
                assert following["content"] == f"Observation: {result}"
                called[call.name] += 1
    assert min(called[name] for name in tools) >= 38


def test_pretraining_holds_no_call() -> None:
    for dialogue in islice(pretraining_dialogues(1), 3000):
        for _, reply in dialogue.exchanges:
            assert not any(mark in reply for mark in ("Thought:", "Action:", "Final Answer:"))
            assert not parse_reply(reply).calls


def test_pretraining_is_the_same_for_the_same_seed() -> None:
    first, second = (list(islice(pretraining_dialogues(3), 50)) for _ in range(2))
    assert first == second != list(islice(pretraining_dialogues(4), 50))


def test_arguments_have_the_types_that_the_list_says() -> None:
    for case in cases(5, 240):
        if case.call:
            for name, kind in BUILTIN_LISTED[case.call].parameters:
                assert isinstance((case.arguments or {})[name], JSON_TYPES.get(kind, str))


def test_the_list_of_tools_is_written_as_the_product_writes_it() -> None:
    tools = []
    for listed in BUILTIN_LISTED.values():
        schema = {
            name: {"type": kind} if kind in JSON_TYPES else {"enum": json.loads(f"[{kind.replace('|', ',')}]")}
            for name, kind in listed.parameters
        }
        tools.append(Tool(listed.name, listed.description, {"properties": schema, "required": list(schema)}))
    assert list_prompt(list(BUILTIN_LISTED.values())) == offer_tools("react", tools)


def test_cases_are_apart_from_the_corpus() -> None:
    corpus = {turn["content"] for conversation in rows() for turn in conversation if turn["role"] == "user"}
    asked = [case.turns[-1].text for case in cases(1, 300) if case.call]
    assert sum(text in corpus for text in asked) < 0.02 * len(asked)


def test_a_reply_is_scored_by_its_call() -> None:
    case = next(case for case in cases(1, 12) if case.call == "to_roman")
    right = f"Thought: x\nAction: to_roman\nAction Input: {json.dumps(case.arguments)}"
    assert score_reply(case, right).exact
    wrong_value = score_reply(case, 'Thought: x\nAction: to_roman\nAction Input: {"number": 0}')
    assert (wrong_value.right_tool, wrong_value.exact, wrong_value.invented) == (True, False, False)
    assert score_reply(case, "Action: fly\nAction Input: {}").invented
    assert not score_reply(case, "I cannot.").right_tool
    quiet = next(case for case in cases(1, 12) if case.call is None)
    assert score_reply(quiet, right).invented
    assert not score_reply(quiet, "Hello!").invented


def test_a_folder_without_a_model_is_refused_in_a_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["score", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert str(ended.value).startswith(f"Error: {tmp_path} holds no base model")


def test_a_perfect_agent_scores_one_in_every_row() -> None:
    found = cases(2, 24)
    replies = {case.turns[-1].text: case for case in found}

    def generate(conversations: list[tuple[Turn, ...]]) -> list[str]:
        return [perfect(turns, replies) for turns in conversations]

    scores = score_all(found, generate)
    assert all(score.exact and score.holds_result for score in scores if score.case.call)
    assert not any(score.invented for score in scores)
    assert "unseen phrasing" in table(scores)


def perfect(turns: tuple[Turn, ...], replies: dict[str, Any]) -> str:
    if turns[-1].role == "observation":
        return f"Thought: I have the result.\nFinal Answer: It is {turns[-1].text.removeprefix('Observation: ')}."
    case = replies[turns[-1].text]
    if case.call is None:
        return "All right."
    return f"Thought: x\nAction: {case.call}\nAction Input: {json.dumps(case.arguments)}"


def test_no_merge_joins_a_blank_or_a_digit_to_anything() -> None:
    model = json.loads((BASE / "tokenizer.json").read_text("utf-8"))["model"]
    merged = [left + right for left, right in model["merges"]]
    assert len(model["vocab"]) <= 1536
    assert not [piece for piece in merged if "Ġ" in piece or any(c.isdigit() for c in piece)]
    assert not [piece for piece in merged if any(c.isalpha() for c in piece) and any(c in '"{}:,|' for c in piece)]


def test_a_word_has_the_same_pieces_behind_a_blank_and_in_quotes() -> None:
    tokenizer = Tokenizer.load(BASE)
    for word in ("Paris", "Bralinx", "2024-03-15", "km/h"):
        pieces = tokenizer.encode(word)
        assert tokenizer.encode(f" {word} ")[1:-1] == pieces
        assert tokenizer.encode(f'"{word}"')[1:-1] == pieces


def test_pretraining_and_the_product_write_the_same_ids() -> None:
    torch = pytest.importorskip("torch")
    import tokenizers

    from flanlite.tiny.make.pretrain import encode

    del torch
    plain, tokenizer = tokenizers.Tokenizer.from_file(str(BASE / "tokenizer.json")), Tokenizer.load(BASE)
    template = choose_template("auto", tokenizer)
    for dialogue in islice(pretraining_dialogues(9), 100):
        assert encode(plain, dialogue)[0] == tokenize(template, tokenizer, as_turns(dialogue)).ids


def as_turns(dialogue: Dialogue) -> list[Turn]:
    turns = [Turn("system", dialogue.system)] if dialogue.system else []
    for user, assistant in dialogue.exchanges:
        turns += [Turn("user", user), Turn("assistant", assistant)]
    return turns


def test_the_base_is_small_and_fits_nf4() -> None:
    config = json.loads((BASE / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert all(config[key] % 64 == 0 for key in ("hidden_size", "intermediate_size", "vocab_size"))
    assert (BASE / "model.safetensors").stat().st_size <= 12_000_000
    assert (BASE / "README.md").is_file()


def test_the_base_loads_in_transformers_with_its_tokenizer_and_calls_nothing() -> None:
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from flanlite.tiny.score import greedy

    tokenizer, theirs = Tokenizer.load(BASE), AutoTokenizer.from_pretrained(BASE)
    for text in ODD_TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    model = AutoModelForCausalLM.from_pretrained(BASE).float().eval()
    asked = [case for case in cases(3, 12) if case.call]
    assert not any(parse_reply(reply).calls for reply in greedy(model, tokenizer)([case.turns for case in asked]))


LLAMA_CPP = """
import fs from "fs";
const {getLlama} = await import(process.env.NODE_LLAMA_CPP_DIR + "/node_modules/node-llama-cpp/dist/index.js");
const llama = await getLlama({gpu: false, build: "never", progressLogs: false, logLevel: "disabled"});
const model = await llama.loadModel({modelPath: process.env.GGUF, vocabOnly: true});
const texts = JSON.parse(fs.readFileSync(process.env.TEXTS, "utf8"));
fs.writeFileSync(process.env.IDS, JSON.stringify(texts.map((text) => Array.from(model.tokenize(text, true)))));
process.exit(0);
"""


def test_llama_cpp_gives_the_same_ids(tmp_path: Path) -> None:
    """Needs `gguf` and, in the folder that NODE_LLAMA_CPP_DIR names, `npm install node-llama-cpp`."""
    folder = os.environ.get("NODE_LLAMA_CPP_DIR", "")
    gguf = pytest.importorskip("gguf")
    if not (folder and shutil.which("node") and (Path(folder) / "node_modules" / "node-llama-cpp").is_dir()):
        pytest.skip("no llama.cpp binding: set NODE_LLAMA_CPP_DIR")
    write_vocabulary(gguf, tmp_path / "vocab.gguf")
    script = tmp_path / "ids.mjs"
    script.write_text(LLAMA_CPP, encoding="utf-8")
    tokenizer = Tokenizer.load(BASE)
    texts = [*ODD_TEXTS, *(as_prompt(dialogue) for dialogue in islice(pretraining_dialogues(77), 300))]
    paths = {name.upper(): tmp_path / f"{name}.json" for name in ("texts", "ids")} | {"GGUF": tmp_path / "vocab.gguf"}
    paths["TEXTS"].write_text(json.dumps(texts), encoding="utf-8")
    environment = os.environ | {name: str(path) for name, path in paths.items()}
    run = subprocess.run(["node", str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert json.loads(paths["IDS"].read_text("utf-8")) == [tokenizer.encode(text) for text in texts]


def as_prompt(dialogue: Dialogue) -> str:
    system = f"<<SYS>>\n{dialogue.system}\n<</SYS>>\n\n" if dialogue.system else ""
    return "".join(
        f"[INST] {system if n == 0 else ''}{user} [/INST] {assistant} "
        for n, (user, assistant) in enumerate(dialogue.exchanges)
    )


def write_vocabulary(gguf: Any, file: Path) -> None:
    """A GGUF with no weights: only what llama.cpp's tokenizer reads."""
    data = json.loads((BASE / "tokenizer.json").read_text("utf-8"))
    tokens = dict(data["model"]["vocab"]) | {token["content"]: token["id"] for token in data["added_tokens"]}
    special = {token["content"]: token["special"] for token in data["added_tokens"]}
    kinds = {None: gguf.TokenType.NORMAL, True: gguf.TokenType.CONTROL, False: gguf.TokenType.USER_DEFINED}
    names = sorted(tokens, key=tokens.__getitem__)
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in dataclasses.asdict(Sizes()).items():
        getattr(writer, f"add_{key}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([kinds[special.get(name)] for name in names])
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The keys that llama.cpp asks of any Llama."""

    context_length: int = 1024
    embedding_length: int = 256
    feed_forward_length: int = 512
    block_count: int = 4
    head_count: int = 4
    layer_norm_rms_eps: float = 1e-5
