"""Interruptions of every kind, and resumes that end in the very weights of a run without one."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from random_llama import write_base
from small_tune import main_with_log, origins, small_recipe

from flanlite.engine.checkpoints import (
    MARKER,
    Interruption,
    Progress,
    newest_checkpoint,
    read_progress,
    remove_others,
    seal,
)
from flanlite.errors import FlanliteError
from flanlite.planning.setup import Setup
from flanlite.run import Run

KILLS = int(os.environ.get("FLANLITE_KILLS", "3"))
OFTEN = "save_minutes=1e-9"
STEPS = 15
SETUP = Setup(micro_rows=2, kept_layers=1, offload=False)
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


PRELOADED = ["trl.trainer.sft_trainer", "peft", "bitsandbytes", "transformers.models.llama", "matplotlib.figure"]


@dataclass
class Tune:
    """A small tune in a process of its own, forked from one that has only imported the slow packages."""

    process: BaseProcess
    log: Path

    def finish(self) -> str:
        """What it printed, once it has ended well."""
        self.process.join(TIMEOUT_S)
        assert self.process.exitcode == 0, self.log.read_text()
        return self.log.read_text()

    def stop(self, number: signal.Signals) -> str:
        """What it printed, once a signal has ended it, or it has ended before."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        self.process.join(TIMEOUT_S)
        return self.log.read_text()


def start(base: Path, run: Run, *arguments: str) -> Tune:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    log = run.folder.with_name(run.name + ".log")
    process = context.Process(target=main_with_log, args=(str(log), str(base), str(run.folder), *arguments))
    process.start()
    return Tune(process, log)


def adapter_hash(run: Run) -> str:
    return hashlib.sha256((run.adapter_dir / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in a fresh interpreter, whose sets and hashes come in another order than those of the forked ones."""
    run = Run(tmp_path_factory.mktemp("runs") / "uninterrupted")
    here = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    }
    command = [sys.executable, str(here / "small_tune.py"), str(base), str(run.folder), "save_minutes=60"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return run


def wait_for(tune: Tune, is_there: Callable[[], bool]) -> None:
    """Wait until something is there, the process has ended, or far too long has passed."""
    deadline = time.monotonic() + TIMEOUT_S
    while tune.process.is_alive() and not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def is_writing(run: Run) -> bool:
    return any(not (folder / MARKER).exists() for folder in run.checkpoints_dir.glob("checkpoint-*"))


def kill_somewhere(tune: Tune, run: Run, draw: random.Random, *, while_writing: bool) -> None:
    """SIGKILL after some checkpoints of this sitting: while the next one is written, or at any later moment."""
    before = newest_checkpoint(run.checkpoints_dir)
    wait_for(tune, lambda: newest_checkpoint(run.checkpoints_dir) not in (None, before))
    time.sleep(draw.uniform(0.0, 0.15))
    if while_writing:
        wait_for(tune, lambda: is_writing(run))
        time.sleep(draw.uniform(0.0, 0.01))
    tune.stop(signal.SIGKILL)


def test_a_run_killed_again_and_again_ends_in_the_same_adapter(base: Path, uninterrupted: Run, tmp_path: Path) -> None:
    draw = random.Random(KILLS)
    run = Run(tmp_path / "killed-0")
    tune = start(base, run, OFTEN)
    kills = half_checkpoints = finished = 0
    while kills < KILLS:
        kill_somewhere(tune, run, draw, while_writing=kills % 2 == 0)
        if tune.process.exitcode == 0:
            assert adapter_hash(run) == adapter_hash(uninterrupted)
            finished += 1
            run = Run(tmp_path / f"killed-{finished}")
            tune = start(base, run, OFTEN)
            continue
        kills += 1
        half_checkpoints += is_writing(run)
        tune = start(base, run, "--resume", OFTEN)
    tune.finish()
    print(f"{kills} kills over {finished + 1} runs, {half_checkpoints} of them left half a checkpoint")
    assert adapter_hash(run) == adapter_hash(uninterrupted)
    assert json.loads(run.record_file.read_text())["measured"]["steps"] == STEPS
    assert KILLS < 20 or half_checkpoints > 0


def test_a_run_stopped_by_ctrl_c_goes_on_to_the_same_losses_and_adapter(
    base: Path, uninterrupted: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "stopped")
    tune = start(base, run, OFTEN)
    wait_for(tune, lambda: newest_checkpoint(run.checkpoints_dir) is not None)
    said = tune.stop(signal.SIGINT)
    assert tune.process.exitcode == 1
    newest = newest_checkpoint(run.checkpoints_dir)
    assert newest is not None
    assert (
        f"Stopped after step {read_progress(newest).step} of {STEPS}; a checkpoint is written. "
        f"Go on with `flanlite tune --resume --out {run.folder}`.\n"
    ) in said
    assert "Finishing this step and writing a checkpoint; once more to end at once.\n" in said
    assert "Traceback" not in said
    start(base, run, "--resume").finish()
    assert adapter_hash(run) == adapter_hash(uninterrupted)
    assert run.loss_csv.read_text() == uninterrupted.loss_csv.read_text()
    measured, expected = (json.loads(each.record_file.read_text())["measured"] for each in (run, uninterrupted))
    for key in ("steps", "tokens", "trained_tokens", "first_loss", "last_loss", "validation_loss"):
        assert measured[key] == expected[key]


def test_sigterm_leaves_a_checkpoint_and_a_kill_before_the_first_one_costs_only_time(
    base: Path, uninterrupted: Run, tmp_path: Path
) -> None:
    run = Run(tmp_path / "terminated")
    tune = start(base, run, "save_minutes=60")
    wait_for(tune, run.record_file.exists)
    time.sleep(0.3)
    tune.stop(signal.SIGKILL)
    assert newest_checkpoint(run.checkpoints_dir) is None
    tune = start(base, run, "--resume", OFTEN)
    wait_for(tune, lambda: newest_checkpoint(run.checkpoints_dir) is not None)
    tune.stop(signal.SIGTERM)
    assert tune.process.exitcode == 1
    start(base, run, "--resume").finish()
    assert adapter_hash(run) == adapter_hash(uninterrupted)


def test_the_last_complete_checkpoint_stays_until_the_next_one_is_complete(tmp_path: Path) -> None:
    first, second = tmp_path / "checkpoint-2", tmp_path / "checkpoint-10"
    for folder in (first, second):
        folder.mkdir()
        (folder / "weights").write_text("x")
    seal(first, Progress(step=2, seconds=1.5, tokens=30, trained_tokens=20), SETUP)
    assert first.is_dir()
    second.mkdir()
    (second / "weights").write_text("half")
    assert newest_checkpoint(tmp_path) == first
    seal(second, Progress(step=10), SETUP)
    assert newest_checkpoint(tmp_path) == second
    assert not first.exists()


def test_incomplete_checkpoints_are_no_start_and_are_removed(tmp_path: Path) -> None:
    whole, half = tmp_path / "checkpoint-3", tmp_path / "checkpoint-4"
    for folder in (whole, half):
        folder.mkdir()
    seal(whole, Progress(step=3, seconds=7.0), SETUP)
    half.mkdir()
    assert newest_checkpoint(tmp_path) == whole
    assert read_progress(whole).seconds == 7.0
    remove_others(tmp_path, whole)
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-3"]


def test_the_first_ctrl_c_is_noted_and_the_second_ends_at_once() -> None:
    with Interruption() as interruption:
        assert interruption.signal is None
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_resume_with_other_rows_or_settings_names_what_differs(base: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    recipe = small_recipe(base)
    run.begin(recipe, origins(recipe))
    other = small_recipe(base, "learning_rate=1e-4", "save_minutes=1", "report_to=tensorboard")
    with pytest.raises(FlanliteError) as caught:
        run.check_resumable(other, origins(other, data_hash="rows-1"))
    assert "learning_rate: 0.005 -> 0.0001" in caught.value.message
    assert "training data (hash): rows-0 -> rows-1" in caught.value.message
    assert "save_minutes" not in caught.value.message
    assert "report_to" not in caught.value.message
    assert run.check_resumable(small_recipe(base, "save_minutes=1"), origins(recipe)) == []
