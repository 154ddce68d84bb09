"""Is a merged model right? The merged folder and the models it stands for, run side by side with streamed weights.

The rows of all sides travel through one skeleton as one batch: every module with weights splits the batch, runs each
side's rows with that side's weights and lets the weights go, so that memory holds one projection at a time and a 7B is
checked on any machine. Everything is computed in float32; the adapter is applied as in training, as two thin products.

Three questions, each with a bound:

* Weights. Is every merged weight within half a unit in the last place of base + delta? That is what rounding to nearest
  means, so there is nothing to tune: it finds one wrong element, and an adapter however small.
* Outputs against the chosen base + adapter, bounded by `ROUNDING`, which is ten times what honest merges of made-up
  Llamas of 4 and 32 layers show (mean KL 5e-6 in float16, 5e-4 in bfloat16, with logits far sharper than an untrained
  model's); a trained base of 3 million parameters shows 4e-8 and 2e-6. Layers swapped (KL 2 to 5) or a scale doubled
  (0.2) are far beyond it, one projection of 224 without its delta (5e-3) is just beyond it; with an adapter ten times
  smaller that one sinks below rounding in the outputs, and only the weights show it.
* Outputs against nf4 + adapter, what training saw: the price of leaving nf4, bounded by `NF4`. Mean KL is 0.009 for the
  trained base of 3 million parameters. The bound is wide, for a base that was not trained on has a KL of several.
  Random weights with sharp logits exceed it (0.3 to 1).

The largest log-prob difference is reported without a bound: the least probable tokens make it (5.4 at a KL of 0.009).

What it does not cover: generation settings, the tokenizer, and rows of the vocabulary's tensors beyond their weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flanlite.engine.lora import Adapter
from flanlite.engine.weights import Weights, row_blocks, skeleton
from flanlite.errors import FlanliteError

# Float32 copies are made of 64 MB at most, and of what fits a processor's cache where there is no product to compute.
PIECE_ELEMENTS = 1 << 24
AUDIT_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What two models may differ by: mean KL in nats, and the share of equal top tokens where the other is sure."""

    mean_kl: float
    sure_top1: float


ROUNDING = {torch.float16: Bounds(mean_kl=5e-5, sure_top1=0.97), torch.bfloat16: Bounds(mean_kl=5e-3, sure_top1=0.97)}
NF4 = Bounds(mean_kl=0.5, sure_top1=0.9)
# Where no token has most of the probability, the top one is a matter of a tie's chance, above all at random weights.
SURE = 0.5


@dataclass(frozen=True)
class Side:
    """One of the models compared: weights, and an adapter that is applied beside them."""

    name: str
    weights: Weights
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Agreement:
    """How far the merged model's next-token distributions are from another side's, over all positions of all rows.

    top1 is the share of positions with the same top token; sure_top1 that share among the `sure` positions, where the
    other side gives its top token a probability of `SURE` or more (1.0 if there are none).
    """

    other: str
    max_logprob_diff: float
    mean_kl: float
    top1: float
    sure_top1: float
    positions: int
    sure: int
    bounds: Bounds

    @property
    def passed(self) -> bool:
        return self.mean_kl <= self.bounds.mean_kl and self.sure_top1 >= self.bounds.sure_top1


@dataclass
class WeightAudit:
    """The largest rounding error among the merged weights, and how much of the adapter survived the rounding.

    `worst` is in units of what rounding to nearest allows: at most 1 for a right merge. `kept` is the merged change
    projected on the adapter's change: near 1, and less where a base's own 16-bit steps swallow a small adapter.
    """

    worst: float = 0.0
    worst_name: str = ""
    _kept: float = 0.0
    _delta: float = 0.0

    @property
    def passed(self) -> bool:
        return self.worst <= 1.0

    @property
    def kept(self) -> float:
        return self._kept / self._delta if self._delta else 1.0

    def add(self, name: str, merged: Tensor, base: Tensor, delta: Tensor | None) -> None:
        """Compares rows of one tensor: merged in its 16-bit type, base in any, delta in float32 or None (unchanged)."""
        kind = torch.finfo(merged.dtype)
        smallest = max(kind.smallest_normal * kind.eps / 2, 1e-38)
        for rows in row_blocks(merged.shape, AUDIT_ELEMENTS):
            ours, expected = merged[rows].float().view(-1), base[rows].float().view(-1)
            # Float32 sums differ in their last bits between machines and block sizes.
            slack = torch.full_like(expected, smallest)
            if delta is not None:
                change = delta[rows].view(-1)
                self._kept += float(torch.dot(ours - expected, change))
                self._delta += float(torch.dot(change, change))
                # Not in place: a float32 base is the very tensor that the outputs are computed with.
                expected = expected + change
                slack.add_(change.abs(), alpha=2**-20)
            slack.add_(expected.abs(), alpha=kind.eps / 2 + 2**-20)
            worst = float(ours.sub_(expected).abs_().div_(slack).max())
            if not worst <= self.worst:
                self.worst, self.worst_name = (worst, name) if worst == worst else (torch.inf, name)


@dataclass(frozen=True)
class Parity:
    """The verdict on a merge: weights, outputs against the chosen base + adapter, outputs against what training saw.

    `against_trained` is None when training saw the chosen base itself.
    """

    dtype: torch.dtype
    weights: WeightAudit
    against_base: Agreement
    against_trained: Agreement | None = None

    @property
    def agreements(self) -> list[Agreement]:
        return [self.against_base] + ([self.against_trained] if self.against_trained else [])

    @property
    def passed(self) -> bool:
        return self.weights.passed and all(agreement.passed for agreement in self.agreements)

    @property
    def advice(self) -> str:
        """What to do about a merge that is right and yet has lost part of the adapter, or nothing."""
        if self.weights.kept > 0.9 or self.dtype == torch.float16:
            return ""
        return (
            f"bfloat16 is so coarse that {1 - self.weights.kept:.0%} of the adapter's change was rounded away: "
            "merge with --dtype float16."
        )

    def rows(self) -> list[tuple[str, str, str, bool | None]]:
        """For a table: what was measured, the figure, the bound, whether it holds (None without one)."""
        audit = self.weights
        where = f" ({audit.worst_name})" if not audit.passed else ""
        table: list[tuple[str, str, str, bool | None]] = [
            ("largest weight error, of what rounding allows" + where, f"{audit.worst:.2f}", "1.00", audit.passed)
        ]
        for one in self.agreements:
            within = one.mean_kl <= one.bounds.mean_kl
            table.append((f"{one.other}: mean KL", f"{one.mean_kl:.2e}", f"{one.bounds.mean_kl:.0e}", within))
            agrees = one.sure_top1 >= one.bounds.sure_top1
            sure = f"top-1 agreement where it is sure ({one.sure} of {one.positions} positions)"
            table.append((f"{one.other}: {sure}", f"{one.sure_top1:.3f}", f"{one.bounds.sure_top1:.2f}", agrees))
            table.append((f"{one.other}: top-1 agreement everywhere", f"{one.top1:.3f}", "", None))
            table.append((f"{one.other}: max log-prob difference", f"{one.max_logprob_diff:.3f}", "", None))
        table.append(("share of the adapter kept by the rounding", f"{audit.kept:.3f}", "", None))
        return table


def compare(
    config: Any,
    merged: Side,
    chosen: Side,
    trained: Side | None,
    token_rows: Sequence[Sequence[int]],
    dtype: torch.dtype,
    on_module: Callable[[int, int], None] = lambda done, total: None,
) -> Parity:
    """Runs the sides on rows of token ids (some of 64 are plenty) and measures where they part.

    config is the transformers config they share, dtype the merged model's type, `trained` what training saw if that is
    not the chosen base. `on_module` hears how many of the modules with weights are done.
    """
    sides = [merged, chosen] + ([trained] if trained else [])
    ids, real = _batch(token_rows, config.vocab_size)
    audit = WeightAudit()
    model = _side_by_side(config, sides, audit, on_module)
    with torch.inference_mode():
        logits = model(input_ids=ids.repeat(len(sides), 1), use_cache=False).logits
        by_side = logits.chunk(len(sides))
        against_base = _agreement(chosen.name, by_side[0], by_side[1], real, ROUNDING[dtype])
        against_trained = _agreement(trained.name, by_side[0], by_side[2], real, NF4) if trained else None
    return Parity(dtype, audit, against_base, against_trained)


def _batch(token_rows: Sequence[Sequence[int]], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids [rows, longest], padded on the right where causal attention cannot see it, and a mask of the real ones."""
    if not token_rows or not all(token_rows):
        raise FlanliteError("The check of a merge needs rows of tokens, and none were given.")
    if max(map(max, token_rows)) >= vocabulary:
        raise FlanliteError("The tokenizer has more tokens than the base.", "Was the adapter tuned on this base?")
    rows = [torch.tensor(row) for row in token_rows]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    real = nn.utils.rnn.pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
    return ids, real


def _agreement(other: str, merged: Tensor, reference: Tensor, real: Tensor, bounds: Bounds) -> Agreement:
    """Compares logits [rows, longest, vocabulary] where `real` [rows, longest] says so, row by row to save memory."""
    kl, largest = 0.0, 0.0
    equal, sure = [], []
    for ours, theirs, mask in zip(merged, reference, real, strict=True):
        q, p = functional.log_softmax(ours[mask], -1), functional.log_softmax(theirs[mask], -1)
        kl += float((p.exp() * (p - q)).sum())
        equal.append(q.argmax(-1) == p.argmax(-1))
        sure.append(p.amax(-1).exp() >= SURE)
        largest = max(largest, float((p - q).abs().max()))
    same, certain = torch.cat(equal), torch.cat(sure)
    positions, count = len(same), int(certain.sum())
    sure_top1 = float(same[certain].float().mean()) if count else 1.0
    return Agreement(other, largest, kl / positions, float(same.float().mean()), sure_top1, positions, count, bounds)


def _side_by_side(config: Any, sides: list[Side], audit: WeightAudit, on_module: Callable[[int, int], None]) -> Any:
    """The skeleton with every module that has weights replaced by one that runs all sides."""
    model = skeleton(config)
    aliases = _tied(model)
    weighted = {name for name, part in model.named_modules() if _has(part.parameters(recurse=False))}
    progress = _Progress(len(weighted), on_module)
    for name, part in list(model.named_modules()):
        if name in weighted:
            if _has(part.children()):
                raise FlanliteError(f"The check cannot run {type(part).__name__}.", "Merge with --no-check.")
            model.set_submodule(name, _SideBySide(name, part, sides, audit, aliases, progress))
        elif _has(part.buffers(recurse=False)):
            # Position encodings are computed from the config, and on the meta device they were not.
            model.set_submodule(name, type(part)(config))
    return model


def _tied(model: Any) -> dict[str, str]:
    """{head weight: embedding weight} of a model whose checkpoint leaves the tied one out, else nothing."""
    if not model.config.tie_word_embeddings:
        return {}
    names = {id(part): name for name, part in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return {f"{names[id(head)]}.weight": f"{names[id(embedding)]}.weight"}


@dataclass
class _Progress:
    total: int
    tell: Callable[[int, int], None]
    done: int = 0

    def step(self) -> None:
        self.done += 1
        self.tell(self.done, self.total)


class _SideBySide(nn.Module):
    """A module of the skeleton, run with each side's weights on that side's rows of the batch, in float32."""

    def __init__(
        self,
        name: str,
        inner: Any,
        sides: list[Side],
        audit: WeightAudit,
        aliases: Mapping[str, str],
        progress: _Progress,
    ) -> None:
        super().__init__()
        self.name = name
        self.inner = inner
        self.sides = sides
        self.audit = audit
        self.progress = progress
        self.in_blocks = type(inner) in (nn.Linear, nn.Embedding)
        self.shape = tuple(inner.weight.shape) if self.in_blocks else ()
        self.stored = {key: aliases.get(f"{name}.{key}", f"{name}.{key}") for key, _ in inner.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        """[sides * rows, ...] -> [sides * rows, ...]."""
        parts = x.chunk(len(self.sides))
        # The trained side comes alone, and after the others: two sides' weights are in memory at most.
        outputs = self._run(self.sides[:2], parts[:2], self.audit) + self._run(self.sides[2:], parts[2:], None)
        self.progress.step()
        return torch.cat(outputs)

    def _run(self, sides: list[Side], parts: Sequence[Tensor], audit: WeightAudit | None) -> list[Tensor]:
        small = [name for name in self.stored if not (name == "weight" and self.in_blocks)]
        loaded = [{key: side.weights.load(self.stored[key]) for key in small} for side in sides]
        if audit:
            for key in small:
                audit.add(self.stored[key], loaded[0][key], loaded[1][key], None)
        tensors = [{key: tensor.float() for key, tensor in one.items()} for one in loaded]
        if not self.in_blocks:
            calls = zip(tensors, parts, strict=True)
            return [torch.func.functional_call(self.inner, own, (part,)) for own, part in calls]
        outputs = self._run_in_blocks(sides, parts, audit)
        for side, own, part, output in zip(sides, tensors, parts, outputs, strict=True):
            if "bias" in own:
                output.add_(own["bias"])
            if side.adapter and self.name in side.adapter.modules:
                output.add_(side.adapter.apply(self.name, part))
        return outputs

    def _run_in_blocks(self, sides: list[Side], parts: Sequence[Tensor], audit: WeightAudit | None) -> list[Tensor]:
        """A linear layer or an embedding without the rest: its weight may be too large to load whole."""
        outputs = [self._empty_output(part) for part in parts]
        for rows in row_blocks(self.shape):
            loaded = [side.weights.load(self.stored["weight"], rows) for side in sides]
            if audit:
                adapter = sides[1].adapter
                changed = adapter is not None and self.name in adapter.modules
                delta = adapter.delta(self.name, rows) if adapter and changed else None
                audit.add(self.stored["weight"], loaded[0], loaded[1], delta)
                del delta
            fill = _look_up if isinstance(self.inner, nn.Embedding) else _multiply
            for weight, part, output in zip(loaded, parts, outputs, strict=True):
                fill(weight, rows.start, part, output)
        return outputs

    def _empty_output(self, part: Tensor) -> Tensor:
        shape = (
            (*part.shape, self.shape[1]) if isinstance(self.inner, nn.Embedding) else (*part.shape[:-1], self.shape[0])
        )
        return torch.empty(shape, dtype=torch.float32)


def _multiply(weight: Tensor, start: int, x: Tensor, output: Tensor) -> None:
    """Writes x [..., in] times the rows `start`... of a weight, in float32, to those columns of [..., out]."""
    for rows in row_blocks(weight.shape, PIECE_ELEMENTS):
        output[..., start + rows.start : start + rows.stop] = functional.linear(x, weight[rows].float())


def _look_up(weight: Tensor, start: int, ids: Tensor, output: Tensor) -> None:
    """Writes the embeddings of those ids [...] that the rows `start`... of a table hold to the output [..., width]."""
    here = (ids >= start) & (ids < start + weight.shape[0])
    output[here] = weight[ids[here] - start].float()


def _has(items: Iterator[object]) -> bool:
    return next(items, None) is not None
