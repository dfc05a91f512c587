"""The tabular policy of the worlds of papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alignlab.errors import ConfigError
from alignlab.evaluation.exact import completion_logps
from alignlab.lab.enumerable import enumerable
from alignlab.models.sources.table import Table


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "random", "settings": {"answers": 7}, "world_seed": 3},
        {"kind": "diagonal", "prompts": 3},
        {"kind": "diagonal", "prompts": 8, "shared": 2.0},
        {"kind": "bump", "shared": 0.5},
    ],
)
def test_it_starts_as_the_prior(settings: dict[str, Any]) -> None:
    source = Table(name="table", **settings)
    model, tokenizer = source.load()
    world = enumerable(source.kind, source.settings, prompts=source.prompts, seed=source.world_seed)
    np.testing.assert_allclose(
        np.exp(completion_logps(model, tokenizer, world)), np.exp(world.demonstrator_logps), atol=1e-7
    )
    assert source.parameters == sum(p.numel() for p in model.parameters())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["lm_head.weight"]


@pytest.mark.parametrize(("shared", "elsewhere"), [(0.0, 0.0), (2.0, 4.0)])
def test_a_step_for_one_prompt_moves_the_others_by_the_shared_feature(shared: float, elsewhere: float) -> None:
    """The gradient of an answer's logit at prompt a is (1, 0, 0, shared): a step along it moves it by 1 + shared^2."""
    model, tokenizer = Table(name="table", kind="diagonal", prompts=3, shared=shared).load()
    ids = torch.tensor([[tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(letter)] for letter in "abc"])
    before = model(input_ids=ids).logits[:, -1]
    before[0, 5].backward()
    with torch.no_grad():
        model.lm_head.weight += model.lm_head.weight.grad
    moved = (model(input_ids=ids).logits[:, -1] - before).detach()
    np.testing.assert_allclose(moved[:, 5], [1 + elsewhere, elsewhere, elsewhere], atol=1e-5)
    np.testing.assert_allclose(np.delete(moved.numpy(), 5, axis=1), 0.0, atol=1e-5)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="shared"):
        Table(name="table", shared=-1.0)
    with pytest.raises(ConfigError, match="no such setting"):
        Table(name="table", settings={"letters": 3})
