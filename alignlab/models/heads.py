"""Scalar heads on causal language models: reward models and critics."""

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

# File in the folder of a reward model: the mean reward of the answers whose reward is defined as 0.
OFFSET = "reward.json"

_HEAD = "score.weight"
# Names of the last layer of causal language models. A reward model that is made from one does not use it.
_LANGUAGE_HEADS = ("lm_head", "embed_out")


def with_scalar_head(model: Any, seed: int) -> Any:
    """A Hugging Face sequence classifier with one output that shares the backbone of a causal language model.

    The head is new. Its weights are sampled from N(0, 1 / (H + 1)) with `seed`, as in Stiennon et al. 2020,
    https://arxiv.org/abs/2009.01325. Raises ModelError for architectures that have no such classifier.
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
    # The head stays in float32. Half-precision rewards have three digits, and their differences have fewer.
    scorer.score = nn.Linear(width, 1, bias=False, dtype=torch.promote_types(model.dtype, torch.float32))
    scorer.score.weight.data.copy_(head)
    scorer.name_or_path, scorer.revision = model.name_or_path, getattr(model, "revision", "")
    scorer.is_loaded_in_4bit = getattr(model, "is_loaded_in_4bit", False)  # peft reads this flag of 4-bit models
    return scorer.eval()


def answer_rewards(policy: Any, rows: Rows) -> Tensor:
    """[R] reward of every answer, float32: the head's output on its last token.

    The last token is found by the answer's length, not by a token id.
    """
    scorer = innermost(policy)
    return _reward(scorer, hidden_states(backbone(scorer), rows)[rows.last])


def _reward(scorer: Any, hidden: Tensor) -> Tensor:
    """[N, H] hidden states -> [N] rewards, minus the offset of a trained reward model (see `save_offset`)."""
    return scorer.score(at_least_float32(hidden)).squeeze(-1) - getattr(scorer, "reward_offset", 0.0)


def save_offset(folder: Path, rewards: Tensor) -> dict[str, float]:
    """Save the mean reward of the answers whose reward is defined as 0, in the folder of the reward model.

    It gets a file of its own because a Hugging Face classifier has no bias.
    rewards: [N] rewards of these answers. Returns their mean, standard deviation and number.
    """
    offset = {"mean": float(rewards.mean()), "std": float(rewards.std()), "answers": len(rewards)}
    (folder / OFFSET).write_text(json.dumps(offset, indent=2), encoding="utf-8")
    return offset


def load_scorer(path: str, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """(reward model, tokenizer) from a hub name or a folder, in float32 and in evaluation mode.

    The name stands for a whole classifier or for an adapter. An adapter is merged into the base that it was trained on,
    quantized or not. Rewards of a model that alignlab trained are relative to the mean over the preferred answers of
    its training data.
    Raises ModelError if the model can't be loaded, does not have exactly one output, lacks weights, or was saved
    without a head (a new head would give random scores).
    """
    with loading(f"reward model {path}"):
        warn_of_changes(path)
        found = lineage(path)
        how: dict[str, Any] = {"dtype": torch.float32, **origin_of(found, trust_remote_code)}
        quantized = quantization_under(str(found.adapters[0])) if found.adapters else None
        if quantized:
            how |= {"quantization_config": quantized, "device_map": {"": "cpu"}}
        model = _classifier(path, found, **how)
        if quantized:
            model = one_function(model).dequantize(torch.float32)
        for adapter in found.adapters:
            model = merged(model, adapter)  # a merged model scores faster
        tokenizer = _tokenizer(path, model, found, trust_remote_code)
    if not hasattr(model, "score"):
        raise ModelError(f"reward model {path}: {type(model).__name__} has no layer named score")
    if (offset := Path(path) / OFFSET).is_file():
        model.reward_offset = _offset_in(offset)
    return model.eval(), tokenizer


def _offset_in(file: Path) -> float:
    """The mean reward that `save_offset` wrote. Raises ModelError if the file does not hold one."""
    try:
        mean = float(json.loads(file.read_text(encoding="utf-8"))["mean"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"{file} does not hold the mean reward of the preferred answers: {error!r}") from error
    if not math.isfinite(mean):
        raise ModelError(f"{file} does not hold the mean reward of the preferred answers: it is {mean}")
    return mean


def check_scorer(path: str, *, trust_remote_code: bool = False) -> None:
    """Check the names and shapes of a reward model's weights, without reading the weights of the base.

    Raises the same ModelError as `load_scorer` if one of them is wrong.
    """
    with loading(f"reward model {path}"):
        found = lineage(path)
        model = _classifier(path, found, device_map="meta", **origin_of(found, trust_remote_code))
        for adapter in found.adapters:
            model = merged(model, adapter)
        _tokenizer(path, model, found, trust_remote_code)


def _classifier(path: str, found: Lineage, **how: Any) -> Any:
    """The sequence classifier of a reward model, without its adapters. One of the adapters may hold the head."""
    from transformers import AutoModelForSequenceClassification

    new, spare = [_HEAD], _LANGUAGE_HEADS
    model, made_up = load_weights(
        AutoModelForSequenceClassification, found.base, new=new, spare=spare, num_labels=1, **how
    )
    if made_up and not any(map(_has_head, found.adapters)):
        raise ModelError(
            f"{path} is not a reward model: it was saved without a head\n  type: objective=reward_model to train one"
        )
    return model


def _tokenizer(path: str, model: Any, found: Lineage, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of(found), **origin_of(found, trust_remote_code))
    check_tokens(model, tokenizer, path)
    return tokenizer


def _has_head(adapter: Path) -> bool:
    """Whether a saved adapter holds the whole layer `score` in addition to its own weights."""
    from peft import load_peft_weights

    return any(name.endswith(_HEAD) for name in load_peft_weights(str(adapter), device="cpu"))


class Critic(nn.Module, ABC):
    """Estimates the expected reward before each token of an answer (the value function), in units of reward."""

    @abstractmethod
    def forward(self, policy: Any, rows: Rows, predictions: Predictions) -> Tensor:
        """[R, T] values before each answer token, float32, 0 off the answers. `predictions` are those of the policy."""


class HeadCritic(Critic):
    """A linear layer on the policy's last hidden states. Its values are 0 everywhere before training."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        # The config's hidden_size can differ: OPT-350m projects its hidden states before the language head.
        self.layer = nn.Linear(innermost(policy).get_output_embeddings().in_features, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, policy: Any, rows: Rows, predictions: Predictions) -> Tensor:
        if rows.layout.split:
            hidden = predictions.hidden
        else:  # `predictions` hold logits, because the model's own head was used
            hidden = hidden_states(backbone(innermost(policy)), rows)[rows.predicted_at]
        return rows.scatter(self.of_states(hidden))

    def of_states(self, hidden: Tensor) -> Tensor:
        """[N, H] last hidden states of the policy -> [N] values, each before the token that the state predicts."""
        return self.layer(hidden.to(self.layer.weight.dtype)).squeeze(-1)


class NetworkCritic(Critic):
    """A separate model with a scalar head: a reward model, or a copy of the initial policy with a new head."""

    def __init__(self, scorer: Any) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, policy: Any, rows: Rows, predictions: Predictions) -> Tensor:
        return self.of_rows(rows)

    def of_rows(self, rows: Rows) -> Tensor:
        """[R, T] values before each answer token, float32. They need no forward pass of the policy."""
        scorer = innermost(self.scorer)
        return rows.scatter(_reward(scorer, hidden_states(backbone(scorer), rows)[rows.predicted_at]))
