"""What Python needs on the dry card: Python imports this at its start, before all else.

Kernels do nothing there, so what is computed on the card has the right size and no value. Sizes and branches depend on
whole numbers: lengths, positions, masks, and counts, which a division makes single floats of. These are computed here,
by torch's operations for the CPU, in the very memory of the card, which is the host's. All other floats on the card are
ones to whoever looks at them.
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

WHOLE = {torch.bool, torch.int8, torch.int16, torch.int32, torch.int64}
"""Not uint8, in which weights of 4 bits and states of 8 bits lie."""

ANSWERS = {
    "_local_scalar_dense", "equal", "nonzero", "masked_select", "repeat_interleave", "bincount", "unique_dim",
    "unique_consecutive", "_unique2",
}  # fmt: skip
"""Operations that return a value, or whose output is as long as values say."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}

SHAPING = {"set_", "resize_"}
"""They change what a tensor's memory is, and no value in it."""

CARD = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


def is_on_card(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_cuda


def is_computed(tensor: torch.Tensor) -> bool:
    return tensor.dtype in WHOLE or (tensor.is_floating_point() and tensor.numel() == 1)


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the CPU in the memory of one on the card."""
    if tensor.numel() == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    elements = 1 + sum((size - 1) * stride for size, stride in steps)
    memory = (ctypes.c_byte * (elements * tensor.itemsize)).from_address(tensor.data_ptr())
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())


def seen(arguments: Any) -> Any:
    """Arguments as the CPU is to see them."""

    def see(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not is_on_card(value):
            return value
        return on_host(value) if is_computed(value) else torch.ones((), dtype=value.dtype).expand(value.shape)

    return tree_map(see, arguments)


def to_card(result: Any) -> Any:
    return tree_map(lambda value: value.cuda() if isinstance(value, torch.Tensor) else value, result)


def places(index: torch.Tensor | None) -> list[torch.Tensor | None]:
    """An index with the places that a mask lets through in its place."""
    if index is None or index.dtype is not torch.bool:
        return [index]
    return list(to_card(seen(index).nonzero().unbind(1)))


class WholeNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes whole numbers on the card, after the operation itself has taken its memory there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        takes_card = any(map(is_on_card, tree_leaves((args, kwargs))))
        if takes_card and is_made_of_others(func):
            with self:
                # Those of unsloth and bitsandbytes: their code for cards. torch's: what they stand for.
                return func.decompose(*args, **kwargs) if is_torchs(func) else func.redispatch(CARD, *args, **kwargs)
        if takes_card and name in ANSWERS:
            return to_card(func(*seen(args), **seen(kwargs)))
        if takes_card and name in INDEXING:
            args = (args[0], [place for index in args[1] for place in places(index)], *args[2:])
        made = func(*args, **kwargs)
        outputs = [each for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        if (takes_card or any(map(is_on_card, outputs))) and not func.is_view and name not in SHAPING:
            fill(outputs, func, args, kwargs)
        return made


def is_torchs(func: Any) -> bool:
    return bool(func.namespace == "aten")


def is_made_of_others(func: Any) -> bool:
    """Whether an operation runs others, which are to come by one by one."""
    if not is_torchs(func):
        return True
    has_kernel_for = partial(torch._C._dispatch_has_kernel_for_dispatch_key, func.name())
    return has_kernel_for("CompositeImplicitAutograd") and not has_kernel_for("CUDA")


def fill(outputs: list[torch.Tensor], func: Any, args: Any, kwargs: Any) -> None:
    """Give the outputs their values, or, where they have none and are for the CPU, ones."""
    if outputs and all(map(is_computed, outputs)):
        for output, value in zip(outputs, tree_leaves(func(*seen(args), **seen(kwargs))), strict=True):
            seen(output).copy_(value)
    else:
        for output in outputs:
            if not output.is_cuda and output.is_floating_point():
                output.fill_(1)


def leave_out_kernels_of_triton() -> None:
    """Triton would compile them for a card that it asks more than the dry one knows."""
    try:
        from triton.runtime.jit import KernelInterface  # type: ignore[import-not-found]
    except ImportError:
        return
    KernelInterface.__getitem__ = lambda kernel, grid: lambda *_, **__: None


WholeNumbers().__enter__()  # type: ignore[no-untyped-call]
leave_out_kernels_of_triton()
