"""LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685, through peft."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from alignlab.checks import at_least, positive, within
from alignlab.errors import Problem
from alignlab.models.adapters.base import Adapter
from alignlab.models.adapters.targets import check_targets, with_adapter


@dataclass(kw_only=True)
class LoRA(Adapter):
    """Low-rank updates W + (alpha / r) B A with B = 0 at the start.

    r:              rank.
    alpha:          scale.
    dropout:        dropout rate on the adapter's input. With 0, policy and reference are equal at the start.
    target_modules: comma-separated names of linear layers, or "all-linear".
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str = "all-linear"

    can_switch_off: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from at_least("r", self.r, 1, example=16, hint="rank")
        yield from positive("alpha", self.alpha, example=32, hint="scale is alpha / r")
        yield from within("dropout", self.dropout, 0.0, 1.0, example=0.0, closed=False)

    # Further arguments of peft's LoraConfig, for variants of LoRA.
    variant: ClassVar[Mapping[str, Any]] = {}

    def wrap(self, model: Any) -> Any:
        from peft import LoraConfig

        own: dict[str, Any] = {"r": self.r, "lora_alpha": self.alpha, "lora_dropout": self.dropout, **self.variant}
        return with_adapter(model, self.target_modules, partial(LoraConfig, **own))

    def check_fits(self, config: Any) -> None:
        check_targets(config, self.target_modules)
