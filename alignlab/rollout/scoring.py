"""What answers are worth: from a scorer's numbers to the scores that are learnt from."""

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


# One number an answer, higher is better.
Scorer = Callable[[Sequence[ScoredResponse]], Sequence[float]]


def shape_scores(scores: Tensor, ended: Tensor, how: Rollout) -> Tensor:
    """[N] scores with what becomes of answers that were cut off, then held within the clip.

    ended: bool[N].
    """
    if how.missing_end == "replace":
        scores = torch.where(ended, scores, how.missing_end_score)
    elif how.missing_end == "subtract":
        scores = torch.where(ended, scores, scores - how.missing_end_score)
    return scores.clamp(-how.score_clip, how.score_clip) if how.score_clip else scores
