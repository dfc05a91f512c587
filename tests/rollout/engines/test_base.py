"""The check that an engine has the policy's weights."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from alignlab.errors import EngineError
from alignlab.models.sources.tiny import Tiny
from alignlab.rollout.engines.huggingface import HuggingFace
from alignlab.rollout.engines.vllm import VLLM
from alignlab.rollout.sampling import Draw, Sample
from alignlab.rollout.settings import Sampling
from tests.rollout.engines.engines import Other

SAMPLES = [Sample([1, 2], True, [-1.0, -2.0]), Sample([3], False, [-4.0])]


def test_log_probabilities_are_compared_token_by_token() -> None:
    """The padding of shorter answers is ignored. 0.05 nats per token is the limit, also for NaN."""
    assert Other().compared(SAMPLES, [[-1.03, -2.0], [-3.94, 99.0]]) == pytest.approx((0.03 + 0 + 0.06) / 3)
    with pytest.raises(EngineError, match=r"engine=engines differ from those of the policy by 0\.053 nats per token"):
        Other().compared(SAMPLES, [[-1.03, -2.0], [-3.87, 99.0]])
    with pytest.raises(EngineError, match="by nan nats"):
        Other().compared(SAMPLES, [[math.nan, -2.0], [-4.0, 0.0]])


def test_an_engine_without_log_probabilities_is_unchecked(caplog: pytest.LogCaptureFixture) -> None:
    """It may answer questions of an evaluation, but nothing trains on its answers unless it is told to."""
    silent = [Sample([1, 2], True), Sample([3], False, [-4.0])]
    with caplog.at_level(logging.WARNING):
        assert Other().compared(silent, [[-1.0, -2.0], [-4.0]]) is None
    assert "engine=engines gives no log-probabilities: it is unchecked" in caplog.text
    with pytest.raises(EngineError, match=r"type: engine=huggingface, or engine\.unchecked=true"):
        Other().compared(silent, [[-1.0, -2.0], [-4.0]], training=True)
    assert Other(unchecked=True).compared(silent, [[-1.0, -2.0], [-4.0]], training=True) is None


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_policy_scores_a_few_answers(temperature: float) -> None:
    """They are scored at the temperature of sampling. An engine with weights of before an update is refused."""
    model, _ = Tiny(name="t", alphabet="abcdef", hidden_size=16).load()
    with torch.no_grad():
        model.lm_head.weight *= 8
    prompts, how = [[i % 4, 5] for i in range(12)], Sampling(max_new_tokens=5, temperature=temperature)
    draws, engine = [Draw(0, prompt, i) for i, prompt in enumerate(prompts)], Other(off=0.02)
    sampler = engine.sampler()
    sampler.update(model)
    samples = sampler.sample(prompts, draws, how, [6])
    assert engine.check(model, prompts, samples, how) == pytest.approx(0.02, abs=1e-5)
    assert HuggingFace().check(model, prompts, samples, how) is None
    with torch.no_grad():
        model.lm_head.weight *= -1
    with pytest.raises(EngineError, match="the engine has other weights"):
        engine.check(model, prompts, samples, how)


def test_only_engines_that_change_answers_have_an_identity() -> None:
    assert (HuggingFace().identity, VLLM().identity, Other().identity) == ("", "vllm", "engines")
