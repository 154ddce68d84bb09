"""What chat and eval open, and what they refuse: runs, merged models, bases; and the chat command's mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from random_llama import write_base
from small_tune import tune
from typer.testing import CliRunner

from flanlite.agent.model import Sampling
from flanlite.chat import Address, Given, open_models, open_toolbox, warnings_for
from flanlite.cli import app
from flanlite.conversation import Conversation, Turn
from flanlite.errors import FlanliteError
from flanlite.merge import merge_run
from flanlite.opening import open_model
from flanlite.prompt.template import fingerprint, open_template
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.run import Run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("opening")


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """A finished run of a random base, with the record that tune writes."""
    base, run = write_base(place / "base"), Run(place / "runs" / "small")
    run.folder.mkdir(parents=True)
    tune(base, run, "epochs=1")
    tokenizer = Tokenizer.load(base)
    tokenizer.save(run.adapter_dir)
    record = json.loads(run.record_file.read_text(encoding="utf-8"))
    record |= {"template_hash": fingerprint(open_template("llama2", tokenizer), "react"), "base": str(base)}
    run.record_file.write_text(json.dumps(record | {"measured": {}}), encoding="utf-8")
    return run


def reply(model, text: str = "Hi") -> str:
    import threading

    conversation = Conversation((Turn("user", text),))
    return "".join(model.ask(conversation, Sampling(max_new_tokens=16), threading.Event()))


def test_a_run_opens_with_its_base_over_one_set_of_weights(run: Run) -> None:
    opened = open_model(str(run.folder), None)
    assert opened.base is not None
    assert (opened.model.name, opened.model.style) == ("small", "react")
    assert opened.base.shared is opened.model.shared
    assert reply(opened.model) != reply(opened.base)


def test_the_newest_run_opens_where_none_is_named(run: Run, monkeypatch) -> None:
    monkeypatch.chdir(run.folder.parents[1])
    assert open_model(None, None).model.name == "small"


def test_a_merged_model_knows_how_it_was_taught(run: Run, place: Path) -> None:
    merge_run(str(run.folder), place / "merged", onto="base", dtype=None, check=False, overwrite=True)
    taught = json.loads((place / "merged" / "flanlite.json").read_text(encoding="utf-8"))
    assert taught["tool_style"] == "react"
    opened = open_model(str(place / "merged"), None)
    assert opened.base is None
    assert opened.model.template.name == taught["template"] == "llama2"
    assert opened.base_name == taught["base"]
    with pytest.raises(FlanliteError, match="tuned with tool_style=react"):
        open_model(str(place / "merged"), "json")


def test_another_chat_template_than_the_runs_is_refused(run: Run, place: Path) -> None:
    copy = Run(place / "runs" / "changed")
    shutil.copytree(run.folder, copy.folder)
    record = copy.record | {"template_hash": "0123"}
    copy.record_file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(FlanliteError, match="not what the model was tuned with"):
        open_model(str(copy.folder), None)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def put_a_folder_in_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter/adapter_model.safetensors", truncate),
        ("adapter/adapter_model.safetensors", Path.unlink),
        ("adapter/adapter_model.safetensors", put_a_folder_in_its_place),
        ("adapter/adapter_config.json", lambda file: file.write_text("{oops")),
        ("adapter/adapter_config.json", lambda file: file.write_text('{"r": null}')),
        ("recipe.yaml", Path.unlink),
    ],
)
def test_a_run_that_was_not_copied_whole_names_the_file(run: Run, tmp_path: Path, name: str, damage) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    damage(copy / name)
    for use in (
        lambda: open_model(str(copy), None),
        lambda: merge_run(str(copy), tmp_path / "out", onto="base", dtype=None, check=False, overwrite=False),
    ):
        with pytest.raises(FlanliteError, match=Path(name).name) as refused:
            use()
        assert str(copy) in refused.value.message


def test_a_run_without_an_adapter_is_finished_by_the_line_that_is_named(run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("adapter")))
    with pytest.raises(FlanliteError, match="has no adapter yet") as refused:
        open_model(str(copy), None)
    assert refused.value.hint == f"Finish it first: flanlite tune --resume --out {copy}"


def test_another_tool_style_than_the_runs_is_refused(run: Run) -> None:
    with pytest.raises(FlanliteError, match="tuned with tool_style=react"):
        open_model(str(run.folder), "json")


def test_a_base_opens_by_name_in_the_style_that_is_asked_for() -> None:
    opened = open_model("tiny", "json")
    assert (opened.model.name, opened.model.style, opened.base) == ("tiny", "json", None)


def test_a_large_base_on_a_cpu_is_sent_to_an_endpoint() -> None:
    with pytest.raises(FlanliteError, match="7 billion parameters; on this CPU") as refused:
        open_model("llama2-7b-chat", None)
    assert "--endpoint" in refused.value.hint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such_thing"], "There is no base called 'no_such_thing'"),
        (["tiny", "--compare"], "no adapter to switch off"),
        (["tiny", "--tool-style", "openai"], "needs a server"),
        (["tiny", "--model", "x"], "names a model of a server"),
        (["tiny", "--endpoint", "http://127.0.0.1:9"], "An endpoint has one model"),
        (["--endpoint", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["tiny", "--terminal", "--port", "8080"], "serves no page"),
        (["tiny", "--password", ""], "The password is empty"),
        (["tiny", "--host", "no.such.host.invalid"], "no.such.host.invalid is no address"),
        (["tiny", "--tools", "missing.py"], "missing.py"),
        (["tiny", "--folder", "missing"], "missing"),
        (["tiny", "--csv", "missing.csv"], "missing.csv"),
        (["tiny", "--mcp", "no-such-program-here"], "no-such-program-here"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], words: str, monkeypatch, tmp_path: Path) -> None:
    if "--mcp" in arguments:
        pytest.importorskip("mcp")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["chat", *arguments, "--no-browser"])
    assert isinstance(result.exception, FlanliteError)
    assert words in result.exception.message


def test_tools_come_from_files_folders_tables_and_the_package(tmp_path: Path) -> None:
    from contextlib import ExitStack

    (tmp_path / "mine.py").write_text('def shout(text: str) -> str:\n    """Shout."""\n    return text.upper()\n')
    (tmp_path / "sales.csv").write_text("month,sum\nMay,3\nJune,5\n")
    with ExitStack() as stack:
        given = Given([tmp_path / "mine.py"], tmp_path, [tmp_path / "sales.csv"])
        toolbox = open_toolbox(given, stack)
    assert {"calculate", "shout", "search_text", "query_csv"} <= set(toolbox.names)


def test_serving_beyond_this_machine_warns_of_the_tools() -> None:
    from contextlib import ExitStack

    with ExitStack() as stack:
        toolbox = open_toolbox(Given(), stack)
    assert warnings_for(toolbox, Address()) == warnings_for(toolbox, Address("localhost")) == []
    open_to_all = warnings_for(toolbox, Address(host="0.0.0.0"))
    assert "make its tools run on this machine" in open_to_all[0]
    assert "--password" in open_to_all[1]
    assert len(warnings_for(toolbox, Address(share=True, password="x"))) == 1


def test_an_endpoint_opens_without_weights(monkeypatch) -> None:
    import flanlite.endpoint

    asked = []
    monkeypatch.setattr(flanlite.endpoint, "Endpoint", lambda *arguments: asked.append(arguments) or "model")
    models = open_models(None, "http://127.0.0.1:8080", "m", None, compare=False)
    assert models == ["model"]
    assert asked == [("http://127.0.0.1:8080", "m", "react")]
