"""A scalar head on a causal language model: what a reward model is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.data.layout import Rows
from alignlab.errors import ModelError
from alignlab.models.forward import at_least_float32, backbone, hidden_states, innermost
from alignlab.models.sources.base import base_of_adapter


def with_scalar_head(model: Any, seed: int) -> Any:
    """The Hugging Face sequence classifier with one output on the backbone of a causal language model, which it shares.

    The head is new: weights N(0, 1 / (H + 1)), as in Stiennon et al. 2020, https://arxiv.org/abs/2009.01325, drawn from
    `seed`. Raises ModelError for architectures that have no such classifier.
    """
    from transformers import AutoModelForSequenceClassification

    kept = {key: value for key, value in model.config.to_dict().items() if key not in ("id2label", "label2id")}
    config = type(model.config).from_dict({**kept, "num_labels": 1})
    try:
        with torch.device("meta"):
            scorer = AutoModelForSequenceClassification.from_config(config, dtype=model.dtype)
        width = scorer.score.in_features
    except (ValueError, AttributeError) as error:
        raise ModelError(f"no reward model can be made of {type(model).__name__}: {error}") from error
    setattr(scorer, scorer.base_model_prefix, backbone(model))
    head = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width + 1)
    # Half-precision rewards would have three digits, and their differences fewer: the head stays in float32.
    scorer.score = nn.Linear(width, 1, bias=False, dtype=torch.promote_types(model.dtype, torch.float32))
    scorer.score.weight.data.copy_(head)
    scorer.name_or_path = model.name_or_path
    scorer.is_loaded_in_4bit = getattr(model, "is_loaded_in_4bit", False)  # peft asks before it adapts such layers
    return scorer.eval()


def answer_rewards(policy: Any, rows: Rows) -> Tensor:
    """[R] reward of every answer, float32: the head's output on its last token, found by length, never by an id."""
    scorer = innermost(policy)
    return scorer.score(at_least_float32(hidden_states(backbone(scorer), rows)[rows.last])).squeeze(-1)


def load_scorer(path: str) -> tuple[Any, Any]:
    """(reward model, tokenizer) from a hub name or a folder of a whole classifier or an adapter, ready to score.

    Raises ModelError where it can't be loaded, has other than one output, or was saved without a head: a new one would
    score at random.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base, adapter = base_of_adapter(path)
    try:
        model, told = AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, dtype=torch.float32, output_loading_info=True
        )
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"reward model {path} can't be loaded: {error}") from error
    if not hasattr(innermost(model), "score"):
        raise ModelError(f"reward model {path}: {type(innermost(model)).__name__} has no layer named score")
    if not adapter and "score.weight" in told["missing_keys"]:
        raise ModelError(
            f"{path} is no reward model: it was saved without a head\n  type: objective=reward_model to train one"
        )
    return model.eval(), tokenizer
