"""What an evaluation shows: verdicts that are no more certain than the cases, and pages that no reply can break."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.image import imread
from rich.console import Console
from test_run import MEASURED, begun

from flanlite.scoring.chart import draw_chart
from flanlite.scoring.comparison import Row, comparison, flips, sections
from flanlite.scoring.earlier import Earlier, read_earlier
from flanlite.scoring.report import card_section, published, report_json, report_markdown, write_report
from flanlite.scoring.results import Example, Measure, Results
from flanlite.scoring.table import plain, table


def share(
    name: str, right: int, n: int, group: str = "", suite: str = "sample", is_better_high: bool = True
) -> Measure:
    """A share of `n` cases, of which the first `right` count."""
    items = {str(case): float(case < right) for case in range(n)}
    return Measure(suite, name, right / n, items, group, is_better_high=is_better_high)


def results(*measures: Measure, model: str = "tuned", **more: object) -> Results:
    return Results(model, measures, **more)  # type: ignore[arg-type]


def compared(before: Measure, after: Measure) -> Row:
    (row,) = comparison(results(before), results(after), seed=1)
    return row


BEFORE = Results(
    "tiny",
    (
        share("right tool", 2, 40, "tools, needed"),
        share("invented call", 10, 80, is_better_high=False),
        Measure("general", "perplexity", 12.0, {str(n): 2.5 for n in range(8)}, is_share=False, is_better_high=False),
    ),
    {"sample": {"all": {"invented": 0.125}}},
    {"sample": {"1": Example("What is 2 + 3?", 'calculate {"expression": "2 + 3"}', "Five.", 0.0)}},
    ("The longest case was left out.", "One reply was cut."),
    seconds=45.0,
)
AFTER = Results(
    "runs/tiny-1",
    (
        share("right tool", 38, 40, "tools, needed"),
        share("HScore", 3, 4, "no tools"),
        share("invented call", 11, 80, is_better_high=False),
        Measure("general", "perplexity", 11.0, {str(n): 2.4 for n in range(8)}, is_share=False, is_better_high=False),
    ),
    {"sample": {"all": {"invented": 0.1375}}},
    {"sample": {"1": Example("What is 2 + 3?", 'calculate {"expression": "2 + 3"}', "```\n# Action", 1.0)}},
    ("The longest case was left out.",),
    seconds=200.0,
)

PAGE = """\
# Evaluation

- before: tiny, asked in 45 s this time
- after: runs/tiny-1, asked in 3 min 20 s this time

![The shares, and their changes, as a picture](report.png)

## What was measured

### sample: tools, needed

| measure | n | before | after | change | 95% interval | verdict |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| right tool | 40 | 5.0% | 95.0% | +90.0 | +80.0 to +97.5 | better |

### sample: no tools

| measure | n | before | after | change | 95% interval | verdict |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| HScore | 4 | - | 75.0% | - | 25.0% to 100.0% | - |

### sample

| measure | n | before | after | change | 95% interval | verdict |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| invented call ↓ | 80 | 12.5% | 13.8% | +1.2 | +0.0 to +3.8 | unclear |

### general

| measure | n | before | after | change | 95% interval | verdict |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| perplexity ↓ | 8 | 12 | 11 | -0.1 | -0.1 to -0.1\\* | better |

- Changes of shares are in percentage points, with the interval of a paired bootstrap.
- Where all cases agree, which a bootstrap takes for certain, the interval is the exact one.
- unclear: the interval holds 0.
- H_ReAct, H_General: plain replies with a ReAct mark, or with talk of a call. HScore: 1 less their mean.
- \\*: change and interval are of the mean over the cases, and the value is no such mean.
- ↓: less is better.

## Notes

- The longest case was left out.
- before: One reply was cut.

## Gained: 1

Each case here scored under 0.5 before and scores 0.5 or more after.

### sample, 1

Question:

```text
What is 2 + 3?
```

Wanted:

```text
calculate {"expression": "2 + 3"}
```

Before, score 0.00:

```text
Five.
```

After, score 1.00:

````text
```
# Action
````

## Lost: 0

No case scored 0.5 or more before and scores under 0.5 after.
"""


def test_the_page_is_as_it_should_be() -> None:
    assert report_markdown(BEFORE, AFTER, comparison(BEFORE, AFTER, seed=1)) == PAGE


@pytest.mark.parametrize(
    ("before", "after", "is_better_high", "verdict"),
    [
        (10, 30, True, "better"),
        (10, 30, False, "worse"),
        (30, 10, True, "worse"),
        (30, 10, False, "better"),
        (20, 21, True, "unclear"),
        (20, 20, True, "unclear"),
    ],
)
def test_a_change_is_better_or_worse_only_where_its_interval_leaves_out_0(
    before: int, after: int, is_better_high: bool, verdict: str
) -> None:
    row = compared(
        share("a", before, 40, is_better_high=is_better_high), share("a", after, 40, is_better_high=is_better_high)
    )
    assert row.verdict == verdict
    assert row.interval is not None
    assert row.interval.mean == pytest.approx(row.difference)
    assert not row.is_of_cases


def test_five_cases_are_too_few_however_they_change() -> None:
    assert compared(share("a", 0, 5), share("a", 5, 5)).verdict == "too few"
    assert compared(share("a", 0, 6), share("a", 6, 6)).verdict == "better"


def test_a_case_that_only_one_model_was_asked_is_no_part_of_the_interval() -> None:
    row = compared(share("a", 10, 10), share("a", 10, 40))
    assert (row.n, row.before, row.after) == (40, 1.0, 0.25)
    assert row.interval is not None
    assert (row.interval.mean, row.interval.n) == (0.0, 10)
    assert row.is_of_cases
    apart = compared(Measure("sample", "a", 0.5, {"x": 0.5}), share("a", 3, 4))
    assert (apart.difference, apart.interval, apart.verdict) == (0.25, None, None)


def test_without_a_value_before_the_interval_is_of_the_value_itself() -> None:
    (row,) = comparison(None, results(share("a", 20, 40)), seed=1)
    assert (row.before, row.difference, row.verdict, row.n) == (None, None, None, 40)
    assert row.interval is not None
    assert row.interval.low < row.interval.mean == 0.5 < row.interval.high
    assert comparison(results(share("b", 1, 40)), results(share("a", 20, 40)), seed=1) == [row]
    (bare,) = comparison(None, results(Measure("general", "mmlu", 0.4, {})), seed=1)
    assert (bare.n, bare.interval) == (0, None)


CASES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=30)


@settings(max_examples=15, deadline=None)
@given(CASES)
def test_what_is_better_one_way_is_worse_the_other(cases: list[tuple[bool, bool]]) -> None:
    first, second = (
        Measure("sample", "a", sum(values) / len(cases), dict(zip(map(str, range(len(cases))), values, strict=True)))
        for values in zip(*([float(value) for value in case] for case in cases), strict=True)
    )
    there, back = compared(first, second), compared(second, first)
    opposite = {"better": "worse", "worse": "better", "unclear": "unclear"}
    assert back.verdict == opposite[there.verdict or ""]
    assert there.interval is not None
    assert there.interval.low <= (there.difference or 0.0) + 1e-9
    assert there.interval.high >= (there.difference or 0.0) - 1e-9


def test_rows_stand_by_suite_and_group_in_the_order_they_came() -> None:
    found = results(
        share("a", 1, 2, suite="x"), share("b", 1, 2), share("a", 1, 2, "g", "x"), share("b", 1, 2, suite="x")
    )
    by_section = sections(comparison(None, found, seed=1))
    assert {key: [row.name for row in rows] for key, rows in by_section.items()} == {
        ("x", ""): ["a", "b"],
        ("x", "g"): ["a"],
        ("sample", ""): ["b"],
    }
    assert list(by_section) == [("x", ""), ("x", "g"), ("sample", "")]


def examples(*scores: float, question: str = "?") -> dict[str, dict[str, Example]]:
    return {"sample": {str(case): Example(question, "", "reply", score) for case, score in enumerate(scores)}}


def test_a_case_flips_where_its_score_passes_one_half() -> None:
    before = results(examples=examples(0.49, 0.5, 0.0, 1.0, 0.2))
    after = results(examples=examples(0.5, 0.49, 0.4, 0.6, 1.0, 1.0))
    gained, lost = flips(before, after)
    assert [flip.id for flip in gained] == ["0", "4"]
    assert [(flip.id, flip.before.score, flip.after.score) for flip in lost] == [("1", 0.5, 0.49)]
    assert flips(None, after) == ([], [])


def test_of_many_flips_the_page_shows_ten_of_all_suites_and_the_file_has_all(tmp_path: Path) -> None:
    suites = {"t-eval": 30, "agent-h": 3, "sample": 30}
    before, after = (
        results(
            examples={
                name: {str(n): Example("?", "!", ".", score) for n in range(count)} for name, count in suites.items()
            }
        )
        for score in (0.0, 1.0)
    )
    page = report_markdown(before, after, comparison(before, after, seed=1))
    shown = [line for line in page.splitlines() if line.startswith(("### t-eval,", "### agent-h,", "### sample,"))]
    assert [sum(name in line for line in shown) for name in suites] == [4, 3, 3]
    assert "## Gained: 63" in page
    write_report(tmp_path, before, after, seed=1)
    lines = [json.loads(line) for line in (tmp_path / "flips.jsonl").read_text().splitlines()]
    assert len(lines) == 63
    assert lines[0] == {
        "change": "gained",
        "suite": "t-eval",
        "id": "0",
        "question": "?",
        "wanted": "!",
        "before": {"score": 0.0, "reply": "."},
        "after": {"score": 1.0, "reply": "."},
    }


MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# Markdown has no carriage return of its own and shows NUL as another character.
TEXT = st.text(st.characters(exclude_characters="\r\0", exclude_categories=("Cs",)) | st.sampled_from("`~#|-<\n"))


@settings(max_examples=60, deadline=None)
@given(question=TEXT, wanted=TEXT, replies=st.tuples(TEXT, TEXT))
def test_no_text_of_a_case_breaks_the_page(question: str, wanted: str, replies: tuple[str, str]) -> None:
    texts = (question, wanted, *replies)
    before, after = (
        results(examples={"sample": {"1": Example(question, wanted, reply, score)}})
        for reply, score in zip(replies, (0.0, 1.0), strict=True)
    )
    tokens = MARKDOWN.parse(report_markdown(before, after, []))
    assert [token.content for token in tokens if token.type == "fence"] == [f"{text}\n" for text in texts if text]
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == ["Evaluation", "What was measured", "Gained: 1", "sample, 1", "Lost: 0"]


@given(TEXT)
def test_a_plain_text_is_shown_as_it_is(text: str) -> None:
    shown = MARKDOWN.parse(f"| name |\n| --- |\n| x{plain(text)}x |")
    (cell,) = [token for place, token in enumerate(shown) if shown[place - 1].type == "td_open"]
    children = cell.children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == f"x{' '.join(text.split())}x"


def test_a_long_reply_is_cut_on_the_page_and_says_so() -> None:
    before, after = (results(examples=examples(score, question="w" * 5000)) for score in (0.0, 1.0))
    page = report_markdown(before, after, [])
    assert "w" * 1500 + "\n[3,500 more characters]\n" in page
    assert "w" * 1501 not in page


def test_what_others_published_adds_up() -> None:
    dimensions, paper = published()
    for cells in (*dimensions["rows"].values(), *paper["rows"].values()):
        assert len(cells) == len(dimensions["columns"]) == len(paper["columns"])
    for *each, overall in dimensions["rows"].values():
        assert None in each or sum(each) / 6 == pytest.approx(overall, abs=0.06)
    for overall, _, *held_out in paper["rows"].values():
        assert sum(held_out) / 5 == pytest.approx(overall, abs=0.06)
    for name, twin in (("GPT-4", "GPT-4"), ("AgentLM-7B", "AgentLM-7B"), ("LLaMA2-7B", "Llama2-7B")):
        assert dimensions["rows"][name][-1] == paper["rows"][twin][5]


@pytest.mark.parametrize(("suite", "tables"), [("t-eval", 2), ("agent-h", 1), ("sample", 0)])
def test_published_rows_stand_only_beside_their_suites_and_are_marked(suite: str, tables: int) -> None:
    after = results(share("HScore", 1, 8, suite=suite))
    rows = comparison(None, after, seed=1)
    page = report_markdown(None, after, rows)
    measured, mark, others = page.partition("## Published by others, not measured here")
    assert bool(mark) == bool(tables)
    assert others.count("| model |") == tables
    assert "GPT" not in measured
    for text in (page, card_section(rows, None, "tuned")):
        assert ("agent-h is a re-implementation" in text) == (suite == "agent-h")


def test_the_report_has_both_accounts_and_every_difference() -> None:
    rows = comparison(BEFORE, AFTER, seed=1)
    report = json.loads(json.dumps(report_json(BEFORE, AFTER, rows, seed=1)))
    assert (report["model"], report["seconds"], report["seed"]) == ("runs/tiny-1", 200.0, 1)
    assert report["sample"] == {"all": {"invented": 0.1375}}
    assert report["against"]["model"] == "tiny"
    assert report["against"]["sample"] == {"all": {"invented": 0.125}}
    assert [row["verdict"] for row in report["differences"]] == ["better", None, "unclear", "better"]
    assert report["differences"][0] == {
        "suite": "sample",
        "group": "tools, needed",
        "name": "right tool",
        "before": 0.05,
        "after": 0.95,
        "n": 40,
        "interval": {"mean": pytest.approx(0.9), "low": 0.8, "high": 0.975, "n": 40},
        "is_share": True,
        "is_better_high": True,
        "difference": pytest.approx(0.9),
        "verdict": "better",
    }
    alone = report_json(None, AFTER, comparison(None, AFTER, seed=1), seed=1)
    assert "against" not in alone
    assert alone["differences"][0]["before"] is None


def test_the_folder_holds_whole_files_whatever_a_reply_holds(tmp_path: Path) -> None:
    half = {"sample": {"1": Example("?", "", "\ud83d and \u2028", 1.0)}}
    after = results(*AFTER.measures, examples=half)
    rows = write_report(tmp_path / "eval", BEFORE, after, seed=1)
    assert rows == comparison(BEFORE, after, seed=1)
    found = sorted(file.name for file in (tmp_path / "eval").iterdir())
    assert found == ["flips.jsonl", "report.json", "report.md", "report.png"]
    (line,) = (tmp_path / "eval" / "flips.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(line)["after"]["reply"] == "\ud83d and \u2028"
    assert imread(tmp_path / "eval" / "report.png").shape[1] == 1200


def test_a_report_without_shares_has_no_picture_of_an_earlier_one(tmp_path: Path) -> None:
    write_report(tmp_path, BEFORE, AFTER, seed=1)
    perplexity = results(AFTER.measures[-1])
    write_report(tmp_path, None, perplexity, seed=1)
    assert not (tmp_path / "report.png").exists()
    assert "report.png" not in (tmp_path / "report.md").read_text()
    assert (tmp_path / "flips.jsonl").read_text() == ""


@pytest.mark.parametrize("before_name", [None, "$base_1"])
def test_a_chart_is_drawn_of_any_names(tmp_path: Path, before_name: str | None) -> None:
    rows = comparison(BEFORE if before_name else None, AFTER, seed=1)
    draw_chart(rows, tmp_path / "chart.png", before_name, "runs/" + "$a_long^name{" * 20)
    assert [file.name for file in tmp_path.iterdir()] == ["chart.png"]


@pytest.mark.parametrize("before", [None, BEFORE])
def test_the_table_is_whole_at_80_columns_and_its_words_need_no_colour(before: Results | None) -> None:
    stream = io.StringIO()
    before_name = "meta-llama/Llama-2-7b-chat-hf" if before else None
    rows = comparison(before, AFTER, seed=1)
    Console(file=stream, width=80).print(table(rows, before_name, "runs/[x] tiny"))
    shown = stream.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    words = ["after: runs/[x] tiny", "5.0%", "+80.0 to +97.5 better", "unclear: the interval holds 0."]
    for text in words if before else ["model: runs/[x] tiny", "95.0%", "25.0% to 100.0%"]:
        assert text in shown
    assert "…" not in shown


def general(model: str, value: float, **more: object) -> Results:
    items = {str(n): value for n in range(8)}
    measure = Measure("general", "perplexity", value, items, is_share=False, is_better_high=False)
    return Results(model, (measure,), {"general": {"perplexity": value}}, **more)  # type: ignore[arg-type]


def sample(model: str, score: float, **more: object) -> Results:
    case = {"sample": {"1": Example("?", "!", "\u2028 \ud83d", score)}}
    measures = (share("right tool", int(score * 8), 8),)
    return Results(model, measures, {"sample": {"all": score}}, case, ("sample: one is too long.",), **more)  # type: ignore[arg-type]


def evaluated(folder: Path, before: Results | None, after: Results) -> tuple[Earlier, list[Row]]:
    earlier = read_earlier(folder, before, after)
    return earlier, write_report(folder, before, after, 1, earlier)


def test_a_report_keeps_the_suites_that_an_earlier_evaluation_measured(tmp_path: Path) -> None:
    first = sample("tiny", 0.0, settings={"limit": None}), sample("tuned", 1.0, settings={"limit": None})
    _, measured = evaluated(tmp_path, *first)
    flipped = (tmp_path / "flips.jsonl").read_text()
    for value in (12.0, 11.0):
        earlier, rows = evaluated(tmp_path, general("tiny", 13.0), general("tuned", value))
        assert (list(earlier.suites), earlier.gone) == (["sample"], [])
        assert rows == [*measured, rows[-1]]
        assert (rows[-1].before, rows[-1].after) == (13.0, value)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["sample"], report["general"]) == ({"all": 1.0}, {"perplexity": 11.0})
    assert (report["against"]["sample"], report["against"]["general"]) == ({"all": 0.0}, {"perplexity": 13.0})
    assert report["earlier"] == {"sample": {"settings": {"limit": None}, "notes": ["sample: one is too long."]}}
    assert [row["suite"] for row in report["differences"]] == ["sample", "general"]
    assert (tmp_path / "flips.jsonl").read_text() == flipped
    assert (tmp_path / "report.png").is_file()
    page = (tmp_path / "report.md").read_text()
    for text in ("### sample", "### general", "sample: measured by an earlier", "- sample: one is too long.", "ed: 1"):
        assert text in page
    assert "### sample" in card_section(rows, "tiny", "tuned")


def test_a_suite_that_is_measured_again_counts_with_its_newest_figures(tmp_path: Path) -> None:
    evaluated(tmp_path, sample("tiny", 0.0), sample("tuned", 0.5))
    earlier, rows = evaluated(tmp_path, sample("tiny", 0.0), sample("tuned", 1.0))
    assert (earlier.suites, earlier.gone) == ({}, [])
    assert [row.after for row in rows] == [1.0]
    assert (tmp_path / "flips.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (general("tiny", 13.0), general("tuned", 12.0, identity="tuned anew")),
        (general("tiny", 13.0, identity="another base"), general("tuned", 12.0)),
        (None, general("tuned", 12.0)),
    ],
)
def test_figures_of_another_model_or_base_are_not_kept_and_are_named(
    tmp_path: Path, before: Results | None, after: Results
) -> None:
    evaluated(tmp_path, sample("tiny", 0.0), sample("tuned", 1.0))
    earlier, rows = evaluated(tmp_path, before, after)
    assert (earlier.suites, earlier.gone) == ({}, ["sample"])
    assert [row.suite for row in rows] == ["general"]


def test_figures_of_a_suite_that_is_measured_in_part_are_named(tmp_path: Path) -> None:
    evaluated(tmp_path, None, results(share("mmlu", 3, 8, suite="lm-eval"), share("gsm8k", 3, 8, suite="lm-eval")))
    earlier, rows = evaluated(tmp_path, None, results(share("mmlu", 4, 8, suite="lm-eval")))
    assert (earlier.gone, [row.name for row in rows]) == (["lm-eval"], ["mmlu"])


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"differences": [{}]}'])
def test_a_broken_report_keeps_nothing_and_stops_nothing(tmp_path: Path, broken: str) -> None:
    evaluated(tmp_path, None, AFTER)
    (tmp_path / "report.json").write_text(broken)
    assert read_earlier(tmp_path, None, AFTER) == Earlier()


def test_the_card_shows_the_newest_evaluation_and_keeps_all_else(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.finish(MEASURED)
    card = run.card_file.read_text() + "\nMy own words.\n"
    run.card_file.write_text(card)
    first, second = (card_section(comparison(None, each, seed=1), None, "tuned") for each in (BEFORE, AFTER))
    run.show_evaluation(first)
    run.show_evaluation(second)
    shown = run.card_file.read_text()
    assert first not in shown
    assert shown.replace(f"\n{second}\n", "") == card
    run.show_evaluation(second)
    assert run.card_file.read_text() == shown


def test_a_card_without_the_marks_or_none_at_all_gets_the_evaluation_too(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.finish(MEASURED)
    card = run.card_file.read_text()
    run.card_file.write_text("# Mine")
    run.show_evaluation("first\n")
    assert run.card_file.read_text() == "# Mine\n\n<!-- evaluation -->\n\nfirst\n\n<!-- end of evaluation -->\n"
    run.card_file.unlink()
    run.show_evaluation("second\n")
    assert run.card_file.read_text().replace("\nsecond\n\n", "") == card


def test_reports_are_written_without_torch() -> None:
    code = "import sys, flanlite.scoring.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
