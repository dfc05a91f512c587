"""VeRA, Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454, through peft."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from alignlab.checks import at_least, positive, within
from alignlab.errors import Problem
from alignlab.models.adapters.base import Adapter
from alignlab.models.adapters.targets import check_targets, with_adapter


@dataclass(kw_only=True)
class VeRA(Adapter):
    """Updates W + diag(b) B diag(d) A (eq. 2) with frozen random matrices A and B that all layers share.

    Only the vectors d and b are trained. b = 0 at the start, so that policy and reference are equal.

    r:              rank of A and B. It is larger than LoRA's, because a layer trains only r + (its outputs) numbers.
    d_initial:      initial value of d.
    dropout:        dropout rate on the adapter's input.
    target_modules: comma-separated names of linear layers, or "all-linear".
    """

    r: int = 256
    d_initial: float = 0.1
    dropout: float = 0.0
    target_modules: str = "all-linear"

    can_switch_off: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from at_least("r", self.r, 1, example=256, hint="rank")
        yield from positive("d_initial", self.d_initial, example=0.1)
        yield from within("dropout", self.dropout, 0.0, 1.0, example=0.0, closed=False)

    def wrap(self, model: Any) -> Any:
        from peft import VeraConfig

        own: dict[str, Any] = {"r": self.r, "d_initial": self.d_initial, "vera_dropout": self.dropout}
        return with_adapter(model, self.target_modules, partial(VeraConfig, **own))

    def check_fits(self, config: Any) -> None:
        check_targets(config, self.target_modules)
