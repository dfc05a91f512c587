"""Base of metrics: dataclasses of settings that compute numbers from what an objective sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from alignlab.checks import Checked


@dataclass(kw_only=True)
class Metric(Checked, ABC):
    """Base of all metrics. They are computed over the whole global batch, and over all held-out rows.

    Every name that `__call__` returns has a definition in tracking/metrics.py, and is logged as train/<name> and
    eval/<name>.
    """

    @abstractmethod
    def __call__(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Name -> scalar. `batch` is the input of the objective (PairLogps, LabelledLogps, ...), without gradient.

        A metric that does not fit the kind of batch returns nothing.
        """
