"""The commands as a user meets them: quick help, examples, one sentence and one hint for a mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from small_tokenizer import byte_level_folder

from flanlite.bases import SIZES
from flanlite.cli import app

COMMANDS = typer.main.get_command(app)
CHATML = (Path(__file__).parent / "templates" / "chatml.jinja").read_text(encoding="utf-8")


def flanlite(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-m", "flanlite", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "120", "HF_HUB_OFFLINE": "1", **environment},
    )


def leaves(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if hasattr(command, "commands"):
        return {
            key: leaf for name, child in command.commands.items() for key, leaf in leaves(child, (*path, name)).items()
        }
    return {path: command}


@pytest.mark.parametrize("path", leaves(COMMANDS), ids=" ".join)
def test_every_command_has_an_example_in_its_help(path):
    example = re.search(r"Examples?: `(flanlite [^`]*)`", leaves(COMMANDS)[path].help)
    assert example
    assert example[1].split()[1 : 1 + len(path)] == list(path)


def test_help_imports_nothing_heavy():
    heavy = ("torch", "transformers", "pyarrow", "numpy", "yaml", "huggingface_hub")
    code = f"import sys, flanlite.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_command_in_the_readme_exists():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    used = {
        match[1]
        for match in re.finditer(
            r"flanlite ([a-z]+)", "\n".join(re.findall(r"`[^`]*`|```.*?```|^    .*$", readme, re.DOTALL | re.MULTILINE))
        )
    }
    assert used
    assert used <= set(COMMANDS.commands)


def test_shell_completion_works():
    shown = flanlite(_FLANLITE_COMPLETE="complete_bash", COMP_WORDS="flanlite con", COMP_CWORD="1")
    assert "convert" in shown.stdout


def test_a_mistake_is_one_sentence_and_one_hint_without_a_traceback(tmp_path):
    failed = flanlite("tune", "epohcs=2")
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        "Error: The command line sets 'epohcs', which is no setting.",
        "Hint: Did you mean epochs?",
    ]


def test_debug_shows_the_traceback():
    assert "Traceback" in flanlite("tune", "epohcs=2", "--debug").stderr


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = byte_level_folder(tmp_path_factory.mktemp("base"), CHATML, None, "<|im_end|>")
    (folder / "config.json").write_text(json.dumps({"model_type": "none"}))
    return folder


MISTAKES = {
    "a missing file": (["convert", "./nowhere.jsonl", "--out", "set"], "There is no data './nowhere.jsonl'."),
    "broken JSON": (["convert", "broken.jsonl", "--out", "set"], "broken.jsonl row 1: broken JSON"),
    "a broken array": (["convert", "broken.json", "--out", "set"], "broken.json is broken JSON behind row 0"),
    "empty data": (["convert", "empty.jsonl", "--out", "set"], "The data holds no rows."),
    "an unknown form": (["convert", "broken.jsonl", "--form", "xml", "--out", "set"], "should be one of auto"),
    "an unknown template": (["convert", "broken.jsonl", "--template", "x", "--out", "set"], "should be one of base"),
    "a folder that is taken": (["convert", "broken.jsonl", "--out", "."], "exists and is no training set"),
    "no training set": (["inspect", "."], "is no training set."),
    "no run to merge": (["merge", "--out", "merged"], "There is no run in runs yet."),
    "no run to resume": (["tune", "--resume"], "There is no run in runs yet."),
    "an unknown recipe": (["recipes", "show", "13gb"], "There is no recipe '13gb'."),
    "no card to plan for": (["plan", "--base", "tiny"], "There is no card here to plan for."),
    "an unknown card": (["plan", "--gpu", "4091"], "There is no card '4091' in the table."),
    "data counted twice": (["plan", "--data", "x.jsonl", "--tokens", "9"], "--tokens is the number that --data finds"),
    "a broken config": (["plan", "--base", "./broken", "--gpu", "t4"], "describes no model: a size is below 1."),
    "an unknown base": (["convert", "empty.jsonl", "--out", "set", "--base", "lama2-7b-chat"], "lama2-7b-chat"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_ends_in_a_sentence_and_exit_code_1(name, tmp_path, monkeypatch, base):
    (tmp_path / "broken.jsonl").write_text("{oops")
    (tmp_path / "broken.json").write_text("[oops")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    sizes = dict.fromkeys(SIZES, -1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    arguments, sentence = MISTAKES[name]
    if arguments[0] == "convert" and "--base" not in arguments:
        arguments = [*arguments, "--base", str(base)]
    failed = flanlite(*arguments)
    assert failed.returncode == 1, failed.stderr
    assert sentence in failed.stderr.replace("\n", " ")
    assert failed.stderr.startswith("Error: ")
    assert "Traceback" not in failed.stderr


def test_convert_then_inspect_shows_what_was_made(tmp_path, base):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]})
    )
    made = flanlite("convert", rows, "--base", base, "--out", tmp_path / "set", "--max-tokens", "30000")
    assert made.returncode == 0, made.stderr
    assert re.search(r"rows\s+1\s+1\s+0\s+0", made.stdout)
    shown = flanlite("inspect", tmp_path / "set", "--row", "0")
    assert "<|im_start|>assistant" in shown.stdout
    page = tmp_path / "row.html"
    assert flanlite("inspect", tmp_path / "set", "--html", page).returncode == 0
    assert page.read_text().startswith("<!doctype html>")


def test_a_dry_run_prints_every_setting_and_stops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = flanlite("tune", "--base", "tiny", "epochs=3", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "base: tiny" in shown.stdout
    assert "epochs: 3.0" in shown.stdout
    assert not list(tmp_path.iterdir())


def test_a_large_base_without_a_card_is_refused_with_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed = flanlite("tune", "--base", "llama2-7b-chat", CUDA_VISIBLE_DEVICES="")
    assert failed.returncode == 1
    assert "6.7 billion parameters" in failed.stderr
    assert "flanlite tune --base tiny" in failed.stderr


def test_a_recipe_is_copied_once(tmp_path):
    file = tmp_path / "mine.yaml"
    assert flanlite("recipes", "copy", "agent-flan", file).returncode == 0
    file.write_text("epochs: 7\n")
    assert "is there already" in flanlite("recipes", "copy", "agent-flan", file).stderr
    assert file.read_text() == "epochs: 7\n"
