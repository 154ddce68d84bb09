"""Scores replies to the held-out cases: the right tool, the exact arguments, calls that nobody asked for.

    python -m flanlite.tiny.score RUN --seed 1 --count 300

RUN is a run's folder, an adapter's folder or a model's folder; the weights are loaded as tuning saw them, in NF4 with
double quantisation, and replies are greedy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanlite.conversation import Turn
from flanlite.errors import FlanliteError
from flanlite.prompt.replies import Reply, parse_reply
from flanlite.prompt.template import choose_template, tokenize
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import OBSERVATION
from flanlite.recipe import Recipe
from flanlite.tiny.cases import Case, cases

BASE = Path(__file__).parent / "base"
MAX_NEW_TOKENS = 120

Generate = Callable[[list[tuple[Turn, ...]]], list[str]]


@dataclass(frozen=True)
class Score:
    """What one reply did; `holds_result` is None where no answer followed a right call."""

    case: Case
    reply: str
    right_tool: bool
    exact: bool
    invented: bool
    holds_result: bool | None = None


def score_reply(case: Case, reply: str) -> Score:
    """Judges the first reply. A call is invented where none is right, or where it names a tool not on the list."""
    read = parse_reply(reply)
    names = [call.name for call in read.calls]
    right = case.call is not None and names == [case.call]
    exact = right and read.calls[0].arguments == case.arguments and not read.problems
    invented = bool(names) and (case.call is None or any(name not in case.offered for name in names))
    return Score(case, reply, right, exact, invented or (case.call is None and bool(read.problems)))


def answer_holds(read: Reply, observation: str) -> bool:
    """Whether the answer repeats what the tool returned, without a further call."""
    return not read.calls and observation.removeprefix("Error: ") in (read.answer or "")


def score_all(found: Sequence[Case], generate: Generate) -> list[Score]:
    """First replies, then the answers of those that called rightly."""
    scores = [score_reply(case, reply) for case, reply in zip(found, generate([c.turns for c in found]), strict=True)]
    called = [n for n, score in enumerate(scores) if score.exact]
    answers = generate([_observed(scores[n]) for n in called])
    for n, answer in zip(called, answers, strict=True):
        score = scores[n]
        holds = answer_holds(parse_reply(answer), score.case.observation)
        scores[n] = Score(score.case, score.reply, True, True, score.invented, holds)
    return scores


def _observed(score: Score) -> tuple[Turn, ...]:
    observation = Turn("observation", OBSERVATION + score.case.observation)
    return (*score.case.turns, Turn("assistant", score.reply), observation)


def table(scores: Iterable[Score]) -> str:
    """One line a kind of case."""
    rows: dict[str, list[Score]] = {}
    for score in scores:
        rows.setdefault(score.case.kind, []).append(score)
    lines = [f"{'':22}{'cases':>7}{'right tool':>12}{'exact':>8}{'invented':>10}{'answer':>8}"]
    for kind, row in rows.items():
        answered = [score.holds_result for score in row if score.holds_result is not None]
        calls = row[0].case.call is not None
        shares = [_share(s.right_tool for s in row) if calls else "", _share(s.exact for s in row) if calls else ""]
        shares += [_share(s.invented for s in row), _share(answered) if answered else ""]
        lines.append(f"{kind:22}{len(row):7}{shares[0]:>12}{shares[1]:>8}{shares[2]:>10}{shares[3]:>8}")
    return "\n".join(lines)


def _share(values: Iterable[bool | None]) -> str:
    found = [bool(value) for value in values]
    return f"{sum(found) / len(found):.3f}"


def load(folder: Path) -> tuple[Any, Tokenizer]:
    """The model in NF4 with its adapter, if the folder is a run's or an adapter's, and its tokenizer."""
    from flanlite.engine.device import choose_machine
    from flanlite.engine.load import load_for_generation

    adapter = next((path for path in (folder / "adapter", folder) if (path / "adapter_config.json").is_file()), None)
    base = BASE if adapter else folder
    return load_for_generation(base, adapter, choose_machine(Recipe(backend="peft"))), Tokenizer.load(base)


def greedy(model: Any, tokenizer: Tokenizer) -> Generate:
    """Replies to conversations, many at once."""
    from flanlite.engine.generate import generate

    template = choose_template("llama2", tokenizer)

    def reply(conversations: list[tuple[Turn, ...]]) -> list[str]:
        prompts = [tokenize(template, tokenizer, turns, is_open=True).ids for turns in conversations]
        return [tokenizer.decode(ids).strip() for ids in generate(model, prompts, template.stop_ids, MAX_NEW_TOKENS)]

    return reply


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flanlite.tiny.score", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a run's, an adapter's or a model's folder")
    parser.add_argument("--seed", type=int, default=1, help="of the cases")
    parser.add_argument("--count", type=int, default=300, help="cases for each kind of phrasing")
    parser.add_argument("--show", type=int, default=0, help="print this many wrong replies of each kind")
    options = parser.parse_args()
    try:
        model = load(options.folder)
    except FlanliteError as error:
        sys.exit(f"Error: {error.message}\nHint: {error.hint}")
    scores = score_all(cases(options.seed, options.count), greedy(*model))
    print(table(scores))
    shown: dict[str, int] = {}
    for score in scores:
        good = score.exact and score.holds_result if score.case.call else not score.invented
        if not good and shown.setdefault(score.case.kind, 0) < options.show:
            shown[score.case.kind] += 1
            print(f"\n{score.case.kind}: {score.case.turns[-1].text}\n{score.reply}")


if __name__ == "__main__":
    main()
