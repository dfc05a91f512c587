"""Values that cross rooms: log-probabilities with their masks, and what objectives say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["sum", "mean"]


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Sums are taken in float32, or in float64 where the input has it (tests against closed forms)."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)
class Logps:
    """Log-probabilities of one completion per row.

    tokens:    [B, T] log pi(y_t | x, y_<t), nats, any float dtype; what stands where mask is False is ignored.
    mask:      bool[B, T], True on the tokens of the completion, end-of-sequence token included.
    reference: [B] summed log-probability of the same completion under the reference, nats, or None.

    Raises ValueError for shapes that differ, for a mask that is not bool, and for a row without any token.
    """

    tokens: Tensor
    mask: Tensor
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2 or self.tokens.shape != self.mask.shape:
            raise ValueError(f"tokens {tuple(self.tokens.shape)} and mask {tuple(self.mask.shape)} must both be [B, T]")
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, got {self.mask.dtype}")
        if self.reference is not None and self.reference.shape != self.tokens.shape[:1]:
            raise ValueError(f"reference must be [B] = [{len(self.tokens)}], got {tuple(self.reference.shape)}")
        empty = (~self.mask.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"completions without a token in rows {empty}")

    @property
    def count(self) -> Tensor:
        """[B] number of completion tokens."""
        return self.mask.sum(dim=1)

    def logp(self, reduction: Reduction) -> Tensor:
        """[B] log-probability of the completion: summed over its tokens, or their mean; nats."""
        dtype = _sum_dtype(self.tokens.dtype)
        total = self.tokens.to(dtype).masked_fill(~self.mask, 0.0).sum(dim=1)
        return total if reduction == "sum" else total / self.count

    def logratio(self, reduction: Reduction) -> Tensor:
        """[B] log pi(y|x) - log pi_ref(y|x), summed or per token; nats. Raises ValueError without a reference."""
        if self.reference is None:
            raise ValueError("this objective needs reference log-probabilities and the batch has none")
        total = self.logp("sum") - self.reference
        return total if reduction == "sum" else total / self.count


@dataclass(frozen=True, eq=False)
class PairLogps:
    """A batch of preferences: row i of `chosen` was preferred to row i of `rejected` for the same prompt."""

    chosen: Logps
    rejected: Logps


@dataclass(frozen=True)
class Requires:
    """What an objective needs; loader, module and reference follow from it, never from the objective's name.

    data:       "completions" (one answer a row) or "pairs" (a preferred and a dispreferred one).
    reference:  whether log-probabilities under the reference policy are needed.
    length:     how the implicit reward sums log-probabilities over an answer.
    normaliser: what the summed loss of the global batch is divided by: its examples or its completion tokens.
    """

    data: Literal["completions", "pairs"]
    reference: bool = False
    length: Reduction = "sum"
    normaliser: Literal["examples", "tokens"] = "examples"
