"""What an adapter is: a dataclass that turns a loaded model into the policy that is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.checks import Checked


@dataclass(kw_only=True)
class Adapter(Checked, ABC):
    """Base of full fine-tuning and parameter-efficient methods."""

    # Whether the trained part can be switched off, which gives the reference back from the same weights.
    can_switch_off: ClassVar[bool]

    @abstractmethod
    def wrap(self, model: Any) -> Any:
        """The policy: exactly the given model as a function, with some of its parameters (or new ones) trainable."""
