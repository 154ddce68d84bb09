"""trl's SFTTrainer with an exact validation loss, counted tokens, timed checkpoints and a stop that can be resumed.

Import this after `load_model`: unsloth replaces trl's classes, and they are bound here.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTTrainer  # type: ignore[attr-defined]

from flanlite.engine.checkpoints import Interruption, Progress, seal
from flanlite.engine.curve import write_losses
from flanlite.engine.progress import TrainingProgress
from flanlite.errors import FlanliteError
from flanlite.prompt.template import MASKED
from flanlite.run import Run

EVALUATIONS = 5
"""Validation losses in a run, beside the one before the first step."""


class PackedTrainer(SFTTrainer):
    """SFTTrainer on packed rows, whose losses are means over trained tokens, in validation too."""

    tokens = 0
    trained_tokens = 0

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of one optimizer step, counted: there is no padding in packed rows."""
        batches, trained = super().get_batch_samples(*args, **kwargs)
        for batch in batches:
            self.tokens += batch["input_ids"].numel()
            self.trained_tokens += int(batch["labels"].ne(MASKED).sum())
        return batches, trained

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The mean loss over all trained tokens of the validation set; Trainer's own weighs every batch the same."""
        model: Any = self.model
        was_training = model.training
        model.eval()
        total, count = 0.0, 0
        for batch in self.get_eval_dataloader():
            trained = int(batch["labels"][..., 1:].ne(MASKED).sum())
            loss, _, _ = self.prediction_step(model, batch, prediction_loss_only=True)  # type: ignore[no-untyped-call]
            if trained:
                total += float(loss) * trained
                count += trained
        metrics = {f"{metric_key_prefix}_loss": total / max(count, 1)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        model.train(was_training)
        return metrics

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a run has its own card, and trl's would land among the checkpoints."""


class Conduct(TrainerCallback):
    """What happens between steps: showing, recording, validating, saving by the clock, and stopping when asked."""

    def __init__(
        self, trainer: PackedTrainer, run: Run, save_minutes: float, spent: Progress, shown: TrainingProgress
    ) -> None:
        self.trainer = trainer
        self.run = run
        self.save_seconds = save_minutes * 60
        self.before = spent
        self.shown = shown
        self.interruption = Interruption()
        self.has_announced_stop = False
        self.began = self.saved = time.monotonic()

    @property
    def spent(self) -> Progress:
        """What the run has spent up to now, with earlier sittings."""
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

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.announce_stop()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_last = state.global_step >= state.max_steps
        if self.trainer.eval_dataset is not None:
            before, after = (
                EVALUATIONS * step // state.max_steps for step in (state.global_step - 1, state.global_step)
            )
            control.should_evaluate = after > before
        if is_last:
            # What follows is the adapter itself; and a Trainer resumed at the last step would make one step more.
            return
        if self.interruption.signal is not None:
            self.announce_stop()
            control.should_save = control.should_training_stop = True
        elif time.monotonic() - self.saved >= self.save_seconds:
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
        self.shown.advance(
            state.global_step, state.max_steps, logs["loss"], self.trainer.tokens, self.trainer.trained_tokens
        )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.spent)
        write_losses(state.log_history, self.run.loss_csv)
        self.saved = time.monotonic()


def peak_memory_bytes() -> int:
    """The most memory so far: of the card where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
