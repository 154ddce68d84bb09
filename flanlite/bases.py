"""The base models by name: where their weights are, which template they speak, and how many bytes they take.

Nothing here imports torch or touches the network; `flanlite.hub` fetches what this table names.

Where the names come from
-------------------------
- 4-bit copies: the table of unsloth 2026.10.7, unsloth/models/mapper.py (Apache-2.0), which pairs each of them with
  its 16-bit original. Where it lists none (13B-chat, 70B-chat, Agent-FLAN-7B) the 16-bit weights are quantised on load.
  The plain `-bnb-4bit` copies are meant, not `-unsloth-bnb-4bit`, which leave some layers in 16 bits.
- Copies of gated models that ask for no licence click: NousResearch/Llama-2-{7b,13b,70b}-chat-hf (their hub pages, and
  the supported-models lists of several inference projects) and unsloth/Llama-3.2-*, unsloth/mistral-7b-instruct-v0.3
  (the same mapper.py). The licence of the original still binds the user.
- Shapes: the config.json of each model. Their parameter counts are checked in the tests against the published ones.
- Qwen/Qwen3-0.6B stores its tied output head a second time (1.5 GB on its hub page where 1.2 GB would do).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from flanlite.errors import FlanliteError

PACKAGE_DIR = Path(__file__).parent

# bitsandbytes, double quantisation: one absmax for 64 weights, itself stored in 8 bits and scaled in blocks of 256.
NF4_BLOCK = 64
ABSMAX_BLOCK = 256
# Beside each matrix lie the 16 values of nf4, the 256 of the absmax code (float32) and a JSON of about 170 bytes.
NF4_TABLES_BYTES = 16 * 4 + 256 * 4 + 170


@dataclass(frozen=True)
class Shape:
    """The dimensions of a decoder of the Llama family, enough to count its parameters exactly."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = False
    head_dim: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if not self.head_dim:
            object.__setattr__(self, "head_dim", self.hidden // self.heads)

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of the seven linear maps of one layer: q, k, v, o, gate, up, down."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = ((q, self.hidden), (kv, self.hidden), (kv, self.hidden), (self.hidden, q))
        mlp = ((self.intermediate, self.hidden), (self.intermediate, self.hidden), (self.hidden, self.intermediate))
        return attention + mlp

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers' linear maps: what 4-bit quantisation shrinks and LoRA adapts (the head is neither)."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the output head where it is a matrix of its own."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights, each counted once."""
        norms = (2 * self.layers + 1) * self.hidden + (2 * self.head_dim * self.layers if self.qk_norm else 0)
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim * self.layers if self.qkv_bias else 0
        return self.linear_parameters + self.embedding_parameters + norms + biases

    def lora_parameters(self, rank: int) -> int:
        """Weights of two matrices of this rank on every linear map."""
        return self.layers * sum(rank * (rows + columns) for rows, columns in self.matrices)

    @property
    def bytes_16bit(self) -> int:
        """Bytes of all tensors in float16 or bfloat16, without the file's own header (some 30 kB)."""
        return 2 * self.parameters

    @property
    def bytes_4bit(self) -> int:
        """Bytes of all tensors in nf4 with double quantisation, embeddings, head and norms in 16 bits."""
        packed = 0
        for rows, columns in self.matrices:
            blocks = math.ceil(rows * columns / NF4_BLOCK)
            packed += math.ceil(rows * columns / 2) + blocks + 4 * math.ceil(blocks / ABSMAX_BLOCK) + NF4_TABLES_BYTES
        return self.layers * packed + 2 * (self.parameters - self.linear_parameters)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Shape | None:
        """The shape a config.json declares; None for an architecture whose parameters are not counted here.

        Raises ValueError or TypeError where its numbers are none.
        """
        model_type = config.get("model_type")
        known = model_type in ("llama", "mistral", "qwen2", "qwen3", "internlm")
        is_whole = all(config.get(key) for key in SIZES)
        if not known or not is_whole or any(config.get(key) for key in ("attention_bias", "mlp_bias", "bias")):
            return None
        layers, hidden, intermediate, heads, vocab = (int(config[key]) for key in SIZES)
        if min(layers, hidden, intermediate, heads, vocab) < 1:
            raise ValueError("a size is below 1")
        return cls(
            layers=layers,
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            vocab=vocab,
            tied=bool(config.get("tie_word_embeddings", False)),
            head_dim=int(config.get("head_dim") or 0),
            qkv_bias=model_type == "qwen2",
            qk_norm=model_type == "qwen3",
        )


@dataclass(frozen=True)
class Base:
    """A base model: either a `folder` on this machine or a `repo` on the hub (16-bit), never both."""

    name: str
    repo: str | None = None
    repo_4bit: str | None = None
    folder: Path | None = None
    template: Literal["llama2", "agent-flan"] | None = None  # None: the tokenizer's own chat template
    context_length: int | None = None  # tokens; None until the config has been read
    shape: Shape | None = None  # None until the config has been read, or for an architecture not counted here
    weights: Literal["safetensors", "bin"] = "safetensors"
    gated: bool = False  # whether `repo` itself asks for a licence click
    original: str | None = None  # the publisher's own repository, where `repo` is a copy of it
    ungated: str | None = None  # the copy that asks for no licence click, where `repo` is the gated original
    head_stored: bool = False  # whether the 16-bit files hold a tied output head a second time

    def __post_init__(self) -> None:
        if (self.repo is None) == (self.folder is None):
            raise ValueError(f"base {self.name} needs either a repo or a folder")

    @property
    def where(self) -> str:
        """The hub name or the folder, for messages and run records."""
        return self.repo or str(self.folder)

    @property
    def known_shape(self) -> Shape:
        """The shape, for callers that cannot do without; raises FlanliteError where it is not known."""
        if self.shape is None:
            raise FlanliteError(
                f"The size of {self.name} is not known.",
                "flanlite counts the parameters of Llama, Mistral, Qwen2 and Qwen3 models: pick one of those.",
            )
        return self.shape

    @property
    def parameters(self) -> int:
        return self.known_shape.parameters

    @property
    def bytes_16bit(self) -> int:
        """Bytes of the 16-bit weights as they lie in the repository."""
        doubled = self.known_shape.embedding_parameters if self.head_stored else 0
        return self.known_shape.bytes_16bit + 2 * doubled

    @property
    def bytes_4bit(self) -> int:
        """Bytes of the nf4 weights: the 4-bit repository's, or what quantising on load leaves in memory."""
        return self.known_shape.bytes_4bit

    def with_config(self, config: dict[str, Any]) -> Base:
        """This base with what its config.json says filled in; what the table says stays.

        Raises FlanliteError where it says nothing that can be read.
        """
        try:
            if not isinstance(config, dict):
                raise TypeError("it holds no keys")
            context_length = self.context_length or int(config.get("max_position_embeddings") or 0) or None
            return replace(self, shape=self.shape or Shape.from_config(config), context_length=context_length)
        except (TypeError, ValueError) as error:
            raise FlanliteError(
                f"The config.json of {self.name} describes no model: {error}.", "Copy or download it again."
            ) from error


LLAMA2_7B = Shape(32, 4096, 11008, 32, 32, 32000)
MISTRAL_7B = Shape(32, 4096, 14336, 32, 8, 32768)

_TABLE = (
    Base(
        "llama2-7b-chat",
        "NousResearch/Llama-2-7b-chat-hf",
        "unsloth/llama-2-7b-chat-bnb-4bit",
        template="llama2",
        context_length=4096,
        shape=LLAMA2_7B,
        original="meta-llama/Llama-2-7b-chat-hf",
    ),
    Base(
        "llama2-13b-chat",
        "NousResearch/Llama-2-13b-chat-hf",
        template="llama2",
        context_length=4096,
        shape=Shape(40, 5120, 13824, 40, 40, 32000),
        original="meta-llama/Llama-2-13b-chat-hf",
    ),
    Base(
        "llama2-70b-chat",
        "NousResearch/Llama-2-70b-chat-hf",
        template="llama2",
        context_length=4096,
        shape=Shape(80, 8192, 28672, 64, 8, 32000),
        original="meta-llama/Llama-2-70b-chat-hf",
    ),
    Base(
        "agent-flan-7b",
        "internlm/Agent-FLAN-7b",
        template="agent-flan",
        context_length=8192,
        shape=LLAMA2_7B,
        weights="bin",
    ),
    Base(
        "qwen2.5-0.5b-instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "unsloth/Qwen2.5-0.5B-Instruct-bnb-4bit",
        context_length=32768,
        shape=Shape(24, 896, 4864, 14, 2, 151936, tied=True, qkv_bias=True),
    ),
    Base(
        "qwen2.5-1.5b-instruct",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "unsloth/Qwen2.5-1.5B-Instruct-bnb-4bit",
        context_length=32768,
        shape=Shape(28, 1536, 8960, 12, 2, 151936, tied=True, qkv_bias=True),
    ),
    Base(
        "qwen2.5-7b-instruct",
        "Qwen/Qwen2.5-7B-Instruct",
        "unsloth/Qwen2.5-7B-Instruct-bnb-4bit",
        context_length=32768,
        shape=Shape(28, 3584, 18944, 28, 4, 152064, qkv_bias=True),
    ),
    Base(
        "qwen3-0.6b",
        "Qwen/Qwen3-0.6B",
        "unsloth/Qwen3-0.6B-bnb-4bit",
        context_length=40960,
        shape=Shape(28, 1024, 3072, 16, 8, 151936, tied=True, head_dim=128, qk_norm=True),
        head_stored=True,
    ),
    Base(
        "qwen3-4b-instruct",
        "Qwen/Qwen3-4B-Instruct-2507",
        "unsloth/Qwen3-4B-Instruct-2507-bnb-4bit",
        context_length=262144,
        shape=Shape(36, 2560, 9728, 32, 8, 151936, tied=True, head_dim=128, qk_norm=True),
    ),
    Base(
        "llama3.2-1b-instruct",
        "unsloth/Llama-3.2-1B-Instruct",
        "unsloth/Llama-3.2-1B-Instruct-bnb-4bit",
        context_length=131072,
        shape=Shape(16, 2048, 8192, 32, 8, 128256, tied=True),
        original="meta-llama/Llama-3.2-1B-Instruct",
    ),
    Base(
        "llama3.2-3b-instruct",
        "unsloth/Llama-3.2-3B-Instruct",
        "unsloth/Llama-3.2-3B-Instruct-bnb-4bit",
        context_length=131072,
        shape=Shape(28, 3072, 8192, 24, 8, 128256, tied=True),
        original="meta-llama/Llama-3.2-3B-Instruct",
    ),
    Base(
        "mistral-7b-instruct",
        "unsloth/mistral-7b-instruct-v0.3",
        "unsloth/mistral-7b-instruct-v0.3-bnb-4bit",
        context_length=32768,
        shape=MISTRAL_7B,
        original="mistralai/Mistral-7B-Instruct-v0.3",
    ),
)

BASES: dict[str, Base] = {
    "tiny": Base("tiny", folder=PACKAGE_DIR / "tiny" / "base"),
    **{base.name: base for base in _TABLE},
}

SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
"""What a config.json has to tell before its model's parameters can be counted."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(name_or_path: str | Path) -> Base:
    """The base meant by a name of the table, a folder with a config.json, or any `organisation/model` of the hub.

    A folder wins over a hub name that reads the same. Raises FlanliteError for anything else, naming the nearest.
    """
    name = str(name_or_path)
    if name.lower() in BASES:
        base = BASES[name.lower()]
        return base if base.folder is None else _from_folder(base)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(Base(name, folder=folder.resolve()))
    if HUB_NAME.fullmatch(name) and not name.startswith("."):
        return _from_hub_name(name)
    raise _unknown(name)


def _from_hub_name(name: str) -> Base:
    for base in BASES.values():
        if name.lower() == (base.repo or "").lower():
            return base
        if name.lower() == (base.original or "").lower():
            return replace(base, name=name, repo=base.original, original=None, gated=True, ungated=base.repo)
        if name.lower() == (base.repo_4bit or "").lower():
            return base
    return Base(name, repo=name)


def _from_folder(base: Base) -> Base:
    """`base` with its folder's config.json read; absolute, since a relative path can read like a hub name."""
    assert base.folder is not None
    if (base.folder / "adapter_config.json").is_file():
        raise FlanliteError(
            f"{base.folder} holds an adapter, not a base model.",
            "Give the base it was trained on (adapter_config.json names it), or merge it first: flanlite merge.",
        )
    try:
        config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "A base folder holds config.json, *.safetensors and the tokenizer's files."
        raise FlanliteError(f"{base.folder} holds no config.json.", hint) from None
    except ValueError as error:
        raise FlanliteError(f"{base.folder / 'config.json'} is not JSON: {error}.", "Copy the folder again.") from error
    known = base.with_config(config)
    pickled = config.get("model_type") == "internlm" and not list(base.folder.glob("model*.safetensors"))
    return replace(known, weights="bin" if pickled else "safetensors")


def _unknown(name: str) -> FlanliteError:
    names = ", ".join(BASES)
    if any(mark in name for mark in ("/", "\\")) or name.startswith((".", "~")):
        return FlanliteError(
            f"There is no folder {name}, and it is not a hub name either.",
            f"Give a folder with a config.json, a hub name (organisation/model), or one of: {names}.",
        )
    nearest = get_close_matches(name.lower(), BASES, n=1, cutoff=0.4)
    guess = f"Did you mean {nearest[0]}? " if nearest else ""
    return FlanliteError(
        f"There is no base called {name!r}.",
        f"{guess}The names are: {names}; a folder or a hub name (organisation/model) will do too.",
    )
