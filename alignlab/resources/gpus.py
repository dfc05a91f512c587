"""GPUs: memory, peak operations and memory bandwidth, as their makers publish them (dense, without sparsity)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GPU:
    """A GPU.

    name:      as in `alignlab plan --gpu`.
    gib:       memory, GiB.
    flops:     peak operations per second on 16-bit matrices with sums in float32.
    bandwidth: of its memory, bytes per second.
    """

    name: str
    gib: float
    flops: float
    bandwidth: float


# NVIDIA's data sheets of the T4, A10, L4, L40S, A100, H100 (SXM), H200 (SXM), B200, and the GeForce RTX 3090 and 4090
# (white papers of the Ampere GA102 and Ada architectures, appendix A).
GPUS: dict[str, GPU] = {
    gpu.name: gpu
    for gpu in (
        GPU("t4", 16, 65e12, 0.32e12),
        GPU("a10", 24, 125e12, 0.6e12),
        GPU("l4", 24, 121e12, 0.3e12),
        GPU("rtx3090", 24, 71e12, 0.936e12),
        GPU("rtx4090", 24, 165.2e12, 1.008e12),
        GPU("a100_40", 40, 312e12, 1.555e12),
        GPU("l40s", 48, 362e12, 0.864e12),
        GPU("a100_80", 80, 312e12, 2.039e12),
        GPU("h100", 80, 989e12, 3.35e12),
        GPU("h200", 141, 989e12, 4.8e12),
        GPU("b200", 180, 2250e12, 7.7e12),
    )
}

# Share of a GPU's memory that tensors can use. The rest is the driver's context, libraries, and gaps between blocks.
USABLE = 0.9
