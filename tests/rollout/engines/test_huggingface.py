"""The Hugging Face engine is `draw` with the numbers of each prompt."""

from __future__ import annotations

import torch

from alignlab.models.sources.tiny import Tiny
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.rollout.sampling import Draw, draw, uniforms
from alignlab.rollout.settings import Sampling


def test_answers_log_probabilities_and_values_are_those_of_draw() -> None:
    """To the last bit, also after the model was trained in place."""
    model, _ = Tiny(name="t", alphabet="abcdef", hidden_size=16).load()
    prompts: list[list[int]] = [[1, 2], [3], [1, 2]]
    draws = [Draw(7, [1, 2], 0), Draw(7, "text", 4), Draw(7, [1, 2], 1)]
    numbers = [uniforms(7, [1, 2], 0, 6), uniforms(7, "text", 4, 6), uniforms(7, [1, 2], 1, 6)]
    how, sampler = Sampling(max_new_tokens=6, temperature=0.8, batch_size=2), HuggingFace().sampler()
    sampler.update(model)
    for _ in range(2):
        expected = draw(model, prompts, numbers, how, [6], value=lambda states: states.sum(-1))
        found = sampler.sample(prompts, draws, how, [6], value=lambda states: states.sum(-1))
        assert found == expected
        assert [one.logps for one in found] == [one.logps for one in expected]
        assert [one.values for one in found] == [one.values for one in expected]
        assert len(found[0].values) == len(found[0].ids)
        with torch.no_grad():
            model.lm_head.weight *= -8
