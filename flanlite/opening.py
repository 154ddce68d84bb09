"""What chat and eval open: a run, a merged model's folder, or a base by name; and how it was taught to be asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flanlite.agent.model import ChatStyle
from flanlite.bases import Base, resolve
from flanlite.engine.checkpoints import resume_line
from flanlite.engine.device import CPU_PARAMETERS, Machine, choose_machine
from flanlite.engine.fetch import base_dir
from flanlite.engine.load import load_for_generation
from flanlite.engine.local import LocalModel, SharedModel
from flanlite.errors import FlanliteError
from flanlite.prompt.template import TEACHING_FILE, Template, choose_template, fingerprint, open_template
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import ToolStyle
from flanlite.recipe import Recipe
from flanlite.run import RUNS_DIR, Run, open_run
from flanlite.terminal import say

SPARE_BYTES = 2 * 10**9
"""Memory that a card needs beside the weights, for a reply of a few thousand tokens."""


@dataclass(frozen=True)
class Opened:
    """A model ready to be asked.

    `base` is the same weights without the adapter, and `run` the run they come from, where there is one. `identity`
    is another for other weights: a hash of the adapter, or of the names, sizes and dates of the model's files.
    `base_name` is what the model was tuned from, if that is known, or its own name.
    """

    model: LocalModel
    base: LocalModel | None
    run: Run | None
    identity: str
    base_name: str


def open_model(source: str | None, tool_style: ChatStyle | None) -> Opened:
    """Load the run, merged model or base that is meant; the newest run where none is named.

    A run and a merged model know their tool style; tool_style is for all others. Raises FlanliteError where there is
    nothing to open, or too much for this machine.
    """
    if tool_style == "openai":
        raise FlanliteError("tool_style=openai needs a server that takes tools.", "Choose react or json.")
    run = _find_run(source)
    if run is not None:
        return _open_run(run, tool_style)
    assert source is not None
    base = resolve(source)
    machine = choose_machine(Recipe(backend="peft"))
    _check_size(machine, base)
    is_4bit = not _fits_in_16_bits(machine, base)
    folder = base_dir(base, quantised=is_4bit, say=say)
    tokenizer = Tokenizer.load(folder)
    teaching = _teaching(folder)
    template, style = _taught(teaching, folder, base, tokenizer, tool_style)
    shared = SharedModel(load_for_generation(folder, None, machine, is_4bit=is_4bit))
    context_tokens = _context_tokens(base, shared)
    model = LocalModel(base.name, shared, tokenizer, template, style, context_tokens)
    return Opened(model, None, None, _identity(folder), teaching.get("base", base.name))


def check_finished(run: Run) -> None:
    """Raises FlanliteError where the run has no adapter yet."""
    if not run.is_finished:
        raise FlanliteError(f"{run.folder} has no adapter yet.", f"Finish it first: {resume_line(run)}")


def trained_template(run: Run, tokenizer: Tokenizer) -> Template:
    """The template the run was tuned with. Raises FlanliteError where the adapter's is no longer the same."""
    template = open_template(run.record["template"], tokenizer)
    _check_template(template, run.recipe.tool_style, run.record["template_hash"], run.adapter_dir)
    return template


def _find_run(source: str | None) -> Run | None:
    """The run of that name or folder, or the newest; None where the source is no run's."""
    if source is None:
        run = open_run(None)
        say(f"The newest run: {run.folder}")
        return run
    is_run = any((folder / "run.json").is_file() for folder in (Path(source), RUNS_DIR / source))
    return open_run(source) if is_run else None


def _open_run(run: Run, tool_style: ToolStyle | None) -> Opened:
    check_finished(run)
    recipe = run.recipe
    _check_style(recipe.tool_style, tool_style, run.folder)
    tokenizer = Tokenizer.load(run.adapter_dir)
    template = trained_template(run, tokenizer)
    machine = choose_machine(Recipe(backend="peft"))
    base = resolve(recipe.base)
    _check_size(machine, base)
    shared = SharedModel(load_for_generation(base_dir(base, quantised=True, say=say), run.adapter_dir, machine))
    context_tokens = _context_tokens(base, shared)
    tuned, bare = (
        LocalModel(name, shared, tokenizer, template, recipe.tool_style, context_tokens, uses_adapter=uses_adapter)
        for name, uses_adapter in ((run.name, True), (base.name, False))
    )
    with (run.adapter_dir / "adapter_model.safetensors").open("rb") as adapter:
        identity = hashlib.file_digest(adapter, "sha256").hexdigest()
    return Opened(tuned, bare, run, identity, base.name)


def _identity(folder: Path) -> str:
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256(repr((str(folder), files)).encode()).hexdigest()


def _teaching(folder: Path) -> Mapping[str, Any]:
    """What a merged model's folder says of how it was taught; nothing of any other folder."""
    file = folder / TEACHING_FILE
    if not file.is_file():
        return {}
    try:
        teaching: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        missing = {"template", "template_hash", "tool_style"} - set(teaching)
    except (ValueError, TypeError):
        missing = {"JSON"}
    if missing:
        raise FlanliteError(f"{file} lacks {', '.join(sorted(missing))}.", "Merge the run again.")
    return teaching


def _taught(
    teaching: Mapping[str, Any], folder: Path, base: Base, tokenizer: Tokenizer, tool_style: ToolStyle | None
) -> tuple[Template, ToolStyle]:
    """The template and tool style of the teaching; without one, the base's own template and `react`."""
    if not teaching:
        return choose_template(base.template or "auto", tokenizer), tool_style or Recipe.tool_style
    style: ToolStyle = teaching["tool_style"]
    _check_style(style, tool_style, folder)
    template = open_template(teaching["template"], tokenizer)
    _check_template(template, style, teaching["template_hash"], folder)
    return template, style


def _check_style(taught: ToolStyle, wanted: ToolStyle | None, folder: Path) -> None:
    if wanted not in (None, taught):
        raise FlanliteError(
            f"{folder} was tuned with tool_style={taught}; asked otherwise it would do worse.",
            "Leave out --tool-style.",
        )


def _check_template(template: Template, style: ToolStyle, wanted: str, folder: Path) -> None:
    if fingerprint(template, style) != wanted:
        raise FlanliteError(
            f"The chat template in {folder}, or flanlite's tool prompt, is not what the model was tuned with.",
            "Put chat_template.jinja back as it was, or use the flanlite of that run.",
        )


def _context_tokens(base: Base, shared: SharedModel) -> int:
    return base.context_length or int(shared.model.config.max_position_embeddings)


def _check_size(machine: Machine, base: Base) -> None:
    """Raises FlanliteError where a reply would not fit the card, or take minutes on the CPU."""
    if base.shape is None:
        return
    if machine.kind == "cuda":
        needed = base.bytes_4bit + SPARE_BYTES
        if machine.memory_bytes < needed:
            raise FlanliteError(
                f"{base.name} needs a card with {needed / 1e9:.0f} GB; {machine.name} has "
                f"{machine.memory_bytes / 1e9:.0f} GB.",
                "`flanlite bases` lists smaller ones.",
            )
    elif base.parameters > CPU_PARAMETERS:
        raise FlanliteError(
            f"{base.name} has {base.parameters / 1e9:.1f} billion parameters; on this CPU a reply would take minutes. "
            f"{machine.unused_card}".strip(),
            machine.mend or "Serve it with llama.cpp or Ollama, and name its address: --endpoint URL",
        )


def _fits_in_16_bits(machine: Machine, base: Base) -> bool:
    if machine.kind == "cpu":
        return True
    return base.shape is not None and base.bytes_16bit + SPARE_BYTES <= machine.memory_bytes
