"""The contracts of engines, which are tried with a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from alignlab.contracts.base import EVERY_PART, Contract
from alignlab.data.layout import PLAIN
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.models.sources.tiny import Tiny
from alignlab.progress import silent
from alignlab.rollout.engines.base import AGREEMENT, Engine, Sampler, mean_difference
from alignlab.rollout.sampling import Draw, Sample
from alignlab.rollout.settings import Sampling

_PROMPTS = [[i % 5, 3, i % 3] for i in range(12)]
_ENDS = (0, 5)
_HOW = Sampling(max_new_tokens=6, temperature=0.8)
_SCORING = ScoringOptions(PLAIN, 12, 1000, torch.device("cpu"), silent)


def sharp_model() -> tuple[Any, Any]:
    """(model, tokenizer). The model prefers some tokens clearly, so that other weights give other log-probabilities.

    A server must be started with a model of this shape, because only its weights are replaced. Its attention has 32
    channels a head, the fewest in the list that vLLM has for CPUs.
    """
    model, tokenizer = Tiny(name="tiny", alphabet="abcdef", hidden_size=64, heads=2, max_positions=128).load()
    with torch.no_grad():
        model.lm_head.weight *= 4
    return model, tokenizer


def _samples(sampler: Sampler) -> list[Sample]:
    draws = [Draw(0, prompt, number) for number, prompt in enumerate(_PROMPTS)]
    return sampler.sample(_PROMPTS, draws, _HOW, _ENDS)


def it_has_the_weights_of_the_last_update(engine: Engine) -> Iterator[str]:
    """After each `update`, log-probabilities are those of the model, to 0.05 nats per token."""
    (model, _), sampler = sharp_model(), engine.sampler()
    for updates in (1, 2):
        sampler.update(model)
        samples = _samples(sampler)
        if not all(sample.logps for sample in samples):
            yield "samples have no log-probabilities, so that nothing tells which weights the engine has"
            return
        rows = [(prompt, sample.ids) for prompt, sample in zip(_PROMPTS, samples, strict=True)]
        scored = [row.tolist() for row in token_logps(model, rows, _SCORING, _HOW.temperature)]
        if (far := mean_difference(samples, scored)) > AGREEMENT:
            yield f"after update {updates}, log-probabilities differ from the model's by {far:.3f} nats per token"
        with torch.no_grad():
            model.lm_head.weight *= -1


def answers_end_where_they_should(engine: Engine) -> Iterator[str]:
    """An answer ends with its first end token, or is cut off at `max_new_tokens` and has not ended."""
    sampler = engine.sampler()
    sampler.update(sharp_model()[0])
    for sample in _samples(sampler):
        first = next((place for place, token in enumerate(sample.ids) if token in _ENDS), None)
        expected = (_HOW.max_new_tokens, False) if first is None else (first + 1, True)
        if (len(sample.ids), sample.ended) != expected:
            yield f"the answer {sample.ids} with the end tokens {_ENDS} has ended={sample.ended}"
            return


CONTRACTS: tuple[Contract, ...] = (
    *EVERY_PART,
    it_has_the_weights_of_the_last_update,
    answers_end_where_they_should,
)
