"""What running out of memory looks like."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory for what was tried."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)
