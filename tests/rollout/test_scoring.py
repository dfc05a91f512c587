"""Scores of answers that were cut off, and clipped scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alignlab.rollout.scoring import shape_scores
from alignlab.rollout.settings import Rollout

SCORES, ENDED = torch.tensor([0.5, 0.5, -7.0]), torch.tensor([True, False, False])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0.5, 0.5, -7.0]),
        ({"missing_end": "replace", "missing_end_score": -1.0}, [0.5, -1.0, -1.0]),  # N+ (Huang et al. 2024), detail 5
        ({"missing_end": "subtract", "missing_end_score": 1.0}, [0.5, -0.5, -8.0]),  # TRL
        ({"score_clip": 5.0}, [0.5, 0.5, -5.0]),
        ({"missing_end": "subtract", "missing_end_score": 1.0, "score_clip": 0.4}, [0.4, -0.4, -0.4]),
    ],
)
def test_scores_of_answers_that_were_cut_off(fields: dict[str, Any], expected: list[float]) -> None:
    assert shape_scores(SCORES, ENDED, Rollout(**fields)).tolist() == pytest.approx(expected)
