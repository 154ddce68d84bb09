"""The memory of the card: how much was taken, whether it was what ran out, and getting it back."""

from __future__ import annotations

import gc
import sys
import traceback

import torch

RAN_OUT = ("out of memory", "alloc_failed", "cublas_status_not_initialized")
"""What CUDA, its drivers and Triton say, and cuBLAS and cuDNN, where torch's own allocator was not asked.

cuBLAS cannot be initialised without room for its workspace.
"""

PINNING = ("pack_to_cpu", "pin_memory")
"""The functions of torch that ask for page-locked memory, which CUDA refuses in the words it has for the card's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says, in whichever library's words, that the card's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or (_says_so(error) and not _is_pinning(error))


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether it was the computer's own memory that did not suffice: taking less of the card would not mend that."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return True
    return not isinstance(error, torch.OutOfMemoryError) and _says_so(error) and _is_pinning(error)


def _says_so(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in RAN_OUT)


def _is_pinning(error: BaseException) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code.co_name in PINNING


def free_memory() -> None:
    """Give back what nothing refers to any more, and what torch keeps of it for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory_bytes() -> int:
    """The most memory so far: what torch held of the card where there is one, else what the process took."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
