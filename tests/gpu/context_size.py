"""What a small tune leaves of the card, as JSON: `python context_size.py BASE FOLDER [key=value ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from small_tune import tune

from flanlite.run import Run


def main(base: str, folder: str, *settings: str) -> None:
    torch.set_num_threads(1)
    tune(Path(base), Run(Path(folder)), *settings, console=Console(stderr=True))
    free_bytes, _ = torch.cuda.mem_get_info()
    print(json.dumps({"free": free_bytes, "reserved": torch.cuda.memory_reserved()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
