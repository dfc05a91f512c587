"""Which layers of a model an adapter is put on: names of linear layers, or all of them."""

from __future__ import annotations

from collections.abc import Callable
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


def with_adapter(model: Any, targets: str, make_config: Callable[..., Any]) -> Any:
    """The model with an adapter of peft on its target layers.

    make_config: makes peft's config from the arguments that all adapters share.
    Raises ModelError if the model has no such layers, or if peft refuses them.
    """
    from peft import TaskType, get_peft_model

    refuse_unknown_targets(model, targets)
    head = ["score"] if hasattr(model, "score") else None  # a reward model's new head is trained and saved whole
    config = make_config(
        task_type=TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM,
        modules_to_save=head,
        target_modules=target_modules(targets),
    )
    try:
        return get_peft_model(model, config, revision=getattr(model, "revision", None) or None)
    except ValueError as error:
        raise ModelError(f"peft.target_modules={targets}: {error}") from error
