"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.models.adapters.base import Adapter


@dataclass(kw_only=True)
class FullFineTuning(Adapter):
    """No adapter."""

    can_switch_off: ClassVar[bool] = False

    def wrap(self, model: Any) -> Any:
        return model
