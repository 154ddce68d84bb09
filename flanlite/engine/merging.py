"""flanlite merge: base + adapter as one 16-bit Hugging Face folder, checked against the two before it gets its name.

Tensors are read, changed and written one at a time. The folder is written beside its final name and renamed when it is
complete and its check has passed: an interrupted merge leaves nothing under the final name, and a merge that fails its
check is left under `<name>.failed` to be looked at.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flanlite.engine.lora import Adapter
from flanlite.engine.parity import Parity, Side, compare
from flanlite.engine.weights import (
    BLOCK_ELEMENTS,
    Checkpoint,
    ShardWriter,
    Weights,
    model_config,
    open_partial,
    publish,
    quantised_linears,
    read_json,
    require_disk,
    row_blocks,
    write_json,
)
from flanlite.errors import FlanliteError
from flanlite.prompt.template import TEACHING_FILE

Onto = Literal["base", "dequantised"]
Progress = Callable[[Literal["merge", "check"], int, int], None]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
# An unchanged tensor is only cast: small pieces will do.
COPIED_ELEMENTS = 1 << 24
HOLDS = {True: "yes", False: "no", None: ""}
# Of the base's folder or of how it was stored, not of the model.
NOT_OF_THE_MODEL = ("quantization_config", "auto_map", "_name_or_path", "dtype", "unsloth_fixed")
# What may differ between two configs of one model.
INCIDENTAL = (*NOT_OF_THE_MODEL, "torch_dtype", "transformers_version")


@dataclass(frozen=True)
class MergeInputs:
    """What a merge is made of.

    base_dir: the base's folder, 16-bit or bnb-4bit; adapter_dir: the run's adapter with its tokenizer and template.
    onto: "base" takes the 16-bit weights, "dequantised" those that 4-bit training saw, from either kind of folder.
    trained_in_nf4: whether training saw the base in 4 bits; trained_base_dir: the bnb-4bit folder it loaded, if it was
    one; nf4_dtype: the type it held the base in, otherwise ("bfloat16", "float16" or "float32").
    """

    base_dir: Path
    adapter_dir: Path
    onto: Onto = "base"
    trained_in_nf4: bool = True
    trained_base_dir: Path | None = None
    nf4_dtype: str = "bfloat16"

    def chosen_weights(self) -> Weights:
        """The weights that the adapter is added to."""
        if self.onto == "dequantised":
            return self.trained_weights()
        base = Checkpoint(self.base_dir)
        if base.quantised:
            raise FlanliteError(
                f"{self.base_dir} holds the base in 4 bits only.",
                "Merge --onto dequantised, or give the 16-bit base.",
            )
        return base

    def trained_weights(self) -> Weights:
        """The weights that training saw."""
        if not self.trained_in_nf4:
            raise FlanliteError("The adapter was tuned on the 16-bit base.", "Merge --onto base.")
        base = Checkpoint(self.trained_base_dir or self.base_dir)
        if base.quantised:
            return base
        from flanlite.engine.nf4 import Nf4Rounded

        return Nf4Rounded(base, quantised_linears(model_config(self.base_dir)), getattr(torch, self.nf4_dtype))


@dataclass(frozen=True)
class MergeReport:
    """What a merge made: its folder (`<out>.failed` when the check failed), size, time and verdict."""

    folder: Path
    bytes_written: int
    merged_modules: int
    seconds: float
    parity: Parity | None

    @property
    def passed(self) -> bool:
        return self.parity is None or self.parity.passed


def merge(
    inputs: MergeInputs,
    out: Path,
    *,
    stop_ids: Sequence[int],
    token_rows: Sequence[Sequence[int]] | None,
    pad_id: int | None = None,
    dtype: str | None = None,
    base_name: str = "",
    teaching: Mapping[str, str] | None = None,
    shard_gb: float = 5.0,
    overwrite: bool = False,
    on_progress: Progress = lambda stage, done, total: None,
) -> MergeReport:
    """Writes the merged model to `out` and checks it; the report says whether it passed.

    stop_ids end a generated turn; token_rows are tokenised conversations for the check (four of 64 ids are plenty), and
    None leaves the check out; dtype is "float16" or "bfloat16", by default the base's own; `teaching` is what chat and
    eval have to know of how the model was taught, kept in TEACHING_FILE. Raises FlanliteError when `out` is taken, the
    disk too small, the adapter unfit or more than plain LoRA, or a file missing.
    """
    start = time.monotonic()
    out = out.resolve()
    adapter = Adapter(inputs.adapter_dir)
    chosen = inputs.chosen_weights()
    _check_fit(inputs, adapter, chosen)
    kind = _output_type(inputs.base_dir, dtype)
    config = model_config(inputs.base_dir)
    shapes = {name: shape for name, shape in chosen.shapes.items() if name not in _left_out(config)}
    partial = open_partial(out, overwrite=overwrite)
    try:
        size = _write_weights(partial, adapter, chosen, shapes, kind, int(shard_gb * 1e9), on_progress)
        _write_settings(inputs, partial, kind, stop_ids, pad_id)
        if teaching is not None:
            write_json(partial / TEACHING_FILE, dict(teaching))
        parity = check(inputs, partial, token_rows, on_progress) if token_rows is not None else None
        (partial / "README.md").write_text(
            _card(out.name, inputs, base_name or adapter.base_name, kind, parity), "utf-8"
        )
        folder = out if parity is None or parity.passed else out.with_name(out.name + ".failed")
        publish(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return MergeReport(folder, size, len(adapter.modules), time.monotonic() - start, parity)


def check(
    inputs: MergeInputs,
    merged_dir: Path,
    token_rows: Sequence[Sequence[int]],
    on_progress: Progress = lambda stage, done, total: None,
) -> Parity:
    """Compares a merged folder with the chosen base + adapter and with what training saw (see engine.parity)."""
    adapter, merged, chosen = Adapter(inputs.adapter_dir), Checkpoint(merged_dir), inputs.chosen_weights()
    config = model_config(merged_dir)
    _check_same_architecture(config, model_config(inputs.base_dir))
    if missing := sorted(chosen.shapes.keys() - merged.shapes.keys() - _left_out(config)):
        raise FlanliteError(f"{merged_dir} lacks {missing[0]}.", "Merge again.")
    trained = inputs.trained_weights() if inputs.trained_in_nf4 and inputs.onto == "base" else None
    names = {"base": "16-bit base + adapter", "dequantised": "nf4 base + adapter (what training saw)"}
    return compare(
        config,
        Side("merged", merged),
        Side(names[inputs.onto], chosen, adapter),
        Side(names["dequantised"], trained, adapter) if trained else None,
        token_rows,
        next(iter(merged.dtypes.values())),
        lambda done, total: on_progress("check", done, total),
    )


def _check_fit(inputs: MergeInputs, adapter: Adapter, chosen: Weights) -> None:
    """Everything about the inputs that can be known before a byte is written."""
    adapter.check_fits(chosen)
    if not adapter.modules:
        raise FlanliteError(f"{inputs.adapter_dir} changes no module.", "Is this the adapter of a finished run?")
    if model_config(inputs.base_dir).tie_word_embeddings and "lm_head" in adapter.modules:
        raise FlanliteError(
            "The adapter changes lm_head, which this base shares with its embeddings.", "Tune without lm_head."
        )
    folder = inputs.adapter_dir
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise FlanliteError(
            f"{folder} has no tokenizer.", "The run's adapter folder should hold the one it trained with."
        )
    in_config = folder / "tokenizer_config.json"
    if not (folder / "chat_template.jinja").is_file() and "chat_template" not in read_json(in_config):
        raise FlanliteError(
            f"{folder} has no chat template.", "The run's adapter folder should hold chat_template.jinja."
        )


def _output_type(base_dir: Path, dtype: str | None) -> torch.dtype:
    config = read_json(base_dir / "config.json")
    name = dtype or config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    return torch.float16 if name == "float16" else torch.bfloat16


def _left_out(config: Any) -> set[str]:
    """Names that some checkpoints carry and the library does not save: the tied head."""
    return {"lm_head.weight"} if config.tie_word_embeddings else set()


def _write_weights(
    partial: Path,
    adapter: Adapter,
    chosen: Weights,
    shapes: dict[str, tuple[int, ...]],
    kind: torch.dtype,
    shard_bytes: int,
    on_progress: Progress,
) -> int:
    """Streams every tensor of the base, with the adapter's change where it has one; returns the bytes written."""
    changed = {f"{module}.weight": module for module in adapter.modules}
    done = 0

    def pieces(name: str) -> Iterator[Tensor]:
        for rows in row_blocks(shapes[name], BLOCK_ELEMENTS if name in changed else COPIED_ELEMENTS):
            base = chosen.load(name, rows)
            delta = adapter.delta(changed[name], rows) if name in changed else None
            yield merged_rows(base, delta, kind)

    def report(size: int) -> None:
        nonlocal done
        done += size
        on_progress("merge", done, total)

    writer = ShardWriter(partial, shapes, dict.fromkeys(shapes, kind), pieces, report)
    total = sum(writer.bytes_of.values())
    require_disk(partial, total)
    writer.write(shard_bytes)
    return total


def merged_rows(base: Tensor, delta: Tensor | None, kind: torch.dtype) -> Tensor:
    """base + delta (float32, used up; None for no change) in `kind`, added in float32 and rounded once."""
    merged = base.to(kind) if delta is None else delta.add_(base).to(kind)
    # The extremes are not finite if any element is not, and take no copy to find.
    if not all(bool(extreme.isfinite()) for extreme in merged.aminmax()):
        raise FlanliteError("A merged weight is not finite.", "Merge with --dtype bfloat16, or look at the run's loss.")
    return merged


def _check_same_architecture(merged: Any, base: Any) -> None:
    """Raises FlanliteError when the merged folder's config would compute something else than the base's."""
    ours, theirs = merged.to_dict(), base.to_dict()
    for key in sorted((ours.keys() | theirs.keys()) - set(INCIDENTAL)):
        if ours.get(key) != theirs.get(key):
            raise FlanliteError(
                f"The merged config has {key} = {ours.get(key)!r}, the base's has {theirs.get(key)!r}.", "Merge again."
            )


def _write_settings(
    inputs: MergeInputs, partial: Path, kind: torch.dtype, stop_ids: Sequence[int], pad_id: int | None
) -> None:
    """config.json, generation_config.json and the tokenizer with its chat template."""
    config = read_json(inputs.base_dir / "config.json")
    write_json(
        partial / "config.json",
        {key: value for key, value in config.items() if key not in NOT_OF_THE_MODEL}
        | {"torch_dtype": str(kind).removeprefix("torch.")},
    )
    # The base's own may sample or punish repetition, which breaks the copying of arguments.
    generation = {"bos_token_id": config.get("bos_token_id"), "eos_token_id": list(stop_ids), "pad_token_id": pad_id}
    write_json(
        partial / "generation_config.json",
        {key: value for key, value in generation.items() if value is not None} | {"do_sample": False},
    )
    for name in TOKENIZER_FILES:
        if (inputs.adapter_dir / name).is_file():
            shutil.copyfile(inputs.adapter_dir / name, partial / name)


def _card(name: str, inputs: MergeInputs, base_name: str, kind: torch.dtype, parity: Parity | None) -> str:
    """The model card: what it is, how it was made, what the check found."""
    onto = (
        "its 16-bit weights" if inputs.onto == "base" else "its weights as 4-bit training saw them (nf4, dequantised)"
    )
    # A folder's path says nothing to a reader elsewhere and is no model on the hub.
    known = base_name.count("/") == 1 and not base_name.startswith(("/", "."))
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += [f"base_model: {base_name}"] if known else []
    lines += ["tags: [flanlite, lora-merged]", "---", "", f"# {name}", ""]
    lines += [
        f"{base_name if known else 'A chat model'}, tuned with flanlite on conversations of an agent. The LoRA "
        f"adapter is merged onto {onto}, added in float32 and rounded once to {str(kind).removeprefix('torch.')}.",
        "",
        "Prompts follow the chat template in this folder; a turn ends at the stop tokens of generation_config.json.",
        "",
        "## The merge, checked",
        "",
    ]
    if parity is None:
        return "\n".join([*lines, "This merge was not checked against its adapter.", ""])
    lines += [
        f"Next-token distributions over {parity.against_base.positions} positions, in float32.",
        "",
        "| measured | value | bound | holds |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {what} | {value} | {bound} | {HOLDS[ok]} |" for what, value, bound, ok in parity.rows()]
    return "\n".join([*lines, ""])
