"""What a child process is told to do, as JSON; imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Steps that are not timed, and how many are timed at the least, for how many seconds at the least."""

    warm_up_steps: int = 5
    steps: int = 10
    seconds: float = 20.0


@dataclass(frozen=True)
class Preparation:
    """Write a random base of this config into the folder, and say which card there is."""

    base_dir: str
    config: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Trial:
    """Train a variant with one layout, and time it.

    `rows_file` holds the conversations' turns. `memory_bytes` of the card may be used, all of it if None. After
    `deadline` (seconds since the epoch) no step begins. The process may write into `work_dir`.
    """

    variant: str
    micro_batch: int
    accumulation: int
    base_dir: str
    rows_file: str
    work_dir: str
    max_tokens: int
    batch_tokens: int
    memory_bytes: int | None
    timing: Timing
    deadline: float
    seed: int


def write_task(task: Preparation | Trial, file: Path) -> None:
    """Write what `read_task` reads."""
    file.write_text(json.dumps({"kind": type(task).__name__, **asdict(task)}), encoding="utf-8")


def read_task(file: Path) -> Preparation | Trial:
    """The task in a file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if content.pop("kind") == Preparation.__name__:
        return Preparation(**content)
    return Trial(**content | {"timing": Timing(**content["timing"])})
