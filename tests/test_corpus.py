"""Rows of every form become conversations, or are refused with a sentence."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from flanlite.conversation import ToolCall, Turn
from flanlite.corpus.forms import detect_form, read_row
from flanlite.corpus.mixture import Rows, mix, split
from flanlite.corpus.rows import data_files, parse_row, read_blocks
from flanlite.corpus.sources import find_sources
from flanlite.errors import FlanliteError


def read(row):
    return read_row(row, detect_form(row))


def test_agent_flan_rows_keep_their_text_and_their_loss_flags():
    row = {
        "id": 7,
        "conversation": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": " u ", "loss": False, "type": "x"},
            {"role": "assistant", "content": "Action: f", "loss": False},
            {"role": "user", "content": "{}"},
            {"role": "assistant", "content": "done", "loss": True},
        ],
    }
    conversation = read(row)
    assert conversation.id == "7"
    assert [turn.trained for turn in conversation.turns] == [False, False, False, False, True]
    assert conversation.turns[1].text == " u "


def test_openai_messages_keep_content_beside_parallel_calls():
    row = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "content": "Both at once.",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
                    {"id": "2", "type": "function", "function": {"name": "f", "arguments": {"x": 2}}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "one"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
            {"role": "assistant", "content": "not learnt", "weight": 0},
        ],
    }
    conversation = read(row)
    assert conversation.turns[0] == Turn("user", "ab")
    assert conversation.turns[1] == Turn(
        "assistant", "Both at once.", (ToolCall("f", {"x": 1}), ToolCall("f", {"x": 2})), trained=True
    )
    assert conversation.turns[2] == Turn("observation", "one")
    assert conversation.turns[3].calls == (ToolCall("f", {}),)
    assert not conversation.turns[4].trained
    assert conversation.tools[0].name == "f"


def test_function_calls_in_sharegpt_form_join_the_assistants_turn():
    row = {
        "tools": json.dumps([{"name": "f", "description": "d", "parameters": {}}]),
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "Let me see."},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "One."},
        ],
    }
    turns = read(row).turns
    assert turns[1] == Turn("assistant", "Let me see.", (ToolCall("f", {"x": 1}),), trained=True)
    assert [turn.role for turn in turns] == ["user", "assistant", "observation", "assistant"]


@pytest.mark.parametrize("role", ["function", "tool", "observation", "ipython"])
def test_every_name_of_an_observation_is_understood(role):
    row = {
        "conversations": [{"from": "human", "value": "q"}, {"from": role, "value": "r"}, {"from": "gpt", "value": "a"}]
    }
    assert read(row).turns[1].role == "observation"


def test_system_turns_in_a_row_are_one():
    row = {"messages": [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"},
                        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}  # fmt: skip
    assert read(row).system == "a\n\nb"


REJECTED = {
    "the role 'critic' is not known": [{"role": "critic", "content": "x"}],
    "no turn is trained": [{"role": "user", "content": "x"}],
    "the conversation is empty": [],
    "a turn has no content": [{"role": "user", "content": None}],
    "a turn's content is no text": [{"role": "user", "content": [{"type": "image_url"}]}],
    "a system turn stands after the first turn": [
        {"role": "user", "content": "x"}, {"role": "system", "content": "y"}, {"role": "assistant", "content": "z"}],
    "turn 2 trains an empty reply": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}],
    "a call has no name": [{"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}],
    "broken JSON in the arguments of f": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}],
    "the arguments of f are no object": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
    "a turn's loss or weight is none": [{"role": "assistant", "content": "x", "loss": "false"}],
    "a turn's loss or weight is none of": [{"role": "assistant", "content": "x", "weight": 0.3}],
    "a turn's content is no": [{"role": "user", "content": [{"type": "text", "text": None}]}],
    "a user turn has tool_calls": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "trained"),
    [({}, True), ({"loss": None}, True), ({"loss": 1}, True), ({"weight": 1.0}, True),
     ({"loss": None, "weight": 0}, False), ({"loss": False, "weight": 1}, False)],
)  # fmt: skip
def test_a_turn_is_trained_unless_its_loss_or_weight_says_otherwise(flags, trained):
    last = {"role": "assistant", "content": "b"}
    turns = read({"messages": [{"role": "assistant", "content": "a"} | flags, last]}).turns
    assert turns[0].trained == trained


@pytest.mark.parametrize("arguments", ["0", "[]", "false", '""', 0, [], False])
def test_arguments_that_are_no_object_are_refused_also_where_they_are_empty(arguments):
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(ValueError, match="the arguments of f are no object"):
        read({"messages": [{"role": "assistant", "tool_calls": [call]}]})


@pytest.mark.parametrize("arguments", [None, "", " ", "null", "{}", {}])
def test_no_arguments_are_an_empty_object(arguments):
    call = {"function": {"name": "f", "arguments": arguments}}
    assert read({"messages": [{"role": "assistant", "tool_calls": [call]}]}).turns[0].calls == (ToolCall("f", {}),)


@pytest.mark.parametrize("reason", REJECTED)
def test_a_row_that_does_not_fit_is_refused_with_its_reason(reason):
    with pytest.raises(ValueError, match="^" + reason.replace("'", ".")):
        read_row({"messages": REJECTED[reason]}, "messages")


def test_a_forced_form_names_what_the_row_lacks():
    with pytest.raises(ValueError, match="no list of turns named 'conversation'"):
        read_row({"messages": []}, "agent-flan")


ROWS = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(600)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.json.gz"])
def test_lines_and_arrays_read_alike_plain_or_gzipped(tmp_path, name):
    file = tmp_path / name
    text = json.dumps(ROWS, indent=1) if ".json." in name + "." else "\n".join(map(json.dumps, ROWS))
    data = b"\xef\xbb\xbf" + text.encode()
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    blocks = list(read_blocks(file))
    assert [parse_row(row) for block in blocks for row in block.rows] == ROWS
    assert blocks[-1].position == file.stat().st_size


def test_rows_are_numbered_from_one_over_all_blocks(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(ROWS))
    assert [(block.first_row, len(block.rows)) for block in read_blocks(file)] == [(1, 256), (257, 256), (513, 88)]


def test_an_array_that_breaks_off_names_the_row_behind_which_it_does(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text('[{"a": 1}, {"a": 2}, {"a": ')
    with pytest.raises(FlanliteError, match=r"rows\.json is broken JSON behind row 2"):
        list(read_blocks(file))


ODD_ROWS = {
    "an integer above 64 bits": '{"id": 123456789012345678901234567890}',
    "no number": '{"score": NaN}',
    "brackets, commas and quotes in texts": '{"a": "]}[{,\\\\", "b": "\\",\\"]", "c": [[{}], []]}',
    "no object": '[1, ["2", null]]',
}


@pytest.mark.parametrize("odd", ODD_ROWS)
def test_an_array_holds_what_lines_hold(tmp_path, odd, monkeypatch):
    monkeypatch.setattr("flanlite.corpus.rows.BLOCK_BYTES", 7)
    lines = ['{"a": 1}', ODD_ROWS[odd], '{"a": "é"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "rows.json").write_text(f" [ {' , '.join(lines)}\n] \n", encoding="utf-8")
    values = [
        [str(parse_row(row)) for block in read_blocks(tmp_path / name) for _, row in block.numbered()]
        for name in ("rows.jsonl", "rows.json")
    ]
    assert values[0] == values[1] == [str(json.loads(line)) for line in lines]


BROKEN_ROWS = {
    "broken JSON: Expecting value at column 7": b'{"a": tru}',
    "broken JSON: several values where one is expected": b"{} {}",
    "broken JSON: nested too deeply": b"[" * 5000 + b"]" * 5000,
    "the row is no UTF-8": b'"\xff"',
    "broken JSON: Invalid control character at column 2 of": b'"\n"',
    "broken JSON: Expecting value at line 2, column 2 of": b'{"a":\n }',
}


@pytest.mark.parametrize("reason", BROKEN_ROWS)
def test_a_broken_row_of_an_array_leaves_the_others_whole(tmp_path, reason):
    (tmp_path / "rows.json").write_bytes(b'[{"a": 1},' + BROKEN_ROWS[reason] + b',{"a": 2}]')
    rows = [row for block in read_blocks(tmp_path / "rows.json") for _, row in block.numbered()]
    assert [parse_row(rows[0]), parse_row(rows[2])] == [{"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match=reason):
        parse_row(rows[1])


def test_half_a_surrogate_pair_in_an_array_takes_nothing_of_its_neighbours(tmp_path):
    (tmp_path / "rows.json").write_text(r'["x\ud83d\u0041y"]')
    (block,) = read_blocks(tmp_path / "rows.json")
    assert parse_row(block.rows[0]) == "x\ud83dAy"


def test_an_item_that_never_ends_is_not_read_to_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("flanlite.corpus.rows.BLOCK_BYTES", 10)
    monkeypatch.setattr("flanlite.corpus.rows.LARGEST_ITEM_BYTES", 1000)
    (tmp_path / "rows.json").write_text('[1, "' + "x" * 2000)
    with pytest.raises(FlanliteError, match="behind row 1: a quote or a bracket has no end"):
        list(read_blocks(tmp_path / "rows.json"))


@pytest.mark.parametrize(("text", "reason"), [("[1, 2", "1: it breaks off"), ("[" * 100_000, "it breaks off"),
                                              ("[1]\n[2]", "something follows the array"),
                                              ("[1,,2]", "nothing between two commas")])  # fmt: skip
def test_an_array_that_is_not_all_of_a_file_is_no_array(tmp_path, text, reason, monkeypatch):
    monkeypatch.setattr("flanlite.corpus.rows.BLOCK_BYTES", 3)
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(FlanliteError, match=reason):
        list(read_blocks(tmp_path / "rows.json"))


def test_a_blank_line_is_no_row_and_has_a_number(tmp_path):
    (tmp_path / "rows.jsonl").write_text("1\n\n \n4\n")
    (block,) = read_blocks(tmp_path / "rows.jsonl")
    assert [(number, parse_row(row)) for number, row in block.numbered()] == [(1, 1), (4, 4)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_named_and_not_read_by_halves(tmp_path, encoding):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n', encoding=encoding)
    with pytest.raises(FlanliteError, match="UTF-16") as caught:
        list(read_blocks(tmp_path / "rows.jsonl"))
    assert caught.value.hint == "Save it as UTF-8."


def test_a_broken_gzip_file_is_named(tmp_path):
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b"x" * 10_000)[:30])
    with pytest.raises(FlanliteError, match="broken gzip"):
        list(read_blocks(file))


def test_a_folder_gives_its_files_in_order_and_an_empty_one_says_so(tmp_path):
    with pytest.raises(FlanliteError, match="holds no data"):
        data_files(tmp_path)
    for name in ("b.jsonl", "sub/a.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [file.name for file in data_files(tmp_path)] == ["b.jsonl", "a.json"]


def test_only_a_data_set_on_the_hub_has_subsets(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}")
    for name in (str(tmp_path / "rows.jsonl"), "sample"):
        with pytest.raises(FlanliteError, match="has no subsets"):
            find_sources([name], ["foo"], say=print)


def test_a_missing_file_is_an_error_with_a_hint():
    with pytest.raises(FlanliteError, match="no data") as caught:
        find_sources(["./nowhere.jsonl"], say=print)
    assert "owner/name" in caught.value.hint


def rows(*sizes: tuple[str, int, int, int]) -> Rows:
    """Rows of sources given as (name, rows, tokens each, trained tokens each)."""
    source = np.concatenate([np.full(count, number) for number, (_, count, _, _) in enumerate(sizes)])
    tokens = np.concatenate([np.full(count, each) for _, count, each, _ in sizes])
    trained = np.concatenate([np.full(count, each) for _, count, _, each in sizes])
    return Rows([name for name, *_ in sizes], source, tokens, trained)


def test_negatives_are_always_in_and_the_rest_is_stratified():
    agent = rows(("react", 1000, 100, 20), ("negative", 50, 80, 10), ("cot", 3000, 50, 10))
    taken, _ = mix(agent, None, 0, budget=50_000, seed=1)
    per_source = np.bincount(agent.source[taken])
    assert per_source[1] == 50
    assert agent.tokens[taken].sum() == pytest.approx(50_000, abs=200)
    assert per_source[0] / 1000 == pytest.approx(per_source[2] / 3000, rel=0.05)


def test_general_chat_meets_its_share_of_the_trained_tokens():
    agent = rows(("react", 1000, 100, 20))
    general = rows(("chat", 5000, 60, 30))
    taken, chat = mix(agent, general, 0.5, budget=70_000, seed=1)
    assert general.trained[chat].sum() == pytest.approx(agent.trained[taken].sum(), abs=60)
    assert agent.tokens[taken].sum() + general.tokens[chat].sum() == pytest.approx(70_000, abs=300)


def test_too_little_general_chat_is_taken_whole_and_leaves_its_budget_to_the_agent_data():
    agent = rows(("react", 1000, 100, 20))
    general = rows(("chat", 10, 60, 30))
    taken, chat = mix(agent, general, 0.5, budget=70_600, seed=1)
    assert len(chat) == 10
    assert agent.tokens[taken].sum() == pytest.approx(70_000, abs=200)


def test_the_negatives_share_of_too_little_general_chat_leaves_its_budget_to_the_agent_data():
    agent = rows(("negative", 300, 100, 50), ("react", 1000, 100, 50))
    general = rows(("chat", 400, 100, 50))
    taken, chat = mix(agent, general, 0.5, budget=100_000, seed=1)
    assert len(chat) == 400
    assert len(taken) == 600


def test_without_a_budget_every_row_is_taken():
    agent = rows(("react", 100, 100, 20), ("negative", 5, 10, 5))
    taken, _ = mix(agent, None, 0.5, budget=float("inf"), seed=1)
    assert len(taken) == 105


def test_a_seed_decides_the_sample():
    agent = rows(("react", 1000, 100, 20))
    first, again, other = (mix(agent, None, 0, 20_000, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_split_holds_out_its_share_and_loses_no_row():
    train, held_out = split(np.arange(1000), 0.02, 200, seed=3)
    assert len(held_out) == 20
    assert sorted([*train, *held_out]) == list(range(1000))
    assert len(split(np.arange(1), 0.5, 200, seed=3)[0]) == 1
