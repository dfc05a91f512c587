"""A scalar head on a causal language model: what a reward model is."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignlab.data.layout import Rows
from alignlab.errors import ModelError
from alignlab.models.forward import Predictions, at_least_float32, backbone, hidden_states, innermost
from alignlab.models.lineage import Lineage, lineage
from alignlab.models.merging import merged
from alignlab.models.quantization import one_function, quantization_under
from alignlab.models.sources.base import origin_of, tokenizer_of, warn_of_changes
from alignlab.models.weights_check import check_tokens, load_weights, loading

# Beside the weights of a reward model: the reward of the answers that are to be worth 0.
_OFFSET = "reward.json"

_HEAD = "score.weight"
# Names of the last layer of causal language models. A reward model made from one has no use for it.
_LANGUAGE_HEADS = ("lm_head", "embed_out")


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
    scorer.name_or_path, scorer.revision = model.name_or_path, getattr(model, "revision", "")
    scorer.is_loaded_in_4bit = getattr(model, "is_loaded_in_4bit", False)  # peft asks before it adapts such layers
    return scorer.eval()


def answer_rewards(policy: Any, rows: Rows) -> Tensor:
    """[R] reward of every answer, float32: the head's output on its last token, found by length, never by an id."""
    scorer = innermost(policy)
    return _reward(scorer, hidden_states(backbone(scorer), rows)[rows.last])


def _reward(scorer: Any, hidden: Tensor) -> Tensor:
    """[N, H] hidden states -> [N] rewards, counted from where a trained reward model's are."""
    return scorer.score(at_least_float32(hidden)).squeeze(-1) - getattr(scorer, "reward_offset", 0.0)


def save_offset(folder: Path, rewards: Tensor) -> dict[str, float]:
    """Keep beside a reward model what it gives on average to the answers that are to be worth 0.

    rewards: [N] of such answers. A classifier of Hugging Face has no bias to put it into. Returns mean and deviation.
    """
    found = {"mean": float(rewards.mean()), "std": float(rewards.std()), "answers": len(rewards)}
    (folder / _OFFSET).write_text(json.dumps(found, indent=2))
    return found


def load_scorer(path: str, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """(reward model, tokenizer) from a hub name or a folder of a whole classifier or an adapter, which is merged into
    its base as that was trained on (rounded or not), ready to score.

    Rewards of one that was trained here are counted from the mean over the answers that its data prefers.
    Raises ModelError if it can't be loaded, does not have one output, lacks weights, or was saved without a head: a new
    head would score at random.
    """
    with loading(f"reward model {path}"):
        warn_of_changes(path)
        found = lineage(path)
        how: dict[str, Any] = {"dtype": torch.float32, **origin_of(found, trust_remote_code)}
        rounded = quantization_under(str(found.adapters[0])) if found.adapters else None
        if rounded:
            how |= {"quantization_config": rounded, "device_map": {"": "cpu"}}
        model = _classifier(path, found, **how)
        if rounded:
            model = one_function(model).dequantize(torch.float32)
        for adapter in found.adapters:
            model = merged(model, adapter)  # scoring does without its detours
        tokenizer = _tokenizer(path, model, found, trust_remote_code)
    if not hasattr(model, "score"):
        raise ModelError(f"reward model {path}: {type(model).__name__} has no layer named score")
    if (offset := Path(path) / _OFFSET).is_file():
        model.reward_offset = json.loads(offset.read_text())["mean"]
    return model.eval(), tokenizer


def check_scorer(path: str, *, trust_remote_code: bool = False) -> None:
    """Raise the ModelError of `load_scorer` that names and shapes of weights can tell. No base weights are read."""
    with loading(f"reward model {path}"):
        found = lineage(path)
        model = _classifier(path, found, device_map="meta", **origin_of(found, trust_remote_code))
        for adapter in found.adapters:
            model = merged(model, adapter)
        _tokenizer(path, model, found, trust_remote_code)


def _classifier(path: str, found: Lineage, **how: Any) -> Any:
    """The sequence classifier of a reward model, without its adapters. One of these may hold the head."""
    from transformers import AutoModelForSequenceClassification

    new, spare = [_HEAD], _LANGUAGE_HEADS
    model, made_up = load_weights(
        AutoModelForSequenceClassification, found.base, new=new, spare=spare, num_labels=1, **how
    )
    if made_up and not any(map(_has_head, found.adapters)):
        raise ModelError(
            f"{path} is no reward model: it was saved without a head\n  type: objective=reward_model to train one"
        )
    return model


def _tokenizer(path: str, model: Any, found: Lineage, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(found), **origin_of(found, trust_remote_code))
    check_tokens(model, tokenizer, path)
    return tokenizer


def _has_head(adapter: Path) -> bool:
    """Whether a saved adapter holds the whole layer `score` beside its own weights."""
    from peft import load_peft_weights

    return any(name.endswith(_HEAD) for name in load_peft_weights(str(adapter), device="cpu"))


class Critic(nn.Module, ABC):
    """What to expect before each token of an answer, in units of reward."""

    @abstractmethod
    def forward(self, policy: Any, rows: Rows, predictions: Predictions) -> Tensor:
        """[R, T] values before each answer token, float32, 0 off the answers; `predictions` are the policy's."""


class HeadCritic(Critic):
    """A linear layer on the policy's last hidden states; it expects 0 everywhere before it has learnt."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        # Not the config's hidden_size: OPT-350m projects its states before they are predicted from.
        self.layer = nn.Linear(innermost(policy).get_output_embeddings().in_features, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, policy: Any, rows: Rows, predictions: Predictions) -> Tensor:
        if rows.layout.split:
            hidden = predictions.hidden
        else:  # the model's own head has made logits of them
            hidden = hidden_states(backbone(innermost(policy)), rows)[rows.predicted_at]
        return rows.spread(self.of_states(hidden))

    def of_states(self, hidden: Tensor) -> Tensor:
        """[N, H] last hidden states of the policy -> [N] values before the token that each of them predicts."""
        return self.layer(hidden.to(self.layer.weight.dtype)).squeeze(-1)


class NetworkCritic(Critic):
    """A model of its own with a scalar head: a reward model, or the start with a new head."""

    def __init__(self, scorer: Any) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, policy: Any, rows: Rows, predictions: Predictions) -> Tensor:
        return self.of_rows(rows)

    def of_rows(self, rows: Rows) -> Tensor:
        """[R, T] values before each answer token, without the policy."""
        scorer = innermost(self.scorer)
        return rows.spread(_reward(scorer, hidden_states(backbone(scorer), rows)[rows.predicted_at]))
