"""Online DPO: the best sampled answer is paired with the worst, with the loss of the objective on pairs."""

from __future__ import annotations

import math

import pytest

from alignlab.objectives.dpo import DPO
from alignlab.objectives.online_dpo import OnlineDPO, online_dpo_loss
from tests.objectives.build import refused, right_and_wrong
from tests.objectives.rollouts import scored


def test_best_against_worst_and_ties_against_themselves() -> None:
    made = scored([[1.0, 3.0, -2.0], [0.5, 0.5, 0.5]])
    assert OnlineDPO(beta=0.1, samples=3).pairs(made) == [(0, 1, 2), (1, 0, 0)]


def test_the_loss_is_that_of_the_objective_on_pairs() -> None:
    """σ(βh) = 3/4 and 1/4 at beta 0.5."""
    loss = OnlineDPO(beta=0.5)(right_and_wrong())
    assert loss.tolist() == pytest.approx([-math.log(0.75), -math.log(0.25)], abs=1e-12)
    assert online_dpo_loss(DPO(beta=0.5), right_and_wrong()).tolist() == loss.tolist()


def test_needs() -> None:
    needs = OnlineDPO(beta=0.1).requires
    assert (needs.data, needs.rows, needs.reference, needs.live_reference) == ("pairs", "prompts", True, True)


def test_one_answer_is_no_pair() -> None:
    assert refused(OnlineDPO, beta=0.1, samples=1) == ["samples"]
