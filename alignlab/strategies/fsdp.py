"""Fully sharded data parallel (FSDP2), Zhao et al. 2023, https://arxiv.org/abs/2304.11277."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alignlab.errors import Problem
from alignlab.strategies.base import PATIENCE, Strategy


@dataclass(kw_only=True)
class FSDP(Strategy):
    """Each process holds a part of each weight, of its gradient and of its optimizer state.

    A layer's weights are gathered for its forward pass and its backward pass.

    state_in_parts: each process writes its part of a training state, instead of the first one writing it whole. No
                    process then needs memory for whole weights and optimizer states when a state is saved.
    """

    state_in_parts: bool = False

    @property
    def shards_weights(self) -> bool:
        return True

    def missing(self) -> Iterator[Problem]:
        import torch
        from torch.distributed import fsdp

        if not hasattr(getattr(fsdp, "FSDPModule", None), "reset_iter_state"):
            text = f"needs a newer torch than {torch.__version__}; it was tested with 2.13"
            yield Problem("", "fsdp", text, "pip install --upgrade torch   or   strategy=ddp")

    def build(self) -> Any:
        from alignlab.strategies.lightning.fsdp import FSDP2Strategy

        return FSDP2Strategy(PATIENCE, in_parts=self.state_in_parts)
