"""How different the margins of a batch are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from alignlab.metrics.base import Metric
from alignlab.types import PairLogps


@dataclass(kw_only=True)
class MarginSpread(Metric):
    """Standard deviation of the log-ratio margins of pairs. Other batches have none."""

    def __call__(self, batch: Any) -> Mapping[str, torch.Tensor]:
        if not isinstance(batch, PairLogps) or batch.chosen.reference is None:
            return {}
        margins = batch.chosen.logratio("sum") - batch.rejected.logratio("sum")
        return {"logratios/margins_std": margins.std(correction=0)}
