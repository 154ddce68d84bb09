"""Training through trl: the loss it takes, the rows it sees, the folder it leaves."""

import csv
import io
import json
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.optim import optimizer as bitsandbytes_optimizer
from micro_steps import conversations
from random_llama import dataset, make_rows, write_base
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_tune import gradients, small_recipe, stir, tune
from torch.overrides import TorchFunctionMode
from transformers import Trainer
from transformers.training_args import OptimizerNames

from flanlite.engine import progress
from flanlite.engine.device import Machine
from flanlite.engine.load import load_for_generation, load_model
from flanlite.engine.progress import TrainingProgress
from flanlite.engine.train import _write_adapter, build_trainer
from flanlite.engine.trainer import LENGTHS, Conduct, PackedTrainer, _keeping_lengths
from flanlite.errors import FlanliteError
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.run import Run
from flanlite.terminal import in_time

CPU = Machine("cpu", "CPU", "peft", "float32")
ROWS = make_rows(60)
NO_DROPOUT = "lora_dropout=0"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def trainer_for(base: Path, run_dir: Path, *settings: str, rows: Any = None, validation: Any = None) -> PackedTrainer:
    recipe = small_recipe(base, *settings)
    run = Run(run_dir)
    run.checkpoints_dir.mkdir(parents=True)
    model = load_model(base, recipe, CPU)
    stir(model)
    rows = dataset(ROWS if rows is None else rows)
    return build_trainer(model, rows, validation, recipe, run, Tokenizer.load(base), CPU)


def single_losses(model: Any, rows: list[dict[str, list[int]]]) -> Iterator[tuple[torch.Tensor, int]]:
    """Each row's summed loss in a batch of its own, without trl's loss, and its number of trained tokens."""
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0, :-1]
        targets = torch.tensor(row["labels"])[1:]
        yield torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), int((targets != -100).sum())


def rows_of(batches: list[dict[str, torch.Tensor]]) -> list[dict[str, list[int]]]:
    """The single rows of packed batches; the first label of each is masked."""
    return [row for batch in batches for row in conversations(batch)]


def test_packed_loss_and_gradients_are_the_token_weighted_mean_over_the_single_samples(
    base: Path, tmp_path: Path
) -> None:
    trainer = trainer_for(base, tmp_path, NO_DROPOUT)
    batches, count = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, torch.device("cpu"))
    assert sum(len(rows_of([batch])) for batch in batches) > 8
    packed = sum(float(trainer.training_step(trainer.model, batch, count)) for batch in batches)
    packed_gradients = gradients(trainer.model)
    trainer.model.zero_grad()
    # The trainer's own forward skips the masked positions' logits; the single samples go through the plain model.
    single = trainer.model
    del single.get_base_model().forward
    losses = list(single_losses(single, rows_of(batches)))
    tokens = sum(trained for _, trained in losses)
    mean = sum(loss for loss, _ in losses) / tokens
    mean.backward()
    assert int(count) == tokens
    assert packed == pytest.approx(float(mean.detach()), rel=1e-6)
    expected = gradients(single)
    assert packed_gradients.keys() == expected.keys()
    assert len(expected) == 28
    for name, gradient in expected.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_row_alone_and_the_same_row_packed_behind_another_have_the_same_logits(base: Path, tmp_path: Path) -> None:
    trainer = trainer_for(base, tmp_path, NO_DROPOUT)
    batch = next(iter(trainer.get_train_dataloader()))
    del trainer.model.get_base_model().forward
    trainer.model.eval()
    with torch.no_grad():
        packed = trainer.model(
            input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits[0]
        alone = [
            trainer.model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0]
            for row in rows_of([batch])
        ]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_the_split_into_micro_steps_changes_neither_losses_nor_weights(base: Path, tmp_path: Path) -> None:
    curves, adapters = [], []
    for micro_rows in (1, 2, 4):
        run = Run(tmp_path / str(micro_rows))
        tune(base, run, NO_DROPOUT, f"micro_rows={micro_rows}", "epochs=1")
        rows = list(csv.DictReader(io.StringIO(run.loss_csv.read_text())))
        curves.append([float(row["loss"]) for row in rows if row["loss"]])
        adapters.append(load_file(run.adapter_dir / "adapter_model.safetensors"))
    for curve, adapter in zip(curves[1:], adapters[1:], strict=True):
        assert curve == pytest.approx(curves[0], rel=1e-4)
        for name, tensor in adapter.items():
            torch.testing.assert_close(tensor, adapters[0][name], rtol=1e-2, atol=1e-4)


def test_packing_keeps_every_row_and_every_id_and_label(base: Path, tmp_path: Path) -> None:
    trainer = trainer_for(base, tmp_path, "max_tokens=60")
    packed = list(trainer.train_dataset)
    assert max(len(row["input_ids"]) for row in packed) <= 60
    seen = []
    for row in packed:
        start = 0
        for length in row["seq_lengths"]:
            seen.append((tuple(row["input_ids"][start : start + length]), tuple(row["labels"][start : start + length])))
            start += length
    assert sorted(seen) == sorted((tuple(row["input_ids"]), tuple(row["labels"])) for row in ROWS)


def test_adapters_are_float32_on_nf4_with_double_quantisation_on_every_linear_layer(base: Path, tmp_path: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    trainer = trainer_for(base, tmp_path)
    layers = [module for module in trainer.model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    for layer in layers:
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.quant_state.nested
        assert not layer.support_avx512bf16_for_cpu
    trained = {name: each for name, each in trainer.model.named_parameters() if each.requires_grad}
    assert len(trained) == 28
    assert {each.dtype for each in trained.values()} == {torch.float32}
    # not only the type: trl's detour through bfloat16 would have cost the lower bits
    assert any((each != each.to(torch.bfloat16)).any() for name, each in trained.items() if "lora_A" in name)


def test_the_same_seed_draws_the_same_lora_matrices(base: Path) -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        model = load_model(base, small_recipe(base, f"seed={seed}"), CPU)
        return {name: each.detach() for name, each in model.named_parameters() if "lora_" in name}

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)
    for name, matrix in first.items():
        if "lora_B" in name:
            assert not matrix.any()
        else:
            assert 0.9 < float(matrix.abs().max()) * matrix.shape[1] ** 0.5 <= 1


def test_the_validation_loss_is_the_mean_over_trained_tokens(base: Path, tmp_path: Path) -> None:
    held_out = make_rows(40, seed=9)
    trainer = trainer_for(base, tmp_path, NO_DROPOUT, "micro_rows=1", validation=dataset(held_out))
    found = trainer.evaluate()["eval_loss"]
    del trainer.model.get_base_model().forward
    trainer.model.eval()
    with torch.no_grad():
        losses = list(single_losses(trainer.model, held_out))
    assert found == pytest.approx(float(sum(loss for loss, _ in losses)) / sum(count for _, count in losses), rel=1e-5)


def test_even_one_row_makes_two_steps(base: Path, tmp_path: Path) -> None:
    assert trainer_for(base, tmp_path, "epochs=0.01", rows=ROWS[:1]).args.max_steps == 2


def test_rows_that_packing_would_cut_or_that_train_nothing_are_refused(base: Path, tmp_path: Path) -> None:
    from flanlite.engine.train import train

    recipe = small_recipe(base, "max_tokens=20", "batch_tokens=80")
    for rows, error, message in (
        ([{"input_ids": [1] * 21, "labels": [1] * 21}], ValueError, "rows of 21 to 21 tokens"),
        ([{"input_ids": [], "labels": []}], ValueError, "rows of 0 to 0 tokens"),
        ([{"input_ids": [1, 2], "labels": [-100, -100]}], FlanliteError, "no token is trained"),
        ([], FlanliteError, "no conversation is left"),
    ):
        with pytest.raises(error, match=message):
            train(None, dataset(rows), None, recipe, Run(tmp_path), Tokenizer.load(base), CPU)


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A finished run that reported to tensorboard, and what it printed."""
    run, said = Run(tmp_path_factory.mktemp("runs") / "finished"), io.StringIO()
    patch = pytest.MonkeyPatch()
    patch.setattr(progress, "LINE_SECONDS", 0.0)
    tune(base, run, "report_to=tensorboard", "save_minutes=1e-9", console=Console(file=said, width=100))
    patch.undo()
    return run, said.getvalue()


def test_a_finished_run_holds_all_that_later_stages_need(finished: tuple[Run, str], base: Path) -> None:
    run, _ = finished
    assert {file.name for file in run.folder.iterdir()} == {
        "adapter", "checkpoints", "loss.csv", "loss.png", "README.md", "recipe.yaml", "run.json", "tensorboard",
    }  # fmt: skip
    assert run.is_finished
    assert run.recipe == small_recipe(base, "report_to=tensorboard", "save_minutes=1e-9")
    measured = run.record["measured"]
    assert measured["steps"] == 15
    assert measured["last_loss"] < measured["first_loss"]
    assert measured["validation_loss"] < measured["first_validation_loss"]
    tokens = sum(len(row["input_ids"]) for row in ROWS)
    trained = sum(label != -100 for row in ROWS for label in row["labels"])
    assert (measured["tokens"], measured["trained_tokens"]) == (3 * tokens, 3 * trained)
    assert measured["peak_memory_bytes"] > 10**8
    card = run.card_file.read_text()
    assert "| made up | 60 | 2,000 | 1,500 |" in card
    assert "What was not measured" in card
    assert [file.name for file in run.checkpoints_dir.glob("checkpoint-*")] == ["checkpoint-14"]


def test_the_loss_table_has_every_step_and_six_validation_losses(finished: tuple[Run, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(finished[0].loss_csv.read_text())))
    assert [int(row["step"]) for row in rows] == list(range(16))
    assert [int(row["step"]) for row in rows if row["validation_loss"]] == [0, 3, 6, 9, 12, 15]
    assert all(row["loss"] and row["learning_rate"] for row in rows[1:])
    assert finished[0].loss_png.read_bytes().startswith(b"\x89PNG")


def test_progress_without_a_terminal_is_plain_lines(finished: tuple[Run, str]) -> None:
    lines = finished[1].splitlines()
    steps = [line for line in lines if " tokens/s, " in line]
    assert steps[0].startswith("step 1/15  loss ")
    assert steps[-1].endswith("of them trained  0 s left")
    assert sum("validation loss" in line for line in lines) == 6
    assert len(lines) == len(steps) + 6


class Waits(TorchFunctionMode):
    """Within it, whatever would wait for the card if the tensors lay there is noted with the file that asks for it."""

    ASKING = ("item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select", "equal", "allclose")
    CONVERTING = ("__bool__", "__int__", "__float__", "__index__", "__contains__", "__array__")
    ON_THE_HOST = ("torch/optim/", "torch/utils/data/")
    """An optimizer's count of its steps, and batches before they are handed to the card, lie there in any case."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__ in (*self.ASKING, *self.CONVERTING):
            stack = [
                frame.filename for frame in traceback.extract_stack()[:-1] if "torch/_tensor" not in frame.filename
            ]
            if not any(place in name for name in stack for place in self.ON_THE_HOST):
                self.found["/".join(Path(stack[-1]).parts[-2:])] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro_rows", [1, 2, 4])
def test_an_optimizer_step_waits_for_the_card_once_and_twice_in_every_micro_step(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_rows: int
) -> None:
    begin, waits = Conduct.on_step_begin, Waits()

    def watching(conduct: Conduct, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        begin(conduct, args, state, control, **kwargs)
        # Neither step is followed by a validation.
        if state.global_step == 7:
            waits.__enter__()
        if state.global_step == 8:
            waits.__exit__(None, None, None)

    monkeypatch.setattr(Conduct, "on_step_begin", watching)
    tune(base, Run(tmp_path / "run"), f"micro_rows={micro_rows}", console=Console(file=io.StringIO()))
    micro_steps = 4 // micro_rows
    assert waits.found == {
        "engine/trainer.py": 1,
        "transformers/masking_utils.py": micro_steps,
        "trainer/sft_trainer.py": micro_steps,
    }


@pytest.mark.parametrize(("optimizer", "waits"), [("adamw_8bit", 0), ("paged_adamw_8bit", 1)])
def test_only_a_paged_optimizer_waits_for_the_card_after_every_matrix(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, waits: int
) -> None:
    counted: list[Any] = []
    monkeypatch.setattr(bitsandbytes_optimizer, "sync_gpu", counted.append)
    trainer = trainer_for(base, tmp_path, "epochs=0.1")
    trainer.args.optim = OptimizerNames(optimizer)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        trainer.train()
    matrices = sum(each.requires_grad for each in trainer.model.parameters())
    assert len(counted) == waits * 2 * (matrices + 1)


def test_a_loss_is_logged_for_the_step_it_belongs_to_and_before_a_checkpoint(finished: tuple[Run, str]) -> None:
    [checkpoint] = finished[0].checkpoints_dir.glob("checkpoint-*")
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "loss" in entry] == list(range(1, 15))


def test_progress_on_a_terminal_is_a_bar_that_leaves_nothing_behind() -> None:
    said = io.StringIO()
    with TrainingProgress(Console(file=said, force_terminal=True, width=120)) as shown:
        shown.start(4, 10)
        shown.advance(5, 10, 1.25, 900, 300)
        shown.say("step 5/10  validation loss 1.5000")
    assert "5/10" in said.getvalue()
    assert "loss 1.2500" in said.getvalue()
    assert "validation loss 1.5000" in said.getvalue()


def test_tensorboard_finds_the_losses(finished: tuple[Run, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished[0].folder / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("train/loss")) == 15
    assert len(events.Scalars("eval/loss")) == 6


def test_the_adapter_loads_with_its_tokenizer_and_template_and_changes_the_model(
    finished: tuple[Run, str], base: Path
) -> None:
    from transformers import AutoTokenizer

    adapter_dir = finished[0].adapter_dir
    settings = json.loads((adapter_dir / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "example/random-llama"
    assert settings["target_modules"] == sorted(settings["target_modules"])
    tokenizer = AutoTokenizer.from_pretrained(str(adapter_dir))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False) == "abc"
    assert {tensor.dtype for tensor in load_file(adapter_dir / "adapter_model.safetensors").values()} == {torch.float32}
    tuned, plain = load_for_generation(base, adapter_dir, CPU), load_for_generation(base, None, CPU)
    ids = torch.tensor([ROWS[0]["input_ids"]])
    with torch.inference_mode():
        assert not torch.allclose(tuned(input_ids=ids).logits, plain(input_ids=ids).logits, atol=0.1)


def test_lengths_of_conversations_are_handed_over_from_where_the_computer_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: dict[str, Any] = {}
    monkeypatch.setattr(Trainer, "compute_loss", lambda _, __, inputs: handed.update(inputs))
    collate = _keeping_lengths(lambda lengths: {LENGTHS: torch.tensor(lengths)})
    on_card = collate([2, 3]) | {LENGTHS: "on the card"}
    PackedTrainer.compute_loss(object.__new__(PackedTrainer), None, on_card)
    assert handed.pop(LENGTHS).tolist() == [2, 3]
    assert handed == {"use_cache": False}


def test_the_adapter_is_as_open_to_others_as_the_files_beside_it(finished: tuple[Run, str]) -> None:
    modes = {file.name: file.stat().st_mode for file in finished[0].adapter_dir.iterdir()}
    assert modes["adapter_model.safetensors"] == modes["adapter_config.json"]


def test_an_adapter_without_room_on_the_disk_is_one_sentence_and_the_line_to_go_on(base: Path, tmp_path: Path) -> None:
    class Full:
        def save_pretrained(self, folder: str) -> None:
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(FlanliteError, match=r"cannot be written: .* No space left on device") as refused:
        _write_adapter(Full(), Tokenizer.load(base), "", tmp_path / "run" / "adapter.partial")
    assert refused.value.hint == f"Free some space, then `flanlite tune --resume --out {tmp_path / 'run'}`."


def test_a_base_that_is_stored_in_4_bits_loads_as_it_is(base: Path, tmp_path: Path) -> None:
    whole = load_for_generation(base, None, replace(CPU, dtype="bfloat16"))
    whole.save_pretrained(tmp_path)
    stored = load_for_generation(tmp_path, None, CPU)
    ids = torch.tensor([ROWS[0]["input_ids"]])
    plain = load_for_generation(base, None, CPU, is_4bit=False)
    for module, other in zip(whole.modules(), stored.modules(), strict=True):
        if type(module).__name__ == "Linear4bit":
            assert torch.equal(module.weight.data, other.weight.data)
            assert other.compute_dtype is torch.float32
    with torch.inference_mode():
        logits = stored(input_ids=ids).logits
        assert logits.dtype is torch.float32
        assert not torch.allclose(logits, plain(input_ids=ids).logits, atol=0.1)


def test_a_loss_that_is_no_number_ends_the_run_with_a_sentence(base: Path, tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match=r"The loss is (nan|inf) at step"):
        tune(base, Run(tmp_path / "run"), "learning_rate=1e30", "max_grad_norm=1e30", "warmup_share=0")


def test_an_unknown_tracker_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(FlanliteError, match="no tracker 'tensorbord'") as caught:
        tune(base, Run(tmp_path / "run"), "report_to=tensorbord")
    assert caught.value.hint == "Did you mean tensorboard?"


def test_a_tracker_whose_package_is_missing_names_the_package(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(FlanliteError, match="report_to=wandb needs its package"):
        tune(base, Run(tmp_path / "run"), "report_to=tensorboard, wandb")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_times_are_written_as_people_write_them(seconds: float, words: str) -> None:
    assert in_time(seconds) == words
