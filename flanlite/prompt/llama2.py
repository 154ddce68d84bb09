"""Llama-2-chat's template, equal to Meta's reference (facebookresearch/llama, llama/generation.py, chat_completion).

Each finished exchange is BOS, one SentencePiece encode of `[INST] {user} [/INST] {assistant} `, EOS; an open one is BOS
and `[INST] {user} [/INST]`. The system text stands in the first exchange. A blank belongs to the text after it, since
SentencePiece makes one piece of them: that is why segments begin with their blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from flanlite.conversation import Turn
from flanlite.prompt.segments import Segment, join_same_side, joined, padded, stripped
from flanlite.prompt.tokenizer import Tokenizer


class Llama2:
    """The template of Llama-2-chat, for any tokenizer with a BOS and an EOS token."""

    name = "llama2"
    marks = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>")
    encodes_specials_in_text = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.bos, self.eos = tokenizer.bos_token, tokenizer.eos_token
        self.stop_ids = (tokenizer.id_of(self.eos),)

    @property
    def chat_template(self) -> str:
        """The same template as Jinja, for other programs."""
        return files("flanlite.prompt").joinpath("llama2.jinja").read_text(encoding="utf-8")

    def render(self, turns: Sequence[Turn], *, is_open: bool = False) -> list[Segment]:
        """Segments of the turns; with `is_open` the last exchange waits for the assistant."""
        system = turns[0].text if turns and turns[0].role == "system" else None
        runs = join_same_side(turns[1:] if system is not None else turns)
        if not runs or runs[0][0].role == "assistant":
            runs.insert(0, [Turn("user", "")])
        if is_open and len(runs) % 2 == 0:
            runs.append([Turn("user", "")])
        segments: list[Segment] = []
        for index, run in enumerate(runs):
            segments += self._answer(run) if index % 2 else self._question(run, system if index == 0 else None)
        return segments

    def _question(self, turns: Sequence[Turn], system: str | None) -> list[Segment]:
        opening = (
            [Segment("<<SYS>>\n"), Segment(system, "system"), Segment("\n<</SYS>>\n\n")] if system is not None else []
        )
        message = padded(stripped([*opening, *joined(turns)]), left=" ")
        return [Segment(self.bos, special=True), Segment("[INST]"), *message, Segment(" [/INST]")]

    def _answer(self, turns: Sequence[Turn]) -> list[Segment]:
        message = padded(stripped(joined(turns)), left=" ", right=" ")
        return [*message, Segment(self.eos, "assistant", turns[-1].trained, special=True)]
