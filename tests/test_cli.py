"""The commands as a user meets them: quick help, examples, one sentence and one hint for a mistake."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from small_tokenizer import byte_level_folder
from typer.testing import CliRunner

from flanlite import cli
from flanlite.bases import SIZES
from flanlite.cli import app
from flanlite.terminal import ACCOUNT, account_table

COMMANDS = typer.main.get_command(app)
CHATML = (Path(__file__).parent / "templates" / "chatml.jinja").read_text(encoding="utf-8")


def flanlite(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
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


@pytest.mark.parametrize("path", [(), *leaves(COMMANDS)], ids=" ".join)
def test_no_word_of_a_help_is_cut_in_a_window_of_80_columns(path):
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}, terminal_width=80).output
    asked = COMMANDS if not path else leaves(COMMANDS)[path]
    for parameter in asked.params:
        if not getattr(parameter, "hidden", False):
            assert "".join((getattr(parameter, "help", None) or "").split()) in "".join(shown.split())


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
    assert shown.stdout.split() == ["convert"]


def test_a_mistake_is_one_sentence_and_one_hint_without_a_traceback(tmp_path):
    failed = flanlite("tune", "epohcs=2")
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        "Error: The command line sets 'epohcs', which is no setting.",
        "Hint: Did you mean epochs?",
    ]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
def test_what_the_system_refuses_is_one_sentence_and_one_hint(number, monkeypatch, capsys):
    def refused(prog_name):
        raise OSError(number, os.strerror(number), "/proc/x.partial")

    monkeypatch.setattr(cli, "app", refused)
    with pytest.raises(SystemExit):
        cli.main()
    sentence, hint = capsys.readouterr().err.splitlines()
    assert sentence == f"Error: The system refuses /proc/x.partial: {os.strerror(number)}."
    assert hint.startswith("Hint: ")


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


def test_convert_tells_how_many_rows_it_rejects_and_why_the_first(tmp_path, base):
    rows = tmp_path / "rows.jsonl"
    good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}
    rows.write_text(f"{json.dumps(good)}\n{{}}\n")
    made = flanlite("convert", rows, "--base", base, "--out", tmp_path / "set")
    assert made.returncode == 0, made.stderr
    assert "1 row was rejected; rows.jsonl row 2: " in made.stdout
    assert f"All reasons: {tmp_path}/set/rejects.jsonl" in made.stdout
    assert "holds 1 row." in made.stdout


def test_the_first_sentence_of_each_command_is_whole_at_80_columns():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}, terminal_width=80).output
    commands = shown.partition("Commands:")[2].strip().splitlines()
    assert len(commands) == len(app.registered_commands) + len(app.registered_groups)
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


def test_names_of_sources_are_whole_in_the_account_at_80_columns():
    names = [f"sample/trajectories_{kind}" for kind in ("react", "negative", "instruct")]
    account = dict.fromkeys(ACCOUNT, 12_345)
    stream = io.StringIO()
    Console(file=stream, width=80).print(account_table([{"name": name, **account} for name in names]))
    assert "…" not in stream.getvalue()
    assert "".join(line.split(" ")[0] for line in stream.getvalue().splitlines()[1:]) == "".join(names)


def test_a_port_in_use_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = flanlite("chat", "tiny", "--no-browser", "--port", str(port))
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"Error: Port {port} is in use")


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
