"""The process of one measurement: `python -m flanlite.benchmark.child TASK_FILE ANSWER_FILE`.

The answer is a file, since libraries print what they like. It is written beside, then renamed, so there is a whole one
or none. Memory that does not suffice is an answer; another error ends the process and stands at the end of its output.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from flanlite.benchmark.trial import Preparation, Trial, read_task
from flanlite.engine.device import choose_dtype
from flanlite.engine.memory import is_out_of_memory
from flanlite.errors import NoRoomError
from flanlite.run import write_json


def main(task_file: str, answer_file: str) -> None:
    """Do the task in a file and write the answer into another."""
    task = read_task(Path(task_file))
    answer = _prepared(task) if isinstance(task, Preparation) else _tried(task)
    write_json(Path(answer_file), answer)


def _prepared(task: Preparation) -> dict[str, Any]:
    """Write the random base; the card by name, bytes of memory and compute capability."""
    from flanlite.benchmark.random_base import write_random_base

    card: dict[str, Any] = {"card": "CPU", "memory_bytes": None, "capability": None}
    device, dtype = "cpu", choose_dtype("auto", None)
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        capability = (properties.major, properties.minor)
        card = {"card": properties.name, "memory_bytes": properties.total_memory, "capability": capability}
        device, dtype = "cuda", choose_dtype("auto", capability)
    write_random_base(Path(task.base_dir), task.config, device, dtype, task.seed)
    return card


def _tried(trial: Trial) -> dict[str, Any]:
    """The outcome of a training, with what was measured if it could be."""
    from flanlite.benchmark.training import measure

    try:
        ended = measure(trial)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"outcome": "out of memory", "note": "", "measured": None}
    except NoRoomError as error:
        return {"outcome": "out of memory", "note": error.message.replace(trial.base_dir, "it"), "measured": None}
    return {"outcome": "measured", **dataclasses.asdict(ended)}


if __name__ == "__main__":
    main(*sys.argv[1:])
