"""The bytes that a step takes on the card, part by part, from the base's dimensions alone.

In the formulas: H hidden size, M intermediate size, q and kv the widths of all query heads and of all key (or value)
heads, h and g their numbers, V vocabulary, r LoRA rank, T tokens of a micro-step, s bytes of the compute type.

What a kept layer saves for its backward, in bytes a token:

unsloth (fused kernels that save their inputs)
    both norms      their input 2H and output 2H, a float32 factor 4            8H + 8
    attention       Q 2q, K 2kv, V 2kv, output 2q, a float32 sum for each head  4q + 4kv + 4h
    MLP             gate and up projection; the product is computed again       4M
    norms of Q, K   their inputs and factors (Qwen3)                            2(q + kv) + 4(h + g)
    by document     the outputs of the calls once more, joined; before Ampere K and V as wide as Q
    torch varlen    the outputs once more: a row of one conversation, or of several as long, is left to SDPA
    xformers        K and V as wide as Q
    bias of Q, K, V not fused: the three products with A (Qwen2)                6r
                    and, a layer, their LoRA matrices in 16 bits
    dropout         a mask of bytes for the input of each of the seven          5H + q + M
                    beside a bias of Q, K, V what it lets through to the three  4H more
peft (transformers' own operations under autocast)
    both norms      the input in float32 4H, its factor 4, the output sH        8H + 2sH + 8
    attention       Q, K, V as wide as Q, output; a float32 sum for each head   4sq + 4h
    MLP             gate, its activation, up, their product                     4sM
    norms of Q, K   their inputs in float32, and factors                        4(q + kv) + 4(h + g)
    LoRA            the seven products with A                                   7sr
    mask            every layer's own copy in the compute type                  sT
                    and, a layer, the LoRA matrices in 16 bits
    dropout         what it lets through and a mask of bytes for each of the    (s + 1)(5H + q + M)
                    seven, in the place of their common inputs                  - s(2H + M)

A recomputed layer keeps its input, sH; the last layer is kept first of all. A micro-step has two peaks, and the higher
one counts. In the loss, all that is kept lies beside the logits and what is made of them. In the backward, the logits
are gone; one layer's activations, kept or recomputed, lie beside its gradients:

unsloth     the gradients of gate, of up or their product, and of two inputs        2M + 4H
            with dropout, the three linear layers of the MLP one by one             4M + 4H, 6M + 4H without a weight
peft        the gradients of the MLP; with dropout an input's                       2sM; sH
            behind a kept layer, its own are not gone yet                           4sH + sT

All this was compared with what torch's own allocator gave out, on the true widths of ten bases, in torch 2.11 for CUDA
with its kernels left out: unsloth 2026.10.9 took what is said here to 0.1%, peft up to 1.3% less, and unsloth in torch
2.13 up to 4.5% less. What is saved was compared with the tensors of models on a CPU. Attention by xformers and
flash-attn is reckoned from the source. What a real card adds, CUDA's own share, has not been measured yet, hence the
margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from flanlite.bases import ABSMAX_BLOCK, NF4_BLOCK, Shape
from flanlite.planning.attention import Attention
from flanlite.planning.loss import loss_bytes
from flanlite.planning.setup import Setup

CUDA_CONTEXT_BYTES = 600 * 10**6
"""What CUDA, its libraries and its kernels take beside all tensors."""

MARGIN_SHARE, MARGIN_BYTES = {"unsloth": 0.03, "peft": 0.05}, 2**27
"""Added to every prediction for what fragments, and for what no card has shown yet."""

CODE_BYTES = 4 * (16 + 256 + 1)
"""Beside each 4-bit matrix: the 16 values of nf4, the 256 of its absmax and their offset."""

LEAST_8BIT_ELEMENTS = 4096
OPTIMIZER_BLOCK = 256
"""bitsandbytes keeps the states of smaller matrices in 32 bits; of others 8 bits and a float32 a block."""

WORKSPACE_BYTES, HOPPERS_WORKSPACE_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024, 8 * 4096 * 1024
"""What torch gives cuBLAS to work in, once for the forward and once for the backward."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is trained, by which code and on which card: all that memory and time depend on beside the setup."""

    shape: Shape
    max_tokens: int
    batch_rows: int
    lora_r: int
    has_dropout: bool
    backend: Literal["unsloth", "peft"]
    dtype: Literal["bfloat16", "float16", "float32"]
    optimizer: str
    attention: Attention
    context_length: int = 0
    """What the base reads, 0 where that is not known: unsloth keeps the positions of all of it."""
    capability: tuple[int, int] = (8, 0)
    card_bytes: int = 0

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in the compute type."""
        return 4 if self.dtype == "float32" else 2

    @property
    def lora_parameters(self) -> int:
        """Trained parameters: two matrices of rank r on every linear layer."""
        return self.shape.lora_parameters(self.lora_r)


def memory_parts(work: Workload, setup: Setup) -> dict[str, int]:
    """Bytes on the card at the peak of a step, by part, margin included; what is not there at the peak is 0."""
    tokens = setup.micro_rows * work.max_tokens
    parts = weight_parts(work) | optimizer_parts(work) | activation_parts(work, setup)
    parts["buffers"] = _buffer_bytes(work)
    in_loss = {"logits and loss": loss_bytes(work, tokens)}
    in_backward = _backward_parts(work, setup)
    parts |= dict.fromkeys((*in_loss, *in_backward), 0) | max(in_loss, in_backward, key=lambda each: sum(each.values()))
    margin = round(MARGIN_SHARE[work.backend] * sum(parts.values())) + MARGIN_BYTES
    return parts | {"CUDA context": CUDA_CONTEXT_BYTES, "margin": margin}


def peak_bytes(work: Workload, setup: Setup) -> int:
    """Bytes on the card at the peak of a step: at no time should more be taken."""
    return sum(memory_parts(work, setup).values())


def weight_parts(work: Workload) -> dict[str, int]:
    """Bytes of the base and the LoRA matrices, exactly."""
    packed = constants = 0
    for rows, columns in work.shape.matrices:
        blocks = math.ceil(rows * columns / NF4_BLOCK)
        packed += math.ceil(rows * columns / 2)
        constants += blocks + 4 * math.ceil(blocks / ABSMAX_BLOCK) + CODE_BYTES
    return {
        "4-bit weights": work.shape.layers * packed,
        "their quantisation constants": work.shape.layers * constants,
        "embedding, head and norms": work.compute_bytes * (work.shape.parameters - work.shape.linear_parameters),
        "LoRA matrices": 4 * work.lora_parameters,
    }


def optimizer_parts(work: Workload) -> dict[str, int]:
    """Bytes of the LoRA matrices' gradients, and of the two moments that Adam keeps of them."""
    states = 0
    for outputs, inputs in work.shape.matrices:
        for elements in (work.lora_r * inputs, outputs * work.lora_r):
            is_8bit = "8bit" in work.optimizer and elements >= LEAST_8BIT_ELEMENTS
            states += 2 * (elements + 4 * math.ceil(elements / OPTIMIZER_BLOCK)) if is_8bit else 8 * elements
    return {"LoRA gradients": 4 * work.lora_parameters, "optimizer states": work.shape.layers * states}


def activation_parts(work: Workload, setup: Setup) -> dict[str, int]:
    """Bytes that lie between forward and backward."""
    tokens, recomputed = setup.micro_rows * work.max_tokens, work.shape.layers - setup.kept_layers
    waiting = recomputed
    if setup.offload:
        # They come back one by one: one is at work, one on its way; unsloth has two buffers for that besides.
        waiting = min(recomputed, 2) + (2 if work.backend == "unsloth" else 0)
    kept_positions = work.context_length if work.backend == "unsloth" else 0
    return {
        "activations of kept layers": setup.kept_layers * layer_bytes(work, tokens),
        "inputs of recomputed layers": waiting * _boundary_bytes(work, tokens),
        "masks and positions": _mask_bytes(work, tokens) + 4 * work.shape.head_dim * (tokens + kept_positions),
    }


def _boundary_bytes(work: Workload, tokens: int) -> int:
    """The hidden states between two layers."""
    return work.compute_bytes * work.shape.hidden * tokens


def _mask_bytes(work: Workload, tokens: int) -> int:
    return 2 * tokens**2 if work.attention == "SDPA with a mask" else 0


def _backward_parts(work: Workload, setup: Setup) -> dict[str, int]:
    """Bytes at the peak of the backward, beside what lies between it and the forward."""
    tokens, kept = setup.micro_rows * work.max_tokens, setup.kept_layers
    recomputed = 0 if kept else layer_bytes(work, tokens) - _boundary_bytes(work, tokens)
    hidden, intermediate, weight = work.shape.hidden, work.shape.intermediate, _weight_bytes(work)
    if work.backend == "peft":
        gradients = work.compute_bytes * (2 * intermediate + (hidden if work.has_dropout else 0)) * tokens
        if kept:
            gradients += 4 * work.compute_bytes * hidden * tokens + work.compute_bytes * tokens**2
    elif work.has_dropout:
        one_more = 2 * intermediate * tokens
        gradients = (4 * intermediate + 4 * hidden) * tokens + max(0, one_more - weight)
    else:
        gradients = (2 * intermediate + 4 * hidden) * tokens
    return {
        "one layer recomputed": recomputed,
        "gradients in the backward": gradients,
        "a weight in 16 bits": weight,
    }


def _weight_bytes(work: Workload) -> int:
    """The largest 4-bit matrix in the compute type, and its absmax in float32."""
    largest = max(rows * columns for rows, columns in work.shape.matrices)
    return work.compute_bytes * largest + 4 * largest // NF4_BLOCK


def _buffer_bytes(work: Workload) -> int:
    """What is taken once and kept: cuBLAS' workspaces, and where unsloth's fused LoRA unpacks all weights."""
    workspace = HOPPERS_WORKSPACE_BYTES if work.capability == (9, 0) else WORKSPACE_BYTES
    unpacked = _weight_bytes(work) if work.backend == "unsloth" and not work.has_dropout else 0
    return 2 * workspace + unpacked


def layer_bytes(work: Workload, tokens: int) -> int:
    """Bytes that one layer saves for its backward; the derivation is in this module's docstring."""
    per_token = _fused_bytes(work) if work.backend == "unsloth" else _plain_bytes(work)
    if work.attention == "SDPA with a mask":
        per_token += work.compute_bytes * tokens
    return per_token * tokens + _cast_bytes(work)


def _cast_bytes(work: Workload) -> int:
    """The LoRA matrices of one layer in 16 bits, of those linear layers that compute under autocast."""
    if work.backend == "peft":
        matrices = work.shape.matrices if work.dtype != "float32" else ()
    else:
        matrices = work.shape.matrices[:3] if work.shape.qkv_bias else ()
    return sum(2 * work.lora_r * (rows + columns) for rows, columns in matrices)


def _fused_bytes(work: Workload) -> int:
    shape = work.shape
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    total = 8 * shape.hidden + 8 + 4 * q + 4 * kv + 4 * shape.heads + 4 * shape.intermediate
    if shape.qk_norm:
        total += 2 * (q + kv) + 4 * (shape.heads + shape.kv_heads)
    if shape.qkv_bias:
        total += 6 * work.lora_r
    if work.has_dropout:
        total += 5 * shape.hidden + q + shape.intermediate + (4 * shape.hidden if shape.qkv_bias else 0)
    if work.attention in ("SDPA by document", "torch varlen"):
        total += 2 * q
    if work.attention == "xformers" or (work.attention == "SDPA by document" and work.capability < (8, 0)):
        total += 4 * (q - kv)
    return total


def _plain_bytes(work: Workload) -> int:
    shape, s = work.shape, work.compute_bytes
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    total = (8 + 2 * s) * shape.hidden + 8 + 4 * s * q + 4 * shape.heads + 4 * s * shape.intermediate
    total += 7 * s * work.lora_r
    if shape.qk_norm:
        total += 4 * (q + kv) + 4 * (shape.heads + shape.kv_heads)
    if work.has_dropout:
        total += (s + 1) * (5 * shape.hidden + q + shape.intermediate) - s * (2 * shape.hidden + shape.intermediate)
    return total
