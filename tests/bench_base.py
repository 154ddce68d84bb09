"""A base for benchmarks: a folder with nothing but a config.json, which is all that they need of one."""

import json
from dataclasses import replace
from pathlib import Path

from flanlite.bases import Shape, resolve
from flanlite.benchmark.random_base import config_of

SHAPE = Shape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1, vocab=320)


def small_base(folder: Path, shape: Shape = SHAPE) -> Path:
    folder.mkdir()
    known = replace(resolve("llama2-7b-chat"), name="small", shape=shape, context_length=None)
    (folder / "config.json").write_text(json.dumps(config_of(known, 4096)))
    return folder
