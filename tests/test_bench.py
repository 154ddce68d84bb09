"""The benchmark's machinery on a CPU: real child processes on a small random base, and the rest without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_base import SHAPE, small_base
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from flanlite import bench as stage
from flanlite.bases import Base, Shape, resolve
from flanlite.benchmark import child, table, training, workbench
from flanlite.benchmark.conversations import (
    Turn,
    attended_tokens,
    conversations_in,
    draw,
    ids_and_labels,
    public_conversations,
    tokens_in,
)
from flanlite.benchmark.picture import draw_speeds
from flanlite.benchmark.random_base import config_of, write_random_base
from flanlite.benchmark.results import Entry, Measured, Outcome, Results
from flanlite.benchmark.stopwatch import owners
from flanlite.benchmark.trial import Preparation, Timing, Trial, read_task, write_task
from flanlite.benchmark.variants import VARIANTS, Layout, choose_variants, next_layout, rows_a_step
from flanlite.cli import app
from flanlite.errors import FlanliteError, NoRoomError
from flanlite.prompt.template import MASKED
from flanlite.recipe import Recipe

needs_no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="what is refused without a card")


def order_for(base: Path, *variants: str, limit_s: float = 120.0) -> stage.Order:
    return stage.Order(
        str(base), max_tokens=128, batch_tokens=256, variants=variants, limit_s=limit_s, timing=Timing(1, 2, 0.0)
    )


def measured(rate: float = 1000.0, **changes: Any) -> Measured:
    """Two steps of so many trained tokens a second."""
    settings = {"micro_rows": 2, "batch_rows": 8, "kept_layers": 4}
    trained = [round(rate), round(rate)]
    losses = [(10.2, 100), (10.6, 100)]
    whole = Measured([1.0, 1.0], [3 * each for each in trained], trained, 0.1, losses, 2**33, 2**34, settings)
    return replace(whole, **changes)


def entry(variant: str, micro_batch: int = 0, figures: Measured | None = None, outcome: Outcome = "measured") -> Entry:
    return Entry(variant, micro_batch, 8 // micro_batch if micro_batch else 0, outcome, 480.0, measured=figures)


ABOUT: dict[str, Any] = {
    "base": "small",
    "max_tokens": 2048,
    "batch_tokens": 16_384,
    "lora_r": 16,
    "vram_gib": None,
    "card": "NVIDIA GeForce RTX 4090",
    "limit_tokens_per_s": 12_000.0,
    "rows": {"from": "public conversations", "mean_tokens": 341.0, "trained_share": 0.4},
    "timing": asdict(Timing(1, 2, 0.0)),
    "versions": {"torch": "2.13.0", "trl": "1.14.2"},
}


def results_of(folder: Path, *entries: Entry, **about: Any) -> Results:
    results = Results(folder, ABOUT | about)
    for each in entries:
        results.add(each)
    return results


def shown(results: Results) -> str:
    """What a terminal of 80 columns shows."""
    console = Console(width=80, record=True)
    with console.capture() as captured, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "console", console)
        patch.setattr(table, "say", lambda line: console.print(line, soft_wrap=True, markup=False))
        table.show(results, results.folder / "speeds.png")
    return captured.get()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[stage.Order, Results, Path]:
    """A whole benchmark of three variants, each training in a process of its own; the folder of all that is passing."""
    folder = tmp_path_factory.mktemp("bench")
    order = order_for(small_base(folder / "base"), "flanlite", "peft", "peft-packed")
    (folder / "passing").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench, "MEMORY_DISK", folder / "nowhere")
        patch.setattr(tempfile, "tempdir", str(folder / "passing"))
        return order, stage.bench(order, folder / "out"), folder / "passing"


def test_every_variant_is_measured_and_flanlite_last(done: tuple[stage.Order, Results, Path]) -> None:
    order, results, _ = done
    assert list(dict.fromkeys(each.variant for each in results.entries)) == list(reversed(order.variants))
    for variant in order.variants:
        best = results.best(variant)
        assert best is not None
        figures = best.measured
        assert figures is not None, best
        assert len(figures.seconds) == len(figures.tokens) == len(figures.trained_tokens) == 2
        assert min(figures.seconds) > 0
        assert all(0 < trained < tokens for trained, tokens in zip(figures.trained_tokens, figures.tokens, strict=True))
        assert (figures.reserved_bytes is None) != torch.cuda.is_available()
    assert results.about["versions"]["torch"] == version("torch")


def test_the_first_loss_is_equal_however_a_variant_packs(done: tuple[stage.Order, Results, Path]) -> None:
    _, results, _ = done
    losses = [each.measured.first_losses for each in results.entries if each.measured]
    assert len(losses[0]) == 16
    for each in results.entries:
        assert each.measured is not None
        assert each.measured.loss_difference(results.entries[0].measured) < 1e-2
    assert "All variants have the same losses of 16 conversations before step 1" in " ".join(shown(results).split())


def test_packed_steps_have_no_padding_and_all_steps_about_as_many_tokens(
    done: tuple[stage.Order, Results, Path],
) -> None:
    order, results, _ = done
    for each in results.entries:
        assert each.measured is not None
        assert each.measured.padding_share == 0 or each.variant == "peft"
        if each.variant != "peft":
            assert all(0.5 * order.batch_tokens < tokens <= order.batch_tokens for tokens in each.measured.tokens)


def test_a_second_call_measures_only_what_is_missing(
    done: tuple[stage.Order, Results, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    order, results, _ = done

    def refuse(*_: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(workbench, "_run", refuse)
    assert stage.bench(order, results.folder).entries == results.entries


def test_json_picture_and_logs_are_left_and_nothing_of_the_random_base(
    done: tuple[stage.Order, Results, Path],
) -> None:
    _, results, passing = done
    assert json.loads(results.file.read_text())["entries"] == [
        json.loads(json.dumps(asdict(e))) for e in results.entries
    ]
    assert (results.folder / stage.SPEEDS).read_bytes().startswith(b"\x89PNG")
    assert (results.folder / "logs" / "flanlite-0.txt").is_file()
    assert not list(passing.iterdir())


def test_results_of_other_rows_are_not_mixed(done: tuple[stage.Order, Results, Path]) -> None:
    order, results, _ = done
    with pytest.raises(FlanliteError, match="another benchmark: max_tokens was 128 and is 256"):
        stage.bench(replace(order, max_tokens=256), results.folder)


def test_results_of_another_card_or_version_are_not_mixed(tmp_path: Path) -> None:
    results = results_of(tmp_path, entry("peft", 2, measured()))
    for key, value in {"card": "Some Card", "versions": ABOUT["versions"] | {"torch": "2.14.0"}}.items():
        with pytest.raises(FlanliteError, match=f"{key}.* was .* and is "):
            Results.open(results.folder, ABOUT | {key: value})


def test_results_that_cannot_be_read_are_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"about": {}}')
    with pytest.raises(FlanliteError, match="cannot be read"):
        Results.open(tmp_path, ABOUT)
    assert (tmp_path / "results.json").read_text() == '{"about": {}}'


def bench_with(monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, Any], order: stage.Order, out: Path) -> Results:
    """A benchmark whose processes are not started: the base's and the variants' answers are given."""
    card = {"card": "CPU", "memory_bytes": None, "capability": None}

    def answer(_: Any, task: Preparation | Trial, name: str, limit_s: float) -> Any:
        return card if isinstance(task, Preparation) else answers[name]

    monkeypatch.setattr(workbench.Workbench, "ask", answer)
    return stage.bench(order, out)


def test_what_runs_out_of_memory_halves_a_sweep_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"outcome": "out of memory", "note": "", "measured": None}
    small = {"outcome": "measured", "note": "", "measured": asdict(measured())}
    order = order_for(small_base(tmp_path / "base"), "peft")
    results = bench_with(monkeypatch, {"peft-2": full, "peft-1": small}, order, tmp_path / "out")
    assert [(each.micro_batch, each.outcome) for each in results.entries] == [(2, "out of memory"), (1, "measured")]
    assert results.best("peft") == results.entries[1]


def test_what_failed_is_told_with_its_last_words_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_for(small_base(tmp_path / "base"), "flanlite")
    broken = {"flanlite-0": {"outcome": "failed", "note": "ValueError: no such thing"}}
    results = bench_with(monkeypatch, broken, order, tmp_path / "out")
    assert "flanlite: failed (ValueError: no such thing)." in shown(results)
    mended = {"flanlite-0": {"outcome": "measured", "note": "", "measured": asdict(measured())}}
    results = bench_with(monkeypatch, mended, order, tmp_path / "out")
    assert [each.outcome for each in results.entries] == ["measured"]


def test_what_had_no_time_is_measured_again_with_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_for(small_base(tmp_path / "base"), "flanlite")
    late = {"outcome": "out of time", "note": "ended after 120 s", "measured": None}
    results = bench_with(monkeypatch, {"flanlite-0": late}, order, tmp_path / "out")
    assert "flanlite: out of time (ended after 120 s)." in shown(results)
    results = bench_with(monkeypatch, {}, order, tmp_path / "out")
    assert [each.outcome for each in results.entries] == ["out of time"]
    whole = {"outcome": "measured", "note": "", "measured": asdict(measured())}
    results = bench_with(monkeypatch, {"flanlite-0": whole}, replace(order, limit_s=240.0), tmp_path / "out")
    assert [each.outcome for each in results.entries] == ["measured"]


def test_a_sweep_that_broke_off_says_so_beside_its_best(tmp_path: Path) -> None:
    broken = Entry("peft", 4, 2, "failed", 480.0, "ValueError: no such thing")
    said = shown(results_of(tmp_path, entry("peft", 2, measured()), broken))
    assert "peft, 4 x 2: failed (ValueError: no such thing)." in said


def test_folders_of_killed_benchmarks_are_removed_and_those_of_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, orphan = (tmp_path / f"flanlite-bench-{process}-abc" for process in (os.getpid(), ended.pid))
    for folder in (mine, orphan):
        folder.mkdir()
    monkeypatch.setattr(workbench, "MEMORY_DISK", tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with workbench.workbench([], 0, tmp_path / "logs") as bench:
        assert sorted(each.name for each in tmp_path.glob("flanlite-bench-*")) == sorted([mine.name, bench.folder.name])


def test_a_process_beyond_its_time_is_ended_and_one_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    bench = workbench.Workbench(tmp_path, tmp_path / "logs")
    # There is no such base, so a trial fails as soon as its imports are done.
    trial = Trial("peft", 1, 1, "nowhere", "nowhere", "nowhere", 128, 512, None, Timing(), time.time(), 1)
    assert bench.ask(trial, "late", 0.05)["outcome"] == "out of time"
    answer = bench.ask(trial, "wrong", 120)
    assert answer["outcome"] == "failed"
    assert "nowhere" in answer["note"]
    assert answer["note"] in (tmp_path / "logs" / "wrong.txt").read_text()


def test_a_process_that_is_killed_is_told_by_its_signal(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    returned = workbench._run([sys.executable, "-c", code], log, 60, {})
    assert returned is not None
    assert workbench._reason(returned, log) == "ended by signal 9"


def test_what_flanlite_finds_too_large_is_out_of_memory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = answer_to(tmp_path, monkeypatch, NoRoomError("base needs 9.0 GiB at the least."))
    assert (answer["outcome"], answer["note"]) == ("out of memory", "it needs 9.0 GiB at the least.")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]
)
def test_memory_that_runs_out_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    assert answer_to(tmp_path, monkeypatch, error)["outcome"] == "out of memory"


def test_other_errors_of_a_training_end_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        answer_to(tmp_path, monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def answer_to(folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Any:
    """What a child writes whose training raises an error."""

    def fail(trial: Trial) -> None:
        raise error

    monkeypatch.setattr(training, "measure", fail)
    trial = Trial("peft", 1, 1, "base", "rows", "work", 128, 512, None, Timing(), 0.0, 1)
    write_task(trial, folder / "task.json")
    assert read_task(folder / "task.json") == trial
    child.main(str(folder / "task.json"), str(folder / "answer.json"))
    return json.loads((folder / "answer.json").read_text())


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({}, 2),
        ({2: 1000.0}, 4),
        ({2: 1000.0, 4: 1500.0}, 8),
        ({2: 1000.0, 4: 990.0}, None),
        ({2: 1000.0, 4: None}, None),
        ({2: None}, 1),
        ({4: 900.0}, 8),
        ({2: None, 1: 900.0}, None),
        ({2: None, 1: None}, None),
        ({2: 1.0, 4: 2.0, 8: 3.0, 16: 4.0}, None),
    ],
)
def test_a_sweep_doubles_while_that_is_faster_and_halves_what_is_too_large(
    speeds: dict[int, float | None], expected: int | None
) -> None:
    layout = next_layout(VARIANTS["peft"], speeds, 16)
    assert layout == (None if expected is None else Layout(expected, 16 // expected))


def test_a_sweep_of_packed_rows_goes_through_the_divisors_of_a_step() -> None:
    assert next_layout(VARIANTS["peft-packed"], {}, 5) == Layout(5, 1)
    assert next_layout(VARIANTS["peft-packed"], {5: None}, 5) == Layout(1, 5)
    assert next_layout(VARIANTS["peft-packed"], {2: 1.0}, 6) == Layout(3, 2)


def test_other_variants_are_measured_once_with_their_layout() -> None:
    assert next_layout(VARIANTS["unsloth-defaults"], {}, 64) == Layout(2, 4)
    assert next_layout(VARIANTS["unsloth-defaults"], {2: None}, 64) is None
    assert next_layout(VARIANTS["flanlite"], {}, 8) == Layout(0, 0)
    assert next_layout(VARIANTS["flanlite"], {0: 1000.0}, 8) is None


@given(st.sampled_from(list(VARIANTS.values())), st.sampled_from([512, 2048, 4096]), st.floats(20, 4096))
def test_a_step_has_about_as_many_tokens_in_all_swept_variants(variant: Any, max_tokens: int, mean: float) -> None:
    rows = rows_a_step(variant, 16_384, max_tokens, min(mean, max_tokens))
    tokens = rows * (max_tokens if variant.packs else min(mean, max_tokens))
    assert tokens / 16_384 == pytest.approx(1, rel=0.42)


def test_variants_are_compared_with_flanlite_by_their_best(tmp_path: Path) -> None:
    results = results_of(
        tmp_path,
        entry("flanlite", 0, measured(3000)),
        entry("unsloth-best", 2, measured(1000)),
        entry("unsloth-best", 4, measured(1500)),
        entry("unsloth-best", 8, outcome="out of memory"),
        entry("unsloth-best-packed", 2, outcome="out of memory"),
    )
    compared = json.loads(table.as_json(results))["compared"]
    assert [(each["variant"], each["micro_batch"], each["flanlite_is"]) for each in compared] == [
        ("flanlite", 0, None),
        ("unsloth-best", 4, 2.0),
        ("unsloth-best-packed", 2, None),
    ]
    assert compared[0]["share_of_limit"] == 0.75
    said = shown(results)
    assert "2.00x" in said
    assert "unsloth-best-packed, 2 x 4: out of memory." in said
    draw_speeds(replace(results, about=ABOUT | {"base": "a $ sign"}), tmp_path / "speeds.png")
    assert (tmp_path / "speeds.png").stat().st_size


def test_tables_and_headline_fit_80_columns(tmp_path: Path) -> None:
    wide = measured(
        123_456, reserved_bytes=139 * 2**30, settings={"micro_rows": 64, "batch_rows": 64, "kept_layers": 80}
    )
    results = results_of(tmp_path, entry("flanlite", 0, wide), entry("unsloth-best-packed", 8, wide))
    tables, _, _ = shown(results).partition("+-:")
    assert tables.count("unsloth-best-packed") == 2
    assert all(len(line) <= 80 and "…" not in line for line in tables.splitlines())


def test_losses_that_differ_are_told(tmp_path: Path) -> None:
    # The means are equal: it is the single conversations that differ.
    apart = entry("peft", 2, measured(first_losses=[(10.1, 100), (10.7, 100)]))
    said = " ".join(shown(results_of(tmp_path, entry("flanlite", 0, measured()), apart)).split())
    assert "peft computes something else than flanlite: before step 1 the loss of a token differs by 1 nats" in said


def test_a_loss_that_is_no_number_is_told(tmp_path: Path) -> None:
    broken = entry("peft", 2, measured(first_losses=[(10.2, 100), (float("nan"), 100)]))
    said = " ".join(shown(results_of(tmp_path, entry("flanlite", 0, measured()), broken)).split())
    assert "peft computes something else than flanlite" in said


def test_the_spread_is_the_standard_error_of_the_rate() -> None:
    assert measured().spread == 0
    assert measured(seconds=[1.0], tokens=[9], trained_tokens=[3]).spread is None
    # Two steps at 900 and 1100 tokens a second: 1000 on average, each 100 off, so 100 by the error of a mean of two.
    assert measured(trained_tokens=[900, 1100]).spread == pytest.approx(0.1)


def test_a_child_leaves_it_to_the_variant_which_library_comes_first() -> None:
    code = "import sys, flanlite.benchmark.child as _; print({'transformers', 'trl', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@needs_no_card
def test_without_a_card_7b_unsloth_and_a_cap_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match=r"llama2-7b-chat has 6\.7 billion parameters"):
        stage.bench(stage.Order(), tmp_path)
    with pytest.raises(FlanliteError, match="--vram caps the memory of a card"):
        stage.bench(stage.Order("tiny", vram_gib=8), tmp_path)
    assert not list(tmp_path.iterdir())


def test_variants_that_cannot_run_are_left_out_and_told_or_refused_by_name() -> None:
    chosen, left_out = choose_variants((), has_card=False, unsloth="2026.10.9")
    assert [variant.name for variant in chosen] == ["flanlite", "peft", "peft-packed"]
    names = "unsloth-defaults, unsloth-best, unsloth-best-packed, unsloth-auto, unsloth-kept"
    assert left_out == [f"Left out, for it needs a CUDA card, and torch sees none: {names}."]
    chosen, left_out = choose_variants((), has_card=True, unsloth="2026.10.7")
    assert [variant.name for variant in chosen] == [name for name in VARIANTS if name != "unsloth-auto"]
    assert left_out == ["Left out, for it needs unsloth 2026.10.9, and 2026.10.7 is installed: unsloth-auto."]
    assert choose_variants((), has_card=True, unsloth="2026.10.9") == (list(VARIANTS.values()), [])
    with pytest.raises(FlanliteError, match="unsloth-best needs the unsloth package"):
        choose_variants(["unsloth-best"], has_card=True, unsloth=None)
    with pytest.raises(FlanliteError, match="no variant 'vllm'") as caught:
        choose_variants(["flanlite", "vllm"], has_card=False, unsloth=None)
    assert "unsloth-defaults" in caught.value.hint


def test_the_command_prints_nothing_but_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"flanlite-0": {"outcome": "measured", "note": "", "measured": asdict(measured())}}
    base, out = small_base(tmp_path / "base"), tmp_path / "out"
    bench_with(monkeypatch, answers, stage.Order(str(base), max_tokens=128, variants=("flanlite",)), out)
    arguments = ["bench", "--base", str(base), "--max-tokens", "128", "--variants", "flanlite", "--json"]
    said = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["compared"][0]["trained_tokens_per_s"] == 1000


turns = st.builds(Turn, st.integers(1, 60), st.integers(1, 60))
conversations = st.lists(st.lists(turns, min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)


@given(conversations, st.integers(32, 200), st.integers(0, 2**32 - 1))
def test_drawn_conversations_fit_have_something_to_train_and_come_in_turn(
    known: list[tuple[Turn, ...]], max_tokens: int, seed: int
) -> None:
    drawn = draw(known, 1000, max_tokens, seed)
    assert drawn == draw(known, 1000, max_tokens, seed)
    assert sum(map(tokens_in, drawn)) >= 1000
    assert all(tokens_in(each) <= max_tokens and each[-1].trained > 0 for each in drawn)
    assert len(drawn) % len(known) == 0
    fitting = [each for each in known if tokens_in(each) <= max_tokens]
    assert all(each in drawn[: len(known)] for each in fitting)


@given(conversations, st.integers(0, 2**32 - 1))
def test_ids_are_ordinary_tokens_and_labels_train_the_turns(known: list[tuple[Turn, ...]], seed: int) -> None:
    columns = ids_and_labels(known, 320, seed)
    for conversation, ids, labels in zip(known, columns["input_ids"], columns["labels"], strict=True):
        assert len(ids) == len(labels) == tokens_in(conversation)
        assert all(3 <= token < 320 for token in ids)
        assert [token for token, label in zip(ids, labels, strict=True) if label != MASKED] == [
            label for label in labels if label != MASKED
        ]
        assert sum(label != MASKED for label in labels) == sum(turn.trained for turn in conversation)
        assert labels[0] == MASKED


def test_public_conversations_are_of_three_sources_and_train_on_something() -> None:
    known = public_conversations()
    assert len(known) == 16 + 16 + 13
    assert all(turn.masked > 0 and turn.trained > 0 for conversation in known for turn in conversation)
    assert max(map(tokens_in, known)) > 2048


def test_lengths_of_a_training_set_are_those_of_its_spans(tmp_path: Path) -> None:
    from flanlite.convert import convert_for

    rows = [
        {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]},
        {
            "messages": [
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "Two."},
                {"role": "user", "content": "Three?"},
                {"role": "assistant", "content": "Four."},
            ]
        },
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training_set = convert_for(Recipe(base="tiny", data=(str(file),), general="none", max_tokens=1024, template="auto"))
    found = conversations_in(training_set)
    assert sorted(map(len, found)) == [1, 2]
    assert sum(map(tokens_in, found)) == training_set.tokens_of.sum()
    assert sum(turn.trained for each in found for turn in each) == training_set.trained_tokens_of.sum()


def test_attended_tokens_of_equal_conversations_are_their_length() -> None:
    assert attended_tokens([(Turn(60, 40),)] * 3) == 100
    assert attended_tokens([(Turn(10, 10),), (Turn(50, 50),)]) == round((20**2 + 100**2) / 120)


@pytest.mark.parametrize(
    "shape",
    [SHAPE, replace(SHAPE, qkv_bias=True, tied=True), replace(SHAPE, qk_norm=True, head_dim=48)],
    ids=["llama", "qwen2", "qwen3"],
)
def test_a_random_base_is_a_whole_4_bit_model_of_the_shape(tmp_path: Path, shape: Shape) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM, AutoTokenizer

    known = base_of(shape)
    write_random_base(tmp_path, config_of(known, 512), "cpu", "float32", 1)
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    linear = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    assert sum(module.in_features * module.out_features for module in linear) == shape.linear_parameters
    weight = model.model.layers[0].mlp.up_proj.weight
    assert float(dequantize_4bit(weight.data, weight.quant_state).std()) == pytest.approx(0.02, rel=0.1)
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"]


def base_of(shape: Shape) -> Base:
    return replace(resolve("llama2-7b-chat"), name="small", shape=shape, folder=None)


def test_a_folder_brings_its_own_config_without_its_quantisation(tmp_path: Path) -> None:
    folder = small_base(tmp_path / "base")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"rope_theta": 5.0, "quantization_config": {}}))
    found = config_of(resolve(str(folder)), 8192)
    assert found["rope_theta"] == 5.0
    assert "quantization_config" not in found
    assert found["max_position_embeddings"] == 8192


def test_the_limit_is_that_of_a_known_card_and_none_of_others() -> None:
    base, rows = resolve("llama2-7b-chat"), [(Turn(60, 40),)]
    slow = stage._limit_tokens_per_s(base, rows, "NVIDIA GeForce RTX 3090", 24 * 2**30, [8, 6])
    fast = stage._limit_tokens_per_s(base, rows, "NVIDIA GeForce RTX 4090", 24 * 2**30, [8, 9])
    assert slow is not None
    assert fast is not None
    assert fast / slow == pytest.approx(165.2 / 71)
    assert stage._limit_tokens_per_s(base, rows, "Some Card", 24 * 2**30, [8, 0]) is None
    assert stage._limit_tokens_per_s(base, rows, "CPU", None, None) is None


def test_owners_of_places_are_rows_or_what_is_packed_into_one() -> None:
    packed = {"labels": torch.zeros(1, 6), "position_ids": torch.tensor([[0, 1, 2, 0, 0, 1]])}
    assert owners(packed).tolist() == [[1, 1, 1, 2, 3, 3]]
    assert owners({"labels": torch.zeros(2, 3)}).tolist() == [[0, 0, 0], [1, 1, 1]]
