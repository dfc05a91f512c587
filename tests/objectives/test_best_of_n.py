"""Best-of-n distilled: which answers are imitated, and how."""

from __future__ import annotations

import pytest
import torch

from alignlab.objectives.best_of_n import BestOfN, best_of_n_loss
from tests.objectives.build import logps, refused
from tests.objectives.rollouts import scored


def test_the_best_answer_of_the_start_is_imitated() -> None:
    made = BestOfN(samples=3)
    assert made.kept(scored([[1.0, 3.0, 2.0], [0.0, 0.0, -1.0]])).tolist() == [
        [False, True, False],
        [True, False, False],
    ]
    assert made.author == "start"


def test_loss_is_the_nll_over_the_tokens_of_the_batch() -> None:
    assert BestOfN()(logps([[-1.0, -2.0, -3.0], [-4.0]])).tolist() == [3.0, 2.0]
    assert best_of_n_loss(torch.tensor([-6.0]), mean_count=2.0).item() == pytest.approx(3.0)


def test_one_answer_is_no_choice() -> None:
    assert refused(BestOfN, samples=1) == ["samples"]
