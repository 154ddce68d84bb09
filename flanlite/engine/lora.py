"""A LoRA adapter in peft's format, read module by module: what a merge adds to a base and what training applied."""

import math
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from flanlite.engine.weights import ALL_ROWS, Weights, read_json
from flanlite.errors import FlanliteError

COPY_AGAIN = "Copy the run's folder again, with every file in it."
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# Each of these changes what an adapter means; a value other than these is refused rather than merged wrongly.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None, {}),
    "kasa_config": (None, {}),
    "monteclora_config": (None, {}),
}


class Adapter:
    """The LoRA pairs of an adapter folder: A [r, in] and B [out, r] for every module, and the one scale.

    The effect on a module is x -> (x A^T) B^T * scale, on its weight W -> W + (B A) * scale, with scale alpha / r, or
    alpha / sqrt(r) for rank-stabilised LoRA. Raises FlanliteError when files are missing or broken, when the adapter is
    more than plain LoRA, or when it holds a tensor that belongs to no pair.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "adapter_model.safetensors"
        config = read_json(folder / "adapter_config.json")
        for key, plain in PLAIN.items():
            if key in config and config[key] not in plain:
                raise FlanliteError(
                    f"The adapter has {key} = {config[key]!r}, which a merge does not support.", "Tune with plain LoRA."
                )
        self.base_name = str(config.get("base_model_name_or_path") or "")
        try:
            rank, alpha = int(config["r"]), float(config["lora_alpha"])
        except (KeyError, TypeError, ValueError) as error:
            raise FlanliteError(f"{folder} names no rank or no scale in adapter_config.json.", COPY_AGAIN) from error
        self.scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        self.shapes = self._read_shapes()
        self.modules = sorted({module for module, _ in self.shapes})
        self._check_pairs(rank)

    def _read_shapes(self) -> dict[tuple[str, str], tuple[int, ...]]:
        shapes = {}
        try:
            self.file.open("rb").close()  # tells why a file cannot be opened, which safetensors does not
            with safe_open(self.file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - a safetensors file cannot be iterated over
                    match = KEY.fullmatch(key)
                    if not match:
                        raise FlanliteError(
                            f"The adapter holds {key}, which is no part of a LoRA pair.", "Tune with plain LoRA."
                        )
                    shapes[match["module"], match["factor"]] = tuple(tensors.get_slice(key).get_shape())
        except OSError as error:
            raise FlanliteError(f"{self.file} cannot be read: {error.strerror}.", COPY_AGAIN) from error
        except SafetensorError as error:
            raise FlanliteError(f"{self.file} is not a whole safetensors file: {error}.", COPY_AGAIN) from error
        return shapes

    def _check_pairs(self, rank: int) -> None:
        for module in self.modules:
            a, b = self.shapes.get((module, "A"), ()), self.shapes.get((module, "B"), ())
            if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
                raise FlanliteError(
                    f"The adapter's pair for {module} is A {list(a)}, B {list(b)}, not [{rank}, in], [out, {rank}]."
                )

    def check_fits(self, weights: Weights) -> None:
        """Raises FlanliteError unless every pair has a weight of its shape in the base."""
        for module in self.modules:
            shape = weights.shapes.get(f"{module}.weight")
            fitting = (self.shapes[module, "B"][0], self.shapes[module, "A"][1])
            if shape != fitting:
                found = f"whose shape in the base is {list(shape)}" if shape else "which the base does not have"
                raise FlanliteError(
                    f"The adapter changes {module} as {list(fitting)}, {found}.",
                    f"It was tuned on {self.base_name or 'another base'}.",
                )

    def delta(self, module: str, rows: slice = ALL_ROWS) -> Tensor:
        """What a merge adds to the module's weight: float32 [out, in], or some rows of it."""
        a, b = self._factors(module)
        return (b[rows] @ a).mul_(self.scale)

    def apply(self, module: str, x: Tensor) -> Tensor:
        """What the adapter adds to the module's output, as in training: float32 x [..., in] -> [..., out]."""
        a, b = self._factors(module)
        return ((x @ a.T) @ b.T).mul_(self.scale)

    def _factors(self, module: str) -> tuple[Tensor, Tensor]:
        prefix = f"base_model.model.{module}.lora_"
        with safe_open(self.file, framework="pt") as tensors:
            return tensors.get_tensor(f"{prefix}A.weight").float(), tensors.get_tensor(f"{prefix}B.weight").float()
