"""What running out of memory looks like."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory for what was tried."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)  # what other devices and the CPU's allocator raise are plain RuntimeErrors
    return isinstance(error, RuntimeError) and ("out of memory" in said or "DefaultCPUAllocator" in said)
