"""How a training is timed and its tokens are counted, the same in every variant.

Import this after the variant's own libraries: unsloth wants to come before transformers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import TrainerCallback

from flanlite.benchmark.results import Measured
from flanlite.benchmark.trial import Trial
from flanlite.prompt.template import MASKED

NAME_TOKENS = 8
"""So many random ids are a conversation's name: variants batch them in different orders."""

AWAKE = 0.02
"""Standard deviation of the B matrices: LoRA then gives some tenth of what the weights give."""


@dataclass(frozen=True)
class Count:
    """The tokens of an optimizer step, still on the card, and all places of its batches, padding included."""

    tokens: torch.Tensor | int
    trained_tokens: torch.Tensor | int
    places: int


class Stopwatch(TrainerCallback):
    """Takes the losses before the first step, times the steps after the warm-up, and ends the training.

    Nothing in it waits for the card between two steps.
    """

    def __init__(self, trainer: Any, trial: Trial) -> None:
        self.trainer = trainer
        self.timing = trial.timing
        self.deadline = trial.deadline
        self.seed = trial.seed
        self.parent = os.getppid()
        self.first_losses: list[tuple[float, int]] = []
        self.ends: list[Moment] = []
        self.counts: list[Count] = []
        self.began = 0.0
        self._take_batches = trainer.get_batch_samples
        trainer.get_batch_samples = self.get_batch_samples

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own micro-batches of an optimizer step, counted."""
        taken = self._take_batches(*args, **kwargs)
        self.counts.append(count_of(taken[0]))
        return taken

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        # Later where memory ran out in the midst of a training, which goes on.
        if state.global_step == 0:
            wake_adapters(self.trainer.model, self.seed)
            self.first_losses = conversation_losses(self.trainer)
        # Nothing is evaluated any more: that would be timed.
        self.trainer.eval_dataset = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(Moment())
        now = time.monotonic()
        if len(self.ends) == self.timing.warm_up_steps:
            self.began = now
        timed = len(self.ends) - self.timing.warm_up_steps
        is_enough = timed >= self.timing.steps and now - self.began >= self.timing.seconds
        if is_enough or (len(self.ends) > 1 and time.time() >= self.deadline):
            control.should_training_stop = True
        if os.getppid() != self.parent:
            sys.exit("Whoever wanted this measured is gone.")

    def measured(self, settings: Mapping[str, Any]) -> Measured:
        """The figures of a training that has ended, of the steps behind the warm-up or, where time left none, the last.

        The first step is never timed.
        """
        has_card = torch.cuda.is_available()
        if has_card:
            torch.cuda.synchronize()
        first = min(self.timing.warm_up_steps, len(self.ends) - 1)
        seconds = [end.seconds_since(before) for before, end in pairwise(self.ends[first - 1 :])]
        counts = self.counts[first : len(self.ends)]
        tokens = [int(count.tokens) for count in counts]
        return Measured(
            seconds=seconds,
            tokens=tokens,
            trained_tokens=[int(count.trained_tokens) for count in counts],
            padding_share=1 - sum(tokens) / sum(count.places for count in counts),
            first_losses=self.first_losses,
            allocated_bytes=torch.cuda.max_memory_allocated() if has_card else None,
            reserved_bytes=torch.cuda.max_memory_reserved() if has_card else None,
            settings=dict(settings),
            beside_bytes=_bytes_beside_torch() if has_card else None,
        )


def _bytes_beside_torch() -> int:
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return total_bytes - free_bytes - torch.cuda.memory_reserved()


class Moment:
    """When the card has done all that it was given up to now; without a card simply now."""

    def __init__(self) -> None:
        self.event: Any = None
        if torch.cuda.is_available():
            self.event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self.event.record()
        self.time = time.perf_counter()

    def seconds_since(self, earlier: Moment) -> float:
        """The seconds between two moments that lie behind us."""
        if self.event is None:
            return self.time - earlier.time
        return float(earlier.event.elapsed_time(self.event)) / 1000


def count_of(batches: Sequence[Mapping[str, torch.Tensor]]) -> Count:
    """The tokens in the micro-batches of a step, counted where they lie."""
    return Count(
        sum(_tokens_in(batch) for batch in batches),
        sum(batch["labels"].ne(MASKED).sum() for batch in batches),
        sum(batch["input_ids"].numel() for batch in batches),
    )


def _tokens_in(batch: Mapping[str, torch.Tensor]) -> torch.Tensor | int:
    """Tokens without padding; packed rows have neither padding nor mask."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else mask.sum()


def wake_adapters(model: Any, seed: int) -> None:
    """Give the B matrices small values, the same in all variants: while they are zero, LoRA has no part in a loss."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * AWAKE)


def conversation_losses(trainer: Any) -> list[tuple[float, int]]:
    """The mean loss of each of the trainer's validation conversations and its trained tokens, ordered by their ids.

    One by one, since in a mean over all of them it hardly shows if tokens of one look at those of another; batched as
    the trainer does it.
    """
    trainer.model.eval()
    found = {}
    for batch in trainer.get_eval_dataloader():
        owner = owners(batch)
        for number in sorted(set(owner.flatten().tolist())):
            is_own = owner == number
            labels = torch.where(is_own, batch["labels"], MASKED)
            loss, _, _ = trainer.prediction_step(trainer.model, {**batch, "labels": labels}, prediction_loss_only=True)
            beginning = tuple(batch["input_ids"][is_own][:NAME_TOKENS].tolist())
            found[beginning] = float(loss), int(labels[..., 1:].ne(MASKED).sum())
    trainer.model.train()
    return [found[beginning] for beginning in sorted(found)]


def owners(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """For each place of a batch the number of its conversation: of rows, or of what is packed into one."""
    positions = batch.get("position_ids")
    if positions is None:
        rows = torch.arange(len(batch["labels"]), device=batch["labels"].device)
        return rows[:, None].expand_as(batch["labels"])
    return positions.eq(0).flatten().cumsum(0).view_as(positions)
