"""A folder with a random base and rows, and the processes that train on them, one after the other."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from flanlite.benchmark.conversations import Conversation
from flanlite.benchmark.trial import Preparation, Trial, write_task
from flanlite.errors import FlanliteError
from flanlite.hub import in_words
from flanlite.planning.cards import GIB

SPARE_BYTES = 4 * GIB
"""Memory and disk that are left alone."""

MEMORY_DISK = Path("/dev/shm")
"""Files in it lie in memory: a base is read a dozen times."""

CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux tells what a container may have of the memory."""

PREFIX = "flanlite-bench-"
"""Of the folders' names, with the process that made them."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}


@contextmanager
def workbench(rows: Sequence[Conversation], base_bytes: int, log_dir: Path) -> Iterator[Workbench]:
    """A workbench for a base of that size, removed at the end. Raises FlanliteError where there is no room for it."""
    log_dir.mkdir(parents=True, exist_ok=True)
    _remove_orphans()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=_roomy_place(base_bytes)) as folder:
        bench = Workbench(Path(folder), log_dir)
        bench.base_dir.mkdir()
        bench.rows_file.write_text(json.dumps(rows), encoding="utf-8")
        yield bench


def _remove_orphans() -> None:
    """Remove the folders of benchmarks that were killed: in memory they would stay until the computer is restarted."""
    for place in (MEMORY_DISK, Path(tempfile.gettempdir())):
        for folder in place.glob(f"{PREFIX}*-*"):
            process = folder.name.removeprefix(PREFIX).split("-")[0]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def _roomy_place(n_bytes: int) -> Path:
    """The disk in memory where it has the room and the memory is there, else the one for temporary files."""
    if MEMORY_DISK.is_dir() and min(shutil.disk_usage(MEMORY_DISK).free, _available_memory()) > n_bytes + SPARE_BYTES:
        return MEMORY_DISK
    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if free < n_bytes + SPARE_BYTES:
        raise FlanliteError(
            f"The random base takes {in_words(n_bytes)}, and {place} has {in_words(free)} free.",
            "Free some space, or set TMPDIR to a folder on another disk.",
        )
    return place


def _available_memory() -> int:
    """Bytes that are free, in a container only as many as it may have: what lies in memory counts as its own."""
    available = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return available
    return min(available, limit - used)


class Workbench:
    """Where the base and the rows lie, and how a process is asked."""

    def __init__(self, folder: Path, log_dir: Path) -> None:
        self.folder = folder
        self.log_dir = log_dir
        self.base_dir = folder / "base"
        self.rows_file = folder / "rows.json"

    def ask(self, task: Preparation | Trial, name: str, limit_s: float) -> dict[str, Any]:
        """A process's answer to a task, or its outcome where it gave none; what it printed is in the log of that name.

        It is ended after limit_s seconds.
        """
        task_file, answer_file = self.folder / "task.json", self.folder / "answer.json"
        answer_file.unlink(missing_ok=True)
        write_task(task, task_file)
        log = self.log_dir / f"{name}.txt"
        command = [sys.executable, "-m", "flanlite.benchmark.child", str(task_file), str(answer_file)]
        # unsloth writes code and imports it again, else into the folder that the user is in.
        returned = _run(command, log, limit_s, OFFLINE | {"UNSLOTH_COMPILE_LOCATION": str(self.folder / "compiled")})
        if answer_file.is_file():
            answer: dict[str, Any] = json.loads(answer_file.read_text(encoding="utf-8"))
            return answer
        if returned is None:
            return {"outcome": "out of time", "note": f"ended after {limit_s:,.0f} s"}
        return {"outcome": "failed", "note": _reason(returned, log)}


def _run(command: Sequence[str], log: Path, limit_s: float, settings: Mapping[str, str]) -> int | None:
    """A process's exit code; None where it had to be ended, its own processes with it."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ | settings, start_new_session=True
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(returned: int, log: Path) -> str:
    """Why a process gave no answer: the signal that ended it, or the last line it printed."""
    if returned < 0:
        return f"ended by signal {-returned}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), f"exit code {returned}")
