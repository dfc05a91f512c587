"""The default strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignlab.strategies.base import Strategy
from alignlab.strategies.ddp import DDP


@dataclass(kw_only=True)
class Auto(Strategy):
    """One device, or DDP with its defaults on several."""

    def build(self) -> Any:
        return DDP().build()
