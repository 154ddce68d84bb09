"""Every setting of a build, declared once with its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flanlite.errors import FlanliteError
from flanlite.prompt.toolcalls import ToolStyle
from flanlite.recipe import Recipe, setting


@dataclass(frozen=True)
class BuildSettings:
    """What decides a corpus besides its sources. The defaults are the paper's, or its released corpus's."""

    react: float = setting(0.1, "share of the trajectories that keep the ReAct form")
    fenced: float = setting(0.3, "share that becomes chat of thoughts with a fenced call; the rest is decomposed")
    agent_instruct: Literal["both", "shares"] = setting(
        "both", "AgentInstruct's rows: each as ReAct and as chat, as released, or by the shares, as in the paper"
    )
    instruct: float = setting(0.12, "one-turn rows that ask for a format, JSON or string, for each trajectory")
    weights: str = setting(
        "released",
        "of reasoning, retrieval and understanding: released (1:0.5:0.7), paper (1:0.25:0.75), none, or numbers",
    )
    negatives: float = setting(
        0.03, "negative rows that are built, for each trajectory; logs that call none of their tools are always kept"
    )
    replies: str = setting("written", "where their replies come from: written, base, or the address of a server")
    general_share: float = setting(0.5, "share of general chat in the corpus; the paper mixes 1 : 1")
    mix_by: Literal["tokens", "rows"] = setting("tokens", "what the share is of: trained tokens, or rows")
    tool_style: ToolStyle = setting("react", "the form of calls in those that keep it, and of offers in negatives")
    base: str = setting(Recipe.base, "whose tokenizer and template count tokens, and which writes replies=base")
    seed: int = setting(1, "of every draw")

    def __post_init__(self) -> None:
        for name, most in {"react": 1, "fenced": 1, "instruct": 1, "negatives": 1}.items():
            if not 0 <= getattr(self, name) <= most:
                raise FlanliteError(f"{name} is {getattr(self, name)}.", f"Give a number from 0 to {most}.")
        if self.replies not in ("written", "base") and not self.replies.startswith(("http://", "https://")):
            raise FlanliteError(
                f"There are no replies {self.replies!r}.",
                "Give written, base, or a server's address, such as http://127.0.0.1:8080/v1.",
            )
        if self.react + self.fenced > 1:
            raise FlanliteError("react and fenced are over 1 together.", "The rest of the rows is decomposed.")
        if not 0 <= self.general_share < 1:
            raise FlanliteError(f"general-share is {self.general_share}.", "Give a share from 0 to below 1.")
