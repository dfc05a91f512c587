"""Expert iteration: which answers are imitated, and how."""

from __future__ import annotations

import pytest
import torch

from alignlab.objectives.expert_iteration import ExpertIteration, expert_iteration_loss
from tests.objectives.build import logps, refused
from tests.objectives.rollouts import scored


def test_the_best_of_the_policys_answers_are_imitated() -> None:
    made = ExpertIteration(samples=3, kept_of_them=2)
    assert made.kept(scored([[1.0, 3.0, 2.0]])).tolist() == [[False, True, True]]
    assert made.author == "policy"


def test_loss_is_the_nll_over_the_tokens_of_the_batch() -> None:
    assert ExpertIteration()(logps([[-1.0, -2.0, -3.0], [-4.0]])).tolist() == [3.0, 2.0]
    assert expert_iteration_loss(torch.tensor([-6.0]), mean_count=2.0).item() == pytest.approx(3.0)


def test_all_answers_are_no_choice() -> None:
    assert refused(ExpertIteration, samples=4, kept_of_them=4) == ["kept_of_them"]
    assert refused(ExpertIteration, kept_of_them=0) == ["kept_of_them"]
