"""The chat in a terminal, read from a pipe as a script would."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from scripted_model import ScriptedModel

from flanlite.agent.loop import Settings
from flanlite.agent.tools import Toolbox, tool_from
from flanlite.corpus.forms import read_row
from flanlite.terminal_chat import TerminalChat


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def chat_about(topic: str) -> str:
    """Chat about a topic."""
    return topic


CALL = 'Thought: Add them.\nAction: add\nAction Input: {"a": 2, "b": 3}'
ANSWER = "Thought: I have it.\nFinal Answer: It is 5."


def chat(monkeypatch: pytest.MonkeyPatch, typed: str, *models: ScriptedModel) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    out = io.StringIO()
    TerminalChat(models, Toolbox([tool_from(add, "mine.py")]), Settings(), Console(file=out, width=100)).run()
    return out.getvalue()


def test_a_question_shows_thought_call_result_and_answer(monkeypatch) -> None:
    printed = chat(monkeypatch, "2 + 3?\n", ScriptedModel(CALL, ANSWER))
    lines = [line.strip() for line in printed.splitlines()]
    start = lines.index(next(line for line in lines if line.endswith("Add them.")))
    shown = [" ".join(line.split()) for line in lines[start:] if line]
    assert shown[1].startswith("add done")
    assert shown[2:6] == ["a 2", "b 3", "result 5", "I have it."]
    assert shown[6] == "It is 5."


def test_invented_and_malformed_calls_are_named(monkeypatch) -> None:
    model = ScriptedModel("Action: fly\nAction Input: {}", "Action: add\nAction Input: {", "No.")
    printed = chat(monkeypatch, "Fly\n", model)
    assert "invented" in printed
    assert "malformed" in printed
    assert "Error: There is no tool fly." in printed


def test_commands_show_tools_and_prompt_retry_and_begin_anew(monkeypatch) -> None:
    model = ScriptedModel("One.", "Two.", "Three.")
    printed = chat(monkeypatch, "Count\n/tools\n/saw\n/retry\n/clear\nAgain\n/nothing\n/quit\nnever\n", model)
    for part in ("add(a, b)  Add two numbers.  mine.py", "of 1,000 tokens", "Two.", "Three.", "There is no /nothing."):
        assert part in printed
    assert [len(asked.turns) for asked in model.asked] == [1, 1, 1]


def test_tools_are_chosen_by_name(monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/tools add\nHi\n/tools fly\n/tools all\nHi\n"))
    out, model = io.StringIO(), ScriptedModel("Yes.")
    toolbox = Toolbox([tool_from(add, "mine.py"), tool_from(chat_about, "mine.py")])
    TerminalChat([model], toolbox, Settings(), Console(file=out, width=100)).run()
    assert "There is no tool fly." in out.getvalue()
    assert [[tool.name for tool in asked.tools] for asked in model.asked] == [["add"], ["add", "chat_about"]]


def test_export_writes_a_row_of_training_data(monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    printed = chat(monkeypatch, f"2 + 3?\n/export {file}\n/export\n", ScriptedModel(CALL, ANSWER))
    assert "Export where to?" in printed
    row = json.loads(file.read_text(encoding="utf-8"))
    assert sum(turn.trained for turn in read_row(row, "agent-flan").turns) == 2


def test_a_file_that_cannot_be_written_is_a_sentence(monkeypatch, tmp_path: Path) -> None:
    printed = chat(monkeypatch, f"Hi\n/export {tmp_path}/none/x.jsonl\nHi\n", ScriptedModel("Yes."))
    assert "cannot be written" in printed
    assert printed.count("Yes.") == 2


def test_settings_are_set_by_name(monkeypatch) -> None:
    typed = "/set system Be brief.\n/set tokens 2\n/set nothing 1\n/set steps many\n/tools none\nHi\n"
    model = ScriptedModel("Yes.")
    printed = chat(monkeypatch, typed, model)
    assert "There is no setting 'nothing'." in printed
    assert "'many' is no number for steps." in printed
    assert "Cut at the limit" in printed
    assert (model.asked[0].system, model.asked[0].tools) == ("Be brief.", ())


@pytest.mark.parametrize("value", ["temperature 99", "temperature nan", "top_p 0", "steps 0", "tokens -1"])
def test_a_setting_out_of_its_range_changes_nothing_and_is_told(monkeypatch, value: str) -> None:
    printed = chat(monkeypatch, f"/set {value}\n/set\nHi\n", ScriptedModel("Yes."))
    assert f"{value.split()[0]} goes from " in printed
    assert "Set what?" in printed
    assert "Yes." in printed


def test_an_export_replaces_no_file(monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text("mine")
    printed = chat(monkeypatch, f"Hi\n/export {file}\n", ScriptedModel("Yes."))
    assert "is there already. Name another file." in " ".join(printed.split())
    assert file.read_text() == "mine"


def test_two_models_answer_one_after_the_other(monkeypatch) -> None:
    printed = chat(
        monkeypatch, "Hi\n", ScriptedModel("I am base.", name="base"), ScriptedModel("I am tuned.", name="tuned")
    )
    assert printed.index("I am base.") < printed.index("tuned ─") < printed.index("I am tuned.")


def test_a_reply_cannot_steer_the_terminal_or_use_markup(monkeypatch) -> None:
    printed = chat(
        monkeypatch, "Hi\n", ScriptedModel("\x1b[31mred\x07 [bold]b[/bold] \x1b]0;t\x07 \u202eevil Bon\u00a0jour")
    )
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert "\u202e" not in printed
    assert "Bon\u00a0jour" in printed
    assert "[bold]b[/bold]" in printed


def test_ctrl_c_stops_the_reply_and_not_the_chat(monkeypatch) -> None:
    class Interrupted(ScriptedModel):
        def ask(self, *arguments):
            if len(self.asked) == 0:
                super().ask(*arguments)
                raise KeyboardInterrupt
            return super().ask(*arguments)

    printed = chat(monkeypatch, "One\nTwo\n", Interrupted("never", "Here."))
    assert printed.index("Stopped.") < printed.index("Here.")
