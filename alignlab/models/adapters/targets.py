"""Which layers of a model an adapter is put on: names of linear layers, or all of them."""

from __future__ import annotations

from typing import Any

from alignlab.errors import ModelError

ALL = "all-linear"


def target_modules(text: str) -> str | list[str]:
    """The value of `target_modules` as peft reads it: names of layers, or "all-linear"."""
    return ALL if text == ALL else [name.strip() for name in text.split(",")]


def refuse_unknown_targets(model: Any, text: str) -> None:
    """Raise ModelError for each target that the model lacks. peft refuses them only if all are lacking."""
    from torch import nn

    if text == ALL:
        return
    ends = [f".{name}" for name, _ in model.named_modules()]
    lacking = [target for target in target_modules(text) if not any(end.endswith(f".{target}") for end in ends)]
    if lacking:
        linear = (name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear))
        raise ModelError(
            f"peft.target_modules={text}: the model has no layer named {', '.join(lacking)}\n"
            f"  its linear layers: {', '.join(dict.fromkeys(linear))}"
        )


def check_targets(config: Any, text: str) -> None:
    """`refuse_unknown_targets` for a model of this Hugging Face config. No weights are made."""
    if text == ALL:
        return
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        refuse_unknown_targets(AutoModelForCausalLM.from_config(config), text)
