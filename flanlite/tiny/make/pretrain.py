"""Pre-trains the base on made-up conversations, from a seed, on a CPU.

Matrices are trained by Muon and the rest by AdamW; bf16 autocast; every assistant token counts fully and the prompt's
a quarter. A checkpoint is written every few minutes, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from flanlite.tiny.make.dialogues import Dialogue, pretraining_dialogues

PROMPT_WEIGHT = 0.25
POOL = 512
MUON_LR = 0.003
ADAM_LR = 3e-4
WEIGHT_DECAY = 0.1
ROPE_THETA = 500_000.0
HELD_OUT_SEED = 987_654_321


@dataclass(frozen=True)
class Schedule:
    """How long to train: the rate rises over the first steps, stays, and falls to zero over the last part."""

    seconds: float
    batch_tokens: int = 4096
    warmup_steps: int = 30
    decay_fraction: float = 0.4
    checkpoint_s: float = 180.0

    def rate(self, step: int, elapsed_s: float) -> float:
        left = max(0.0, 1.0 - elapsed_s / self.seconds)
        return min(1.0, (step + 1) / self.warmup_steps, left / self.decay_fraction + 0.01)


def new_model(vocabulary: int) -> LlamaForCausalLM:
    """Sizes are multiples of 64, as NF4 needs."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )  # fmt: skip
    return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


@torch.no_grad()
def start_with_copying(model: LlamaForCausalLM) -> None:
    """Sets three heads by hand so that the model can copy before it has learnt anything.

    A head of the first layer looks at the token before and notes which it was; two heads of the second look for the
    place whose note is the present token, and bring the token that stands there: "the word after this one, last time".
    Models of this size find that pair of heads by themselves, but only after millions of tokens. The hidden space is
    a constant direction, 64 for notes and 191 for tokens, turned at random so that no weight stands alone in its
    block of NF4.
    """
    turned = torch.linalg.qr(torch.randn(256, 256)).Q.T
    constant, notes, tokens = turned[0], turned[1:65], turned[65:]
    embedding = torch.randn(model.config.vocab_size, 191) / 191**0.5
    model.model.embed_tokens.weight.copy_(embedding @ tokens + 0.8 * constant)
    scale = 16 / 1.64**0.5
    frequencies = ROPE_THETA ** (-torch.arange(32) / 32)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    first, second = (model.model.layers[index].self_attn for index in (0, 1))
    here, before = torch.zeros(64), torch.zeros(64)
    here[:10], before[:10], before[32:42] = 1, frequencies[:10].cos(), frequencies[:10].sin()
    gain = 100**0.5 / (0.8 * scale)
    first.q_proj.weight[:64] = gain * here.outer(constant)
    first.k_proj.weight[:64] = gain * before.outer(constant)
    first.v_proj.weight[:64] = tokens[:64]
    first.o_proj.weight[:, :64] = 1.5 / scale * notes.T
    slow = torch.cat([torch.arange(16, 32), torch.arange(48, 64)])
    for head in (0, 1):
        rows, seen = slice(64 * head, 64 * head + 64), slice(32 * head, 32 * head + 32)
        turn = torch.linalg.qr(torch.randn(32, 32)).Q
        second.q_proj.weight[rows], second.k_proj.weight[rows] = 0, 0
        second.q_proj.weight[slow + 64 * head] = 2.4 * turn @ tokens[seen]
        second.k_proj.weight[slow + 64 * head] = 2.4 * turn @ notes[seen]
        second.v_proj.weight[rows] = tokens[rows]
        second.o_proj.weight[:, rows] = 3 / scale * tokens[rows].T


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix updates are made orthogonal by five Newton-Schulz steps."""

    def __init__(self, matrices: list[nn.Parameter], lr: float = MUON_LR, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                buffer = state.setdefault("momentum", torch.zeros_like(matrix))
                buffer.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonal(matrix.grad.lerp(buffer, group["momentum"]))
                matrix.mul_(1 - group["lr"] * WEIGHT_DECAY)
                matrix.add_(update, alpha=-group["lr"] * max(1.0, matrix.size(0) / matrix.size(1)) ** 0.5)


def orthogonal(gradient: Tensor) -> Tensor:
    tall = gradient.size(0) > gradient.size(1)
    x = (gradient.T if tall else gradient).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        product = x @ x.T
        x = 3.4445 * x + (-4.7750 * product + 2.0315 * product @ product) @ x
    result: Tensor = (x.T if tall else x).float()
    return result


def encode(tokenizer: Tokenizer, dialogue: Dialogue) -> tuple[list[int], list[float]]:
    """Llama-2's format as ids, with a weight for each id as a target."""
    ids: list[int] = []
    weights: list[float] = []
    system = f"<<SYS>>\n{dialogue.system}\n<</SYS>>\n\n" if dialogue.system else ""
    for user, assistant in dialogue.exchanges:
        asked = [1, *tokenizer.encode(f"[INST] {system}{user} [/INST]", add_special_tokens=False).ids]
        reply = [*tokenizer.encode(f" {assistant} ", add_special_tokens=False).ids, 2]
        ids += asked + reply
        weights += [PROMPT_WEIGHT] * len(asked) + [1.0] * len(reply)
        system = ""
    return ids[:1024], weights[:1024]


def batches(tokenizer: Tokenizer, seed: int, batch_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of like length, so that little is padded and plain causal attention is enough."""
    dialogues = pretraining_dialogues(seed)
    order = torch.Generator().manual_seed(seed)
    while True:
        rows = [encode(tokenizer, dialogue) for dialogue in islice(dialogues, POOL)]
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[float]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > batch_tokens:
                groups.append([])
            groups[-1].append(row)
        for index in torch.randperm(len(groups), generator=order).tolist():
            yield padded(groups[index])


def padded(rows: list[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (length - len(row)) for _, row in rows])
    return ids, weights


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and whether each fully weighted target was the first choice.

    A weight is the chance that its target is kept: a quarter of the prompt costs a quarter of the logits.
    """
    kept = weights[:, 1:] > torch.rand_like(weights[:, 1:])
    targets, full = ids[:, 1:][kept], weights[:, 1:][kept] == 1.0
    with torch.autocast("cpu", torch.bfloat16):
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(states[kept]).float()
    loss = nn.functional.cross_entropy(logits, targets)
    return loss, (logits.argmax(-1) == targets)[full]


@torch.no_grad()
def held_out_accuracy(model: LlamaForCausalLM, tokenizer: Tokenizer) -> float:
    """The share of reply tokens of unseen conversations that are the model's first choice."""
    rights = [weighted_loss(model, *batch)[1] for batch in islice(batches(tokenizer, HELD_OUT_SEED, 8192), 8)]
    return float(torch.cat(rights).float().mean())


def pretrain(folder: Path, schedule: Schedule, seed: int, start: Path | None = None) -> None:
    """Trains from nothing, or from the weights in `start`, and writes checkpoints and the end into `folder`."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = new_model(tokenizer.get_vocab_size())
    if start is None:
        start_with_copying(model)
    else:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    adam = torch.optim.AdamW(others, ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0)
    optimizers: list[tuple[torch.optim.Optimizer, float]] = [(Muon(matrices), MUON_LR), (adam, ADAM_LR)]
    began = saved = time.monotonic()
    tokens = 0
    for step, (ids, weights) in enumerate(batches(tokenizer, seed, schedule.batch_tokens)):
        elapsed = time.monotonic() - began
        if elapsed > schedule.seconds:
            break
        loss, right = weighted_loss(model, ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, lr in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule.rate(step, elapsed)
            optimizer.step()
            optimizer.zero_grad()
        tokens += int((weights > 0).sum())
        if step % 20 == 0:
            seen = f"step {step} {tokens / 1e6:.2f}M tokens {elapsed:.0f} s {tokens / max(elapsed, 1e-9):.0f} tok/s"
            print(f"{seen} loss {loss.item():.4f} right {right.float().mean().item():.4f}", flush=True)
        if time.monotonic() - saved > schedule.checkpoint_s:
            saved = time.monotonic()
            save(model, folder)
            print(f"held-out accuracy {held_out_accuracy(model, tokenizer):.4f}", flush=True)
    save(model, folder)
    print(f"end: {tokens / 1e6:.2f}M tokens, held-out accuracy {held_out_accuracy(model, tokenizer):.4f}", flush=True)


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes bf16 safetensors; training goes on in fp32."""
    copied = new_model(model.config.vocab_size)
    copied.load_state_dict(model.state_dict())
    nn.Module.to(copied, torch.bfloat16)
    copied.config.dtype = torch.bfloat16
    copied.save_pretrained(folder)
