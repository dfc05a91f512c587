"""AdamW with 8-bit moments, Dettmers et al. 2022, https://arxiv.org/abs/2110.02861, from bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.checks import installed
from alignlab.errors import Problem
from alignlab.optim.adamw import AdamW


@dataclass(kw_only=True)
class AdamW8bit(AdamW):
    """bitsandbytes.optim.AdamW8bit: 2 bytes of moments per parameter instead of 8, rounded in blocks of 256 elements.

    Tensors of fewer than 4096 elements, such as those of a small adapter, keep 32-bit moments.

    paged: whether moments move to CPU memory when the GPU's memory is full (Dettmers et al. 2023,
           https://arxiv.org/abs/2305.14314, section 3). This does not change the results.
    """

    paged: bool = False

    moments: ClassVar[tuple[str, ...] | None] = (
        None  # they are rounded in blocks, and a block could span several models
    )

    works_on_parts: ClassVar[bool] = False

    def missing(self) -> Iterator[Problem]:
        yield from installed("", "adamw_8bit", "bitsandbytes", extra="gpu")

    def state_bytes(self, item: int) -> float:
        """Two moments of one byte, and a float32 factor of each moment for 256 elements."""
        return 2 * (1 + 4 / 256)

    def build(self, parameters: Any) -> Any:
        from bitsandbytes import optim

        kind = optim.PagedAdamW8bit if self.paged else optim.AdamW8bit
        return kind(
            parameters, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=self.weight_decay
        )
