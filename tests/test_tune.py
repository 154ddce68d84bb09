"""flanlite tune around the training itself: what it says, asks and refuses before the first step and after the last."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flanlite import cli
from flanlite.bases import resolve
from flanlite.engine import weights
from flanlite.engine.checkpoints import MARKER
from flanlite.errors import FlanliteError
from flanlite.recipe import Recipe, load_recipe
from flanlite.run import Run
from flanlite.tune import _standing, prepare, show_mixture, tune


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Three rows for the tiny base, and one that holds nothing."""
    monkeypatch.setenv("FLANLITE_CACHE", str(tmp_path / "cache"))
    turns = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes, it is."}]
    rows = [{"messages": turns}] * 3 + [{"messages": []}]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return load_recipe("tiny", [f"data={tmp_path / 'mine.jsonl'}"])


def test_rejected_rows_count_among_those_that_a_source_has(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    show_mixture(prepare(recipe).mixture)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("mine"))
    assert line.split()[1:3] == ["3", "4"]


def test_a_disk_that_the_run_would_fill_is_found_before_it_begins(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    shape = resolve("tiny").known_shape
    # Enough for the margin and the adapter, not for its checkpoints.
    free = (64 << 20) + 5 * shape.lora_parameters(recipe.lora_r)
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, free))
    with pytest.raises(FlanliteError, match=r"GB are needed under .* are free"):
        tune(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_resume_says_where_it_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    job, run = prepare(recipe), Run(tmp_path / "run")
    assert _standing(run, job) == f"{run.folder} has no checkpoint: it begins anew."
    checkpoint = run.checkpoints_dir / "checkpoint-22"
    checkpoint.mkdir(parents=True)
    (checkpoint / MARKER).write_text(json.dumps({"step": 22, "tokens": job.mixture.tokens // 3}))
    assert _standing(run, job) == f"{run.folder} goes on behind step 22, with about 33% of its tokens done."


def test_a_long_tune_that_nobody_confirms_is_not_started_and_names_the_option(recipe: Recipe, tmp_path: Path) -> None:
    words = ["tune", "tiny", f"data={recipe.data[0]}", "epochs=1e9", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli.app, words, input="")
    assert isinstance(done.exception, FlanliteError)
    assert done.exception.message == "Not started."
    assert "--yes" in done.exception.hint


def test_a_dry_run_shows_the_settings_also_where_the_machine_cannot_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = CliRunner().invoke(cli.app, ["tune", "--base", "llama2-70b-chat", "--dry-run"])
    assert isinstance(done.exception, FlanliteError)
    assert "not resolved" in done.stdout
    assert "\nlearning_rate: 0.0002\n" in done.stdout
