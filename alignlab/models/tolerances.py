"""How far two numbers may differ that would be equal without rounding, by the dtype of the weights.

A check fails if a difference is larger: then something else than rounding is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alignlab.models.forward import precision


@dataclass(frozen=True)
class Tolerance:
    """The tolerances of one dtype.

    start_ratio: log-ratio of policy and reference before the first update, nats per token. It is 0 but for rounding,
                 which depends on the width of a batch.
    start_loss:  first loss, as a share of its known value (or of 1 where that is smaller). It is larger than
                 `start_ratio`, because a loss adds up the rounding of all tokens of an answer.
    reloaded:    scores of weights or log-probabilities that were stored and are read again, nats per token or rewards.
                 An adapter that is merged rounds once more, and the first run may have used another machine.
    rearranged:  the same weights on the same tokens, arranged in another way: answers side by side instead of one a row
                 (nats per token, or standard deviations of rewards), or several policies in one model (nats, and shares
                 of a gradient). A wrong attention mask moves these by tenths.
    """

    start_ratio: float
    start_loss: float
    reloaded: float
    rearranged: float


# bfloat16 has 8 significant bits, float16 has 11, float32 has 24 and float64 has 53.
TOLERANCES = {
    "float64": Tolerance(start_ratio=1e-6, start_loss=1e-6, reloaded=1e-4, rearranged=1e-8),
    "float32": Tolerance(start_ratio=1e-3, start_loss=2e-3, reloaded=1e-3, rearranged=1e-4),
    "float16": Tolerance(start_ratio=0.02, start_loss=0.05, reloaded=0.02, rearranged=0.02),
    "bfloat16": Tolerance(start_ratio=0.1, start_loss=0.25, reloaded=0.1, rearranged=0.1),
}


def tolerance_of(model: torch.nn.Module) -> Tolerance:
    """The tolerances of the dtype of a model's weights."""
    return TOLERANCES[precision(model)]
