"""DeepSpeed's ZeRO, Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from alignlab.errors import Problem
from alignlab.strategies.base import PATIENCE, Strategy

# The first version that was tested. Updates of any number of backward passes (`managed_gradient_accumulation`) are new.
OLDEST = (0, 19, 8)


@dataclass(kw_only=True)
class DeepSpeed(Strategy):
    """Each process holds a part of the gradients and of the optimizer's state, and in stage 3 of the weights too.

    stage:   2 or 3. Stage 3 divides the same things as `fsdp`.
    offload: what stage 3 keeps in the memory of the machine instead of the device's: none, optimizer (its state; the
             update is computed on the CPU), or all (the weights too). With stage 2, DeepSpeed 0.19.8 adds up the
             gradients of several micro-batches wrongly, so it is refused.
    """

    stage: int = 2
    offload: str = "none"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.stage not in (2, 3):
            yield Problem("stage", self.stage, "must be 2 or 3", "strategy.stage=2")
        if self.offload not in ("none", "optimizer", "all"):
            yield Problem("offload", self.offload, "must be one of: none, optimizer, all", "strategy.offload=optimizer")
        elif self.offload != "none" and self.stage == 2:
            text = "needs stage 3: with stage 2, DeepSpeed adds up the gradients of several micro-batches wrongly"
            yield Problem("offload", self.offload, text, f"strategy.stage=3 strategy.offload={self.offload}")

    @property
    def shards_weights(self) -> bool:
        return self.stage == 3

    @property
    def shards_optimizer(self) -> bool:
        return True

    def missing(self) -> Iterator[Problem]:
        least = ".".join(map(str, OLDEST))
        try:
            found = version("deepspeed")
        except PackageNotFoundError:
            fix = f'pip install "deepspeed>={least}"   or   strategy=fsdp'
            yield Problem("", "deepspeed", "needs the package deepspeed, which is not installed", fix)
            return
        if tuple(int(part) for part in found.split("+")[0].split(".")[:3] if part.isdigit()) < OLDEST:
            text = f"needs the package deepspeed {least} or newer, and {found} is installed"
            yield Problem("", "deepspeed", text, f'pip install "deepspeed>={least}"')

    def build(self) -> Any:
        from alignlab.strategies.lightning.deepspeed import ZeROStrategy

        return ZeROStrategy(PATIENCE, self.stage, self.offload)
