"""lm-evaluation-harness: with tasks of our own where it is installed, and with made-up findings where it is not."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from openai_server import says, serve
from random_llama import write_base
from typer.testing import CliRunner

from flanlite.cli import app
from flanlite.conversation import Conversation, Turn
from flanlite.engine.device import Machine
from flanlite.engine.load import load_for_generation
from flanlite.engine.local import LocalModel, SharedModel
from flanlite.errors import FlanliteError
from flanlite.harness import CODE_SWITCH, harness_measures, open_tasks, verdicts_of
from flanlite.opening import open_model
from flanlite.prompt.template import choose_template
from flanlite.prompt.tokenizer import Tokenizer

CPU = Machine("cpu", "CPU", "peft", "float32")
QUESTIONS = ("How are you today?", "Convert 12 miles to km.", "What is the capital of Kenya?")

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_choice": ["yes", "no", "perhaps"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 3},
}
WRITE = {
    "output_type": "generate_until",
    "doc_to_text": "[INST] {{question}} [/INST]",
    "doc_to_target": "I am fine, thank you. How are you?",
    "generation_kwargs": {"until": ["###"], "max_gen_toks": 48, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tasks in the harness's form, which it knows in place of its own thousands."""
    lm_tasks = pytest.importorskip("lm_eval.tasks", reason="needs lm-evaluation-harness")
    folder = tmp_path / "tasks"
    folder.mkdir()
    documents = [{"question": question, "answer": number} for number, question in enumerate(QUESTIONS)]
    (folder / "documents.json").write_text(json.dumps(documents))
    known = functools.partial(lm_tasks.TaskManager, include_defaults=False, include_path=folder)
    monkeypatch.setattr(lm_tasks, "TaskManager", known)
    return folder


def write_task(folder: Path, name: str, task: dict[str, Any]) -> Path:
    source = {"data_files": {"test": str(folder / "documents.json")}, "cache_dir": str(folder / "cache")}
    file = folder / f"{name}.yaml"
    file.write_text(
        yaml.safe_dump({"task": name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test", **task})
    )
    return file


def random_model(folder: Path, shared: SharedModel, *, uses_adapter: bool = True) -> LocalModel:
    tokenizer = Tokenizer.load(folder)
    template = choose_template("llama2", tokenizer)
    return LocalModel("random", shared, tokenizer, template, "react", 2048, uses_adapter=uses_adapter)


def test_the_command_reports_a_task_in_figures_cases_and_the_harnesss_own_account(tasks: Path, tmp_path: Path) -> None:
    write_task(tasks, "choose", CHOICE)
    arguments = ["eval", "tiny", "--suite", "sample", "--limit", "2", "--lm-eval", "choose", "--out", f"{tmp_path}/out"]
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    row = next(row for row in report["differences"] if row["suite"] == "lm-eval")
    assert (row["name"], row["n"], row["is_share"]) == ("choose acc", 2, True)
    assert row["after"] == report["lm-eval"]["results"]["choose"]["acc,none"]
    assert report["lm-eval"]["versions"] == {"choose": 3}
    assert report["lm-eval"]["n-samples"] == {"choose": {"original": 3, "effective": 2}}


def test_the_harness_asks_as_the_model_is_used_to_and_ends_where_it_ends(tasks: Path) -> None:
    write_task(tasks, "write", WRITE)
    model = open_model("tiny", None).model
    verdicts = harness_measures(model, open_tasks(["write"]), None)
    asked = [Conversation((Turn("user", question),)) for question in QUESTIONS]
    replies = dict(model.answer_all(asked, 48))
    assert len(set(map(len, replies.values()))) == 3  # so none ends with another
    written = {identity: example.reply.strip() for identity, example in verdicts.examples.items()}
    assert written == {f"write/{number}": reply.strip() for number, reply in replies.items()}


def test_without_its_adapter_a_model_is_its_base(tasks: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    write_task(tasks, "choose", CHOICE)
    write_task(tasks, "write", WRITE)
    folder = tmp_path / "base"
    folder.mkdir()
    write_base(folder)
    opened = open_tasks(["choose", "write"])
    plain = harness_measures(random_model(folder, SharedModel(load_for_generation(folder, None, CPU))), opened, None)
    torch.manual_seed(1)
    adapter = LoraConfig(r=8, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    shared = SharedModel(get_peft_model(load_for_generation(folder, None, CPU), adapter).eval())
    tuned, base = (
        harness_measures(random_model(folder, shared, uses_adapter=uses_adapter), opened, None)
        for uses_adapter in (True, False)
    )
    assert base.measures == plain.measures
    assert base.examples == plain.examples
    assert tuned.examples != plain.examples


def test_a_task_that_runs_code_waits_for_the_harnesss_switch(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tasks, "code", {**WRITE, "unsafe_code": True})
    monkeypatch.delenv(CODE_SWITCH, raising=False)
    with pytest.raises(FlanliteError, match="runs the code that the model writes") as refused:
        open_tasks(["code"])
    assert f"{CODE_SWITCH}=1" in refused.value.hint
    monkeypatch.setenv(CODE_SWITCH, "1")
    assert [task.task_name for task in open_tasks(["code"])] == ["code"]


def test_a_task_may_be_a_file_and_a_wrong_name_is_told_with_the_nearest(tasks: Path, tmp_path: Path) -> None:
    write_task(tasks, "choose", CHOICE)
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "another.yaml"
    file.write_text((tasks / "choose.yaml").read_text().replace("task: choose", "task: another"))
    assert [task.task_name for task in open_tasks([str(file), "choose", "choose"])] == ["another", "choose"]
    with pytest.raises(FlanliteError, match="no task 'chose'") as refused:
        open_tasks(["chose"])
    assert refused.value.hint == "Did you mean choose?"


def test_a_group_is_opened_and_measured_as_one(tasks: Path) -> None:
    write_task(tasks, "choose", CHOICE)
    write_task(tasks, "again", CHOICE)
    mean = {"metric": "acc", "weight_by_size": True}
    group = {"group": "both", "task": ["choose", "again"], "aggregate_metric_list": [mean]}
    (tasks / "both.yaml").write_text(yaml.safe_dump(group))
    opened = open_tasks(["both"])
    assert [group.name for group in opened] == ["both"]
    (measure,) = harness_measures(open_model("tiny", None).model, opened, 2).measures
    assert measure.name == "both acc"
    assert set(measure.items) == {"choose/0", "choose/1", "again/0", "again/1"}


def test_replies_longer_than_the_context_are_refused_in_one_sentence(tasks: Path) -> None:
    write_task(tasks, "long", {**WRITE, "generation_kwargs": {"until": ["###"], "max_gen_toks": 1024}})
    with pytest.raises(FlanliteError, match=r"cannot ask tiny: .*\(1024\)"):
        harness_measures(open_model("tiny", None).model, open_tasks(["long"]), None)


def sample(document: int, filter_name: str, **metrics: Any) -> dict[str, Any]:
    return {
        "doc_id": document,
        "filter": filter_name,
        "metrics": list(metrics),
        "arguments": [("Shot.\n\nQuestion?", {"until": []})],
        "resps": [["a reply"]],
        "filtered_resps": ["reply"],
        "target": "wanted",
        **metrics,
    }


FOUND = {
    "results": {
        "sums": {"alias": "sums", "sample_len": 2, "exact_match,strict": 0.5, "exact_match_stderr,strict": 0.5,
                 "exact_match,loose": 1.0, "exact_match_stderr,loose": "N/A"},
        "text": {"alias": "text", "sample_len": 1, "perplexity,none": 9.5, "perplexity_stderr,none": "N/A",
                 "bleu,none": 31.0},
        "both": {"alias": "both", "sample_len": 2},
    },
    "group_subtasks": {"both": ["sums", "text"]},
    "higher_is_better": {"sums": {"exact_match": True}, "text": {"perplexity": False, "bleu": True}},
    "configs": {
        "sums": {"output_type": "generate_until", "num_fewshot": 1, "fewshot_delimiter": "\n\n"},
        "text": {"output_type": "loglikelihood_rolling", "num_fewshot": 0},
    },
    "samples": {
        "sums": [
            sample(0, "strict", exact_match=1.0), sample(1, "strict", exact_match=0.0),
            sample(0, "loose", exact_match=1.0), sample(1, "loose", exact_match=1.0),
        ],
        "text": [sample(0, "none", perplexity=-2.25, bleu=("wanted", "reply"))],
    },
    "versions": {"sums": 3.0, "text": 1},
    "n-samples": {"sums": {"original": 9, "effective": 2}},
    "date": 1.0,
}  # fmt: skip


def test_figures_are_the_harnesss_own_with_a_value_for_each_document() -> None:
    measures = verdicts_of(FOUND).measures
    names = ["sums exact_match (strict)", "sums exact_match (loose)", "text perplexity", "text bleu"]
    assert [measure.name for measure in measures] == names
    strict, _, perplexity, bleu = measures
    assert (strict.value, strict.items, strict.is_share) == (0.5, {"sums/0": 1.0, "sums/1": 0.0}, True)
    assert (perplexity.value, perplexity.is_share, perplexity.is_better_high) == (9.5, False, False)
    assert (bleu.value, bleu.items, bleu.is_share) == (31.0, {}, False)


def test_a_documents_example_is_its_own_question_and_the_first_filters_score() -> None:
    verdicts = verdicts_of(FOUND)
    assert set(verdicts.examples) == {"sums/0", "sums/1"}
    example = verdicts.examples["sums/1"]
    assert (example.question, example.wanted, example.reply, example.score) == ("Question?", "wanted", "a reply", 0.0)


def test_the_account_is_what_the_harness_gives() -> None:
    assert verdicts_of(FOUND).details == {key: FOUND[key] for key in ("results", "versions", "n-samples")}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A harness that knows one task, `gsm8k`, and fails with `module.error` when it is to load it."""
    module: Any = types.ModuleType("lm_eval.tasks")

    class TaskManager:
        all_tasks = ("gsm8k",)

        def load(self, names: list[str]) -> Any:
            raise module.error

    module.TaskManager = TaskManager
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", module)
    monkeypatch.setitem(sys.modules, "lm_eval", types.ModuleType("lm_eval"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return module


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (
            ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub"),
            "cannot load gsm8k: Couldn't reach",
            "connection",
        ),
        (ValueError(f"set the environment variable {CODE_SWITCH}"), "runs the code", f"{CODE_SWITCH}=1"),
        (ModuleNotFoundError("No module named 'sympy'"), "cannot load gsm8k: No module named 'sympy'.", ""),
    ],
)
def test_a_task_that_cannot_be_loaded_is_one_sentence(failing: Any, error: Exception, words: str, hint: str) -> None:
    failing.error = error
    with pytest.raises(FlanliteError) as refused:
        open_tasks(["gsm8k"])
    assert words in refused.value.message
    assert hint in refused.value.hint


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["eval", "tiny", "--lm-eval", "mmlu", "--out", str(tmp_path)])
    assert isinstance(result.exception, FlanliteError)
    assert result.exception.hint == "pip install -e '.[eval]'"


def test_a_server_and_saved_predictions_get_a_note_instead(tmp_path: Path) -> None:
    question = {
        "origin_prompt": [{"role": "user", "content": "Question?"}],
        "template": "",
        "ground_truth": {"answer": "A"},
        "meta_data": {"response_format": "str"},
        "prediction": "Answer: A",
    }
    file = tmp_path / "review_str_v2.json"
    file.write_text(json.dumps({"0": question}))
    with serve() as server:
        server.replies = [says("Answer: A")]
        for source in (
            ["--endpoint", server.url, "--suite", "t-eval", "--t-eval", str(file)],
            ["--predictions", str(file)],
        ):
            result = CliRunner().invoke(app, ["eval", *source, "--lm-eval", "mmlu", "--out", str(tmp_path / "out")])
            assert result.exception is None, result.output
            report = json.loads((tmp_path / "out" / "report.json").read_text())
            assert any(note.startswith("lm-eval is left out") for note in report["notes"])
            assert report["t-eval"]["dimensions"] == {"Review": 1.0}
