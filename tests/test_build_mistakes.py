"""What can be wrong with places, options and files when a corpus is built: one sentence, and nothing is lost."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from test_build import chat, inputs, log, rows_of, setting, write_lines
from typer.testing import CliRunner

from flanlite.build import Inputs, build
from flanlite.cli import app
from flanlite.corpus.rows import data_files
from flanlite.errors import FlanliteError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    write_lines(folder / "logs.jsonl", [log(number) for number in range(30)])
    write_lines(folder / "chat.jsonl", [chat(number) for number in range(12)])
    return folder


def test_parquet_gives_no_tool_and_no_call_the_keys_of_others(tmp_path: Path) -> None:
    rows = [log(number) for number in range(12)]
    for row in rows:
        call = row["messages"][1]["tool_calls"][0]["function"]
        call["arguments"] = json.loads(call["arguments"]) | {row["id"]: 1}
    lines = write_lines(tmp_path / "logs.jsonl", rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "logs.parquet")
    hashes = {
        build(Inputs(trajectories=[str(file)]), setting(), tmp_path / file.suffix[1:])["sha256"]
        for file in (lines, tmp_path / "logs.parquet")
    }
    assert len(hashes) == 1


def test_a_manifest_of_something_else_hides_no_rows(raw: Path) -> None:
    (raw / "manifest.json").write_text("{}")
    assert [file.name for file in data_files(raw)] == ["chat.jsonl", "logs.jsonl", "manifest.json"]


def test_of_a_corpus_only_the_data_are_rows_and_hidden_folders_are_none(raw: Path, tmp_path: Path) -> None:
    build(inputs(raw), setting(), tmp_path / "above" / "corpus")
    hidden = tmp_path / "above" / ".corpus.x1"
    hidden.mkdir()
    write_lines(hidden / "half.jsonl", [{}])
    for folder in (tmp_path / "above", tmp_path / "above" / "corpus"):
        assert {file.parent.name for file in data_files(folder)} == {"data"}


def test_a_folder_with_a_file_that_no_build_wrote_is_not_replaced(raw: Path, tmp_path: Path) -> None:
    build(inputs(raw), setting(), tmp_path / "corpus")
    (tmp_path / "corpus" / "data" / "thesis.txt").write_text("years")
    with pytest.raises(FlanliteError, match=r"thesis\.txt, which no build wrote"):
        build(inputs(raw), setting(), tmp_path / "corpus")
    assert (tmp_path / "corpus" / "data" / "thesis.txt").exists()


def test_a_value_that_is_nested_too_deeply_is_a_reason(tmp_path: Path) -> None:
    lines = [json.dumps(log(number)) for number in range(40)]
    for index, depth in enumerate(range(300, 1000, 100)):
        deep = '{"x":' * depth + "1" + "}" * depth
        lines[index] = lines[index].replace('"properties": {', f'"properties": {{"y": {deep}, ', 1)
    (tmp_path / "logs.json").write_text(f"[{','.join(lines)}]")
    (source,) = build(Inputs(trajectories=[str(tmp_path / "logs.json")]), setting(), tmp_path / "corpus")["sources"]
    assert source["rows"] == 40
    assert set(source["dropped"]) <= {"a value is nested too deeply", "a value is no JSON", "broken JSON"}


def test_a_corpus_is_not_built_inside_its_own_source(raw: Path) -> None:
    with pytest.raises(FlanliteError, match="lies inside the source"):
        build(Inputs(trajectories=[str(raw)]), setting(), raw / "corpus")


@pytest.mark.parametrize("page", ["corpus/page.html", "missing/page.html", "raw"])
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_done(raw: Path, tmp_path: Path, page: str) -> None:
    with pytest.raises(FlanliteError, match=r"cannot be written|inside the corpus"):
        build(inputs(raw), setting(), tmp_path / "corpus", tmp_path / page)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("options", [{"replies": "bas"}, {"replies": "gpt-4", "negatives": 0.0}])
def test_replies_of_nobody_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(FlanliteError, match="replies"):
        setting(**options)


def test_a_model_is_only_a_servers(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match="--model is a server's"):
        build(inputs(raw, model="small"), setting(), tmp_path / "corpus")


def test_written_replies_leave_no_trace_of_a_models(raw: Path, tmp_path: Path) -> None:
    build(inputs(raw), setting(), tmp_path / "corpus")
    (tmp_path / "corpus" / "replies.jsonl").write_text("")
    build(inputs(raw), setting(), tmp_path / "corpus")
    assert sorted(file.name for file in (tmp_path / "corpus").iterdir()) == ["data", "manifest.json", "rejects.jsonl"]


@pytest.mark.parametrize(
    ("lines", "message"), [("", "The data holds no rows"), ('{"query": "Where?", "api_list": []}\n', "no trajectory")]
)
def test_data_without_a_trajectory_is_told_apart(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "queries.jsonl").write_text(lines)
    with pytest.raises(FlanliteError, match=message):
        build(Inputs(toolbench=[str(tmp_path / "queries.jsonl")]), setting(), tmp_path / "corpus")


def test_rows_that_can_be_read_but_not_written_are_told_with_their_reason(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match="no turn is trained"):
        build(
            Inputs(trajectories=[str(raw / "logs.jsonl")]),
            setting(weights="0:0:0", react=0, fenced=0, instruct=0, negatives=0),
            tmp_path / "corpus",
        )


def test_a_share_that_cannot_be_had_is_said(raw: Path, tmp_path: Path) -> None:
    options = ["--trajectories", str(raw / "logs.jsonl"), "--sharegpt", str(raw / "chat.jsonl"), "--base", "tiny"]
    result = CliRunner().invoke(app, ["build", *options, "--out", str(tmp_path / "corpus")])
    assert "less than the share of 50%" in result.output
    options += ["--general-share", "0.01"]
    result = CliRunner().invoke(app, ["build", *options, "--out", str(tmp_path / "other")])
    assert "less than the share" not in result.output
    assert "is replaced" not in result.output
    assert "were not needed" in result.output
    write_lines(raw / "chats.jsonl", [chat(number) | {"tools": []} for number in range(12)])
    options += ["--trajectories", str(raw / "chats.jsonl")]
    result = CliRunner().invoke(app, ["build", *options, "--out", str(tmp_path / "other")])
    assert "more than the share of 1%" in result.output
    assert "The older corpus in" in result.output


def test_rejects_name_the_file_below_the_folder_that_was_named(raw: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (raw / name).mkdir()
        write_lines(raw / name / "one.jsonl", [{"id": name}])
    build(Inputs(trajectories=[str(raw)]), setting(), tmp_path / "corpus")
    rejects = [json.loads(line) for line in (tmp_path / "corpus" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["file"] for reject in rejects if "one" in reject["file"]] == ["a/one.jsonl", "b/one.jsonl"]


def test_equal_ids_share_neither_draws_nor_replies(tmp_path: Path) -> None:
    rows = [log(number) | {"id": "session"} for number in range(40)]
    file = write_lines(tmp_path / "logs.jsonl", rows)
    build(Inputs(trajectories=[str(file)]), setting(react=0, fenced=0, negatives=0), tmp_path / "corpus")
    asked = {row["conversation"][3]["content"] for row in rows_of(tmp_path / "corpus", "trajectories_tflan_r10r5u7")}
    assert len(asked) > 3
