"""Samples answers from a closed set: the model chooses among the candidates of a prompt by their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignlab.data.layout import PLAIN
from alignlab.data.rows import Prompt
from alignlab.data.template import Template
from alignlab.data.tokenize import PromptTokens
from alignlab.models.reference import ScoringOptions, token_logps
from alignlab.rollout.sampling import Sample

# Maximum numbers of candidates and of their tokens in a forward pass.
_CANDIDATES, _TOKENS = 64, 2**14


@dataclass(frozen=True)
class ClosedSet:
    """The candidates of all prompts as token ids.

    answers: text of a prompt -> token ids of its candidates.
    texts:   (text of a prompt, token ids of a candidate) -> the candidate.
    ends:    whether an answer ends where its candidate ends.
    """

    answers: Mapping[str, Sequence[Sequence[int]]]
    texts: Mapping[tuple[str, tuple[int, ...]], str]
    ends: bool

    @classmethod
    def of(cls, candidates: Mapping[str, Sequence[str]], template: Template, *, ends: bool) -> ClosedSet:
        """candidates: text of a prompt -> its candidates."""
        answers: dict[str, list[list[int]]] = {}
        texts: dict[tuple[str, tuple[int, ...]], str] = {}
        for prompt, own in candidates.items():
            answers[prompt] = template.encode(prompt, [(text, ends) for text in own]).answers
            texts |= {(prompt, tuple(ids)): text for ids, text in zip(answers[prompt], own, strict=True)}
        return cls(answers, texts, ends)

    def text_of(self, ids: Sequence[int], prompt: Prompt) -> str:
        """The candidate that these token ids are."""
        return self.texts[str(prompt), tuple(ids)]

    def draw(
        self, model: Any, prompts: Sequence[PromptTokens], numbers: Sequence[NDArray[np.float64]], temperature: float
    ) -> list[Sample]:
        """One sample for each element of `numbers`, whose first value decides it; samples of a prompt are neighbours.

        The probabilities of the candidates are divided by their sum. The log-probabilities of a sample are those of the
        model, which are not divided. The difference is the same for all samples of a prompt.
        """
        asked = {str(row.content): row for row in prompts}
        rows = [(row.prompt, list(answer)) for text, row in asked.items() for answer in self.answers[text]]
        device = next(model.parameters()).device
        how = ScoringOptions(PLAIN, _CANDIDATES, _TOKENS, device, lambda parts, what: parts)
        found = iter(token_logps(model, rows, how, temperature))
        by_prompt = {text: [next(found) for _ in self.answers[text]] for text in asked}
        each, samples = len(numbers) // len(prompts), []
        for k, number in enumerate(numbers):
            text = str(prompts[k // each].content)
            place = _inverted(by_prompt[text], number[0])
            samples.append(Sample(list(self.answers[text][place]), self.ends, by_prompt[text][place].tolist()))
        return samples


def _inverted(logps: Sequence[NDArray[np.float32]], number: float) -> int:
    """The candidate at this place of the cumulative probabilities. logps: of the tokens of each candidate, nats."""
    sums = torch.tensor([float(own.astype(np.float64).sum()) for own in logps], dtype=torch.float64)
    cumulative = torch.softmax(sums, dim=0).cumsum(dim=0)
    place = int(torch.searchsorted(cumulative, number * float(cumulative[-1]), right=True))
    return min(place, len(logps) - 1)
