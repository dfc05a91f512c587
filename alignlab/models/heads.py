"""A scalar head on a causal language model: what a reward model is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.data.layout import Rows
from alignlab.errors import ModelError
from alignlab.models.forward import at_least_float32, backbone, hidden_states, innermost


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
