"""A base's weights as a local folder of safetensors, fetched and, for the one base that has only .bin, converted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from flanlite import hub
from flanlite.bases import Base
from flanlite.engine.convert_bin import convert_bin
from flanlite.terminal import byte_progress


def base_dir(base: Base, *, quantised: bool, say: Callable[[str], None]) -> Path:
    """The folder with the base's weights; `quantised` takes the 4-bit copy where the hub has one."""
    folder = hub.model_dir(base, quantised=quantised, say=say)
    if base.weights != "bin":
        return folder
    # Named after the files, since a local folder's name says nothing of what lies in it.
    files = sorted(folder.glob("pytorch_model*.bin"))
    marks = [str(folder.resolve()), *(f"{file.name} {file.stat().st_size}" for file in files)]
    name = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]
    converted = hub.own_cache_dir() / "converted" / name
    if not (converted / "config.json").is_file():
        say(f"converting {base.name} from pickled weights to safetensors, once")
        with byte_progress("converting") as on_progress:
            convert_bin(folder, converted, on_progress)
    return converted
