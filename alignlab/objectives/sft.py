"""Supervised fine-tuning: InstructGPT's first stage, Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, section 3.5.

The formula is eq. 1 of ORPO, Hong et al. 2024, https://arxiv.org/abs/2403.07691, applied to answer tokens only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from alignlab.checks import check_same_shape
from alignlab.objectives.base import Objective
from alignlab.types import Logps, Requires


def sft_loss(logp: torch.Tensor, *, mean_count: float | torch.Tensor) -> torch.Tensor:
    """-lp / (mean n over the batch)

    logp: [B] summed log-probabilities, nats; mean_count: tokens per answer over the global batch.
    Returns [B], nats per token. The mean over the batch is then the mean over all of its answer tokens.
    Raises ValueError if `logp` is not [B].
    """
    check_same_shape(logp, rank=1)
    return -logp / mean_count


@dataclass
class SFT(Objective):
    """Next-token cross-entropy on the answer: the mean over all answer tokens of the global batch."""

    strength: ClassVar[str | None] = None
    requires: ClassVar[Requires] = Requires(data="completions")

    def __call__(self, batch: Logps) -> torch.Tensor:
        return sft_loss(batch.logp("sum"), mean_count=batch.batch_mean_count)
