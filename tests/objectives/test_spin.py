"""SPIN: the data's answers are preferred to the policy's own."""

from __future__ import annotations

import math

import pytest

from alignlab.objectives.dpo import DPO
from alignlab.objectives.spin import SPIN, spin_loss
from tests.objectives.build import right_and_wrong
from tests.objectives.rollouts import scored


def test_every_answer_stands_against_the_datas() -> None:
    assert SPIN(beta=0.1, samples=2).pairs(scored([[0.0, 0.0], [0.0, 0.0]])) == [
        (0, None, 0), (0, None, 1), (1, None, 0), (1, None, 1),
    ]  # fmt: skip


def test_the_loss_is_that_of_the_objective_on_pairs() -> None:
    loss = SPIN(beta=0.5)(right_and_wrong())
    assert loss.tolist() == pytest.approx([-math.log(0.75), -math.log(0.25)], abs=1e-12)
    assert spin_loss(DPO(beta=0.5), right_and_wrong()).tolist() == loss.tolist()


def test_it_asks_for_the_datas_answers_and_for_no_scores() -> None:
    made = SPIN(beta=0.1)
    assert made.requires.demonstrations
    assert not made.scored
    assert made.moving_reference
