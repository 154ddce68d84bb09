"""A CUDA card that does no arithmetic, for processes of torch's CUDA build on a machine without one.

torch's own allocator gives out its memory as a card's, expandable segments and the end of the memory included; kernels
do nothing, so that a training of a base's true width runs in seconds. dry_card.c stands in for CUDA's libraries, and
site/sitecustomize.py computes what decides what Python does. What a real card adds is CUDA's own share: its context,
its kernels and the space that its libraries take for themselves. And what torch.compile would fuse runs one by one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

HERE = Path(__file__).parent
HOPPER = "9.0"

DRIVER_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
"""Further names of the library: they come with NVIDIA's driver, and with no package."""


def obstacle() -> str:
    """Why there can be no dry card here, or an empty text."""
    if not sys.platform.startswith("linux"):
        return "preloads a library as on Linux"
    if torch.version.cuda is None:
        return "needs a CUDA build of torch"
    if torch.cuda.is_available():
        return "needs a machine without a card"
    if shutil.which("cc") is None:
        return "needs a C compiler"
    return "" if any(_include_dirs()) else "needs the headers that torch's CUDA packages bring along"


def _include_dirs() -> Iterator[Path]:
    """Folders of the packages that torch's wheel requires, with the headers of CUDA's runtime and driver."""
    packages = find_spec("nvidia")
    for folder in packages.submodule_search_locations or () if packages else ():
        yield from (header.parent for header in Path(folder).glob("*/include/cuda_runtime_api.h"))


def build(folder: Path) -> Path:
    """Compile the library into a folder. Raises subprocess.CalledProcessError with cc's words."""
    assert torch.version.cuda is not None
    library = folder / f"libnvrtc.so.{torch.version.cuda.partition('.')[0]}"
    includes = [f"-I{each}" for each in (HERE / "include", *_include_dirs())]
    options = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{library.name}"]
    subprocess.run(["cc", *options, *includes, "-o", str(library), str(HERE / "dry_card.c")], check=True)
    for driver in DRIVER_LIBRARIES:
        (folder / driver).symlink_to(library.name)
    return library


def environment(
    library: Path, name: str = "NVIDIA GeForce RTX 4090", gib: float = 24, capability: str = "8.9"
) -> dict[str, str]:
    """The variables of a process that is to see the card."""
    variables = {
        "DRY_CARD_NAME": name,
        "DRY_CARD_GIB": str(gib),
        "DRY_CARD_CAPABILITY": capability,
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": _before("LD_LIBRARY_PATH", library.parent),
        "PYTHONPATH": _before("PYTHONPATH", HERE / "site"),
    }
    # cuDNN looks for a real card before it attends.
    return variables | ({"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"} if capability == HOPPER else {})


def _before(variable: str, folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
