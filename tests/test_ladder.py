"""Memory that runs out, anywhere: the training goes on with less of it, and as if nothing had happened."""

from __future__ import annotations

import csv
import inspect
import io
import json
import signal
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from random_llama import write_base
from rich.console import Console
from safetensors.torch import load_file
from small_tune import tune

from flanlite.engine.checkpoints import Interrupted, newest_checkpoint, read_progress, read_setup
from flanlite.engine.memory import is_out_of_host_memory, is_out_of_memory
from flanlite.engine.train import Result
from flanlite.engine.trainer import Conduct, PackedTrainer
from flanlite.errors import FlanliteError
from flanlite.planning.setup import Setup, in_words, ladder
from flanlite.run import Run

DROPOUT = "lora_dropout=0.1"
ALL_KEPT = ("kept_layers=2", "micro_rows=2")
FIRST = Setup(micro_rows=2, kept_layers=2, offload=False)
SECOND = ladder(FIRST, 2) or FIRST


def ran_out() -> RuntimeError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def refused_pinning() -> RuntimeError:
    """What CUDA says where the computer cannot lock more of its memory, as `save_on_cpu` hands it on."""

    def pack_to_cpu() -> None:
        raise RuntimeError("CUDA error: out of memory")

    try:
        pack_to_cpu()
    except RuntimeError as error:
        return error
    raise AssertionError


@dataclass
class SmallCard:
    """Raises `error` at the named calls of something, counted from 1 over all trainers.

    A method of the trainer is carried out before, an update of the weights is broken off halfway.
    """

    calls: dict[str, set[int]] = field(default_factory=dict)
    error: Callable[[], RuntimeError] = ran_out
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.counts[name] in self.calls.get(name, ()):
            raise self.error()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("__init__", "_load_from_checkpoint", "compute_loss", "training_step", "prediction_step"):
            patch.setattr(PackedTrainer, name, self._wrapped(name, getattr(PackedTrainer, name)))
        create = PackedTrainer.create_optimizer

        def create_optimizer(trainer: PackedTrainer, *args: Any) -> Any:
            optimizer = create(trainer, *args)
            optimizer.register_step_pre_hook(self._break_off)
            return optimizer

        patch.setattr(PackedTrainer, "create_optimizer", create_optimizer)

    def _wrapped(self, name: str, method: Any) -> Any:
        def call(trainer: PackedTrainer, *args: Any, **kwargs: Any) -> Any:
            found = method(trainer, *args, **kwargs)
            self.count(name)
            return found

        return call

    def _break_off(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        try:
            self.count("update")
        except RuntimeError:
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            for parameter in parameters[: len(parameters) // 2]:
                parameter.data.add_(1.0)
            raise


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def uninterrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "uninterrupted")
    tune(base, run, DROPOUT, *ALL_KEPT, "save_minutes=60", console=Console(file=io.StringIO()))
    return run


def tune_on(
    card: SmallCard, base: Path, run: Run, patch: pytest.MonkeyPatch, *settings: str, is_resumed: bool = False
) -> tuple[Result, list[str]]:
    """A small tune on a small card, and the lines it printed."""
    said = io.StringIO()
    with patch.context() as patch:
        card.install(patch)
        result = tune(
            base, run, DROPOUT, *ALL_KEPT, *settings, is_resumed=is_resumed, console=Console(file=said, width=200)
        )
    return result, said.getvalue().splitlines()


def adapter(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter_dir / "adapter_model.safetensors")


def losses(run: Run) -> list[tuple[str, ...]]:
    with run.loss_csv.open(newline="") as stream:
        return [tuple(row) for row in csv.reader(stream)]


def assert_same_training(run: Run, uninterrupted: Run) -> None:
    """The adapters are equal to the bit, the curves and all counts too."""
    expected = adapter(uninterrupted)
    for name, tensor in adapter(run).items():
        assert torch.equal(tensor, expected[name]), name
    assert losses(run) == losses(uninterrupted)
    mine, theirs = run.record["measured"], uninterrupted.record["measured"]
    for key in ("steps", "tokens", "trained_tokens", "first_loss", "validation_loss", "first_validation_loss"):
        assert mine[key] == theirs[key]


@pytest.mark.parametrize(
    ("calls", "moment", "save_minutes"),
    [
        # A step has two micro-steps, the last of an epoch's five steps one; a validation, six times, two rows.
        ({"training_step": {1}}, "at step 1", 60),
        ({"training_step": {13}}, "at step 7", 60),
        ({"training_step": {13}}, "at step 7", 1e-9),
        # The sixth call of compute_loss is a validation's: the step before has not been read yet.
        ({"compute_loss": {7}}, "at step 3", 60),
        ({"training_step": {27}}, "at step 15", 60),
        ({"prediction_step": {1}}, "before step 1", 60),
        ({"prediction_step": {5}}, "after step 6", 60),
        ({"prediction_step": {11}}, "after step 15", 1e-9),
        ({"update": {1}}, "at step 1", 60),
        ({"update": {9}}, "at step 9", 60),
        ({"update": {9}}, "at step 9", 1e-9),
    ],
)
def test_a_training_that_runs_out_of_memory_goes_on_as_if_nothing_had_happened(
    base: Path,
    uninterrupted: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: dict[str, set[int]],
    moment: str,
    save_minutes: float,
) -> None:
    run = Run(tmp_path / "run")
    result, said = tune_on(SmallCard(calls), base, run, monkeypatch, f"save_minutes={save_minutes}")
    # A broken-off update spoils the weights: the steps since the newest checkpoint are made again.
    again = " from step 1" if (calls, save_minutes) == ({"update": {9}}, 60) else ""
    assert f"The card ran out of memory {moment}; goes on{again} with {in_words(SECOND, 2, 128, 4)}." in said
    assert result.setup == SECOND
    assert run.record["measured"]["setup"] == asdict(SECOND)
    assert_same_training(run, uninterrupted)


def test_with_smaller_micro_steps_the_rows_of_a_step_and_its_losses_stay_the_same(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    settings = ("lora_dropout=0", "micro_rows=4", "kept_layers=0")
    tune_on(SmallCard(), base, whole, monkeypatch, *settings)
    # A step is one micro-step, then two, but for the fifth one, which has the epoch's last rows.
    result, said = tune_on(SmallCard({"training_step": {4, 8}}), base, run, monkeypatch, *settings)
    assert [line for line in said if "ran out" in line] == [
        f"The card ran out of memory at step {step}; goes on with {in_words(Setup(rows, 0, False), 2, 128, 4)}."
        for step, rows in {4: 2, 6: 1}.items()
    ]
    assert result.setup == Setup(1, 0, False)
    for mine, theirs in zip(losses(run)[1:], losses(whole)[1:], strict=True):
        assert mine[0] == theirs[0]
        assert [float(each or 0) for each in mine[2:4]] == pytest.approx(
            [float(each or 0) for each in theirs[2:4]], rel=1e-4
        )
    expected = adapter(whole)
    for name, tensor in adapter(run).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-4)
    assert run.record["measured"]["tokens"] == whole.record["measured"]["tokens"]
    assert run.record["measured"]["trained_tokens"] == whole.record["measured"]["trained_tokens"]


@pytest.fixture
def stranded(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, FlanliteError]:
    """A run whose fourth step did not fit with any setup, and how it ended."""
    run = Run(tmp_path / "stranded")
    with pytest.raises(FlanliteError) as caught:
        tune_on(SmallCard({"training_step": set(range(13, 99))}), base, run, monkeypatch, "micro_rows=1")
    return run, caught.value


def test_below_the_last_rung_a_resume_goes_on_from_a_checkpoint_and_with_the_last_setup(
    stranded: tuple[Run, FlanliteError], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, error = stranded
    assert error.message == "The card ran out of memory at step 4, with the smallest setup there is."
    resume = f"flanlite tune --resume --out {run.folder}"
    assert (
        error.hint == f"Close what else uses the card and go on with `{resume}`, or start anew with a lower max_tokens."
    )
    checkpoint = newest_checkpoint(run.checkpoints_dir)
    assert checkpoint is not None
    assert read_progress(checkpoint).step == 3
    assert read_setup(checkpoint) == Setup(1, 0, True)
    assert losses(run)[-1][0] == "3"
    result, _ = tune_on(SmallCard(), base, run, monkeypatch, "micro_rows=1", is_resumed=True)
    assert result.setup == Setup(1, 0, True)
    uninterrupted = Run(tmp_path / "uninterrupted")
    tune_on(SmallCard(), base, uninterrupted, monkeypatch, "micro_rows=1")
    assert_same_training(run, uninterrupted)


def test_a_checkpoint_of_an_older_flanlite_names_no_setup_and_the_recipes_own_is_taken(
    stranded: tuple[Run, FlanliteError], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = stranded
    marker = next(run.checkpoints_dir.glob("*/complete.json"))
    content = json.loads(marker.read_text())
    del content["setup"]
    marker.write_text(json.dumps(content))
    result, _ = tune_on(SmallCard(), base, run, monkeypatch, "micro_rows=2", is_resumed=True)
    assert result.setup == FIRST


def stop_in_step_6(card: SmallCard, base: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune until a Ctrl-C in the sixth step."""
    begin = Conduct.on_step_begin

    def stopping(conduct: Conduct, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        begin(conduct, args, state, control, **kwargs)
        if state.global_step == 5:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Conduct, "on_step_begin", stopping)
        with pytest.raises(Interrupted, match="Stopped after step 6 of 15"):
            tune_on(card, base, run, patch, "save_minutes=60")


def test_memory_that_runs_out_again_after_a_stop_and_a_resume_costs_nothing_but_speed(
    base: Path, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    stop_in_step_6(SmallCard({"training_step": {7}}), base, run, monkeypatch)
    result, said = tune_on(
        SmallCard({"training_step": {7}}), base, run, monkeypatch, "save_minutes=60", is_resumed=True
    )
    assert [line.partition(";")[0] for line in said if "ran out" in line] == ["The card ran out of memory at step 10"]
    assert result.setup == Setup(2, 0, False)
    assert_same_training(run, uninterrupted)


def test_memory_that_runs_out_while_a_checkpoint_is_read_is_no_end(
    base: Path, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    stop_in_step_6(SmallCard(), base, run, monkeypatch)
    card = SmallCard({"_load_from_checkpoint": {1}})
    result, said = tune_on(card, base, run, monkeypatch, "save_minutes=60", is_resumed=True)
    assert said[0] == f"The card ran out of memory before step 7; goes on with {in_words(SECOND, 2, 128, 4)}."
    assert result.setup == SECOND
    assert_same_training(run, uninterrupted)


def test_a_second_signal_ends_the_training_even_on_a_lower_rung(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path / "run")
    # The first arrives in the step whose memory runs out, the second in the same step on the next rung.
    begin = Conduct.on_step_begin

    def sending(conduct: Conduct, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        begin(conduct, args, state, control, **kwargs)
        if state.global_step == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Conduct, "on_step_begin", sending)
    with pytest.raises(Interrupted, match="Stopped at once"):
        tune_on(SmallCard({"training_step": {3}}), base, run, monkeypatch)
    checkpoint = newest_checkpoint(run.checkpoints_dir)
    assert checkpoint is not None
    assert read_progress(checkpoint).step == 1


def test_a_card_without_room_for_a_trainer_is_told_in_a_sentence(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FlanliteError, match="ran out of memory before the training began") as caught:
        tune_on(SmallCard({"__init__": {1}}), base, Run(tmp_path / "run"), monkeypatch)
    assert "flanlite tune --resume" in caught.value.hint


def test_the_computers_own_memory_is_no_reason_to_go_down(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FlanliteError, match="The computer's own memory ran out at step 2"):
        tune_on(SmallCard({"training_step": {3}}, error=refused_pinning), base, Run(tmp_path / "run"), monkeypatch)


def test_no_rung_wraps_the_models_forward_once_more(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, depths = PackedTrainer.compute_loss, set()

    def measuring(trainer: PackedTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
        depths.add((wrappings(model), wrappings(model.get_base_model())))
        return step(trainer, model, *args, **kwargs)

    monkeypatch.setattr(PackedTrainer, "compute_loss", measuring)
    _, said = tune_on(SmallCard({"training_step": {5, 9}}), base, Run(tmp_path / "run"), monkeypatch, "dtype=bfloat16")
    assert sum("ran out" in line for line in said) == 2
    [(autocast, loss)] = depths
    assert autocast > 0
    assert loss > 0


def wrappings(module: Any) -> int:
    """How many functions lie around a module's own forward: decorators, and trl's, which knows the one it replaces."""
    forward, count = module.forward, 0
    while forward is not None:
        function = getattr(forward, "__func__", forward)
        cells = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
        forward = getattr(forward, "__wrapped__", None) or cells.get("original_forward")
        count += 1
    return count - 1


def test_what_others_print_in_a_training_stays_out_of_stdout(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = PackedTrainer.training_step

    def printing(trainer: PackedTrainer, *args: Any) -> Any:
        print("a banner")
        return step(trainer, *args)

    monkeypatch.setattr(PackedTrainer, "training_step", printing)
    tune(base, Run(tmp_path / "run"), "epochs=0.1", console=Console())
    found = capsys.readouterr()
    assert "validation loss" in found.out
    assert "a banner" not in found.out
    assert "a banner" in found.err


def test_what_the_failed_trainer_held_is_free_before_the_next_one_starts(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[weakref.ref[PackedTrainer]] = []
    alive: list[int] = []
    create = PackedTrainer.__init__

    def counting(trainer: PackedTrainer, *args: Any, **kwargs: Any) -> None:
        alive.append(sum(reference() is not None for reference in trainers))
        trainers.append(weakref.ref(trainer))
        create(trainer, *args, **kwargs)

    monkeypatch.setattr(PackedTrainer, "__init__", counting)
    tune_on(SmallCard({"training_step": {5}, "prediction_step": {3}}), base, Run(tmp_path / "run"), monkeypatch)
    assert alive == [0, 0, 0]


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit"])
def test_the_probe_is_the_largest_micro_step_beside_all_states_and_changes_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    whole = Run(tmp_path / "whole")
    # The first rate is not zero, as that of a warm-up would be.
    settings = (f"optimizer={optimizer}", "warmup_share=0", "weight_decay=0.1")
    tune_on(SmallCard(), base, whole, monkeypatch, *settings)
    begin, probed = Conduct.on_train_begin, []

    def probing(conduct: Conduct, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = PackedTrainer.training_step

        def note(trainer: PackedTrainer, model: Any, batch: Any, count: Any) -> Any:
            probed.append((batch["input_ids"].numel(), int(batch["labels"].ne(-100).sum()), int(count)))
            trained = [each for each in trainer.model.parameters() if each.requires_grad]
            assert all(each.grad is not None and each in trainer.optimizer.state for each in trained)
            return step(trainer, model, batch, count)

        with monkeypatch.context() as patch:
            patch.setattr(PackedTrainer, "training_step", note)
            conduct.trainer.probe(conduct.recipe.max_tokens)
        assert all(each.grad is None for each in conduct.trainer.model.parameters())
        assert not conduct.trainer.optimizer.state
        begin(conduct, args, state, control, **kwargs)

    monkeypatch.setattr(Conduct, "on_train_begin", probing)
    run = Run(tmp_path / "run")
    tune_on(SmallCard(), base, run, monkeypatch, *settings)
    # Two rows of 128 tokens, of one conversation, then of two, whose first tokens follow on nothing.
    assert probed == [(256, 254, 254), (256, 252, 252)]
    assert_same_training(run, whole)


def test_the_probe_of_a_resumed_run_leaves_its_states_alone(
    stranded: tuple[Run, FlanliteError], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, (run, _) = Run(tmp_path / "whole"), stranded
    tune_on(SmallCard(), base, whole, monkeypatch, "micro_rows=1")
    begin = Conduct.on_train_begin

    def probing(conduct: Conduct, *args: Any, **kwargs: Any) -> None:
        conduct.trainer.probe(conduct.recipe.max_tokens)
        begin(conduct, *args, **kwargs)

    monkeypatch.setattr(Conduct, "on_train_begin", probing)
    tune_on(SmallCard(), base, run, monkeypatch, "micro_rows=1", is_resumed=True)
    assert_same_training(run, whole)


def test_memory_that_runs_out_in_the_probe_ends_it_before_the_first_step(
    base: Path, uninterrupted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, probes = Conduct.on_train_begin, []

    def probing(conduct: Conduct, *args: Any, **kwargs: Any) -> None:
        probes.append(conduct.recipe.setup)
        conduct.trainer.probe(conduct.recipe.max_tokens)
        begin(conduct, *args, **kwargs)

    monkeypatch.setattr(Conduct, "on_train_begin", probing)
    run = Run(tmp_path / "run")
    _, said = tune_on(SmallCard({"training_step": {1}}), base, run, monkeypatch)
    assert said[0] == f"The card ran out of memory before step 1; goes on with {in_words(SECOND, 2, 128, 4)}."
    assert probes == [FIRST, SECOND]
    assert_same_training(run, uninterrupted)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_every_librarys_words_for_it_are_understood(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_host_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        refused_pinning(),
    ],
)
def test_the_computers_memory_is_told_from_the_cards(error: BaseException) -> None:
    assert is_out_of_host_memory(error)
    assert not is_out_of_memory(error)


def test_any_other_error_ends_the_training(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SmallCard({"training_step": {5}}, error=lambda: RuntimeError("CUDA error: an illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        tune_on(card, base, Run(tmp_path / "run"), monkeypatch)
