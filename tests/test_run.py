"""The run folder: its name, what is in it, and what a resume compares."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flanlite.errors import FlanliteError
from flanlite.recipe import Recipe
from flanlite.run import Origins, Run, SourceCount, create_run, newest_run, open_run

ORIGINS = Origins(
    base="NousResearch/Llama-2-7b-chat-hf",
    data_hash="d0",
    template="llama2",
    template_hash="t0",
    tokenizer_hash="k0",
    backend="peft",
    dtype="float32",
    machine="Backend peft on the CPU.",
    sources=(SourceCount("Agent-FLAN/react", 1200, 900_000, 300_000), SourceCount("sharegpt", 800, 700_000, 350_000)),
)
MEASURED: dict[str, Any] = {
    "steps": 120,
    "first_loss": 1.5,
    "last_loss": 0.75,
    "first_validation_loss": 1.4,
    "validation_loss": 0.8,
    "seconds": 3661.0,
    "tokens": 1_600_000,
    "trained_tokens": 650_000,
    "tokens_per_second": 437.0,
    "peak_memory_bytes": 6 * 2**30,
    "peak_memory_of": "card",
}


def begun(folder: Path) -> Run:
    folder.mkdir(parents=True)
    run = Run(folder)
    run.begin(Recipe(), ORIGINS)
    return run


def test_runs_are_named_after_base_and_day_and_counted(tmp_path: Path) -> None:
    first = create_run("meta-llama/Llama 2 (7b)", tmp_path)
    second = create_run("meta-llama/Llama 2 (7b)", tmp_path)
    stem, _, number = first.name.rpartition("-")
    assert stem.startswith("Llama-2-7b-20")
    assert (number, second.name) == ("1", f"{stem}-2")
    assert create_run("/", tmp_path).name.startswith("run-20")


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    assert create_run("tiny", tmp_path, name="mine").folder == tmp_path / "mine"
    with pytest.raises(FlanliteError, match="mine is there already"):
        create_run("tiny", tmp_path, name="mine")


def test_the_newest_run_is_the_one_that_began_last(tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match="There is no run"):
        newest_run(tmp_path)
    for age, name in ((100, "old"), (10, "new"), (50, "middle")):
        file = begun(tmp_path / name).recipe_file
        os.utime(file, (file.stat().st_mtime - age,) * 2)
    (tmp_path / "no run").mkdir()
    Run(tmp_path / "old").finish(MEASURED)
    assert newest_run(tmp_path).name == "new"
    assert open_run(None, tmp_path).name == "new"


def test_a_run_is_opened_by_folder_or_by_name(tmp_path: Path) -> None:
    begun(tmp_path / "runs" / "mine")
    assert open_run(tmp_path / "runs" / "mine").name == "mine"
    assert open_run("mine", tmp_path / "runs").name == "mine"
    with pytest.raises(FlanliteError, match=r"other is no run: it has no run\.json"):
        open_run("other", tmp_path / "runs")


def test_recipe_and_record_read_back(tmp_path: Path) -> None:
    recipe = Recipe(learning_rate=1e-5, data=("a", "b"), seed=4)
    run = Run(tmp_path)
    run.begin(recipe, ORIGINS)
    assert run.recipe == recipe
    record = run.record
    assert record["seed"] == 4
    assert record["sources"][0] == {
        "name": "Agent-FLAN/react",
        "rows": 1200,
        "tokens": 900_000,
        "trained_tokens": 300_000,
    }
    assert record["versions"]["torch"]
    assert not run.is_finished


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.record_file.write_text("{")
    with pytest.raises(FlanliteError, match=r"run\.json cannot be read"):
        _ = run.record


def test_a_resume_compares_settings_data_template_and_machine(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    assert run.check_resumable(Recipe(save_minutes=3.0, report_to="wandb"), ORIGINS) == []
    other = Origins(**{**vars(ORIGINS), "template_hash": "t1", "dtype": "float16", "machine": "another card"})
    assert run.differences(Recipe(batch_tokens=512), other) == [
        "batch_tokens: 16384 -> 512",
        "template (hash): t0 -> t1",
        "compute type: float32 -> float16",
    ]
    with pytest.raises(FlanliteError, match="batch_tokens: 16384 -> 512"):
        run.check_resumable(Recipe(batch_tokens=512), ORIGINS)


def test_what_a_run_left_open_is_no_difference(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    assert run.differences(Recipe(optimizer="adamw_torch"), ORIGINS) == []
    run.begin(Recipe(optimizer="adamw_torch"), ORIGINS)
    assert run.differences(Recipe(optimizer="adamw_8bit"), ORIGINS) == ["optimizer: adamw_torch -> adamw_8bit"]


def test_other_package_versions_are_worth_a_warning_only(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    record = run.record
    current = record["versions"]["torch"]
    record["versions"]["torch"] = "2.0"
    run.record_file.write_text(json.dumps(record))
    assert run.check_resumable(Recipe(), ORIGINS) == [f"torch: 2.0 -> {current}"]


def test_a_finished_run_has_nothing_to_resume(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.replace_adapter(lambda folder: None)
    run.finish(MEASURED)
    with pytest.raises(FlanliteError, match="is finished"):
        run.check_resumable(Recipe(), ORIGINS)


def test_an_adapter_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.replace_adapter(lambda folder: (folder / "weights").write_text("first") and None)

    def fail(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.replace_adapter(fail)
    assert (run.adapter_dir / "weights").read_text() == "first"
    run.replace_adapter(lambda folder: (folder / "weights").write_text("second") and None)
    assert (run.adapter_dir / "weights").read_text() == "second"
    assert not list(run.folder.glob("adapter.*"))


def test_the_card_names_base_data_settings_losses_and_what_was_not_measured(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.finish(MEASURED)
    card = run.card_file.read_text()
    for text in (
        'base_model: "NousResearch/Llama-2-7b-chat-hf"',
        "| sharegpt | 800 | 700,000 | 350,000 |",
        "| all | 2,000 | 1,600,000 | 650,000 |",
        "| learning rate | 0.0002, cosine, 3% warm-up |",
        "| peak memory | 6.00 GiB (card) |",
        "| validation loss after training | 0.8000 |",
        "## What was not measured",
        'AutoPeftModelForCausalLM.from_pretrained("adapter")',
        "- torch ",
    ):
        assert text in card
    run.finish({**MEASURED, "validation_loss": None, "first_validation_loss": None})
    assert "No conversations were held out" in run.card_file.read_text()


def test_the_run_folder_is_read_without_torch() -> None:
    code = "import sys, flanlite.run; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
