"""Conversations in Agent-FLAN's protocol, for a small random base to learn by heart."""

from __future__ import annotations

import json
from pathlib import Path

from flanlite.conversation import Turn
from flanlite.prompt.agent_flan import END_OF_TURN

TALK = {"How far?": "Nine miles.", "How old?": "Seven.", "Who?": "Ann and Bo.", "Where?": "By the sea."}
SETTINGS = (
    "template=agent-flan", "general=none", "budget=full", "validation_share=0", "lora_dropout=0", "lora_r=32",
    "max_tokens=128", "batch_tokens=256", "micro_rows=2", "epochs=30", "learning_rate=5e-3",
)  # fmt: skip


def add_end_of_turn(base: Path) -> None:
    """Give a base of `write_base` the one piece that ends a turn, in place of an id that nothing uses."""
    file = base / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    content["added_tokens"].append({"id": max(content["model"]["vocab"].values()) + 1, "content": END_OF_TURN, **flags})
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_rows(file: Path) -> Path:
    """Every question with its answer, a few times over."""
    rows = [
        {"conversation": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer, "loss": True}]}
        for ask, answer in TALK.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows * 6), encoding="utf-8")
    return file


def question(text: str) -> list[Turn]:
    return [Turn("user", text)]
