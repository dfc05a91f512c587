"""Turns the scores of a scorer into the scores that training uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.data.rows import Prompt
from alignlab.rollout.settings import Rollout


@dataclass(frozen=True)
class ScoredResponse:
    """A prompt, an answer to it as text, and whether it ended by itself."""

    prompt: Prompt
    answer: str
    ended: bool


# One score per answer, higher is better.
Scorer = Callable[[Sequence[ScoredResponse]], Sequence[float]]


def shape_scores(scores: Tensor, ended: Tensor, how: Rollout) -> Tensor:
    """[N] scores -> [N] scores after the rule for answers that were cut off (`missing_end`) and after clipping.

    ended: bool[N], False for answers that were cut off.
    """
    if how.missing_end == "replace":
        scores = torch.where(ended, scores, how.missing_end_score)
    elif how.missing_end == "subtract":
        scores = torch.where(ended, scores, scores - how.missing_end_score)
    return scores.clamp(-how.score_clip, how.score_clip) if how.score_clip else scores
