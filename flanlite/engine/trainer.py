"""trl's SFTTrainer with an exact validation loss, counted tokens, timed checkpoints and a stop that can be resumed.

Import this after `load_model`: unsloth replaces trl's classes, and they are bound here.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from trl import SFTTrainer  # type: ignore[attr-defined]

from flanlite.engine.checkpoints import Interruption, Progress, newest_checkpoint, read_progress, seal
from flanlite.engine.curve import write_losses
from flanlite.engine.memory import peak_memory_bytes
from flanlite.engine.progress import TrainingProgress
from flanlite.engine.randomness import Randomness, unchanged_randomness
from flanlite.errors import FlanliteError
from flanlite.planning.setup import Setup
from flanlite.prompt.template import MASKED
from flanlite.recipe import Recipe
from flanlite.run import Run

EVALUATIONS = 5
"""Validation losses in a run, beside the one before the first step."""

LENGTHS = "packed_seq_lengths"
"""What unsloth calls the lengths of a batch's conversations."""

HOST_LENGTHS = "host_seq_lengths"
"""The same as plain numbers, which stay in the computer's memory when a batch goes to the card."""


class Arriving:
    """Numbers on their way from the card: to read them waits for what the card was given before them, no more."""

    def __init__(self, *numbers: torch.Tensor) -> None:
        # float64 holds any float32, and any count of tokens.
        on_card = torch.stack([number.detach().to(numbers[0].device, torch.float64) for number in numbers])
        self.numbers = on_card.to("cpu", non_blocking=True)
        self.arrival: Any = torch.cuda.Event() if on_card.is_cuda else None  # type: ignore[no-untyped-call]
        if self.arrival is not None:
            self.arrival.record()

    def read(self) -> list[float]:
        """The numbers, once they are here."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return self.numbers.tolist()


@contextlib.contextmanager
def _unwaiting(*, is_paged: bool) -> Iterator[None]:
    """Within it bitsandbytes hands the card one matrix's update after another.

    Its 8-bit optimizers wait for the card after each of some hundred matrices. Only paged states need that, which move
    between the card and the computer on their own.
    """
    if is_paged:
        yield
        return
    updates: Any = importlib.import_module("bitsandbytes.optim.optimizer")
    wait, updates.sync_gpu = updates.sync_gpu, lambda _: None
    try:
        yield
    finally:
        updates.sync_gpu = wait


def _keeping_lengths(collate: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """The same batches, with their conversations' lengths as plain numbers too, where there are any."""

    def collated(rows: Any) -> dict[str, Any]:
        batch = collate(rows)
        return batch | {HOST_LENGTHS: batch[LENGTHS].tolist()} if LENGTHS in batch else batch

    return collated


class PackedTrainer(SFTTrainer):
    """SFTTrainer on packed rows, whose losses are means over trained tokens, in validation too.

    An optimizer step waits for the card once, and with work queued on it: its loss, gradient norm and trained tokens
    are read, and logged, when the first micro-step of the next one has been handed over. By then the next rows have
    been made up and sent as well. What others wait for remains: in every micro-step transformers asks whether its rows
    hold several conversations, and trl for the number of trained tokens, or unsloth for the places of the trained
    tokens; float16's scaler asks once a step whether the gradients are finite.

    `tokens` and `trained_tokens` are those of all steps that have been read, in this sitting.
    """

    tokens = 0
    trained_tokens = 0
    step_tokens = 0
    step_trained_tokens: Any = 0
    unread: tuple[Arriving, int, float] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_collator = _keeping_lengths(self.data_collator)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As trl's, with an optimizer that does not wait for the card either."""
        with _unwaiting(is_paged="paged" in self.args.optim):
            return super().train(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of one optimizer step, counted: there is no padding in packed rows.

        None behind the last step, where a resume only has a validation to make up for.
        """
        if self.state.global_step >= self.state.max_steps > 0:
            self.control.should_training_stop = True
            return [], None
        batches, trained = super().get_batch_samples(*args, **kwargs)
        self.step_tokens = sum(batch["input_ids"].numel() for batch in batches)
        self.step_trained_tokens = sum(batch["labels"].ne(MASKED).sum() for batch in batches)
        return batches, trained

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """One micro-step; with it on its way, what is known of the step before is logged."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.log_last_step()
        return loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss and nothing else: trl's own also reads four figures, and waits for the card each time.

        unsloth reads the conversations' lengths, and waits only for those that lie on the card.
        """
        wanted = {key: value for key, value in inputs.items() if key not in ("_prediction_loss_only", HOST_LENGTHS)}
        if HOST_LENGTHS in inputs:
            wanted[LENGTHS] = torch.tensor(inputs[HOST_LENGTHS], dtype=torch.int32)
        return Trainer.compute_loss(self, model, wanted | {"use_cache": False}, *args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """Nothing: transformers walks through all modules for an estimate, and nobody asks for it."""
        return 0

    def log_last_step(self) -> None:
        """Log the newest optimizer step, if that has not been done; waits until the card is through with it."""
        if self.unread is None:
            return
        arriving, tokens, learning_rate = self.unread
        self.unread = None
        loss, norm, trained_tokens = arriving.read()
        self.tokens += tokens
        self.trained_tokens += int(trained_tokens)
        self._total_loss_scalar += loss
        self.log({"loss": loss, "grad_norm": norm, "learning_rate": learning_rate})

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers does it, but what is logged is only fetched here; a validation or a checkpoint awaits it."""
        if self.control.should_log:
            self.control.should_log = False
            figures = Arriving(tr_loss, grad_norm, self.step_trained_tokens)
            self.unread = figures, self.step_tokens, kwargs["learning_rate"]
            tr_loss.zero_()
        if self.control.should_evaluate or self.control.should_save or self.control.should_training_stop:
            self.log_last_step()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def probe(self, max_tokens: int) -> None:
        """One forward and backward of the largest micro-steps there can be: full rows, all of it trained.

        Each row is one conversation, then two of different lengths: attention takes another kernel for those of one
        length, and either can be the dearer. Beside it lie gradients, as in a step's second micro-step, and the
        optimizer's states, as from the second step on. All that is thrown away, and nothing that follows depends on
        it. It needs what train() prepares. Raises what the device raises where memory runs out.
        """
        model: Any = self.model
        ids = [index % model.config.vocab_size for index in range(max_tokens)]
        with unchanged_randomness(), self._lent_states():
            for lengths in ([max_tokens], [max_tokens // 3, max_tokens - max_tokens // 3]):
                row = {"input_ids": ids, "labels": ids, "seq_lengths": lengths}
                batch = self.data_collator([row] * self.args.per_device_train_batch_size)
                trained = batch["labels"].ne(MASKED).sum().to(self.args.device)
                self.training_step(self.model_wrapped, batch, trained)
        model.zero_grad()

    @contextlib.contextmanager
    def _lent_states(self) -> Iterator[None]:
        """Within it the optimizer has its states, unless a checkpoint has brought them, and every weight a gradient."""
        # The bare one: accelerate's and the schedule's wrappers count steps.
        wrapped: Any = self.optimizer
        optimizer = wrapped.optimizer
        # Paged states make room by themselves.
        is_new = not optimizer.state and "paged" not in self.args.optim
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        try:
            if is_new:
                # Without a gradient, and at a rate of zero, a step leaves the weights as they are to the bit.
                optimizer.step()
            yield
        finally:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            if is_new:
                optimizer.state.clear()

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The mean loss over all trained tokens of the validation set; Trainer's own weighs every batch the same."""
        model: Any = self.model
        was_training = model.training
        model.eval()
        total = count = torch.zeros((), dtype=torch.float64, device=self.args.device)
        with unchanged_randomness():
            for batch in self.get_eval_dataloader():
                trained = batch["labels"][..., 1:].ne(MASKED).sum()
                loss, _, _ = self.prediction_step(model, batch, prediction_loss_only=True)  # type: ignore[no-untyped-call]
                # A mean over nothing may be no number.
                total = total + torch.where(trained > 0, loss.double() * trained, 0.0)
                count = count + trained
        metrics = {f"{metric_key_prefix}_loss": float(total / count.clamp(min=1))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        model.train(was_training)
        return metrics

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a run has its own card, and trl's would land among the checkpoints."""


class Conduct(TrainerCallback):
    """What happens between steps: showing, recording, validating, saving by the clock, and stopping when asked.

    `moment` says where in the training the trainer is, for a sentence that something ended there.
    """

    def __init__(
        self,
        trainer: PackedTrainer,
        run: Run,
        recipe: Recipe,
        spent: Progress,
        interruption: Interruption,
        shown: TrainingProgress,
    ) -> None:
        self.trainer = trainer
        self.run = run
        self.recipe = recipe
        self.before = spent
        self.interruption = interruption
        self.shown = shown
        self.moment = f"before step {spent.step + 1}"
        self.at_last_step: Randomness | None = None
        self.is_updating = False
        self.has_announced_stop = False
        self.began = self.saved = time.monotonic()

    @property
    def spent(self) -> Progress:
        """What the run has spent on whole steps up to now, with earlier sittings, and all the time it took."""
        return replace(
            self.before,
            step=self.trainer.state.global_step,
            seconds=self.before.seconds + time.monotonic() - self.began,
            tokens=self.before.tokens + self.trainer.tokens,
            trained_tokens=self.before.trained_tokens + self.trainer.trained_tokens,
            peak_memory_bytes=max(self.before.peak_memory_bytes, peak_memory_bytes()),
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self.saved = time.monotonic()
        self.shown.start(state.global_step, state.max_steps)
        if torch.cuda.is_available():
            self.trainer.probe(self.recipe.row_tokens)
        validated = {entry["step"] for entry in state.log_history if "eval_loss" in entry}
        if self.is_validated_at(state.global_step) and state.global_step not in validated:
            self.trainer.evaluate()

    def is_validated_at(self, step: int) -> bool:
        """Whether a validation loss is taken after so many steps."""
        if self.trainer.eval_dataset is None:
            return False
        before, after = (EVALUATIONS * each // self.trainer.state.max_steps for each in (step - 1, step))
        return after > before

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.moment = f"at step {state.global_step + 1}"

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.announce_stop()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_updating = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.moment = f"after step {state.global_step}"
        self.is_updating = False
        self.at_last_step = Randomness.now()
        control.should_evaluate = self.is_validated_at(state.global_step)
        if state.global_step >= state.max_steps:
            # What follows is the adapter itself.
            return
        if self.interruption.signal is not None:
            self.announce_stop()
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self.saved >= self.recipe.save_minutes * 60:
            control.should_save = True

    def announce_stop(self) -> None:
        """Say once that a signal has arrived: the step it waits for can take a while."""
        if self.interruption.signal is not None and not self.has_announced_stop:
            self.has_announced_stop = True
            self.shown.say("Finishing this step and writing a checkpoint; once more to end at once.")

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, Any] = kwargs["logs"]
        if "eval_loss" in logs:
            self.shown.say(f"step {state.global_step}/{state.max_steps}  validation loss {logs['eval_loss']:.4f}")
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise FlanliteError(
                f"The loss is {logs['loss']} at step {state.global_step}.", "Try a lower learning_rate, or other data."
            )
        tokens, trained_tokens = self.trainer.tokens, self.trainer.trained_tokens
        self.shown.advance(state.global_step, state.max_steps, logs["loss"], tokens, trained_tokens)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seal(self.spent, self.recipe.setup)
        self.saved = time.monotonic()

    def seal(self, spent: Progress, setup: Setup) -> Path:
        """Declare the checkpoint of the last step complete, for a trainer with this setup; it and the losses so far."""
        checkpoint = self.run.checkpoints_dir / f"checkpoint-{self.trainer.state.global_step}"
        seal(checkpoint, spent, setup)
        write_losses(self.trainer.state.log_history, self.run.loss_csv)
        return checkpoint

    def leave_off(self, setup: Setup) -> tuple[Path | None, Progress]:
        """Where a trainer with another setup goes on after this one has failed, and what has been spent till there.

        That is the end of the last whole step, of which a checkpoint is written if there is none yet; None before the
        first step. An update of the weights that was broken off has spoilt them: then the newest checkpoint has to do.
        """
        model: Any = self.trainer.model
        model.zero_grad()
        self.trainer.log_last_step()
        spent = replace(self.spent, peak_memory_bytes=0)
        newest = newest_checkpoint(self.run.checkpoints_dir)
        stored = Progress() if newest is None else read_progress(newest)
        if self.at_last_step is not None and not self.is_updating and stored.step < spent.step:
            self.at_last_step.restore()
            self.trainer._save_checkpoint(model, trial=None)  # type: ignore[no-untyped-call]
            return self.seal(spent, setup), spent
        spent = replace(stored, seconds=spent.seconds, peak_memory_bytes=0)
        if newest is not None:
            seal(newest, spent, setup)
        return newest, spent
