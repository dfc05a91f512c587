"""Base class of adapters: dataclasses that turn a loaded model into the policy that is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.checks import Checked


@dataclass(kw_only=True)
class Adapter(Checked, ABC):
    """Base of full fine-tuning and parameter-efficient methods."""

    # Whether the trained part can be switched off, so that the same weights also compute the reference.
    can_switch_off: ClassVar[bool]

    @abstractmethod
    def wrap(self, model: Any) -> Any:
        """The policy to train: the same function as the given model, with some of its parameters or new ones trainable.

        Raises ModelError if the adapter does not fit the model.
        """

    def check_fits(self, config: Any) -> None:
        """Raise ModelError if `wrap` would refuse a model of this Hugging Face config. No weights are made."""
