"""Samples answers from a policy. Prompt, seed and number decide an answer; the other rows of its batch do not."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.errors import DataError, NotEnoughMemoryError
from alignlab.models.forward import at_least_float32, innermost, watched_states
from alignlab.models.memory import out_of_memory
from alignlab.progress import Progress
from alignlab.rollout.settings import Sampling
from alignlab.spelling import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Token ids of one sampled answer. They include the end token if the answer `ended` by itself.

    logps:  log-probabilities of its tokens at the sampling temperature, nats.
    values: critic's value before each token; empty if they were not requested.
    """

    ids: list[int]
    ended: bool
    logps: list[float] = field(default_factory=list, compare=False)
    values: list[float] = field(default_factory=list, compare=False)


def is_stored_sample(value: object) -> bool:
    """Whether a value that was read from a file is a sample: `ids`, token ids, and `ended`."""
    if not isinstance(value, Mapping) or value.keys() != {"ids", "ended"} or not isinstance(value["ids"], list):
        return False
    return isinstance(value["ended"], bool) and all(type(id_) is int and 0 <= id_ < 2**31 for id_ in value["ids"])


def uniforms(seed: int, prompt: str | Sequence[int], number: int, count: int) -> NDArray[np.float64]:
    """[count] numbers in [0, 1), one per token, that decide the `number`-th sample of a prompt (text or token ids)."""
    key = prompt.encode() if isinstance(prompt, str) else prompt
    return np.random.default_rng([seed, number, *key]).random(count)


@dataclass(frozen=True)
class Draw:
    """What decides an answer, besides the weights and the settings of sampling.

    seed:   seed of the run.
    prompt: the prompt as text or token ids.
    number: number of the sample among those of the prompt.
    """

    seed: int
    prompt: str | Sequence[int]
    number: int

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """[count] numbers in [0, 1), one per token."""
        return uniforms(self.seed, self.prompt, self.number, count)

    @property
    def key(self) -> int:
        """A seed of 63 bits, for an engine that draws its random numbers itself."""
        text = self.prompt.encode() if isinstance(self.prompt, str) else self.prompt
        return int(np.random.default_rng([self.seed, self.number, *text]).integers(2**63 - 1))


def draw(
    model: Any,
    prompts: Sequence[Sequence[int]],
    numbers: Sequence[NDArray[np.float64]],
    how: Sampling,
    ends: Sequence[int],
    progress: Progress = lambda items, what: items,
    value: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[Sample]:
    """Sample one answer to each prompt (token ids), by inversion of the cumulative probabilities.

    Prompts of similar length form a batch. Equal prompts in a batch go through the model once.

    numbers: for each prompt [max_new_tokens] uniform numbers, one per token (see `uniforms`).
    ends:    ids of the tokens that end an answer, at least one.
    value:   [B, H] last hidden states -> [B] values before the tokens that they predict.

    Raises DataError if prompt and answer exceed the model's positions, and NotEnoughMemoryError if there is not enough
    memory for a single answer.
    """
    refuse_too_long(prompts, how, getattr(innermost(model).config, "max_position_embeddings", None))
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    batches = [order[start : start + how.batch_size] for start in range(0, len(order), how.batch_size)]
    training, most = model.training, how.batch_size
    model.eval()
    samples: dict[int, Sample] = {}
    try:
        for batch in progress(batches, "sampling"):
            while waiting := [i for i in batch if i not in samples][:most]:
                chosen, uniform = [prompts[i] for i in waiting], np.stack([numbers[i] for i in waiting])
                sampled = _within_memory(model, chosen, uniform, how, ends, value)
                if sampled is None:  # smaller batches give the same answers
                    most = (len(waiting) + 1) // 2
                    log.warning(
                        "not enough memory for %s at a time; continuing with %d", counted(len(waiting), "answer"), most
                    )
                else:
                    samples |= dict(zip(waiting, sampled, strict=True))
    finally:
        model.train(training)
    return [samples[i] for i in range(len(prompts))]


def refuse_too_long(prompts: Sequence[Sequence[int]], how: Sampling, room: int | None) -> None:
    """Raise DataError if a prompt and its answer may exceed `room` positions. None is no limit."""
    longest = max(map(len, prompts), default=0)
    if room is not None and longest + how.max_new_tokens > room:
        fix = f"type: {how.setting('max_new_tokens')}={room - longest}" if longest < room else "use a shorter prompt"
        raise DataError(
            f"a prompt has {counted(longest, 'token')}, "
            f"an answer up to {how.max_new_tokens}, and the model {counted(room, 'position')}\n  {fix}"
        )


def _within_memory(
    model: Any,
    prompts: Sequence[Sequence[int]],
    numbers: NDArray[np.float64],
    how: Sampling,
    ends: Sequence[int],
    value: Callable[[torch.Tensor], torch.Tensor] | None,
) -> list[Sample] | None:
    """Sample a batch; None if there is not enough memory. Raises NotEnoughMemoryError for a batch of one answer."""
    try:
        with torch.no_grad():
            if value is None:
                return _batch(model, prompts, numbers, how, ends, lambda: None)
            with watched_states(model) as states:
                return _batch(model, prompts, numbers, how, ends, lambda: value(states[0][:, -1]))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(prompts) == 1:
            raise NotEnoughMemoryError(
                f"not enough memory for one answer to a prompt of {counted(len(prompts[0]), 'token')}: {error}\n"
                f"  type: a smaller {how.setting('max_new_tokens')} or data.max_prompt_length"
            ) from None
    if torch.cuda.is_initialized():  # after the handler, in which the failed attempt's tensors are still alive
        torch.cuda.empty_cache()
    return None


def _batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    numbers: NDArray[np.float64],
    how: Sampling,
    ends: Sequence[int],
    values_now: Callable[[], torch.Tensor | None],
) -> list[Sample]:
    """Sample a batch token by token, with prompts padded on the left. Answers that have ended leave the batch.

    values_now: values [B] of the last hidden states of the latest forward pass, or None.
    """
    device = next(model.parameters()).device
    accepts = inspect.signature(innermost(model).forward).parameters
    distinct = list(dict.fromkeys(tuple(prompt) for prompt in prompts))
    prompt_of = torch.tensor([distinct.index(tuple(prompt)) for prompt in prompts], device=device)
    width = max(map(len, distinct))
    ids = torch.tensor([[ends[0]] * (width - len(prompt)) + list(prompt) for prompt in distinct], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in distinct], device=device)
    answers: list[list[int]] = [[] for _ in prompts]
    logps: list[list[float]] = [[] for _ in prompts]
    values: list[list[float]] = [[] for _ in prompts]
    open_rows, cache, stops = list(range(len(prompts))), None, torch.tensor(ends, device=device)
    for place in range(how.max_new_tokens):
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"position_ids": positions, "logits_to_keep": 1}
        given = {name: value for name, value in given.items() if name in accepts}
        out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        cache, logits, expected = out.past_key_values, out.logits[:, -1], values_now()
        if place == 0 and len(distinct) < len(prompts):  # from here on, each answer has its own row
            cache.batch_select_indices(prompt_of)
            logits, mask = logits[prompt_of], mask[prompt_of]
            expected = expected[prompt_of] if expected is not None else None
        tokens, token_logps = _inverted(logits, numbers[open_rows, place], how.temperature)
        for row, token, logp in zip(open_rows, tokens.tolist(), token_logps.tolist(), strict=True):
            answers[row].append(token)
            logps[row].append(logp)
        if expected is not None:
            for row, number in zip(open_rows, expected.tolist(), strict=True):
                values[row].append(number)
        going_on = (~torch.isin(tokens, stops)).nonzero().squeeze(1)
        if not len(going_on):
            break
        if len(going_on) < len(open_rows):
            cache.batch_select_indices(going_on)
            mask, open_rows = mask[going_on], [open_rows[i] for i in going_on.tolist()]
        ids = tokens[going_on, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return [Sample(ids, ids[-1] in ends, *of) for ids, *of in zip(answers, logps, values, strict=True)]


def _inverted(
    logits: torch.Tensor, numbers: NDArray[np.float64], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, V] logits, [B] numbers in [0, 1) -> [B] tokens and their log-probabilities at the temperature, nats."""
    probability = torch.softmax(at_least_float32(logits).double() / temperature, dim=-1)
    weights = probability.cumsum(dim=-1)
    wanted = torch.from_numpy(numbers).to(weights)[:, None] * weights[:, -1:]
    tokens = torch.searchsorted(weights, wanted, right=True).clamp(max=logits.shape[1] - 1)
    return tokens.squeeze(1), probability.gather(1, tokens).squeeze(1).log()
