"""What is done when the card's memory runs out: the same training goes on with the next smaller setup.

It goes on behind the last whole step, from a checkpoint, just as a run that was killed goes on. So weights, optimizer,
schedule, random states, the order of the rows and all that is counted are what they would be without it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flanlite.engine.checkpointing import decoder_layers
from flanlite.engine.checkpoints import Interrupted, Interruption, Progress, read_progress, resume_line
from flanlite.engine.load import fill_adapters
from flanlite.engine.memory import free_memory, is_out_of_host_memory, is_out_of_memory
from flanlite.engine.progress import TrainingProgress
from flanlite.errors import NoRoomError
from flanlite.planning.setup import can_offload, in_words, ladder
from flanlite.recipe import Recipe
from flanlite.run import Run

if TYPE_CHECKING:
    from flanlite.engine.trainer import Conduct, PackedTrainer


def train_down_the_ladder(
    build: Callable[[Recipe], PackedTrainer],
    recipe: Recipe,
    run: Run,
    checkpoint: Path | None,
    shown: TrainingProgress,
) -> tuple[PackedTrainer, Conduct]:
    """Train from a checkpoint, or from the start, to the end or to where a signal stops it; the last trainer.

    `build` makes a trainer with a recipe's setup, on the same model every time. Raises NoRoomError where memory runs
    out with the last setup, before a trainer is there, or on the computer's side, and Interrupted at the second signal.
    """
    # What loading the base has left behind.
    free_memory()
    try:
        # unsloth announces itself on stdout, which belongs to the command's own output.
        with Interruption() as interruption, contextlib.redirect_stdout(sys.stderr):
            return _descend(build, recipe, run, checkpoint, shown, interruption)
    except KeyboardInterrupt:
        raise Interrupted(
            "Stopped at once; the steps since the last checkpoint are lost.", f"Go on with `{resume_line(run)}`."
        ) from None


def _descend(
    build: Callable[[Recipe], PackedTrainer],
    recipe: Recipe,
    run: Run,
    checkpoint: Path | None,
    shown: TrainingProgress,
    interruption: Interruption,
) -> tuple[PackedTrainer, Conduct]:
    from flanlite.engine.trainer import Conduct

    spent = read_progress(checkpoint) if checkpoint else Progress()
    while True:
        trainer = _built(build, recipe, run)
        conduct = Conduct(trainer, run, recipe, spent, interruption, shown)
        trainer.add_callback(conduct)
        if _fits(trainer, conduct, checkpoint):
            return trainer, conduct
        layers = len(decoder_layers(trainer.model))
        lower = ladder(recipe.setup, layers, may_offload=can_offload(recipe.backend, recipe.row_tokens))
        checkpoint, spent = conduct.leave_off(lower or recipe.setup)
        if checkpoint is None:
            fill_adapters(trainer.model, recipe.seed)
        ran_out = f"The card ran out of memory {conduct.moment}"
        again = f" from step {spent.step + 1}" if spent.step < conduct.trainer.state.global_step else ""
        if lower is None:
            raise NoRoomError(
                f"{ran_out}, with the smallest setup there is.",
                f"Close what else uses the card and go on with `{resume_line(run)}`, or start anew with a lower "
                "max_tokens.",
            )
        shown.say(f"{ran_out}; goes on{again} with {in_words(lower, layers, recipe.row_tokens, recipe.batch_rows)}.")
        recipe = recipe.with_setup(lower)
        # They hold the optimizer's states, and the last step's rows.
        del trainer, conduct
        free_memory()


def _built(build: Callable[[Recipe], PackedTrainer], recipe: Recipe, run: Run) -> PackedTrainer:
    """The trainer. Raises NoRoomError where there is no room even for that, which no setup changes."""
    try:
        return build(recipe)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise NoRoomError(
            "The card ran out of memory before the training began: the base alone fills it.",
            f"Close what else uses the card and go on with `{resume_line(run)}`, or take a smaller base.",
        ) from None


def _fits(trainer: PackedTrainer, conduct: Conduct, checkpoint: Path | None) -> bool:
    """Train to the end, or to where a signal stops it; False where memory ran out on the way."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_host_memory(error):
            raise NoRoomError(
                f"The computer's own memory ran out {conduct.moment}.",
                f"Close other programs and go on with `{resume_line(conduct.run)}`.",
            ) from None
        if not is_out_of_memory(error):
            raise
        # Nothing more is done in here, where the error's traceback holds the tensors of the step.
        return False
    return True
