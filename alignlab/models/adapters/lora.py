"""LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685, through peft."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.checks import at_least, positive, within
from alignlab.errors import ModelError, Problem
from alignlab.models.adapters.base import Adapter


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

    def wrap(self, model: Any) -> Any:
        from peft import LoraConfig, TaskType, get_peft_model

        self._refuse_unknown_targets(model)
        targets = self._targets or self.target_modules
        head = ["score"] if hasattr(model, "score") else None  # a reward model's new head is trained and saved whole
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM,
            modules_to_save=head,
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft only divides it by r, so any number works
            lora_dropout=self.dropout,
            target_modules=targets,
        )
        try:
            return get_peft_model(model, config, revision=getattr(model, "revision", None) or None)
        except ValueError as error:
            raise ModelError(f"peft.target_modules={self.target_modules}: {error}") from error

    def check_fits(self, config: Any) -> None:
        if not self._targets:
            return
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            self._refuse_unknown_targets(AutoModelForCausalLM.from_config(config))

    @property
    def _targets(self) -> list[str]:
        """Names of layers. Empty for all linear layers."""
        names = [] if self.target_modules == "all-linear" else self.target_modules.split(",")
        return [name.strip() for name in names]

    def _refuse_unknown_targets(self, model: Any) -> None:
        """Raise ModelError for each target that the model lacks. peft refuses them only if all are lacking."""
        from torch import nn

        ends = [f".{name}" for name, _ in model.named_modules()]
        lacking = [target for target in self._targets if not any(end.endswith(f".{target}") for end in ends)]
        if lacking:
            linear = (name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear))
            raise ModelError(
                f"peft.target_modules={self.target_modules}: the model has no layer named {', '.join(lacking)}\n"
                f"  its linear layers: {', '.join(dict.fromkeys(linear))}"
            )
