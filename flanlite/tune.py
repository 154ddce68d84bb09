"""flanlite tune: data, base and recipe to a run folder; says what it will do, and what that takes, before it starts."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from flanlite import hub
from flanlite.bases import Base, resolve
from flanlite.convert import convert_for
from flanlite.corpus.mixture import Rows, mix, split
from flanlite.engine.checkpoints import newest_checkpoint, read_progress, read_setup
from flanlite.engine.device import Machine, choose_machine, choose_optimizer
from flanlite.engine.memory import is_out_of_memory
from flanlite.engine.weights import require_disk
from flanlite.errors import FlanliteError
from flanlite.plan import (
    budget_tokens,
    card_of,
    check_context,
    check_without_card,
    disk_lines,
    fixed_by,
    peak_line,
    plan_here,
    plan_line,
    setup_without_plan,
)
from flanlite.planning.choose import Plan
from flanlite.planning.memory import peak_bytes
from flanlite.planning.setup import Setup
from flanlite.planning.speed import rough_tokens_per_s
from flanlite.prompt.template import Template, choose_template, fingerprint
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.recipe import Recipe
from flanlite.run import RUNS_DIR, Origins, Run, SourceCount, create_run
from flanlite.terminal import console, in_time, say, show_losses
from flanlite.training_set import TrainingSet

if TYPE_CHECKING:
    from datasets import Dataset

MOST_VALIDATION_ROWS = 200
"""More would cost time and change the loss by less than its own noise."""

ASK_ABOVE_HOURS = 12

ADAPTER_BYTES, CHECKPOINT_BYTES = 4, 4 + 8
"""What they take for each trained parameter, a checkpoint with Adam's two moments in 32 bits. It replaces an older one,
which is there until then."""


@dataclass(frozen=True)
class Decision:
    """The recipe with everything chosen that it leaves to base, data and machine, and what that rests on.

    `plan` is None on a CPU, and for a base whose shape is not known.
    """

    recipe: Recipe
    base: Base
    parameters: int
    machine: Machine
    plan: Plan | None

    @property
    def tokens_per_s(self) -> float:
        """Predicted, not measured."""
        if self.plan is not None:
            return self.plan.tokens_per_s
        return rough_tokens_per_s(self.parameters, self.machine.backend, card_of(self.machine))


def decide(recipe: Recipe, last: Setup | None = None) -> Decision:
    """Choose what the recipe leaves open: of the layout what a run stopped with, where that is known and still fits.

    Raises FlanliteError where base or optimizer are not for this machine, or the rows not for the base.
    """
    machine = choose_machine(recipe)
    optimizer = choose_optimizer(recipe.optimizer, has_card=machine.kind == "cuda")
    base = hub.described(resolve(recipe.base))
    parameters = hub.parameters_of(base)
    check_context(recipe, base)
    check_without_card(recipe, base, parameters, machine)
    plan = plan_here(recipe, base, machine)
    recipe = recipe.with_rows_of(plan.work.max_tokens) if plan else recipe.with_plain_rows(base.context_length)
    setup = plan.setup if plan else setup_without_plan(recipe, base, machine)
    if last is not None:
        wished = fixed_by(recipe, last)
        setup = wished if plan is None or peak_bytes(plan.work, wished) <= plan.free_bytes else setup
    plan = None if plan is None else dataclasses.replace(plan, setup=setup)
    settled = dataclasses.replace(
        recipe.with_setup(setup),
        template=(base.template or "auto") if recipe.template == "base" else recipe.template,
        general=recipe.chosen_general,
        budget=recipe.chosen_budget,
        optimizer=optimizer,
        backend=machine.backend,
        dtype=machine.dtype,
    )
    return Decision(settled, base, parameters, machine, plan)


@dataclass(frozen=True)
class Mixture:
    """The rows to train on, out of the agent data's training set and the general chat's."""

    agent: TrainingSet
    agent_rows: np.ndarray
    general: TrainingSet | None
    general_rows: np.ndarray

    @property
    def parts(self) -> list[tuple[TrainingSet, np.ndarray]]:
        """Each training set with the rows taken from it."""
        parts = [(self.agent, self.agent_rows)]
        return parts if self.general is None else [*parts, (self.general, self.general_rows)]

    @property
    def sources(self) -> list[tuple[SourceCount, int]]:
        """Per source what is taken of it, and how many rows it has, those that were rejected among them."""
        found = []
        for training_set, rows in self.parts:
            taken = np.zeros(len(training_set), bool)
            taken[rows] = True
            for number, name in enumerate(training_set.sources):
                of_source = training_set.source_of == number
                chosen = taken & of_source
                tokens, trained = training_set.tokens_of[chosen].sum(), training_set.trained_tokens_of[chosen].sum()
                count = SourceCount(name, int(chosen.sum()), int(tokens), int(trained))
                found.append((count, training_set.report["sources"][number]["rows"]))
        return found

    @property
    def tokens(self) -> int:
        """Tokens of all rows taken."""
        return sum(count.tokens for count, _ in self.sources)

    @property
    def data_hash(self) -> str:
        """A hash of the rows: of the training sets' keys, which hash data and settings, and of the rows' numbers."""
        digest = hashlib.sha256()
        for training_set, rows in self.parts:
            digest.update(training_set.report["key"].encode() + rows.astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    def datasets(self, validation_share: float, seed: int) -> tuple[Dataset, Dataset | None]:
        """The rows as trl takes them, shuffled and split into those to train on and those held out."""
        from datasets import concatenate_datasets, disable_caching

        # trl packs through `map`, whose result would otherwise stay beside the training set for ever.
        disable_caching()
        whole = concatenate_datasets([training_set.dataset(rows) for training_set, rows in self.parts])
        train, held_out = split(np.arange(len(whole)), validation_share, MOST_VALIDATION_ROWS, seed)
        return whole.select(train), whole.select(held_out) if len(held_out) else None


@dataclass(frozen=True)
class Job:
    """A tune that is ready to start."""

    decision: Decision
    tokenizer: Tokenizer
    template: Template
    mixture: Mixture
    budget_tokens: float
    hours: float
    """Predicted, not measured."""

    @property
    def recipe(self) -> Recipe:
        return self.decision.recipe

    @property
    def base(self) -> Base:
        return self.decision.base

    @property
    def machine(self) -> Machine:
        return self.decision.machine

    @property
    def origins(self) -> Origins:
        """What the run folder keeps of where all this came from."""
        return Origins(
            base=self.base.where if self.base.name != "tiny" else "tiny",
            data_hash=self.mixture.data_hash,
            template=self.template.name,
            template_hash=fingerprint(self.template, self.recipe.tool_style),
            tokenizer_hash=self.tokenizer.fingerprint,
            backend=self.machine.backend,
            dtype=self.machine.dtype,
            machine=self.machine.name,
            sources=tuple(count for count, _ in self.mixture.sources),
            budget_tokens=None if math.isinf(self.budget_tokens) else self.budget_tokens,
            planned_peak_bytes=None if self.decision.plan is None else self.decision.plan.peak_bytes,
        )


def gather(recipe: Recipe, most_tokens: float) -> Mixture:
    """The rows that a recipe with a length of rows trains on, within so many tokens; converted, where they are not yet.

    Raises FlanliteError where there is nothing to train on.
    """
    agent = convert_for(recipe)
    general = None
    if recipe.chosen_general != "none" and recipe.general_share:
        # Its form and subsets are its own.
        general = convert_for(dataclasses.replace(recipe, data=(recipe.chosen_general,), subset=(), form="auto"))
    chosen = mix(
        _rows(agent), None if general is None else _rows(general), recipe.general_share, most_tokens, recipe.seed
    )
    return Mixture(agent, chosen[0], general, chosen[1])


def count_tokens(recipe: Recipe, plan: Plan) -> int:
    """Tokens that the recipe trains on by this plan, counted by converting the data; told in words on stderr."""
    most_tokens = budget_tokens(recipe, plan.tokens_per_s) if plan.card.is_known else math.inf
    # stdout belongs to the plan itself.
    with contextlib.redirect_stdout(sys.stderr):
        mixture = gather(recipe.with_rows_of(plan.work.max_tokens), most_tokens)
        show_mixture(mixture)
    return mixture.tokens


def prepare(recipe: Recipe, most_tokens: float | None = None, last: Setup | None = None) -> Job:
    """Everything up to the weights: machine, base, data. Raises FlanliteError where the tune could not run.

    A resumed run gives the tokens it began with, since another card would get another number for the same hours.
    """
    decision = decide(recipe, last)
    recipe, rate = decision.recipe, decision.tokens_per_s
    say(decision.machine.line)
    if decision.plan is not None:
        say(plan_line(decision.plan))
    if most_tokens is None:
        most_tokens = budget_tokens(recipe, rate)
    mixture = gather(recipe, most_tokens)
    tokenizer = mixture.agent.tokenizer
    template = choose_template(recipe.template, tokenizer)
    tokenizer.chat_template = template.chat_template
    hours = mixture.tokens * recipe.epochs / rate / 3600
    return Job(decision, tokenizer, template, mixture, most_tokens, hours)


def _rows(training_set: TrainingSet) -> Rows:
    return Rows(training_set.sources, training_set.source_of, training_set.tokens_of, training_set.trained_tokens_of)


def tune(
    recipe: Recipe, out: Path | None, *, resume: Run | None = None, confirm: Callable[[str], bool] = lambda _: True
) -> Run:
    """Tune by the recipe into the run folder `out`, or go on with the run `resume`; the finished run.

    `confirm` is asked before a tune of many hours. Raises Interrupted (a FlanliteError) after Ctrl-C, with a checkpoint
    written.
    """
    if resume is not None:
        resume.check_unfinished()
    elif out is not None and out.exists():
        raise FlanliteError(f"{out} is there already.", "Name another --out, or go on with it: --resume.")
    job = prepare(recipe) if resume is None else prepare(recipe, resume.budget_tokens, _setup_of(resume))
    announce(job)
    if job.hours > ASK_ABOVE_HOURS and not confirm(f"This will take about {in_time(job.hours * 3600)}. Start?"):
        raise FlanliteError(
            "Not started.", "--yes starts without the question; budget=6h, for example, trains on fewer rows."
        )
    _check_disk(job, resume, out or RUNS_DIR)
    if resume is None:
        run = create_run(recipe.base) if out is None else create_run(recipe.base, out.parent, out.name)
        run.begin(job.recipe, job.origins)
        say(f"Run folder {run.folder}")
    else:
        run = resume
        say(_standing(run, job))
        for change in run.check_resumable(job.recipe, job.origins):
            say(f"Note: since the run began, {change}.")
    _train(job, run, is_resumed=resume is not None)
    return run


def _check_disk(job: Job, resume: Run | None, out: Path) -> None:
    """Raises FlanliteError where the run would end at a full disk."""
    if job.base.shape is None:
        return
    has_checkpoint = resume is not None and newest_checkpoint(resume.checkpoints_dir) is not None
    written = ADAPTER_BYTES + (1 if has_checkpoint else 2) * CHECKPOINT_BYTES
    require_disk(resume.folder if resume else out, written * job.base.shape.lora_parameters(job.recipe.lora_r))


def _standing(run: Run, job: Job) -> str:
    """How far the run got, in a sentence."""
    checkpoint = newest_checkpoint(run.checkpoints_dir)
    if checkpoint is None:
        return f"{run.folder} has no checkpoint: it begins anew."
    spent = read_progress(checkpoint)
    share = min(1.0, spent.tokens / (job.mixture.tokens * job.recipe.epochs))
    return f"{run.folder} goes on behind step {spent.step}, with about {share:.0%} of its tokens done."


def _setup_of(run: Run) -> Setup | None:
    """The layout that the run stopped with, if it got so far."""
    checkpoint = newest_checkpoint(run.checkpoints_dir)
    return None if checkpoint is None else read_setup(checkpoint)


def _train(job: Job, run: Run, *, is_resumed: bool) -> None:
    # The order matters: unsloth wants to be imported before transformers, trl and peft.
    from flanlite.engine.fetch import base_dir
    from flanlite.engine.load import load_model

    folder = base_dir(job.base, quantised=True, say=say)
    try:
        model = load_model(folder, job.recipe, job.machine)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise FlanliteError(
            f"The memory of {job.machine.name} ran out while {job.base.name} was loaded.",
            "Close what else uses the card, or take a smaller base.",
        ) from None
    from flanlite.engine.train import train

    rows, validation_rows = job.mixture.datasets(job.recipe.validation_share, job.recipe.seed)
    train(
        model,
        rows,
        validation_rows,
        job.recipe,
        run,
        job.tokenizer,
        job.machine,
        base=job.origins.base,
        is_resumed=is_resumed,
        console=console,
    )


def show_mixture(mixture: Mixture) -> None:
    """Print what is taken of each source, and what fell away on the way."""
    table = Table("source", "rows", "of", "tokens", "trained", box=None, header_style="bold", padding=(0, 1))
    for column in table.columns[1:]:
        column.justify = "right"
    for count, available in mixture.sources:
        numbers = (count.rows, available, count.tokens, count.trained_tokens)
        table.add_row(count.name, *(f"{number:,}" for number in numbers))
    console.print(table)
    for training_set, _ in mixture.parts:
        show_losses(training_set.report["sources"], str(training_set.folder))


def announce(job: Job) -> None:
    """Print the data, the time and the disk that the tune will take."""
    show_mixture(job.mixture)
    trained = sum(count.trained_tokens for count, _ in job.mixture.sources)
    rows = sum(count.rows for count, _ in job.mixture.sources)
    say(
        f"{rows:,} conversations, {job.mixture.tokens:,} tokens, {trained / max(job.mixture.tokens, 1):.0%} of them "
        f"trained; about {in_time(job.hours * 3600)} on {job.machine.name}, predicted and not measured."
    )
    for line in disk_lines(job.base, job.decision.parameters, hub.model_download):
        say(line)


def show_finished(run: Run) -> None:
    """Print what came out of a run and what can be done with it."""
    measured = run.record["measured"]
    losses = f"loss {measured['first_loss']:.3f} -> {measured['last_loss']:.3f}"
    if measured["validation_loss"] is not None:
        losses += f", validation {measured['first_validation_loss']:.3f} -> {measured['validation_loss']:.3f}"
    say(
        f"{measured['steps']} steps in {in_time(measured['seconds'])}: {losses}, "
        f"{measured['tokens_per_second']:,.0f} tokens/s."
    )
    planned = run.record.get("planned_peak_bytes")
    was_as_planned = measured["setup"] == dataclasses.asdict(run.recipe.setup)
    if planned is not None and was_as_planned and measured["peak_memory_of"] == "card":
        say(peak_line(planned, measured["peak_memory_bytes"]))
    say(f"The adapter and its card are in {run.folder}. What to do with it:")
    for line in (f"chat {run.folder}", f"eval {run.folder}", f"merge {run.folder} --out DIR"):
        say(f"  flanlite {line}")
