"""Supervised fine-tuning: next-token cross-entropy on the answer.

The loss of InstructGPT's first stage, Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, section 3.5;
as a formula eq. 1 of ORPO, Hong et al. 2024, https://arxiv.org/abs/2403.07691, applied to answer tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from alignlab.checks import check_same_shape
from alignlab.objectives.base import Objective
from alignlab.types import Logps, Requires


def sft_loss(logps: Tensor, mask: Tensor) -> Tensor:
    """-sum_t m_t log pi(y_t | x, y_<t).  [B, T], bool[B, T] -> [B]; nats per sequence.

    Raises ValueError where the shapes differ.
    """
    check_same_shape(logps, mask, rank=2)
    return -Logps(logps, mask).logp("sum")


@dataclass
class SFT(Objective):
    """Cross-entropy as a token mean over the global batch: the summed loss is divided by all its answer tokens."""

    requires: ClassVar[Requires] = Requires(data="completions", normaliser="tokens")

    def __call__(self, batch: Logps) -> Tensor:
        return sft_loss(batch.tokens, batch.mask)
