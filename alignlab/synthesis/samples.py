"""Answers of a policy to many prompts. Each prompt's answers are stored as soon as they are sampled."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from alignlab.data.rows import Prompt
from alignlab.data.template import prompt_text
from alignlab.evaluation.suite import ModelSide
from alignlab.judges.cache import Store
from alignlab.progress import Progress
from alignlab.rollout.engines.base import Engine
from alignlab.rollout.sampling import Draw, is_stored_sample
from alignlab.spelling import counted
from alignlab.synthesis.settings import Synthesis

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampledAnswer:
    """The text of a sample. `ended` is False if the length limit cut it off."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Samples:
    """The answers to each prompt, and how many prompts were cut on the left to the longest prompt."""

    answers: list[list[SampledAnswer]]
    cut: int


def sample_answers(
    side: ModelSide,
    prompts: Sequence[Prompt],
    how: Synthesis,
    engine: Engine,
    longest: int,
    kept: Store,
    progress: Progress,
) -> Samples:
    """`how.samples` answers to each prompt, sampled or read from the store.

    longest: most tokens of a prompt; a longer one is cut on the left, as in training.
    kept:    store of answers. The answers to a prompt are found again by the policy's weights, the prompt's tokens and
             the settings of sampling, whatever the other prompts are.

    Prompts of similar length are sampled together, the longest first.
    Raises EngineError if the engine does not have the policy's weights.
    """
    template = side.template
    whole = [template.prompt_ids(prompt) for prompt in prompts]
    ids = [tokens[-longest:] for tokens in whole]
    requests = [_request(side, tokens, how, engine) for tokens in ids]
    fits = partial(_are_answers, how.samples)
    stored = {i: kept.get(request, fits) for i, request in enumerate(requests)}
    found = {i: reply["answers"] for i, reply in stored.items() if reply is not None}
    waiting = sorted((i for i in range(len(prompts)) if i not in found), key=lambda i: -len(ids[i]))
    if found and waiting:
        log.info("the answers to %d of %s are stored already", len(found), counted(len(prompts), "prompt"))
    at_once = max(1, how.batch_size // how.samples)
    batches = [waiting[start : start + at_once] for start in range(0, len(waiting), at_once)]
    numbers = range(how.samples)
    sampler = engine.sampler()
    if batches:
        sampler.update(side.model)
    for batch in progress(batches, "sampling"):
        draws = [Draw(how.seed, prompt_text(prompts[i]), n) for i in batch for n in numbers]
        asked = [ids[i] for i in batch for _ in numbers]
        drawn = sampler.sample(asked, draws, how, template.ends)
        engine.check(side.model, asked, drawn, how)
        for place, i in enumerate(batch):
            samples = drawn[place * how.samples : (place + 1) * how.samples]
            found[i] = [{"ids": sample.ids, "ended": sample.ended} for sample in samples]
            kept.put(requests[i], {"answers": found[i]})
    texts = [
        [SampledAnswer(template.text(answer["ids"], prompt), answer["ended"]) for answer in found[i]]
        for i, prompt in enumerate(prompts)
    ]
    return Samples(texts, sum(len(tokens) > longest for tokens in whole))


def _are_answers(number: int, reply: Mapping[str, Any]) -> bool:
    """Whether a stored reply holds this number of answers."""
    answers = reply.get("answers")
    return isinstance(answers, list) and len(answers) == number and all(map(is_stored_sample, answers))


def _request(side: ModelSide, prompt: list[int], how: Synthesis, engine: Engine) -> dict[str, Any]:
    """Everything that decides the answers to a prompt."""
    return {
        "policy": side.weights,
        "prompt": prompt,
        "ends": list(side.template.ends),
        "samples": how.samples,
        "seed": how.seed,
        "max_new_tokens": how.max_new_tokens,
        "temperature": how.temperature,
        **({"engine": engine.identity} if engine.identity else {}),
    }
