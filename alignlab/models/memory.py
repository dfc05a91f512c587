"""Recognises errors that mean that memory ran out."""

from __future__ import annotations

import torch


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the machine has too little memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)  # other devices and the CPU's allocator raise plain RuntimeErrors
    return isinstance(error, RuntimeError) and ("out of memory" in text or "DefaultCPUAllocator" in text)
