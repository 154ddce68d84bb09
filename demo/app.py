"""The chat as a Gradio Space. `MODEL` in the Space's settings names a merged model or a base on the hub.

Without it the tiny base is tuned first, which takes a few minutes on two CPU cores, and its run is opened.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from flanlite.chat import Address, Given, open_models, open_toolbox, serve

RUN = Path("runs/tiny")


def model_to_open() -> str:
    """The model that the Space names, or a run of the tiny base."""
    if model := os.environ.get("MODEL"):
        return model
    if not (RUN / "adapter").is_dir():
        # A Space may be restarted in the middle of it.
        resume = ["--resume"] if RUN.is_dir() else ["--base", "tiny"]
        subprocess.run([sys.executable, "-m", "flanlite", "tune", *resume, "--out", str(RUN)], check=True)
    return str(RUN)


def main() -> None:
    """Open model and tools, and serve the page."""
    with ExitStack() as stack:
        toolbox = open_toolbox(Given(files=[Path(__file__).with_name("tools.py")]), stack)
        models = open_models(model_to_open(), None, None, None, compare=False)
        # A Space is reached from outside its container, through a proxy that knows this port.
        port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
        serve(models, toolbox, Address(host="0.0.0.0", port=port, opens_browser=False))


if __name__ == "__main__":
    main()
