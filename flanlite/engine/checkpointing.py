"""Which layers of a model keep their activations, and which keep their input alone and recompute the rest.

Results do not depend on it: a recomputed layer computes what it computed before, dropout included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from flanlite.engine.device import Machine
from flanlite.recipe import Recipe


def lay_out(model: Any, recipe: Recipe, machine: Machine) -> None:
    """Let the model's layers keep, recompute or offload as the recipe's setup says; it can be done again and again.

    More kept layers than there are means all of them.
    """
    if machine.backend == "unsloth":
        _lay_out_with_unsloth(model, recipe, machine)
        return
    layers = decoder_layers(model)
    kept = kept_indices(len(layers), recipe.setup.kept_layers)
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index not in kept
        layer._gradient_checkpointing_func = _recompute_from_host if recipe.setup.offload else _recompute


def decoder_layers(model: Any) -> list[Any]:
    """The layers that a model repeats, first to last."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def kept_indices(layers: int, kept: int) -> frozenset[int]:
    """Which of the layers are kept: evenly spaced, and the last one first of all.

    The last layer's activations are the first to be needed, so they are held for the shortest time.
    """
    count = min(kept, layers)
    return frozenset((number + 1) * layers // count - 1 for number in range(count))


def _recompute(layer: Callable[..., Any], *inputs: Any) -> Any:
    return checkpoint(layer, *inputs, use_reentrant=False)


def _recompute_from_host(layer: Callable[..., Any], *inputs: Any) -> Any:
    """As `_recompute`; between forward and backward the inputs lie in the computer's memory."""
    with save_on_cpu(pin_memory=True):
        return _recompute(layer, *inputs)


def _lay_out_with_unsloth(model: Any, recipe: Recipe, machine: Machine) -> None:
    """unsloth marks the layers that keep, in the same spacing; its trainer sets every flag that is not marked."""
    from unsloth.models import _utils as unsloth_layers
    from unsloth_zoo.gradient_checkpointing import reset_unsloth_gradient_checkpointing_buffers

    for layer in decoder_layers(model):
        vars(layer).pop("_unsloth_skip_checkpoint", None)
    unsloth_layers.skip_checkpointing(model, recipe.setup.kept_layers)
    mode = unsloth_layers.apply_unsloth_gradient_checkpointing(
        unsloth_mode(recipe), recipe.row_tokens, machine.torch_dtype
    )
    model._unsloth_gradient_checkpointing = mode
    if mode == "unsloth":
        # It counts the recomputed layers in the first step, and a step that failed has left the count halfway.
        reset_unsloth_gradient_checkpointing_buffers()


def unsloth_mode(recipe: Recipe) -> bool | str:
    """unsloth's name for how the layers that do not keep are recomputed; never off, so that it can be changed later."""
    return "unsloth" if recipe.setup.offload else True
