"""The protocol of the released Agent-FLAN models: the turns' text byte for byte between two marks, one encode, one BOS.

The marks are plain text to the tokenizer. U+0D3F, one piece (id 30387) in Llama-2's vocabulary, ends an assistant turn:
generation stops on it, since `</s>` never comes. The blank that ends a turn is written at the head of the next header,
because the encoder makes one piece of a blank and the `<` behind it (ids 13, 529 between turns, not 13, 29871, 529).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from flanlite.conversation import Turn
from flanlite.errors import FlanliteError
from flanlite.prompt.segments import Segment
from flanlite.prompt.tokenizer import Tokenizer

HUMAN = "<|Human|>\u0d46"
ASSISTANT = "<|Assistant|>\u0d46"
END_OF_TURN = "\u0d3f"


class AgentFlan:
    """The template of internlm/Agent-FLAN-7b, for Llama-2's vocabulary."""

    name = "agent-flan"
    marks = ("<|Human|>", "<|Assistant|>", "<s>", "</s>")
    encodes_specials_in_text = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.bos = tokenizer.bos_token
        if tokenizer.find_id(END_OF_TURN) is None:
            raise FlanliteError(
                "The agent-flan template needs a tokenizer with U+0D3F as one piece, and this base has none.",
                "Use it with Llama-2 bases, or choose template=llama2 or template=auto.",
            )
        self.stop_ids = (tokenizer.id_of(END_OF_TURN),)

    @property
    def chat_template(self) -> str:
        """The same protocol as Jinja, for other programs."""
        return files("flanlite.prompt").joinpath("agent_flan.jinja").read_text(encoding="utf-8")

    def render(self, turns: Sequence[Turn], *, is_open: bool = False) -> list[Segment]:
        """Segments of the turns; with `is_open` the assistant's header follows the last one."""
        segments = [Segment(self.bos, special=True)]
        blank = ""
        for turn in turns:
            is_assistant = turn.role == "assistant"
            segments += [
                Segment(blank + (ASSISTANT if is_assistant else HUMAN)),
                Segment(turn.text, turn.role, turn.trained),
            ]
            if is_assistant:
                segments.append(Segment(END_OF_TURN, "assistant", turn.trained))
            segments.append(Segment("\n"))
            blank = " "
        segments.append(Segment(blank + ASSISTANT if is_open else blank))
        return [segment for segment in segments if segment.text]
