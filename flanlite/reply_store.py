"""Replies that an evaluation has so far, kept as they come, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flanlite.errors import FlanliteError
from flanlite.run import write_text


class ReplyStore:
    """One model's replies to one suite, a JSON line each.

    A reply counts only for the very question that it was given to: `asked` is a hash of the model, the prompt and how
    it is answered.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known = _read(file)

    def known(self, asked: Mapping[str, str]) -> dict[str, str]:
        """The replies that are there, by the case's id, to cases that are still asked as they were."""
        return {case: self._known[case, hash_] for case, hash_ in asked.items() if (case, hash_) in self._known}

    def add(self, case: str, asked: str, reply: str) -> None:
        """Keep a reply in the file."""
        self._known[case, asked] = reply
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="ascii") as stream:
            stream.write(json.dumps({"id": case, "asked": asked, "reply": reply}) + "\n")


def hash_of(*parts: Any) -> str:
    """A short hash of what a reply depends on."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _read(file: Path) -> dict[tuple[str, str], str]:
    """Every whole line. A last one that is half written, where somebody pulled the plug, is taken out of the file."""
    if not file.is_file():
        return {}
    known: dict[tuple[str, str], str] = {}
    *lines, last = file.read_text(encoding="ascii", errors="replace").split("\n")
    if last:
        write_text(file, "".join(f"{line}\n" for line in lines))
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            known[row["id"], row["asked"]] = row["reply"]
        except (ValueError, KeyError, TypeError) as error:
            raise FlanliteError(f"{file}:{number} is no reply: {error}.", "Delete the file to ask anew.") from None
    return known
