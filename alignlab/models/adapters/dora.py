"""DoRA, Liu et al. 2024, https://arxiv.org/abs/2402.09353, through peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from alignlab.models.adapters.lora import LoRA


@dataclass(kw_only=True)
class DoRA(LoRA):
    """LoRA on the direction of each weight column, beside a trained magnitude: m (W + (alpha / r) B A) / ||W + ...||.

    At the start m is the norm of W, so that policy and reference are equal. The settings are those of LoRA (eq. 5).
    """

    variant: ClassVar[Mapping[str, Any]] = {"use_dora": True}
