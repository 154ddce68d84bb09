"""An evaluation: what is asked, kept, resumed and written, with scripted models, a server and the tiny base."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from openai_server import says, serve
from typer.testing import CliRunner

from flanlite.cli import app
from flanlite.conversation import Conversation, ToolCall
from flanlite.errors import FlanliteError
from flanlite.evaluate import (
    Options,
    _build,
    _measure,
    _rows_of,
    _teval_files,
    _trained_on,
    evaluate_endpoint,
    suites_named,
)
from flanlite.recipe import Recipe
from flanlite.reply_store import ReplyStore, hash_of
from flanlite.scoring.sample import general_conversations, sample_cases
from flanlite.scoring.suites import Suite, teval_suite, tool_use_suite

REVIEW = {
    str(number): {
        "origin_prompt": [{"role": "user", "content": f"Question {number}?"}],
        "template": "",
        "ground_truth": {"answer": letter},
        "meta_data": {"response_format": "str"},
    }
    for number, letter in enumerate("ABCDE")
}


class Scripted:
    """Answers every conversation with a function of it; breaks off after so many."""

    name, style = "scripted", "react"

    def __init__(self, answer, most: int = 10**6) -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._most = most

    def prompt_text(self, conversation: Conversation) -> str:
        return "\n".join(turn.text for turn in conversation.turns)

    def answer_all(
        self, conversations: Sequence[Conversation], max_new_tokens: int
    ) -> Iterator[tuple[int, str | None]]:
        # Not in their order, as batches by length are not.
        for index in reversed(range(len(conversations))):
            if len(self.asked) == self._most:
                raise KeyboardInterrupt
            self.asked.append(self.prompt_text(conversations[index]))
            yield index, self._answer(self.asked[-1])


@pytest.fixture
def review(tmp_path: Path) -> Path:
    file = tmp_path / "questions" / "review_str_v2.json"
    file.parent.mkdir()
    file.write_text(json.dumps(REVIEW))
    return file


def suite_of(file: Path) -> Suite:
    return teval_suite([file], None, None)


def test_replies_are_judged_by_the_case_that_they_answer(review: Path, tmp_path: Path) -> None:
    letters = {f"Question {number}?": letter for number, letter in enumerate("ABCDE")}
    results = _measure(
        Scripted(lambda asked: f"Answer: {letters[asked]}"), "m", [suite_of(review)], tmp_path, Options()
    )
    assert results.details["t-eval"]["dimensions"] == {"Review": 1.0}
    assert results.details["t-eval"]["overall"] is None
    assert results.details["t-eval"]["files"]["review_str_v2.json"]["questions"] == 5


def test_an_interrupted_evaluation_goes_on_and_gives_the_same_report(review: Path, tmp_path: Path) -> None:
    def answer(asked: str) -> str:
        return "Answer: C" if "2" in asked else "\ud800 \u2028 no"

    whole = _measure(Scripted(answer), "m", [suite_of(review)], tmp_path / "whole", Options())
    with pytest.raises(KeyboardInterrupt):
        _measure(Scripted(answer, most=3), "m", [suite_of(review)], tmp_path / "cut", Options())
    kept = tmp_path / "cut" / "t-eval.jsonl"
    kept.write_text(
        kept.read_text() + '{"id": "review_str_v2.json/0", "asked": "12'
    )  # half a line, as a crash leaves it
    rest = Scripted(answer)
    resumed = _measure(rest, "m", [suite_of(review)], tmp_path / "cut", Options())
    assert len(rest.asked) == 2
    assert (resumed.measures, resumed.details, resumed.examples) == (whole.measures, whole.details, whole.examples)
    again = Scripted(answer)
    _measure(again, "m", [suite_of(review)], tmp_path / "cut", Options())
    assert again.asked == []
    other = Scripted(answer)
    _measure(other, "another model", [suite_of(review)], tmp_path / "cut", Options())
    assert len(other.asked) == 5


def test_questions_that_are_too_long_count_as_wrong_and_are_told(review: Path, tmp_path: Path) -> None:
    model = Scripted(lambda asked: None if "1" in asked else "Answer: A")
    results = _measure(model, "m", [suite_of(review)], tmp_path, Options())
    assert results.details["t-eval"]["dimensions"]["Review"] == 0.2
    assert results.notes == (
        "t-eval: 1 of 5 questions are too long for the context, were not asked and count as wrong.",
    )


def test_cases_that_are_too_long_to_be_asked_are_in_no_figure_and_are_told(tmp_path: Path) -> None:
    cases = sample_cases(1, 8)
    plain = [case for case in cases if not isinstance(case.gold, ToolCall)]
    model = Scripted(lambda asked: None if asked.endswith(plain[0].conversation.turns[-1].text) else "Hello.")
    results = _measure(model, "m", [tool_use_suite("sample", cases)], tmp_path, Options())
    found = {(measure.group, measure.name): measure for measure in results.measures}
    assert plain[0].id not in found["", "a call where none is due"].items
    assert len(found["", "a call where none is due"].items) == len(plain) - 1
    assert plain[0].id not in results.examples["sample"]
    (note,) = results.notes
    assert (
        note
        == f"sample: 1 of {len(cases)} questions are too long for the context, were not asked and are in no figure."
    )


def test_a_run_that_was_tuned_on_agent_hs_rows_is_told_of() -> None:
    class Tuned:
        recipe = Recipe(data=("sample", "rows/glaive"))

    (note,) = _trained_on("rows/glaive/train.json", Tuned())
    assert note.startswith("agent-h: the run was tuned on rows/glaive/train.json")
    assert _trained_on("rows/other.json", Tuned()) == _trained_on("rows/glaive", None) == ()


def test_questions_that_cannot_be_fetched_are_named_with_the_option_for_others(monkeypatch) -> None:
    def unreachable(names: Sequence[str], **_: object) -> None:
        raise FlanliteError("The hub cannot be reached.", "Check the connection.")

    monkeypatch.setattr("flanlite.evaluate.find_sources", unreachable)
    for suite, what, option in (
        ("t-eval", "T-Eval's questions", "--t-eval"),
        ("agent-h", "Agent-H's rows", "--glaive"),
    ):
        with pytest.raises(FlanliteError) as refused:
            _build([suite], Options())
        assert refused.value.message == f"{what} cannot be had: The hub cannot be reached."
        assert refused.value.hint == f"Check the connection. Or give a file or folder: {option} PATH"


def test_a_quick_look_leaves_the_full_report_as_it_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "eval" / "tiny" / "report.md"
    report.parent.mkdir(parents=True)
    report.write_text("full")
    result = CliRunner().invoke(app, ["eval", "tiny", "--suite", "sample", "--limit", "1"])
    assert result.exception is None, result.output
    assert report.read_text() == "full"
    assert (report.parent / "quick" / "report.md").is_file()


def test_predictions_are_saved_in_t_evals_form_and_scored_without_a_model(review: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    model = Scripted(lambda asked: "Answer: B\nuser: more")
    _measure(model, "m", [suite_of(review)], tmp_path / "model", Options(save_predictions=saved))
    file = saved / "model" / "review_str_v2.json"
    written = json.loads(file.read_text())
    assert {question["prediction"] for question in written.values()} == {"Answer: B"}
    assert {key: {k: v for k, v in q.items() if k != "prediction"} for key, q in written.items()} == REVIEW
    result = CliRunner().invoke(app, ["eval", "--predictions", str(file.parent), "--out", str(tmp_path / "out")])
    assert result.exception is None, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["t-eval"]["dimensions"] == {"Review": 0.2}
    assert report["t-eval"]["overall"] is None
    assert set(report["t-eval"]["files"]) == {"review_str_v2.json"}


def test_tool_use_is_measured_over_all_cases_and_kind_by_kind(tmp_path: Path) -> None:
    cases = sample_cases(1, 8)
    results = _measure(Scripted(lambda asked: "Hello."), "m", [tool_use_suite("sample", cases)], tmp_path, Options())
    found = {(measure.group, measure.name): measure for measure in results.measures}
    assert found["", "no call where one is due"].value == 1.0
    assert found["", "invented call"].value == 0.0
    assert len(found["", "invented call"].items) == len(cases)
    assert {group for group, _ in found} == {"", *(case.kind for case in cases)}


def test_a_server_is_asked_and_reported(review: Path, tmp_path: Path) -> None:
    with serve() as server:
        server.replies = [says("Answer: ", "A") for _ in REVIEW]
        options = Options(suites=["t-eval", "general"], teval=[str(review)], out=tmp_path / "out")
        evaluate_endpoint(server.url, None, options, tool_style=None)
        assert [request["temperature"] for request in server.requests] == [0.0] * 5
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["t-eval"]["dimensions"] == {"Review": 0.2}
    assert "no perplexity" in report["notes"][0]


def test_the_tiny_base_is_evaluated_by_the_command(tmp_path: Path) -> None:
    arguments = ["eval", "tiny", "--suite", "sample,general", "--limit", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["model"] == "tiny"
    assert 1.0 < report["general"]["perplexity"] < 2
    assert report["settings"]["limit"] == 1
    assert report["sample"]["all"]["missing"]["n"] == 3
    assert (tmp_path / "report.md").is_file()
    assert (tmp_path / "report.png").is_file()


def test_an_evaluation_of_another_suite_leaves_the_earlier_one_in_the_report(tmp_path: Path) -> None:
    for suite in ("sample", "general"):
        arguments = ["eval", "tiny", "--suite", suite, "--limit", "1", "--out", str(tmp_path)]
        result = CliRunner().invoke(app, arguments)
        assert result.exception is None, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"sample", "general"} <= set(report)
    assert "It also keeps sample, of an earlier evaluation." in result.output
    assert "right tool" not in result.output
    CliRunner().invoke(app, [*arguments, "--tool-style", "json"])
    assert "sample" not in json.loads((tmp_path / "report.json").read_text())


def test_held_out_general_chat_is_none_of_the_corpus() -> None:
    from importlib.resources import files

    rows = files("flanlite.tiny").joinpath("corpus/data/sharegpt.jsonl").read_text(encoding="utf-8").splitlines()
    corpus = {tuple(turn["content"] for turn in json.loads(row)["conversation"]) for row in rows}
    held_out = [tuple(turn.text for turn in conversation.turns) for conversation in general_conversations(1, 100)]
    answers = {text for conversation in corpus for text in conversation[1:]}
    assert len(set(held_out)) == 100
    assert not any(
        turn.text in answers
        for conversation in general_conversations(1, 100)
        for turn in conversation.turns
        if turn.role == "assistant"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "teval"], "There is no suite 'teval'"),
        (["--predictions", "none"], "none is not there"),
        (["tiny", "--suite", "agent-h", "--glaive", "sample"], "gives no case of Agent-H"),
        (["tiny", "--suite", "t-eval", "--t-eval", "sample"], "holds no question file of T-Eval"),
        (["tiny", "--tool-style", "openai"], "needs a server"),
        (["tiny", "--predictions", "x.json"], "Evaluate one thing"),
        (["tiny", "--model", "x"], "Evaluate one thing"),
        (["tiny", "--suite", "sample", "--out", __file__], "is a file"),
        (["tiny", "--suite", "general", "--general", __file__], "broken JSON"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], words: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert isinstance(result.exception, FlanliteError)
    assert words in result.exception.message


def test_the_wanted_variant_of_t_eval_is_taken_and_the_others_are_told(review: Path, capsys) -> None:
    for name in ("review_str_v2_subset.json", "review_str_v2_zh.json", "notes.json"):
        (review.parent / name).write_text(review.read_text())
    for variant, name in (("whole", "review_str_v2"), ("subset", "review_str_v2_subset"), ("zh", "review_str_v2_zh")):
        chosen = _teval_files(Options(teval=[str(review.parent)], variant=variant))
        assert [file.stem for file in chosen] == [name]
        assert capsys.readouterr().out.count("is passed over") == 2


def test_the_newest_version_of_t_evals_questions_is_taken(review: Path, capsys) -> None:
    (review.parent / "review_str_v1.json").write_text(review.read_text())
    assert _teval_files(Options(teval=[str(review.parent)])) == [review]
    assert "review_str_v1.json is passed over for review_str_v2.json." in capsys.readouterr().out


def test_a_blank_line_between_rows_is_none(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n\n')
    assert list(_rows_of(file)) == [{"a": 1}, {"a": 2}]


def test_suites_are_a_list_with_commas() -> None:
    assert suites_named("t-eval, agent-h") == ["t-eval", "agent-h"]
    assert suites_named(None) == []
    with pytest.raises(FlanliteError, match="no suite") as refused:
        suites_named("tevall")
    assert refused.value.hint == "Did you mean t-eval?"


def test_a_broken_line_in_the_middle_of_the_kept_replies_is_named(tmp_path: Path) -> None:
    file = tmp_path / "sample.jsonl"
    file.write_text('nonsense\n{"id": "a", "asked": "b", "reply": "c"}\n')
    with pytest.raises(FlanliteError, match=r"sample.jsonl:1 is no reply"):
        ReplyStore(file)
    assert hash_of("a", 1) != hash_of("a", 2)
