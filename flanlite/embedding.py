"""Sentence embeddings for T-Eval's plan and reason, where sentence-transformers is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flanlite.errors import FlanliteError

if TYPE_CHECKING:
    from flanlite.scoring.teval import Embed


def load_embedder(wanted: str | None, default: str) -> tuple[Embed | None, tuple[str, ...]]:
    """The embeddings of that name or folder, T-Eval's own by default, and a note where they are left out or others.

    Raises FlanliteError where the wanted one cannot be loaded.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        if wanted:
            raise FlanliteError("--embedder needs sentence-transformers.", "pip install -e '.[eval]'")
        return None, ("T-Eval: plan and reason's thoughts need sentence embeddings: pip install -e '.[eval]'",)
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    from flanlite.engine.noise import quiet

    name = wanted or default
    try:
        with quiet():
            model = SentenceTransformer(name, local_files_only=Path(name).is_dir())
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if wanted:
            raise FlanliteError(f"{name} is no sentence embedding: {' '.join(str(error).split())[:200]}") from error
        missing = f"T-Eval: {name} cannot be fetched; without it plan and reason's thoughts are left out."
        return None, (f"{missing} --embedder names another, or a folder.",)

    def embed(texts: Sequence[str]) -> Any:
        return model.encode(list(texts), convert_to_numpy=True, show_progress_bar=False)

    note = f"T-Eval: compared by {name}, where T-Eval takes {default}: plan and reason are not its scores."
    return embed, () if name == default else (note,)
